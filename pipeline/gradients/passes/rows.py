"""Rows of the Jacobian of a model's responses: whose objective each is the gradient of, and where its window ends."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.gradients.objectives import Objective, evaluate
from pipeline.gradients.passes.forward_pass import ForwardPass


@dataclass(frozen=True)
class Rows:
    """Which rows of the Jacobian: one per neuron asked for, of that neuron's objective.

    ``weights`` is d objective of a neuron / d its response at each frame, for every neuron of the model; ``neurons``
    the neurons asked for, or None for the one row that is the sum over all of them. ``ends`` is the index along the
    leaf's time axis that is lag 0, and ``lags`` how many entries before it are kept. ``coupled`` is set where the
    objective of one neuron depends on the response of another. ``check`` says that the rows will be compared with a
    plain backward pass for a mixture of them; ``plain`` keeps what that pass gave, by the id of the tensor.
    """

    weights: Float[Tensor, "stimulus all_neurons frame"]
    neurons: Int[Tensor, "neuron"] | None
    ends: Int[Tensor, "stimulus neuron"]
    lags: int
    coupled: Objective | None = None
    check: bool = False
    plain: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return 1 if self.neurons is None else len(self.neurons)

    def earliest(self, forward_pass: ForwardPass) -> int:
        """The first time of the leaf that can matter to any row's window."""
        first = max(0, int(self.ends.min()) + 1 - self.lags)
        if forward_pass.source is None:
            return first
        return first * forward_pass.leaf.shape[-1] // forward_pass.source.leaf.shape[-1]

    def part(self, start: int, stop: int) -> "Rows":
        """Rows ``start`` to ``stop - 1`` alone."""
        neurons = None if self.neurons is None else self.neurons[start:stop]
        return Rows(self.weights, neurons, self.ends[:, start:stop], self.lags, self.coupled)

    def pick(self, positions: list[int]) -> "Rows":
        """The rows at these positions alone."""
        neurons = None if self.neurons is None else self.neurons[positions]
        return Rows(self.weights, neurons, self.ends[:, positions], self.lags, self.coupled)

    def cotangents(
        self, response: Float[Tensor, "stimulus all_neurons frame"]
    ) -> Float[Tensor, "neuron stimulus all_neurons frame"]:
        """d (objective of each row) / d response."""
        if self.coupled is not None:
            return self._coupled_cotangents(response)
        if self.neurons is None:
            return self.weights.unsqueeze(0)
        cotangents = torch.zeros((len(self), *self.weights.shape), dtype=self.weights.dtype, device=self.weights.device)
        rows = torch.arange(len(self), device=self.neurons.device)
        cotangents[rows, :, self.neurons] = self.weights[:, self.neurons].transpose(0, 1)
        return cotangents

    @cached_property
    def shares(self) -> Float[Tensor, "neuron"]:
        """How much of each row goes into their mixture: at random, and nothing of rows that end at another time."""
        shares = torch.rand(len(self), generator=torch.Generator().manual_seed(29)).add(0.5).to(self.weights)
        if self.coupled is not None:
            shares[1:] = 0
        return shares * (self.ends == self.ends[:, :1]).all(dim=0)

    def mixture(
        self, response: Float[Tensor, "stimulus all_neurons frame"]
    ) -> Float[Tensor, "stimulus all_neurons frame"]:
        """d (sum of the rows' objectives, each with its share) / d response."""
        shares = self.shares
        if self.coupled is not None or self.neurons is None:
            return shares[0] * self.pick([0]).cotangents(response)[0]
        of_neuron = shares.new_zeros(response.shape[1]).index_add_(0, self.neurons, shares)
        return of_neuron.unsqueeze(-1) * self.distinct_weights

    def plain_gradients(self, forward_pass: ForwardPass, tensors: list[Tensor]) -> dict[int, Tensor]:
        """Gradients of the mixture at some tensors that the response follows, by one plain backward pass, by id.

        Where the rows are to be checked it goes on to the leaf.
        """
        if any(id(tensor) not in self.plain for tensor in tensors):
            wanted = {id(tensor): tensor for tensor in tensors}
            if self.check and forward_pass.whole is None:
                wanted[id(forward_pass.leaf)] = forward_pass.leaf
            response = forward_pass.response
            found = torch.autograd.grad(
                response, list(wanted.values()), self.mixture(response), retain_graph=True, materialize_grads=True
            )
            self.plain.update(zip(wanted, found, strict=True))
        return self.plain

    @property
    def distinct_weights(self) -> Float[Tensor, "stimulus neuron_or_1 frame"]:
        """The weights, once where they are known to be the same for all neurons."""
        return self.weights[:, :1] if self.weights.stride(1) == 0 else self.weights

    @property
    def only_frame(self) -> int | None:
        """The one frame that every row looks at, around every stimulus; None if there is more than one."""
        if self.coupled is not None:
            return None
        busy = self.distinct_weights.ne(0).flatten(0, 1).any(dim=0).nonzero().flatten()
        return int(busy[0]) if len(busy) == 1 else None

    def _coupled_cotangents(self, response: Tensor) -> Tensor:
        assert self.coupled is not None
        free = response.detach().requires_grad_(True)
        values = evaluate(self.coupled, free)
        if self.neurons is None:
            return torch.autograd.grad(values.sum(), free)[0].unsqueeze(0)
        each = [
            torch.autograd.grad(values[:, neuron].sum(), free, retain_graph=True)[0] for neuron in self.neurons.tolist()
        ]
        return torch.stack(each)


def relative_difference(got: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest entry that is expected; inf where there is no number."""
    size = expected.abs().amax()
    difference = (got - expected).abs().amax()
    if not bool(torch.isfinite(difference)):
        return math.inf
    return float(difference / size) if size > 0 else (math.inf if difference > 0 else 0.0)
