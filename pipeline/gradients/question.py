"""What a model is asked: whose gradient, of what, with respect to what, how far back, and how it may be computed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.gradients.objectives import Objective
from pipeline.gradients.passes.model_cache import Kept

#: Positions of neurons, one of them, None for all, or "sum" for the sum over all.
Neurons = Sequence[int] | int | str | None

#: What the gradient is taken with respect to: the model's own input, or what its prefilter makes of that.
SPACES = ("spectrogram", "prefiltered")


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a model, whatever the stimulus."""

    #: Frames or samples of the window, lag 0 included; None for as many as the stimulus has.
    lags: int | None = None
    #: Whose gradient: positions, None for all, or "sum" for that of the sum over all.
    neurons: Neurons = None
    #: Of what: a name, ``{"frame": k}``, ``{"mean_over": [a, b]}``, or a function of responses (neuron, time).
    objective: Objective = "last"
    #: With respect to what; and the value of a constant spectrogram, where no stimulus is given.
    space: str = "spectrogram"
    level: float = 0.0
    #: The way to the Jacobian, by name; "auto" for the one predicted to be cheapest that the model allows.
    route: str = "auto"
    #: Precision; None for the model's own.
    dtype: torch.dtype | None = None
    #: What temporary tensors may take; None for a share of the device's memory.
    memory_bytes: int | None = None
    #: Whether a mixture of all rows is compared with plain autograd. Where it differs and the route is "auto", another
    #: one is taken.
    check: bool = True
    #: Whether every window ends with the stimulus, whatever frame the objective looks at.
    whole: bool = False
    #: What was computed of the model for other neurons and holds for these too; None where nothing is to be kept. Only
    #: what does not depend on a stimulus that is given is kept there.
    kept: Kept | None = None

    @classmethod
    def of(cls, asked: "Question | int | None") -> "Question":
        """A question, also where only its window is given."""
        return asked if isinstance(asked, Question) else cls(asked)

    def window(self, positions: int) -> int:
        """Positions of the window around a stimulus of so many."""
        return positions if self.lags is None else self.lags
