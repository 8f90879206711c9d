"""Front-ends that are a bank of filters and what follows in each band: their Jacobian is small, frame by frame.

Sending a row back through a filterbank costs as much as filtering the sound in every band. But a frame of a band
depends, through that band's filter alone, on the few filter outputs that it averages. The derivative of every frame
with respect to its samples is therefore worked out once, and each row is a product with it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.gradients.passes.vjp import vjp

#: How far, in frames, a frame may look back at filter outputs for its Jacobian to be called small.
LONGEST = 8
#: Relative difference up to which the small Jacobian gives the front-end's own.
SAME = 1e-5


@dataclass(frozen=True)
class Filterbank:
    """The Jacobian of every frame with respect to the samples that its filters hear.

    ``given`` is what the filters are applied to, the sound with its padding. Column 0 of frame 0's ``slopes`` belongs
    to sample ``first`` of it (which may lie before its start), column 0 of the next frame's to sample
    ``first + hop``.
    """

    slopes: Float[Tensor, "stimulus frame frequency column"]
    first: int
    hop: int
    given: Float[Tensor, "stimulus 1 padded_sample"]
    leaf: Float[Tensor, "stimulus 1 sample"]

    def skipping(self, frames: int) -> "Filterbank":
        """The same without the first ``frames`` frames."""
        return replace(self, slopes=self.slopes[:, frames:], first=self.first + frames * self.hop)

    def pull_back(
        self, gradient: Float[Tensor, "row stimulus 1 frequency frame"], limits: set[str]
    ) -> Float[Tensor, "row stimulus 1 sample"]:
        """Gradients with respect to the frames, as gradients with respect to the sound."""
        n_rows, n_stimuli, _, _, n_frames = gradient.shape
        # 1. Each frame alone: (row, frequency) @ (frequency, column), a stretch of samples per frame and row.
        weights = gradient.squeeze(2).permute(1, 3, 0, 2)
        n_hops = self.slopes.shape[-1] // self.hop
        columns = torch.matmul(weights, self.slopes).view(n_stimuli, n_frames, n_rows, n_hops, self.hop)
        # 2. Stretches of neighbouring frames begin a hop apart and overlap: they are added, hop by hop.
        summed = columns.new_zeros((n_stimuli, n_frames + n_hops - 1, n_rows, self.hop))
        for later in range(n_hops):
            summed[:, later : later + n_frames] += columns[:, :, :, later]
        samples = summed.permute(2, 0, 1, 3).reshape(n_rows, n_stimuli, -1)
        n_ahead = self.given.shape[-1] - self.leaf.shape[-1]
        if n_ahead >= 0 and torch.equal(self.given[..., n_ahead:], self.leaf):
            # The sound with something put before it: what belongs to that is dropped.
            return _placed(samples.unsqueeze(2), self.first - n_ahead, self.leaf.shape[-1])
        return vjp(self.given, self.leaf, _placed(samples.unsqueeze(2), self.first, self.given.shape[-1]), limits)


def _placed(samples: Tensor, first: int, length: int) -> Tensor:
    """A stretch of ``length`` samples that holds these from ``first`` on, as far as they lie in it."""
    placed = samples.new_zeros((*samples.shape[:-1], length))
    start, stop = max(0, first), min(length, first + samples.shape[-1])
    if start < stop:
        placed[..., start:stop] = samples[..., start - first : stop - first]
    return placed


@dataclass(frozen=True)
class _Filtering:
    given: Tensor
    filters: Tensor
    gave: Tensor
    stride: int


class _Watch(TorchFunctionMode):
    """A note of every one-dimensional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[_Filtering | None] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        if func is torch.conv1d:
            self.seen.append(_filtering(answer, *args, **(kwargs or {})))
        return answer


def _filtering(
    gave: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Filtering | None:
    each = (value[0] if isinstance(value, (tuple, list)) else value for value in (stride, padding, dilation))
    step, pad, spread = each
    plain = pad == 0 and spread == 1 and groups == 1 and input.dim() == 3 and input.shape[1] == 1
    return _Filtering(input, weight.detach(), gave, int(step)) if plain else None


def filterbank(front_end: nn.Module, leaf: Tensor, given: Tensor) -> tuple[Tensor, Filterbank | None]:
    """What the front-end makes of the sound, and its Jacobian where it is a bank of filters."""
    with _Watch() as watch:
        spectrogram = front_end(given)
    if len(watch.seen) != 1 or watch.seen[0] is None:
        return spectrogram, None
    try:
        bank = _of(watch.seen[0], leaf, spectrogram)
    except RuntimeError:
        # Something between filters and frames that has no such Jacobian; plain backward passes do.
        return spectrogram, None
    return spectrogram, bank if bank is not None and _holds(bank, leaf, spectrogram) else None


def _of(filtering: _Filtering, leaf: Tensor, spectrogram: Tensor) -> Filterbank | None:
    n_stimuli, _, n_bands, n_frames = spectrogram.shape
    gave, stride = filtering.gave, filtering.stride
    if gave.shape[:2] != (n_stimuli, n_bands) or gave.shape[-1] % n_frames or len(filtering.filters) != n_bands:
        return None
    per_frame = gave.shape[-1] // n_frames
    n_back = _frames_back(gave, spectrogram, per_frame)
    if n_back is None:
        return None
    reach = n_back * per_frame
    # d frame[t, f] / d sample = sum_j d frame[t, f] / d output[f, j] filter[f, sample - j stride],
    # j over the ``reach`` outputs that the frame depends on: (frame, reach) @ (reach, length) for each band.
    length = (reach - 1) * stride + filtering.filters.shape[-1]
    local = _local_slopes(gave, spectrogram, per_frame, n_back)
    shifted = _shifted(filtering.filters.squeeze(1), reach, stride, length)
    slopes = torch.bmm(local.permute(2, 0, 1, 3).reshape(n_bands, -1, reach), shifted)
    hop = per_frame * stride
    slopes = slopes.view(n_bands, n_stimuli, n_frames, length).permute(1, 2, 0, 3)
    slopes = nn.functional.pad(slopes, (0, -length % hop)).contiguous()
    return Filterbank(slopes, -(n_back - 1) * hop, hop, filtering.given, leaf)


def _frames_back(gave: Tensor, spectrogram: Tensor, per_frame: int) -> int | None:
    """How many frames of filter outputs a frame depends on, its own included, as seen at a few of the frames."""
    n_frames = spectrogram.shape[-1]
    most = 1
    for frame in sorted({n_frames - 1, n_frames // 2, n_frames // 3, 2 * n_frames // 3}):
        weights = torch.zeros_like(spectrogram)
        weights[..., frame] = 1.0
        (gradient,) = torch.autograd.grad(spectrogram, gave, weights, retain_graph=True)
        heard = gradient.flatten(0, 1).ne(0).any(dim=0).nonzero().flatten()
        if len(heard) == 0:
            continue
        if int(heard[-1]) >= (frame + 1) * per_frame:
            return None
        most = max(most, frame + 1 - int(heard[0]) // per_frame)
    return most if most <= LONGEST else None


def _local_slopes(
    gave: Tensor, spectrogram: Tensor, per_frame: int, n_back: int
) -> Float[Tensor, "stimulus frame frequency output"]:
    """d frame / d the filter outputs that it depends on; frames far enough apart share a backward pass."""
    n_stimuli, _, n_bands, n_frames = spectrogram.shape
    reach = n_back * per_frame
    local = gave.new_zeros((n_stimuli, n_frames, n_bands, reach))
    # Frames n_back apart depend on no output in common, so that n_back passes tell the slopes of all.
    for first in range(min(n_back, n_frames)):
        weights = torch.zeros_like(spectrogram)
        weights[..., first::n_back] = 1.0
        (gradient,) = torch.autograd.grad(spectrogram, gave, weights, retain_graph=True)
        n_mine = len(range(first, n_frames, n_back))
        start = first * per_frame
        ahead = max(0, start + n_mine * reach - (n_back - 1) * per_frame - gradient.shape[-1])
        padded = nn.functional.pad(gradient, ((n_back - 1) * per_frame, ahead))
        mine = padded[..., start : start + n_mine * reach].unflatten(-1, (n_mine, reach))
        local[:, first::n_back] = mine.permute(0, 2, 1, 3)
    return local


def _shifted(
    filters: Float[Tensor, "frequency tap"], reach: int, stride: int, length: int
) -> Float[Tensor, "frequency output column"]:
    """The filters once per output, each row ``stride`` columns further on."""
    rows = filters.new_zeros((len(filters), reach, length + stride))
    rows[..., : filters.shape[-1]] = filters.unsqueeze(1)
    return rows.flatten(1)[:, : reach * length].view(len(filters), reach, length)


def _holds(bank: Filterbank, leaf: Tensor, spectrogram: Tensor) -> bool:
    """Whether this Jacobian agrees with a backward pass through the front-end itself."""
    weights = torch.randn(spectrogram.shape, generator=torch.Generator().manual_seed(19)).to(spectrogram)
    (expected,) = torch.autograd.grad(spectrogram, leaf, weights, retain_graph=True)
    got = bank.pull_back(weights.unsqueeze(0), set())[0]
    size = expected.abs().amax()
    return bool(torch.isfinite(size)) and bool((got - expected).abs().amax() <= SAME * size)
