"""Maps made small: a bounded number of maps in 8 bits per pixel, for a page on which any of them can be looked at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from pipeline.pictures.choosing import Choice, choose_checkpoints, evenly
from pipeline.pictures.cube_reading import TRUSTED, own_dims, placed
from pipeline.pictures.sections.measured import most_trusted
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.style import colour_ends
from pipeline.words import axis_of

#: Rows and columns of a thumbnail, the finest first; the first with which all maps have room is taken.
SIZES = ((48, 64), (32, 40), (24, 28), (16, 20))

#: Columns of the thumbnail of a waveform, each with its smallest and its largest sample.
TRACE_COLUMNS = 96

#: Code of a pixel where there is no map.
MISSING = -128

#: Bytes of maps that are read at a time.
READ_AT_ONCE = 64 * 2**20

#: Samples that are kept of one sound at most, the last ones.
LONGEST_SOUND = 16_000


@dataclass(frozen=True)
class Sounds:
    """Waveform maps to be heard: their places among the thumbnails, samples (map, sample) in 8 bits, oldest first."""

    places: tuple[int, ...]
    samples: np.ndarray
    rate: int


@dataclass(frozen=True)
class Thumbnails:
    """Small maps (layer, checkpoint, neuron, row, column) in steps of 1/127 of their ``tops``.

    A layer is one sound or one channel. Rows rise with frequency, in Hz; columns are lags, in ms. The two rows of a
    waveform are the smallest and the largest sample of each column.
    """

    layers: tuple[dict[str, Any], ...]
    chosen: Choice
    codes: np.ndarray
    tops: np.ndarray
    norms: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    trace: bool
    sounds: Sounds | None


def thumbnails(entry: Outcome, room: int) -> Thumbnails | None:
    """As many maps as fit into ``room`` bytes, small; of checkpoints spread over architectures where not all do.

    None where no map is computed.
    """
    layers = layers_of(entry)
    own = own_dims(entry.gradmap)
    trace = len(own) == 1
    sound_room = room // 4 if trace else 0
    size, layers, chosen = _fitted(entry, layers, own, room - sound_room)
    if not chosen.checkpoints.size or not chosen.neurons.size:
        return None
    shape = (len(layers), chosen.checkpoints.size, chosen.neurons.size)
    codes = np.full((*shape, *size), MISSING, dtype=np.int8)
    tops, norms = np.zeros(shape, np.float32), np.full(shape, np.nan, np.float32)
    edges = _edges(entry, own, size, trace)
    heard = _Heard.chosen(entry, layers, chosen, sound_room) if trace else None
    for where, values in _read(entry, layers, chosen):
        codes[where], tops[where], norms[where] = _shrunk(values, edges, trace)
        if heard is not None:
            heard.listen(where, values, shape)
    rows, columns = _centres(entry, own, edges, trace)
    sounds = None if heard is None else heard.sounds()
    return Thumbnails(layers, chosen, codes, tops, norms, rows, columns, trace, sounds)


def layers_of(entry: Outcome) -> tuple[dict[str, Any], ...]:
    """Where on the axes beside checkpoint and neuron to look: every sound and channel, the most trusted sound first."""
    gradmap = entry.gradmap
    first = most_trusted(entry.standing.isin(TRUSTED))
    dims = [str(dim) for dim in gradmap.dims if dim not in ("checkpoint", "neuron", *own_dims(gradmap))]
    axes = [gradmap[dim].values.tolist() for dim in dims]
    begin = [[label for label in axis if label == first.get(dim)] for dim, axis in zip(dims, axes, strict=True)]
    turned = [
        [*front, *(label for label in axis if label not in front)] for front, axis in zip(begin, axes, strict=True)
    ]
    return tuple(dict(zip(dims, labels, strict=True)) for labels in product(*turned))


def _fitted(
    entry: Outcome, layers: tuple[dict[str, Any], ...], own: Sequence[str], room: int
) -> tuple[tuple[int, int], tuple[dict[str, Any], ...], Choice]:
    """Size, layers and maps that fit: smaller ones first, then the first layer alone, then fewer checkpoints."""
    extent = [entry.gradmap.sizes[dim] for dim in own]
    sizes = [(min(rows, extent[0]), min(columns, extent[-1])) for rows, columns in SIZES]
    if len(own) == 1:
        sizes = [(2, min(TRACE_COLUMNS, extent[0]))]
    n_checkpoints, n_neurons = entry.best.sizes["checkpoint"], entry.best.sizes["neuron"]
    for some in (layers, layers[:1]):
        for size in sizes:
            if len(some) * n_checkpoints * n_neurons * size[0] * size[1] <= room:
                checkpoints, how = choose_checkpoints(entry.best, entry.cube, n_checkpoints)
                return size, some, Choice(checkpoints, np.arange(n_neurons), f"{how}; all neurons")
    size = sizes[-1]
    most = max(1, room // (size[0] * size[1]))
    checkpoints, how = choose_checkpoints(entry.best, entry.cube, max(1, min(n_checkpoints, max(4, most // n_neurons))))
    neurons = evenly(n_neurons, max(1, most // max(1, checkpoints.size)))
    second = "all neurons" if neurons.size == n_neurons else f"{neurons.size} of {n_neurons} neurons, evenly spaced"
    return size, layers[:1], Choice(checkpoints, neurons, f"{how}; {second}")


def _read(
    entry: Outcome, layers: Sequence[dict[str, Any]], chosen: Choice
) -> Iterator[tuple[tuple[int, int, slice], np.ndarray]]:
    """Maps (neuron, frequency, lag) or (neuron, sample) of one layer and checkpoint at a time, with their places."""
    gradmap = entry.gradmap
    own = own_dims(gradmap)
    for dim in own:
        if not gradmap.indexes[dim].is_monotonic_increasing:
            gradmap = gradmap.sortby(dim)
    per_map = gradmap.dtype.itemsize * int(np.prod([gradmap.sizes[dim] for dim in own]))
    step = max(1, READ_AT_ONCE // max(1, per_map))
    for k, layer in enumerate(layers):
        maps = placed(gradmap.sel(layer)).transpose("checkpoint", "neuron", *own)
        for c, checkpoint in enumerate(chosen.checkpoints):
            for start in range(0, chosen.neurons.size, step):
                block = slice(start, min(start + step, chosen.neurons.size))
                values = maps.isel(checkpoint=int(checkpoint), neuron=_positions(chosen.neurons[block])).values
                yield (k, c, block), np.asarray(values, dtype=np.float32)


def _positions(at: np.ndarray) -> slice | np.ndarray:
    """Positions as a slice where they are neighbours, which stores read faster than a list."""
    return slice(int(at[0]), int(at[-1]) + 1) if at[-1] - at[0] + 1 == at.size else at


def _edges(entry: Outcome, own: Sequence[str], size: tuple[int, int], trace: bool) -> list[np.ndarray]:
    """Where each row and each column begins; of a waveform only the columns."""
    parts = size[1:] if trace else size
    return [
        np.linspace(0, entry.gradmap.sizes[dim], count + 1).astype(int)[:-1]
        for dim, count in zip(own, parts, strict=True)
    ]


def _shrunk(values: np.ndarray, edges: Sequence[np.ndarray], trace: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, the values of 127, and the norms of maps; what holds a number that is not finite is missing."""
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    values = np.where(finite.reshape(-1, *(1,) * (values.ndim - 1)), values, 0)
    if trace:
        small = np.stack([reduce.reduceat(values, edges[0], axis=-1) for reduce in (np.minimum, np.maximum)], axis=1)
    else:
        small = values
        for axis, starts in zip((1, 2), edges, strict=True):
            counts = np.diff([*starts, values.shape[axis]])
            shape = (-1, 1) if axis == 1 else (-1,)
            small = np.add.reduceat(small, starts, axis=axis) / counts.reshape(shape)
    tops = colour_ends(small)
    scale = np.where(tops > 0, tops, 1)[:, None, None]
    codes = np.clip(np.round(127 * small / scale), -127, 127).astype(np.int8)
    codes[~finite] = MISSING
    norms = np.sqrt(np.square(values, dtype=np.float64).sum(axis=tuple(range(1, values.ndim))))
    return codes, tops, np.where(finite, norms, np.nan)


def _centres(
    entry: Outcome, own: Sequence[str], edges: Sequence[np.ndarray], trace: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Middle of each row in Hz, in octaves where it can be, and of each column in ms."""
    found = []
    for dim, starts in zip(own, edges, strict=True):
        places = np.sort(entry.gradmap[dim].values.astype(float))
        log = dim == "frequency" and places[0] > 0
        means = np.add.reduceat(np.log(places) if log else places, starts) / np.diff([*starts, places.size])
        found.append(np.exp(means) if log else means)
    rows = np.zeros(2) if trace else found[0]
    return rows.astype(np.float32), found[-1].astype(np.float32)


@dataclass
class _Heard:
    """Sounds collected while the maps are read: which are wanted, and what was found."""

    wanted: set[tuple[int, int, int]]
    length: int
    rate: int
    found: list[tuple[int, np.ndarray]]

    @classmethod
    def chosen(cls, entry: Outcome, layers: Sequence[dict[str, Any]], chosen: Choice, room: int) -> "_Heard | None":
        """Maps that are to be trusted, evenly spaced, as many as there is room for; None where the rate is not even."""
        (dim,) = own_dims(entry.gradmap)
        lag = entry.gradmap[dim].values.astype(float)
        if axis_of(dim) != "waveform_lag" or lag.size < 2 or np.ptp(lag) <= 0:
            return None
        length = min(lag.size, LONGEST_SOUND)
        trusted = entry.standing.isin(TRUSTED).isel(checkpoint=chosen.checkpoints, neuron=chosen.neurons)
        usable = [
            (k, *place)
            for k, layer in enumerate(layers)
            for place in np.argwhere(
                trusted.sel({dim: label for dim, label in layer.items() if dim in trusted.dims}).values
            ).tolist()
        ]
        picked = evenly(len(usable), room // length)
        return cls({usable[at] for at in picked}, length, round(1000.0 * (lag.size - 1) / float(np.ptp(lag))), [])

    def listen(self, where: tuple[int, int, slice], values: np.ndarray, shape: tuple[int, int, int]) -> None:
        """Keep the wanted ones of some maps."""
        k, c, block = where
        for at, samples in enumerate(values):
            if (k, c, block.start + at) in self.wanted and (peak := np.abs(samples).max()) > 0:
                # lag 0 is the last sample of a sound
                newest = samples[: self.length][::-1] / peak
                place = (k * shape[1] + c) * shape[2] + block.start + at
                self.found.append((place, np.round(114 * newest).astype(np.int8)))

    def sounds(self) -> Sounds | None:
        """What was found; None where that is nothing."""
        if not self.found:
            return None
        return Sounds(tuple(at for at, _ in self.found), np.stack([one for _, one in self.found]), self.rate)


def at_layer(values: xr.DataArray, layer: dict[str, Any]) -> xr.DataArray:
    """Values over (checkpoint, neuron) at one sound and channel."""
    return placed(values.sel({dim: label for dim, label in layer.items() if dim in values.dims}))
