"""What is differentiated: how a response (neuron, time) becomes one number per neuron.

A built-in objective looks at named frames; any function from responses (neuron, time) to one number per neuron does
as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Objective = str | Mapping[str, Any] | Callable[[Tensor], Tensor]

#: Objectives that have a name.
NAMED = ("last", "peak", "sum", "mean")
#: Relative slope with respect to another neuron's response below which an objective does not depend on it.
COUPLING_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Weighing:
    """How an objective weighs the frames of the responses it was given, to first order.

    ``weights`` is d objective of a neuron / d that neuron's response at each frame, ``frames`` the frame at lag 0,
    ``values`` the objective itself. ``couples`` says that one neuron's number depends on another neuron's response,
    so that ``weights`` does not tell the whole derivative.
    """

    weights: Float[Tensor, "stimulus neuron time"]
    frames: Int[Tensor, "stimulus neuron"]
    values: Float[Tensor, "stimulus neuron"]
    couples: bool


def weigh(objective: Objective, response: Float[Tensor, "stimulus neuron time"]) -> Weighing:
    """How ``objective`` weighs the frames of these responses.

    Raises `ValueError` if the objective is unknown, looks at frames that the responses do not have, or is a function
    that does not give one differentiable number per neuron.
    """
    response = response.detach()
    n_frames = response.shape[-1]
    check_objective(objective, n_frames)
    end = n_frames - 1
    if callable(objective):
        values, weights, couples = _weigh_function(objective, response)
        return Weighing(weights, _all(end, response), values, couples)
    if objective == "peak":
        frames = response.argmax(dim=-1)
        weights = torch.zeros_like(response).scatter_(-1, frames.unsqueeze(-1), 1.0)
        return Weighing(weights, frames, response.amax(dim=-1), False)
    start, stop, weight = _span(objective, n_frames)
    weights = response.new_zeros(response.shape[0], 1, n_frames)
    weights[..., start:stop] = weight
    values = (response[..., start:stop] * weight).sum(dim=-1)
    return Weighing(weights.expand_as(response), _all(stop - 1, response), values, False)


def evaluate(objective: Objective, response: Float[Tensor, "stimulus neuron time"]) -> Float[Tensor, "stimulus neuron"]:
    """The objective of every neuron, differentiable with respect to the responses."""
    check_objective(objective, response.shape[-1])
    if callable(objective):
        return _apply(objective, response)
    if objective == "peak":
        return response.gather(-1, response.detach().argmax(dim=-1, keepdim=True)).squeeze(-1)
    start, stop, weight = _span(objective, response.shape[-1])
    return (response[..., start:stop] * weight).sum(dim=-1)


def only_frame(objective: Objective, n_frames: int) -> int | None:
    """The frame whose response is the objective; None where that is not one frame known beforehand."""
    if callable(objective) or objective == "peak":
        return None
    start, stop, weight = _span(objective, n_frames)
    return start if stop == start + 1 and weight == 1.0 else None


def check_objective(objective: Objective, n_frames: int | None = None) -> None:
    """Refuse what is not an objective, or not one for responses of ``n_frames`` frames.

    Raises `ValueError` with what to write instead.
    """
    if callable(objective):
        return
    known = '"last", "peak", "sum", "mean", {"frame": k}, {"mean_over": [a, b]} or a function (neuron, time) -> neuron'
    if isinstance(objective, str):
        if objective not in NAMED:
            raise ValueError(f"objective {objective!r} is not known, so nothing can be differentiated; give {known}")
        return
    if not isinstance(objective, Mapping) or len(objective) != 1 or next(iter(objective)) not in ("frame", "mean_over"):
        raise ValueError(f"objective {objective!r} is not known, so nothing can be differentiated; give {known}")
    if "frame" in objective:
        frame = objective["frame"]
        if not _is_count(frame):
            raise ValueError(
                f"objective frame = {frame!r} is not a frame number, so no response can be picked; give a whole number"
                " of frames from the start of the stimulus, 0 for the first"
            )
        stop = frame + 1
    else:
        span = objective["mean_over"]
        if not isinstance(span, Sequence) or len(span) != 2 or not all(map(_is_count, span)) or span[0] >= span[1]:
            raise ValueError(
                f"objective mean_over = {span!r} does not name a span of frames, so there is nothing to average; give"
                " [a, b] with 0 <= a < b, meaning frames a to b - 1"
            )
        stop = span[1]
    if n_frames is not None and stop > n_frames:
        raise ValueError(
            f"objective {dict(objective)!r} looks at frame {stop - 1} but the response has frames 0 to {n_frames - 1};"
            " the gradient there does not exist; name frames inside the stimulus, or use a longer one"
        )


def objective_name(objective: Objective) -> str:
    """The objective in one word or phrase, as it is recorded beside the maps."""
    if isinstance(objective, str):
        return objective
    if isinstance(objective, Mapping):
        name, value = next(iter(objective.items()))
        return f"{name} {value}"
    return getattr(objective, "__qualname__", type(objective).__name__)


def _span(objective: Objective, n_frames: int) -> tuple[int, int, float]:
    """First frame, frame after the last, weight of each."""
    if objective == "last":
        return n_frames - 1, n_frames, 1.0
    if objective == "sum":
        return 0, n_frames, 1.0
    if objective == "mean":
        return 0, n_frames, 1.0 / n_frames
    if isinstance(objective, Mapping) and "frame" in objective:
        return objective["frame"], objective["frame"] + 1, 1.0
    if isinstance(objective, Mapping):
        start, stop = objective["mean_over"]
        return start, stop, 1.0 / (stop - start)
    raise TypeError(f"no span of frames belongs to {objective!r}")


def _weigh_function(
    objective: Callable[[Tensor], Tensor], response: Float[Tensor, "stimulus neuron time"]
) -> tuple[Tensor, Tensor, bool]:
    with torch.enable_grad():
        free = response.clone().requires_grad_(True)
        values = _apply(objective, free)
        if not values.requires_grad:
            raise ValueError(
                f"objective {objective_name(objective)} gives numbers that do not follow the response (it detached it"
                " or ignored it), so the gradient cannot be taken; compute it with differentiable torch functions"
            )
        (weights,) = torch.autograd.grad(values.sum(), free, retain_graph=True)
        scale = torch.rand(values.shape, generator=torch.Generator().manual_seed(0)).to(values) + 0.5
        (scaled,) = torch.autograd.grad(values, free, scale)
    expected = scale.unsqueeze(-1) * weights
    couples: Bool[Tensor, ""] = (scaled - expected).abs().amax() > COUPLING_TOLERANCE * scaled.abs().amax()
    return values.detach(), weights, bool(couples)


def _apply(
    objective: Callable[[Tensor], Tensor], response: Float[Tensor, "stimulus neuron time"]
) -> Float[Tensor, "stimulus neuron"]:
    each = [objective(one) for one in response]
    for value in each:
        if not isinstance(value, Tensor) or value.shape != response.shape[1:2]:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"objective {objective_name(objective)} gave {shape} for a response (neuron, time) of"
                f" {tuple(response.shape[1:])}; a gradmap needs one number per neuron; return a tensor of shape"
                f" ({response.shape[1]},)"
            )
    return torch.stack(each)


def _all(frame: int, response: Tensor) -> Int[Tensor, "stimulus neuron"]:
    return torch.full(response.shape[:2], frame, dtype=torch.long, device=response.device)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
