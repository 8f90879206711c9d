"""All numbers of spectro-temporal maps in one pass, and any of them by name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import xarray as xr

from pipeline.numbers.map_axes import StrfGrid, rising, strf_grid
from pipeline.numbers.measures import Measure, measured, refuse
from pipeline.numbers.strf import ripple, self_similarity, shape, tuning
from pipeline.numbers.strf.block import DEFAULTS, StrfBlock, StrfSettings

#: Every measure of a spectro-temporal map, by its name.
MEASURES: dict[str, Measure] = {**tuning.MEASURES, **shape.MEASURES, **ripple.MEASURES, **self_similarity.MEASURES}

#: Those that make up a summary.
SUMMARISED = [name for name, measure in MEASURES.items() if measure.summarised]


def strf_summaries(
    maps: xr.DataArray, measures: Sequence[str] | None = None, *, settings: StrfSettings = DEFAULTS
) -> xr.Dataset:
    """Every number of every map, one variable per measure.

    Each variable carries ``long_name``, ``units``, ``source`` and, as ``description``, its definition and what NaN
    means there. A dask-backed cube gives a lazy result, worked out chunk by chunk; any other is read block by block.

    ``degenerate`` says why the numbers of a map are NaN: not computed or not finite, all zero, a single entry,
    constant (all measures), all in one band or at one lag (those that need an extent there).

    Measures that need frequencies even in octaves see maps of other bands (mel, ERB, gammatone, linear) interpolated
    linearly onto such an axis, where no band lies more than an octave from the next; their attribute ``resampling``
    and that of the result say so.

    Parameters
    ----------
    maps
        Maps with the dimensions ``frequency`` (Hz, ascending) and ``lag`` (ms, even, 0 first) and any others; positive
        = excitatory.
    measures
        Names of the measures wanted; all of one number (and the singular values) by default.
    settings
        The levels that the definitions leave open, recorded in the attributes.

    Returns
    -------
    The measures, without those that the frequency axis does not allow; the attribute ``left_out`` names these with the
    reason. Maps with two channels gain ``on_off_index``.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> octaves, lag = np.linspace(0, 5, 40), np.arange(40) * 5.0
    >>> field = np.exp(-2 * (octaves - 2) ** 2)[:, None] * np.exp(-(((lag - 50) / 20) ** 2))
    >>> coords = {"frequency": 200 * 2**octaves, "lag": lag}
    >>> found = strf_summaries(xr.DataArray(field, coords, ("frequency", "lag")), ["latency", "duration"])
    >>> float(found["latency"]), round(float(found["duration"])), found["duration"].units
    (50.0, 20, 'ms')
    """
    maps = rising(maps)
    grid = strf_grid(maps)
    wanted = SUMMARISED if measures is None else list(measures)
    refuse(wanted, MEASURES)
    reasons = {name: _why_not(MEASURES[name], grid) for name in wanted}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    table = {name: MEASURES[name] for name in wanted if name not in left_out}
    result = _measured(maps, table, settings, grid)
    if maps.sizes.get("channel") == 2 and "norm" in table:
        result["on_off_index"] = shape.channel_index(result["norm"], result["degenerate"])
    result.attrs["settings"] = [f"{name} = {value:g}" for name, value in asdict(settings).items()]
    result.attrs["direction"] = "direction_selectivity > 0: prefers frequencies that rise with time (upward)"
    if left_out:
        result.attrs["left_out"] = [f"{name}: {reason}" for name, reason in left_out.items()]
    return result


def strf_measure(maps: xr.DataArray, name: str, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """One measure of every map, refused where the frequency axis does not allow it.

    See `pipeline.numbers.catalogue.measure`.
    """
    if name == "on_off_index":
        if maps.sizes.get("channel") != 2:
            raise ValueError(
                f"the maps have the sizes {dict(maps.sizes)}, not two channels; an ON/OFF index compares exactly two;"
                " select the two channels, or use onset_class for maps of one"
            )
        return strf_summaries(maps, ["norm"], settings=settings)["on_off_index"]
    refuse([name], MEASURES)
    maps = rising(maps)
    grid = strf_grid(maps)
    reason = _why_not(MEASURES[name], grid)
    if reason:
        raise ValueError(
            f"{reason}; so {name} would be in no unit that can be compared between axes; leave the bands out between"
            " which that is so, or use a measure in Hz or ms"
        )
    return _measured(maps, {name: MEASURES[name]}, settings, grid)[name]


def _measured(maps: xr.DataArray, table: Mapping[str, Measure], settings: StrfSettings, grid: StrfGrid) -> xr.Dataset:
    found = measured(
        maps, ("frequency", "lag"), grid, settings, lambda values: StrfBlock(values, grid, settings), table
    )
    for name, measure in table.items():
        if measure.axis == "octaves" and grid.resampling():
            found[name].attrs["resampling"] = grid.resampling()
            found.attrs["resampling"] = grid.resampling()
        if settings.threshold:
            found[name].attrs["entries"] = f"those under {settings.threshold:g} robust standard deviations are 0"
    return found


def _why_not(measure: Measure, grid: StrfGrid) -> str | None:
    if measure.axis == "octaves":
        return grid.why_no_octave_axis()
    return grid.why_no_octaves() if measure.axis == "positive" else None
