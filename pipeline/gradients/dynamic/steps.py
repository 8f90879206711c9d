"""How tangents of a block of frames pass a part of the model: frame by frame, through a filter, or through a band.

A tangent is d (numbers at frame t) / d (sound at frame t - lag), held as (frame, number, lag, frequency). The sound
itself has tangents of one lag, the identity. Frames come in blocks, in order; each step remembers what it needs of the
blocks before. Lags that reach before the sound are 0 because nothing was remembered there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.gradients.torch_state.products import products

Windows = Float[Tensor, "frame width lag frequency"]
Advance = Callable[[Tensor, int, int], Tensor]
"""From tangents of frames ``start`` to ``stop - 1`` to those one step later in the model."""


class Step(Protocol):
    """One step of the way from the sound to the features."""

    def stream(self, lags: int) -> Advance:
        """What takes one block after another, from the first frame of the sound on."""
        ...


@dataclass(frozen=True)
class Diagonal:
    """A part that scales each number by a slope of its own."""

    slopes: Float[Tensor, "frame width"]

    def stream(self, lags: int) -> Advance:
        return lambda given, start, stop: given * self.slopes[start:stop, :, None, None]


@dataclass(frozen=True)
class Constant:
    """A part that acts on each frame alone, and on all alike."""

    slopes: Float[Tensor, "later earlier"]

    def stream(self, lags: int) -> Advance:
        def advance(given: Tensor, start: int, stop: int) -> Tensor:
            if is_constant(given):
                return (
                    (self.slopes @ given[0].flatten(1)).view(1, -1, *given.shape[2:]).expand(stop - start, -1, -1, -1)
                )
            return products(self.slopes, given.flatten(2)).unflatten(-1, given.shape[2:])

        return advance


class Slopes(Protocol):
    """Slopes at each frame of a sound, and at as many frames before it as are heard."""

    def between(self, start: int, stop: int) -> Float[Tensor, "lag frame later earlier"]:
        """Slopes at frames ``start`` to ``stop - 1``; asked for in the order of the frames."""
        ...


@dataclass(frozen=True)
class Held:
    """Slopes that are held for the whole sound."""

    slopes: Float[Tensor, "lag frame later earlier"]

    def between(self, start: int, stop: int) -> Float[Tensor, "lag frame later earlier"]:
        return self.slopes[:, start:stop]


@dataclass(frozen=True)
class Framewise:
    """A part that acts on each frame alone."""

    slopes: Slopes

    def stream(self, lags: int) -> Advance:
        return lambda given, start, stop: through(self.slopes.between(start, stop)[0], given)


@dataclass(frozen=True)
class Filter:
    """A linear part that treats all frames alike, but for the sound's first frame where that is padded with itself.

    ``first`` is how each of the first frames follows the very first one, where that is not as ``kernel`` says. A
    kernel (lag, width) is that of a part that filters each number by itself.
    """

    kernel: Float[Tensor, "lag later earlier"] | Float[Tensor, "lag width"]
    first: Float[Tensor, "frame later earlier"] | Float[Tensor, "frame width"] | None = None

    def stream(self, lags: int) -> Advance:
        remembered = Remembered(min(len(self.kernel), lags) - 1)
        begun: list[Tensor] = []

        def advance(given: Tensor, start: int, stop: int) -> Tensor:
            if start == 0 and self.first is not None:
                begun.append(given[:1].clone())
            whole = remembered.extend(given)
            if is_constant(whole) and start >= lags and given.shape[2] == 1:
                return self._alike(given, lags)
            out = convolved(lambda shift: self.kernel[shift], len(self.kernel), whole, given, lags)
            if self.first is not None and start < min(len(self.first), lags):
                self._correct(out, begun[0], start, min(stop, len(self.first), lags))
            return out

        return advance

    def _alike(self, given: Tensor, lags: int) -> Tensor:
        """Tangents at every frame where those given are the same at all, of one lag."""
        kernel, one = self.kernel[:lags], given[0, :, 0]
        out = kernel.unsqueeze(-1) * one if kernel.dim() == 2 else torch.matmul(kernel, one)
        return out.transpose(0, 1).unsqueeze(0).expand(len(given), -1, -1, -1)

    def _correct(self, out: Tensor, begun: Tensor, start: int, stop: int) -> None:
        assert self.first is not None
        for frame in range(start, stop):
            extra = self.first[frame]
            if frame < len(self.kernel):
                extra = extra - self.kernel[frame]
            one = begun[0, :, 0]
            out[frame - start, :, frame] += extra.unsqueeze(-1) * one if extra.dim() == 1 else extra @ one


@dataclass(frozen=True)
class Band:
    """A part that hears a few frames back, differently at each frame."""

    field: int
    slopes: Slopes

    def stream(self, lags: int) -> Advance:
        remembered = Remembered(min(self.field, lags) - 1)

        def advance(given: Tensor, start: int, stop: int) -> Tensor:
            slopes = self.slopes.between(start, stop)
            return convolved(lambda shift: slopes[shift], self.field, remembered.extend(given), given, lags)

        return advance


class Remembered:
    """The last frames of the blocks that went by; zeros before the sound."""

    def __init__(self, n_frames: int) -> None:
        self._n_frames = n_frames
        self._past: Tensor | None = None

    def extend(self, given: Tensor) -> Tensor:
        """A block with the frames before it."""
        if self._n_frames < 1:
            return given
        if self._past is None:
            self._past = given.new_zeros((self._n_frames, *given.shape[1:]))
        elif is_constant(given) and is_constant(self._past):
            return given[:1].expand(self._n_frames + len(given), *given.shape[1:])
        whole = torch.cat([self._past, given])
        past = whole[-self._n_frames :]
        # Where all the frames remembered are one and the same, they are kept as one.
        same = is_constant(given) and len(given) >= self._n_frames
        self._past = given[:1].expand(self._n_frames, *given.shape[1:]) if same else past.clone()
        return whole


def convolved(coefficients: Callable[[int], Tensor], n_shifts: int, whole: Tensor, given: Tensor, lags: int) -> Windows:
    """Sum over shifts u of coefficients(u) @ tangents at frame t - u, which lie u lags further back."""
    n_frames, reach = len(given), given.shape[2]
    n_shifts = min(n_shifts, lags)
    before = len(whole) - n_frames
    n_lags = min(lags, reach + n_shifts - 1)
    out: Tensor | None = None
    for shift in range(n_shifts):
        kept = min(reach, lags - shift)
        earlier = whole[before - shift : len(whole) - shift, :, :kept]
        term = through(coefficients(shift), earlier)
        if out is None:
            out = term.new_zeros((n_frames, term.shape[1], n_lags, term.shape[3]))
        out[:, :, shift : shift + kept] += term
    assert out is not None
    return out


def through(slopes: Tensor, given: Windows) -> Windows:
    """Tangents after slopes (width,), (later, earlier) or (frame, later, earlier)."""
    if slopes.dim() == 1:
        return given * slopes[:, None, None]
    shape = given.shape[2:]
    if is_constant(given):
        product = torch.matmul(slopes, given[0].flatten(1)).unflatten(-1, shape)
        return product if slopes.dim() == 3 else product.expand(len(given), *product.shape)
    return products(slopes, given.flatten(2)).unflatten(-1, shape)


def is_constant(given: Tensor) -> bool:
    """Whether the tensor holds one and the same at every frame, by the way it is stored."""
    return given.stride(0) == 0


def added(parts: list[Tensor]) -> Tensor:
    """The sum of tangents that may reach differently far back."""
    parts = sorted(parts, key=lambda part: -part.shape[2])
    if len(parts) == 1:
        return parts[0]
    total = parts[0].clone()
    for part in parts[1:]:
        total[:, :, : part.shape[2]] += part
    return total
