"""Measures of labelled maps, evaluated block by block over arrays of any size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
import xarray as xr

#: Entries of the maps that are worked on at one time: small enough for the processor's cache.
BLOCK_ENTRIES = 64 * 34 * 40

#: Bytes of a file-backed array without dask that are read at one time.
READ_BYTES = 128 * 2**20

USABLE, NOT_COMPUTED, ALL_ZERO, SINGLE_ENTRY, CONSTANT, SINGLE_BAND, SINGLE_LAG = range(7)

#: Codes of the ways in which a map has no numbers.
DEGENERATE = {
    USABLE: "usable",
    NOT_COMPUTED: "not_computed_or_not_finite",
    ALL_ZERO: "all_zero",
    SINGLE_ENTRY: "single_entry",
    CONSTANT: "constant",
    SINGLE_BAND: "single_band",
    SINGLE_LAG: "single_lag",
}

#: When nearly every measure is missing.
UNUSABLE = "the map is not computed, not finite, all zero, constant, or a single non-zero entry"

#: When a measure along one axis is missing, or one over both.
ONE_LAG = f"{UNUSABLE}, or all energy lies at one lag"
ONE_BAND = f"{UNUSABLE}, or all energy lies in one band"
ONE_LINE = f"{UNUSABLE}, or all energy lies in one band or at one lag"

#: What some measures ask of a map before they are given.
STANDS_OUT = "the largest entry stands out of the noise (see significant)"


#: What the frequency axis must be: anything, above 0 Hz, or one on which octaves can be laid evenly.
NeedsOfAxis = Literal["any", "positive", "octaves"]

#: Units of a measure that has those of its maps.
OF_THE_MAP = "as the map"


@dataclass(frozen=True)
class Measure:
    """One number (or one labelled vector) per map, with everything that is to be known of it."""

    #: Maps a block of usable maps to an array (map, \\*axes).
    compute: Callable[[Any], np.ndarray]
    #: As the cube's attributes have them; units may be `OF_THE_MAP`.
    long_name: str
    units: str
    #: The formula, in words.
    definition: str
    #: Where there is no number.
    nan: str
    #: Whose definition it is.
    source: str = ""
    #: What the frequency axis must be.
    axis: NeedsOfAxis = "any"
    #: What must stand out of chance, and how that is decided.
    threshold: str = ""
    #: Further dimensions of the result, each with a function from the grid and the settings to its coordinate.
    axes: Mapping[str, Callable[[Any, Any], xr.Variable]] = field(default_factory=dict)
    #: What the codes of a class mean.
    flags: Mapping[int, str] = field(default_factory=dict)
    #: Whether it is one of the numbers of a summary; long vectors are asked for by name.
    summarised: bool = True

    def attributes(self, map_units: str = "1") -> dict[str, Any]:
        """CF attributes of the result, for maps of some units."""
        attributes: dict[str, Any] = {
            "long_name": self.long_name,
            "units": map_units if self.units == OF_THE_MAP else self.units,
            "description": f"{self.definition}; NaN where {self.nan}",
        }
        if self.source:
            attributes["source"] = self.source
        if self.flags:
            attributes["flag_values"] = [float(code) for code in self.flags]
            attributes["flag_meanings"] = " ".join(self.flags.values())
        return attributes


def measured(
    maps: xr.DataArray,
    dims: Sequence[str],
    grid: Any,
    settings: Any,
    prepare: Callable[[np.ndarray], Any],
    measures: Mapping[str, Measure],
) -> xr.Dataset:
    """Every measure of every map, with the leading dimensions and coordinates of ``maps``.

    A variable ``degenerate`` says for each map why its numbers are NaN, with the codes of ``DEGENERATE``.
    Dask-backed maps give a lazy result; others are read and worked through in blocks of bounded size.

    Parameters
    ----------
    maps
        Maps with the dimensions ``dims`` and any others.
    dims
        The dimensions of one map.
    grid, settings
        What the axes of ``measures`` take their coordinates from.
    prepare
        Turns maps (map, \\*dims) in float64 into the object that ``Measure.compute`` works on: ``code()`` refines the
        reason of maps that only some measures can use, and ``seen_by(measure)`` is what a measure takes.
    measures
        Measures by name.
    """
    maps = maps.transpose(..., *dims)
    axes = {
        name: {dim: axis(grid, settings) for dim, axis in measure.axes.items()} for name, measure in measures.items()
    }
    shapes = {name: tuple(variable.size for variable in axes[name].values()) for name in measures}
    widths = [int(np.prod(shape)) for shape in shapes.values()]
    bounds = np.concatenate([[1], 1 + np.cumsum(widths, dtype=int)])  # the first column says why the others are NaN

    def columns_of(values: np.ndarray) -> np.ndarray:
        return _columns(values, len(dims), prepare, list(measures.values()), int(bounds[-1]))

    leading = maps.dims[: -len(dims)]
    columns = _apply(maps, dims, columns_of, int(bounds[-1])).data
    found: dict[Any, xr.Variable] = {}
    for position, (name, measure) in enumerate(measures.items()):
        part = columns[..., int(bounds[position]) : int(bounds[position + 1])]
        # not through a MultiIndex: the columns of one measure are in C order of its axes
        data = part.reshape(part.shape[:-1] + shapes[name])
        attributes = measure.attributes(str(maps.attrs.get("units", "1")))
        found[name] = xr.Variable((*leading, *axes[name]), data, attributes)
    reasons = {
        "long_name": "why the numbers of this map are NaN",
        "flag_values": np.array(list(DEGENERATE), dtype=np.int8),
        "flag_meanings": " ".join(DEGENERATE.values()),
    }
    found["degenerate"] = xr.Variable(leading, columns[..., 0].astype(np.int8), reasons)
    # all at once: a variable at a time would align every one with all before it
    labels = {name: coord for name, coord in maps.coords.items() if not set(coord.dims) & set(dims)}
    return xr.Dataset(found, coords=labels | {dim: axis for own in axes.values() for dim, axis in own.items()})


def _apply(
    maps: xr.DataArray, dims: Sequence[str], function: Callable[[np.ndarray], np.ndarray], width: int
) -> xr.DataArray:
    if maps.chunks is not None:
        whole = maps.chunk(dict.fromkeys(dims, -1))
        return xr.apply_ufunc(
            function,
            whole,
            input_core_dims=[list(dims)],
            output_core_dims=[["_column"]],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"output_sizes": {"_column": width}},
        )
    leading = maps.dims[: -len(dims)]
    sizes = [maps.sizes[dim] for dim in leading]
    columns = np.full((*sizes, width), np.nan)
    for region in regions(maps, leading):
        columns[tuple(region[dim] for dim in leading)] = function(maps.variable.isel(region).values)
    return xr.DataArray(columns, dims=(*leading, "_column"))


def regions(maps: xr.DataArray, over: Sequence[Any], read_bytes: int = READ_BYTES) -> Iterator[dict[Any, slice]]:
    """Slices along ``over`` that cover ``maps`` once, of about ``read_bytes``, aligned to stored chunks."""
    stored = maps.encoding.get("preferred_chunks", {})
    per_entry = maps.dtype.itemsize * int(np.prod([maps.sizes[dim] for dim in maps.dims if dim not in over]))
    room = max(1, read_bytes // max(1, per_entry))
    steps: dict[Any, int] = {}
    for dim in reversed(over):
        size = max(1, maps.sizes[dim])
        chunk = min(size, max(1, int(stored.get(dim, 1))))
        steps[dim] = min(size, max(chunk, room // chunk * chunk))
        room = max(1, room // steps[dim])
    slices = [[slice(start, start + steps[dim]) for start in range(0, maps.sizes[dim], steps[dim])] for dim in over]
    for parts in product(*slices):
        yield dict(zip(over, parts, strict=True))


def degeneracy(values: np.ndarray, extremes: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """For maps (map, entry), whether and why no measure of them means anything, as codes.

    ``extremes``: The lowest and the highest entry of each map, where they are known.
    """
    code = np.full(len(values), USABLE)
    lowest, highest = extremes or (values.min(axis=1), values.max(axis=1))  # NaN where an entry is
    code[lowest == highest] = CONSTANT
    # All entries of a map but one can be 0 only where 0 is its lowest or its highest, or it has no other.
    few = np.flatnonzero((lowest == 0) | (highest == 0) | (values.shape[1] == 1))
    code[few[np.count_nonzero(values[few], axis=1) == 1]] = SINGLE_ENTRY
    code[(lowest == 0) & (highest == 0)] = ALL_ZERO
    code[~(np.isfinite(lowest) & np.isfinite(highest))] = NOT_COMPUTED
    return code


def _columns(
    values: np.ndarray, n_dims: int, prepare: Callable[[np.ndarray], Any], measures: Sequence[Measure], width: int
) -> np.ndarray:
    leading, entries = values.shape[:-n_dims], int(np.prod(values.shape[-n_dims:]))
    flat = values.reshape(-1, *values.shape[-n_dims:])
    columns = np.full((len(flat), width), np.nan)
    columns[:, 0] = NOT_COMPUTED
    step = max(1, BLOCK_ENTRIES // max(1, entries))
    for start in range(0, len(flat) if entries else 0, step):
        block = np.asarray(flat[start : start + step], dtype=np.float64)
        code = degeneracy(block.reshape(len(block), -1))
        usable = code == USABLE
        if usable.any():
            prepared = prepare(block[usable])
            code[usable] = prepared.code()
            with np.errstate(divide="ignore", invalid="ignore"):
                parts = [np.asarray(m.compute(prepared.seen_by(m)), dtype=np.float64) for m in measures]
            numbers = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
            columns[start : start + step, 1:][usable] = np.where((code[usable] == ALL_ZERO)[:, None], np.nan, numbers)
        columns[start : start + step, 0] = code
    return columns.reshape(*leading, width)


def refuse(names: Sequence[str], known: Mapping[str, Any]) -> None:
    """Refuse measures that are not known."""
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"no measure is called {', '.join(map(repr, unknown))}; a misspelt name would leave a column out of the"
            f" table without a word; choose from {', '.join(known)}"
        )
