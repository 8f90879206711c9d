"""What a route is asked for: rows of the Jacobian of one model's responses, around given stimuli."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.gradients.objectives import Objective, evaluate
from pipeline.gradients.routes.trace import Trace, traced


@dataclass(frozen=True)
class Problem:
    """A model, the stimuli to linearise around, and one forward pass through both.

    ``leaf`` is what the gradient is taken to: (stimulus, ..., time), time being frames or samples. ``response`` is
    (stimulus, neuron, frame) and hangs on the leaf by autograd's graph; ``trace`` holds what the model's parts were
    given and gave on the way. ``limits`` is what the model was found not to allow, kept from one problem to the next;
    ``stages`` are ways back to the leaf that were worked out once. Where the leaf was itself computed from a
    ``source``, ``whole`` is the response hanging on that.
    """

    model: nn.Module
    leaf: Float[Tensor, "stimulus ... time"]
    response: Float[Tensor, "stimulus neuron frame"]
    trace: Trace
    memory: int
    limits: set[str] = field(default_factory=set)
    stages: dict[int, Callable[[Tensor, int], Tensor]] = field(default_factory=dict)
    source: "Source | None" = None
    whole: Tensor | None = None

    def finish(
        self, gradient: Float[Tensor, "neuron stimulus ... time"], ends: Int[Tensor, "stimulus neuron"], lags: int
    ) -> Float[Tensor, "stimulus neuron ... lag"]:
        """Gradients with respect to the leaf, as they are handed out: of the source where there is one, windowed."""
        if self.source is not None:
            gradient = self.source.pull_back(gradient, max(0, int(ends.min()) + 1 - lags))
        return windowed(gradient.transpose(0, 1), ends, lags)

    @property
    def given_shape(self) -> tuple[int, ...]:
        """The shape of one row around one stimulus, but for its time axis."""
        return tuple((self.leaf if self.source is None else self.source.leaf).shape[1:-1])

    @property
    def n_stimuli(self) -> int:
        return self.response.shape[0]


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

    def earliest(self, problem: Problem) -> int:
        """The first time of the leaf that can matter to any row's window."""
        first = max(0, int(self.ends.min()) + 1 - self.lags)
        if problem.source is None:
            return first
        return first * problem.leaf.shape[-1] // problem.source.leaf.shape[-1]

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

    def plain_gradients(self, problem: "Problem", tensors: list[Tensor]) -> dict[int, Tensor]:
        """Gradients of the mixture at some tensors that the response follows, by one plain backward pass, by id.

        Where the rows are to be checked it goes on to the leaf.
        """
        if any(id(tensor) not in self.plain for tensor in tensors):
            wanted = {id(tensor): tensor for tensor in tensors}
            if self.check and problem.whole is None:
                wanted[id(problem.leaf)] = problem.leaf
            response = problem.response
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


class Source(Protocol):
    """What the leaf was computed from, when the gradient is wanted with respect to that."""

    leaf: Tensor

    def pull_back(self, gradient: Tensor, earliest: int) -> Tensor:
        """Gradients (row, stimulus, ..., time) with respect to the leaf, as gradients with respect to its source."""
        ...


Route = Callable[[Problem, Rows], tuple[Tensor, int]]
"""A way to the rows: (stimulus, neuron, ..., lag) with lag 0 first, and the rows per backward pass at the end."""


def pose(
    model: nn.Module,
    stimuli: Float[Tensor, "stimulus ... time"],
    memory: int,
    limits: set[str],
    *,
    graph: bool = True,
) -> Problem:
    """One forward pass through ``model`` around ``stimuli``, with what routes need to know of it."""
    leaf = stimuli.detach().clone().requires_grad_(graph)
    response, trace = traced(model, leaf)
    return Problem(model, leaf, frames_of(response, leaf.shape[0], model), trace, memory, limits)


def frames_of(response: Tensor, n_stimuli: int, model: nn.Module) -> Float[Tensor, "stimulus neuron frame"]:
    """A response (stimulus, neuron, 1, time) without its repeat axis.

    Raises
    ------
    ValueError
        If the model did not give such a response, or not one output for each neuron that it says it has.
    """
    name = type(model).__name__
    if (
        not isinstance(response, Tensor)
        or response.dim() != 4
        or response.shape[2] != 1
        or (response.shape[0] != n_stimuli)
    ):
        shape = tuple(response.shape) if isinstance(response, Tensor) else type(response).__name__
        raise ValueError(
            f"{name} gave a response of shape {shape} for {n_stimuli} stimuli; a gradmap needs (batch, neuron, 1, time)"
            " to know whose gradient it is; let the model's forward return that shape"
        )
    n_neurons = getattr(model, "O", None)
    if isinstance(n_neurons, int) and response.shape[1] != n_neurons:
        raise ValueError(
            f"{name} says that it has {n_neurons} neurons (its attribute O) and gave {response.shape[1]} outputs, so it"
            " is not known whose each of them is; make the two agree"
        )
    return response[:, :, 0]


def check_frames(n_frames: int, n_positions: int, hop: int, model: nn.Module) -> None:
    """Refuse a response that has another number of frames than its stimulus, ``hop`` positions of which are one frame.

    Raises
    ------
    ValueError
        With both numbers.
    """
    if n_frames * hop == n_positions:
        return
    name, expected = type(model).__name__, n_positions // hop
    if hop == 1:
        raise ValueError(
            f"{name} gave {n_frames} response frames for a stimulus of {n_positions} frames, so it is not known which"
            " frame of the stimulus each of them answers to and lags cannot be counted; let it give one frame for each,"
            " padding convolutions on the left by their kernel's length - 1 and using a stride of 1"
        )
    raise ValueError(
        f"{name} gave {n_frames} response frames for {n_positions} samples where its front-end's hop of {hop} samples"
        f" makes {expected}, so no frame ends at a known sample and lags cannot be counted; give a front-end that pads"
        f" on the left only (not center=True) so that frame j ends at sample (j + 1) * {hop} - 1, a sound of a whole"
        " number of frames, or mend the front-end's attribute `hop`"
    )


def windowed(
    gradient: Float[Tensor, "stimulus neuron ... time"], ends: Int[Tensor, "stimulus neuron"], lags: int
) -> Float[Tensor, "stimulus neuron ... lag"]:
    """The entries at and before each row's end, newest first; 0 where the stimulus had not begun."""
    n_times = gradient.shape[-1]
    end = int(ends.flatten()[0]) if ends.numel() else 0
    if bool((ends == end).all()):
        start = max(0, end + 1 - lags)
        kept = gradient[..., start : end + 1].flip(-1)
        return torch.nn.functional.pad(kept, (0, lags - kept.shape[-1])) if kept.shape[-1] < lags else kept
    times = ends.unsqueeze(-1) - torch.arange(lags, device=ends.device)
    inside = times >= 0
    shape = (*ends.shape, *([1] * (gradient.dim() - 3)), lags)
    index = times.clamp(0, n_times - 1).view(shape).expand(*gradient.shape[:-1], lags)
    return gradient.gather(-1, index) * inside.view(shape)


def before_start(ends: Int[Tensor, "stimulus neuron"], lags: int) -> Bool[Tensor, "stimulus neuron"]:
    """Whether a window of ``lags`` entries that ends there begins before the stimulus did."""
    return ends + 1 < lags
