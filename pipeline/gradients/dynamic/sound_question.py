"""What dynamic STRFs are asked of: one model, one sound, which neurons and frames."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.gradients.dynamic.mixers import Called, listen
from pipeline.gradients.passes.forward_pass import check_frames, frames_of
from pipeline.gradients.passes.windows import windowed
from pipeline.gradients.torch_state.arithmetic import quiet
from pipeline.gradients.torch_state.copies import Inventory


@dataclass(frozen=True)
class Asked:
    """The question, and one forward pass of the model as it is.

    ``twin`` is the copy of ``model`` that is run. ``response`` hangs on ``leaf``; ``calls`` are those of the model's
    parts on the way. ``neurons`` is None for the sum over all.
    """

    model: nn.Module
    twin: nn.Module
    inventory: Inventory
    leaf: Float[Tensor, "1 1 frequency frame"]
    lags: int
    frames: tuple[int, ...]
    memory: int
    response: Float[Tensor, "neuron frame"]
    calls: list[Called]
    neurons: Int[Tensor, "neuron"] | None = None

    @staticmethod
    def of(
        model: nn.Module,
        twin: nn.Module,
        inventory: Inventory,
        stimulus: Float[Tensor, "1 frequency frame"],
        lags: int,
        frames: tuple[int, ...],
        memory: int,
    ) -> "Asked":
        """The question with its forward pass.

        Raises `ValueError` if the model does not give one response frame per frame of the sound.
        """
        leaf = stimulus.detach().clone().unsqueeze(1).requires_grad_(True)
        answer, calls, _ = listen(twin, leaf)
        response = frames_of(answer, 1, model)[0]
        check_frames(response.shape[-1], leaf.shape[-1], 1, model)
        return Asked(model, twin, inventory, leaf, lags, frames, memory, response, calls)

    @property
    def n_neurons(self) -> int:
        """Neurons of the model."""
        return self.response.shape[0]

    @property
    def n_frames(self) -> int:
        """Frames of the sound."""
        return self.leaf.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        """The precision that is computed in."""
        return self.leaf.dtype

    @property
    def shares(self) -> Float[Tensor, "neuron"]:
        """How much of each map goes into the mixture that is checked: fixed, by the size of the neuron's responses."""
        n_rows = 1 if self.neurons is None else len(self.neurons)
        drawn = torch.rand(n_rows, generator=torch.Generator().manual_seed(29)).add(0.5).to(self.leaf)
        if self.neurons is None:
            return drawn
        # A neuron whose responses are far smaller than those of others counts as much as these.
        size = self.response.detach()[self.neurons].abs().amax(dim=1)
        return drawn / torch.where(size > torch.finfo(size.dtype).tiny, size, 1.0)

    def quiet(self) -> AbstractContextManager[None]:
        """Exact arithmetic with gradients on; everything is put back at the end."""
        return quiet(self.inventory, self.dtype)

    def expected(self, count: int, first_block: int) -> dict[int, Float[Tensor, "frequency lag"]]:
        """The mixture of all maps by plain autograd at a few frames, one of them in the first block."""
        generator = torch.Generator().manual_seed(31)
        early = int(torch.randint(min(first_block, len(self.frames)), (1,), generator=generator))
        others = torch.randint(len(self.frames), (count - 1,), generator=generator).tolist()
        frames = sorted({self.frames[position] for position in (early, *others)})
        return {frame: self._mixture(frame) for frame in frames}

    def _mixture(self, frame: int) -> Float[Tensor, "frequency lag"]:
        mixed = self.response[:, frame]
        mixed = mixed.sum() * self.shares[0] if self.neurons is None else (mixed[self.neurons] * self.shares).sum()
        if not mixed.requires_grad:
            return self.leaf.new_zeros((self.leaf.shape[2], self.lags))
        (gradient,) = torch.autograd.grad(mixed, self.leaf, retain_graph=True, materialize_grads=True)
        end = torch.full((1, 1), frame, device=self.leaf.device)
        return windowed(gradient, end, self.lags)[0, 0]

    def without_graph(self) -> "Asked":
        """The same without the graph of the forward pass, which no more plain gradient can be taken of."""
        return replace(self, response=self.response.detach())

    def without_calls(self) -> "Asked":
        """The same without what only a search for a way needs."""
        return replace(self, calls=[])

    def anew(self) -> "Asked":
        """The same with another forward pass."""
        fresh = Asked.of(
            self.model, self.twin, self.inventory, self.leaf.detach()[0], self.lags, self.frames, self.memory
        )
        return replace(fresh, neurons=self.neurons)
