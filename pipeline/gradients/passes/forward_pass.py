"""One forward pass through a model around given stimuli, which every row of the Jacobian is taken from."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.gradients.naming import name_of
from pipeline.gradients.passes.class_cache import Known
from pipeline.gradients.passes.trace import Trace, traced
from pipeline.gradients.passes.windows import windowed


@dataclass(frozen=True)
class ForwardPass:
    """A model, the stimuli to linearise around, and one forward pass through both.

    ``leaf`` is what the gradient is taken to: (stimulus, ..., time), time being frames or samples. ``response`` is
    (stimulus, neuron, frame) and hangs on the leaf by autograd's graph; ``trace`` holds what the model's parts were
    given and gave on the way. ``limits`` is what the model was found not to allow, kept from one pass to the next;
    ``stages`` are ways back to the leaf that were worked out once; ``known`` is what models of the same class and shape
    were found to be like. Where the leaf was itself computed from a ``source``, ``whole`` is the response hanging on
    that. ``bases`` are rows that hold for whichever neurons are asked for; None where the pass serves one block of
    neurons alone.
    """

    model: nn.Module
    leaf: Float[Tensor, "stimulus ... time"]
    response: Float[Tensor, "stimulus neuron frame"]
    trace: Trace
    memory: int
    limits: set[str] = field(default_factory=set)
    stages: dict[int, "Stage"] = field(default_factory=dict)
    source: "Source | None" = None
    whole: Tensor | None = None
    known: Known = field(default_factory=Known)
    bases: dict[Hashable, "Basis"] | None = None

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


#: A way from one tensor to the leaf: of cotangents, and of the first time that need be right. It is told the pass that
#: holds it rather than holding that: what holds itself, and all its tensors, waits for Python's collector.
Stage = Callable[[ForwardPass, Tensor, int], Tensor]


@dataclass(frozen=True)
class Basis:
    """Rows of the Jacobian that those of all neurons are made of, a row for each feature of one place in the model.

    ``block`` is how many went through one backward pass at the end. ``slopes`` are those of every neuron's response by
    the features, and ``disagreement`` the difference of the rows of all neurons from a plain backward pass: None and
    nan where each block of neurons has its own.
    """

    rows: Float[Tensor, "stimulus feature ... lag"]
    block: int
    slopes: Float[Tensor, "1 1 all_neurons feature"] | None = None
    disagreement: float = math.nan


class Source(Protocol):
    """What the leaf was computed from, when the gradient is wanted with respect to that."""

    leaf: Tensor

    def pull_back(self, gradient: Tensor, earliest: int) -> Tensor:
        """Gradients (row, stimulus, ..., time) with respect to the leaf, as gradients with respect to its source."""
        ...


def pass_through(
    model: nn.Module,
    stimuli: Float[Tensor, "stimulus ... time"],
    memory: int,
    limits: set[str],
    *,
    graph: bool = True,
    known: Known | None = None,
) -> ForwardPass:
    """One forward pass through ``model`` around ``stimuli``, with what routes need to know of it."""
    leaf = stimuli.detach().clone().requires_grad_(graph)
    response, trace = traced(model, leaf)
    frames = frames_of(response, leaf.shape[0], model)
    return ForwardPass(model, leaf, frames, trace, memory, limits, known=Known() if known is None else known)


def frames_of(response: Tensor, n_stimuli: int, model: nn.Module) -> Float[Tensor, "stimulus neuron frame"]:
    """A response (stimulus, neuron, 1, time) without its repeat axis.

    Raises `ValueError` if the model did not give such a response, or not one output for each neuron that it says it
    has.
    """
    name = name_of(model)
    if (
        not isinstance(response, Tensor)
        or response.dim() != 4
        or response.shape[2] != 1
        or (response.shape[0] != n_stimuli)
    ):
        shape = tuple(response.shape) if isinstance(response, Tensor) else type(response).__name__
        raise ValueError(
            f"{name} gave a response of shape {shape} for {n_stimuli} stimuli; a gradmap needs (batch, neuron, 1, time)"
            " to know whose gradient it is; let the model's forward return that shape, or say in an `adapt` table where"
            " the neurons and frames are"
        )
    if not response.is_floating_point():
        raise ValueError(
            f"{name} gave a response of {str(response.dtype).removeprefix('torch.')} numbers, which have no gradient"
            " that is a map; let its forward return real numbers, as the magnitude of complex ones"
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

    Raises `ValueError` with both numbers.
    """
    if n_frames * hop == n_positions:
        return
    name, expected = name_of(model), n_positions // hop
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
