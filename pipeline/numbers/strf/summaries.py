"""All numbers of spectro-temporal maps in one pass."""

from collections.abc import Sequence
from dataclasses import asdict

import xarray as xr

from pipeline.numbers.grid import rising, strf_grid
from pipeline.numbers.measures import Measure, refuse
from pipeline.numbers.strf import ripple, shape, tuning
from pipeline.numbers.strf.block import DEFAULTS, StrfSettings, measured

MEASURES: dict[str, Measure] = {**tuning.MEASURES, **shape.MEASURES, **ripple.MEASURES}
REQUIREMENTS = {**tuning.REQUIREMENTS, **ripple.REQUIREMENTS}


def strf_summaries(
    maps: xr.DataArray, measures: Sequence[str] | None = None, *, settings: StrfSettings = DEFAULTS
) -> xr.Dataset:
    """Return every number of every map, one variable per measure.

    Each variable is what the function of that name returns (``best_frequency_excitatory`` is
    ``best_frequency(maps, "excitatory")``) and carries ``long_name``, ``units`` and, as ``description``, what NaN means
    there. A dask-backed cube gives a lazy result, worked out chunk by chunk; any other is read block by block.

    ``degenerate`` says why the numbers of a map are NaN: not computed or not finite, all zero, a single entry,
    constant (all measures), all in one band or at one lag (those that need an extent there).

    Parameters
    ----------
    maps
        Maps with the dimensions ``frequency`` (Hz, ascending) and ``lag`` (ms, even, 0 first) and any others; positive
        = excitatory.
    measures
        Names of the measures wanted; all by default.
    settings
        The levels that the definitions leave open, recorded in the attributes.

    Returns
    -------
    The measures, without those that the frequency axis does not allow; the attribute ``left_out`` names these with the
    reason. Maps with two channels gain ``on_off_index``.
    """
    maps = rising(maps)
    grid = strf_grid(maps)
    wanted = list(MEASURES) if measures is None else list(measures)
    refuse(wanted, MEASURES)
    reasons = {name: REQUIREMENTS[name](grid) for name in wanted if name in REQUIREMENTS}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    table = {name: MEASURES[name] for name in wanted if name not in left_out}
    result = measured(maps, table, settings)
    for name in {"norm", "singular_values"} & set(table):
        result[name].attrs["units"] = str(maps.attrs.get("units", "1"))
    if maps.sizes.get("channel") == 2 and "norm" in table:
        result["on_off_index"] = shape.channel_index(result["norm"], result["degenerate"])
    result.attrs["settings"] = [f"{name} = {value:g}" for name, value in asdict(settings).items()]
    result.attrs["direction"] = "direction_selectivity > 0: prefers frequencies that rise with time (upward)"
    if left_out:
        result.attrs["left_out"] = [f"{name}: {reason}" for name, reason in left_out.items()]
    return result
