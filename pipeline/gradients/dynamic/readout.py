"""From tangents of the features to the maps of neurons: the readout's slopes, block of frames by block of frames."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.gradients.dynamic.graph import NoWayError, Place, edge_of, places_of
from pipeline.gradients.dynamic.search import Search
from pipeline.gradients.dynamic.slopes import own_slopes, slopes_between
from pipeline.gradients.dynamic.stages import Builder
from pipeline.gradients.dynamic.step_search import acts_frame_by_frame, linked
from pipeline.gradients.dynamic.steps import Constant, Filter, Framewise, Step, Windows
from pipeline.gradients.torch_state.memory import ALIGNMENT
from pipeline.gradients.torch_state.products import products

Maps = Float[Tensor, "frame neuron lag frequency"]


@dataclass(frozen=True)
class Readout:
    """What follows the features: steps to one number per neuron, and each neuron's own slope after that.

    ``steps`` are those of the neurons asked for alone. ``summed`` says that the maps of all are added up.
    """

    steps: tuple[Step, ...]
    gains: Float[Tensor, "frame neuron"] | None
    summed: bool


def readout_of(
    search: Search, builder: Builder, response: Tensor, neurons: Int[Tensor, "neuron"] | None
) -> tuple[Place, Readout]:
    """The narrowest place that the responses follow frame by frame, or through a last filter, and the readout."""
    whole = next(places_of(edge_of(response), search.n_frames))
    chosen = torch.arange(whole.width, device=search.device) if neurons is None else neurons
    search.weigh(whole, 1 / whole.layout.split(response.detach())[0].abs().amax(dim=0))
    before = builder.narrows_after_mixers[:-1]
    wide, gains = _own_slopes(search, before, whole)
    earlier = before[: _position(before, wide)]
    features = _narrowest(search, earlier, wide)
    if features is None:
        features = _before_the_last_filter(search, earlier, wide)
    steps = _rows(search, features, wide, chosen)
    return features, Readout(steps, None if gains is None else gains[:, chosen], neurons is None)


def _position(places: Sequence[Sequence[Place]], place: Place) -> int:
    return next((number for number, ways in enumerate(places) if any(way is place for way in ways)), len(places))


def _own_slopes(
    search: Search, before: Sequence[Sequence[Place]], whole: Place
) -> tuple[Place, Float[Tensor, "frame neuron"] | None]:
    """The earliest place of which each neuron's response follows one number of its own, and the slopes from there."""
    wide, gains = whole, None
    for ways in reversed(before):
        found = ((way, _slopes_alone(search, whole, way)) for way in ways)
        place, slopes = next(((way, slopes) for way, slopes in found if slopes is not None), (None, None))
        if place is None:
            break
        wide, gains = place, slopes
    if gains is not None:
        search.weigh(wide, search.weights_of(whole) * gains.abs().amax(dim=0))
    return wide, gains


def _slopes_alone(search: Search, whole: Place, way: Place) -> Float[Tensor, "frame neuron"] | None:
    try:
        step = own_slopes(search, whole, way)
    except RuntimeError:
        return None
    return None if step is None else step.slopes


def _narrowest(search: Search, earlier: Sequence[Sequence[Place]], wide: Place) -> Place | None:
    """The narrowest place before ``wide`` that it follows frame by frame, the latest of equally narrow ones."""
    best: Place | None = None
    for ways in reversed(earlier):
        place = next((way for way in ways if acts_frame_by_frame(search, wide, way)), None)
        if place is None:
            break
        if best is None or place.width < best.width:
            best = place
    return best


def _before_the_last_filter(search: Search, earlier: Sequence[Sequence[Place]], wide: Place) -> Place:
    for place in (way for ways in reversed(earlier) for way in ways):
        try:
            if linked(search, place, wide):
                return place
        except NoWayError:
            continue
    return wide


def _rows(search: Search, features: Place, wide: Place, chosen: Int[Tensor, "neuron"]) -> tuple[Step, ...]:
    """Steps from the features to the numbers of the neurons asked for."""
    if features is wide:
        return (Constant(torch.eye(wide.width, dtype=search.dtype, device=search.device)[chosen]),)
    if acts_frame_by_frame(search, wide, features):
        return (slopes_between(search, wide, features, rows=chosen),)
    *steps, last = linked(search, features, wide)
    if isinstance(last, Filter) and last.kernel.dim() == 3:
        first = None if last.first is None else last.first[:, chosen]
        return (*steps, Filter(last.kernel[:, chosen], first))
    return (*steps, last, Constant(torch.eye(wide.width, dtype=search.dtype, device=search.device)[chosen]))


class Pages:
    """Room for one block of maps after another: writing for the first time to fresh pages takes as long as products.

    A block's room is used again once nobody holds that block any more. A loop over blocks holds one until it has the
    next, so that there are two to use in turn.
    """

    def __init__(self) -> None:
        self._rooms: list[numpy.ndarray] = []

    def room(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """An uninitialised tensor of this shape."""
        if like.device.type != "cpu":
            return like.new_empty(shape)
        n_bytes = like.element_size() * int(numpy.prod(shape)) + ALIGNMENT
        pages = self._free(n_bytes)
        start = -pages.ctypes.data % ALIGNMENT
        used = torch.from_numpy(pages)[start : start + n_bytes - ALIGNMENT]
        return used.view(like.dtype).view(shape)

    def _free(self, n_bytes: int) -> numpy.ndarray:
        for number in range(len(self._rooms)):
            # One reference is the list's, one is getrefcount's own.
            if len(self._rooms[number]) >= n_bytes and sys.getrefcount(self._rooms[number]) <= 2:
                return self._rooms[number]
        self._rooms = [*self._rooms[-1:], numpy.empty(n_bytes, dtype=numpy.uint8)]
        return self._rooms[-1]


def slopes_at(readout: Readout, frames: Int[Tensor, "frame"]) -> Float[Tensor, "frame neuron width"] | None:
    """The slopes of the readout's last step at these frames; None where that mixes frames."""
    step = readout.steps[-1]
    if not isinstance(step, (Constant, Framewise)):
        return None
    if isinstance(step, Constant):
        slopes = step.slopes.expand(len(frames), -1, -1)
    else:
        first, last = int(frames[0]), int(frames[-1])
        slopes = step.slopes.between(first, last + 1)[0, frames - first]
    if readout.gains is not None:
        slopes = slopes * readout.gains[frames].unsqueeze(-1)
    return slopes.sum(dim=1, keepdim=True) if readout.summed else slopes


def windows_at(windows: Windows, chosen: Int[Tensor, "frame"]) -> Windows:
    """The chosen frames of a block, without a copy where they follow each other."""
    first, last = int(chosen[0]), int(chosen[-1]) + 1
    return windows[first:last] if last - first == len(chosen) else windows[chosen]


def maps_of(
    readout: Readout, windows: Windows, start: int, chosen: Int[Tensor, "frame"], pages: Pages, lags: int
) -> Maps:
    """Maps at the chosen frames of a block, from the tangents of what precedes the readout's last step."""
    frames = chosen + start
    slopes = slopes_at(readout, frames)
    if slopes is not None:
        given = windows_at(windows, chosen)
        out = pages.room((len(frames), slopes.shape[1], given.shape[2] * given.shape[3]), windows)
        maps = products(slopes.contiguous(), given.flatten(2), out=out).unflatten(-1, given.shape[2:])
    else:
        gains = None if readout.gains is None else readout.gains[frames]
        maps = windows[chosen] if gains is None else _scaled(windows[chosen], gains, pages)
        maps = maps.sum(dim=1, keepdim=True) if readout.summed else maps
    return maps if maps.shape[2] == lags else torch.nn.functional.pad(maps, (0, 0, 0, lags - maps.shape[2]))


def _scaled(windows: Windows, gains: Float[Tensor, "frame neuron"], pages: Pages) -> Maps:
    return torch.mul(windows, gains[:, :, None, None], out=pages.room(tuple(windows.shape), windows))
