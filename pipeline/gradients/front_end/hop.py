"""How many samples of a sound make one frame of the response, as the front-end says or as it is measured on it."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

#: What front-ends call their hop: in samples, or in milliseconds beside a sample rate.
_IN_SAMPLES = ("hop", "hop_length", "hop_size", "hop_samples")
_IN_MS = ("hop_ms", "hop_length_ms", "dt_ms", "frame_ms")
_RATES = ("audio_fs", "sample_rate", "sampling_rate", "fs", "sr")


def hop_of(front_end: nn.Module | Tensor | None, like: Tensor) -> int:
    """Samples in one frame of what a front-end gives: its own word, or else measured by its answers to other lengths.

    ``like``: Sounds (stimulus, 1, sample) of the kind that it hears. Raises `ValueError` if it says nothing and its
    answers do not tell.
    """
    said = stated_hop(front_end)
    return said if said is not None else _measured(front_end, like)


def stated_hop(front_end: Any) -> int | None:
    """The hop that a front-end states in one of its attributes; None where it states none."""
    for name in _IN_SAMPLES:
        value = getattr(front_end, name, None)
        if isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0:
            return int(value)
    rate = next((getattr(front_end, name) for name in _RATES if _is_number(getattr(front_end, name, None))), None)
    length = next((getattr(front_end, name) for name in _IN_MS if _is_number(getattr(front_end, name, None))), None)
    if rate is None or length is None:
        return None
    return max(1, round(float(rate) * float(length) / 1000.0))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def _measured(front_end: Any, like: Tensor) -> int:
    """The step between the lengths at which a front-end gives one frame more."""

    def frames(n_samples: int) -> int:
        with torch.no_grad():
            return int(front_end(like.new_zeros(1, 1, n_samples)).shape[-1])

    start = like.shape[-1]
    try:
        first = _next_step(frames, start, 2 * start)
        second = _next_step(frames, first, 2 * start)
        third = _next_step(frames, second, 2 * start)
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        raise ValueError(_unknown(front_end)) from None
    if second - first != third - second:
        raise ValueError(_unknown(front_end))
    return second - first


def _next_step(frames: Callable[[int], int], start: int, reach: int) -> int:
    """The shortest length above ``start`` that has more frames."""
    few, step = frames(start), 1
    while frames(start + step) <= few:
        if step > reach:
            raise ValueError("the number of frames does not follow the length of the sound")
        step *= 2
    low, high = start + step // 2, start + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if frames(middle) > few else (middle, high)
    return high


def _unknown(front_end: Any) -> str:
    return (
        f"the front-end {type(front_end).__name__} does not say its hop, and its numbers of frames for sounds of other"
        " lengths do not tell it, so no lag could be counted in samples; set its attribute `hop` to the samples from"
        " one frame to the next"
    )
