"""Numbers of waveform maps: which sound frequencies, when, and how long."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from pipeline.numbers import measures as engine
from pipeline.numbers.map_axes import WaveformGrid, waveform_grid
from pipeline.numbers.measures import OF_THE_MAP, UNUSABLE, Measure, measured, refuse
from pipeline.numbers.profiles import around_peak, edges, envelope_power, moments

#: Envelopes are cut at the first bin under this share of their peak (Escabi's ``strfparam``).
TAIL = 0.05

#: When a measure of waveform maps is missing.
ONE = f"{UNUSABLE}, or has one sample only"


def waveform_summaries(maps: xr.DataArray, measures: Sequence[str] | None = None) -> xr.Dataset:
    """Every number of every waveform map, one variable per measure.

    Each variable carries ``long_name``, ``units`` and, as ``description``, its definition and what NaN means there;
    ``degenerate`` says why the numbers of a map are NaN. A dask-backed cube gives a lazy result, worked out chunk by
    chunk; any other is read block by block.

    Parameters
    ----------
    maps
        Maps with the dimension ``waveform_lag`` (ms, even, 0 first, positive = earlier sound) and any others.
    measures
        Names of the measures wanted; all of one number by default.

    Examples
    --------
    >>> from pipeline import open_cube, waveform_summaries
    >>> numbers = waveform_summaries(open_cube("cube.zarr")["waveform"], ["latency"])
    >>> numbers["latency"].dims, numbers["latency"].attrs["units"]
    (('checkpoint', 'stimulus', 'neuron'), 'ms')
    """
    wanted = [name for name in MEASURES if MEASURES[name].summarised] if measures is None else list(measures)
    refuse(wanted, MEASURES)
    result = _measured(maps, {name: MEASURES[name] for name in wanted})
    units = str(maps.attrs.get("units", "1"))
    if "spectrum" in result:
        result["spectrum"].attrs["units"] = units if units == "1" else f"({units})^2"
    return result


def waveform_measure(maps: xr.DataArray, name: str) -> xr.DataArray:
    """One measure of every waveform map; see `pipeline.numbers.catalogue.measure`."""
    refuse([name], MEASURES)
    return _measured(maps, {name: MEASURES[name]})[name]


def _measured(maps: xr.DataArray, table: Mapping[str, Measure]) -> xr.Dataset:
    grid = waveform_grid(maps)
    return measured(maps, ("waveform_lag",), grid, None, lambda values: WaveformBlock(values, grid), table)


@dataclass(frozen=True)
class WaveformBlock:
    """Usable waveform maps (map, lag), with what several measures need computed once."""

    values: np.ndarray
    grid: WaveformGrid

    def seen_by(self, measure: Measure) -> "WaveformBlock":
        """These maps: no measure needs another axis."""
        return self

    def code(self) -> np.ndarray:
        """Waveform maps have no further reasons."""
        return np.full(len(self.values), engine.USABLE)

    @cached_property
    def scale(self) -> np.ndarray:
        """Largest magnitude of each map."""
        return np.abs(self.values).max(axis=1)

    @cached_property
    def maps(self) -> np.ndarray:
        """The maps over their largest magnitude."""
        return self.values / self.scale[:, None]

    @cached_property
    def power(self) -> np.ndarray:
        """Power spectrum (map, frequency)."""
        return np.abs(np.fft.rfft(self.maps, axis=1)) ** 2

    @cached_property
    def envelope(self) -> np.ndarray:
        """Squared envelope (map, lag)."""
        return envelope_power(self.maps, 1)

    @cached_property
    def spectral_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Centroid and standard deviation of the power spectrum in Hz."""
        return moments(self.power, self.grid.frequency)

    @cached_property
    def envelope_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Centroid and standard deviation of the squared envelope without its tail, in ms."""
        return moments(around_peak(self.envelope, TAIL), self.grid.lag)


def _only(block: WaveformBlock, numbers: np.ndarray) -> np.ndarray:
    return numbers if block.grid.lag.size > 1 else np.full_like(numbers, np.nan)


def _half_width(block: WaveformBlock) -> np.ndarray:
    profile = block.envelope
    low, high = edges(profile, profile.argmax(axis=1), 0.5 * profile.max(axis=1), block.grid.lag)
    return high - np.where(np.isnan(low), block.grid.lag[0], low)


def _frequencies(grid: WaveformGrid, settings: None) -> xr.Variable:
    return xr.Variable("waveform_frequency", grid.frequency, {"long_name": "sound frequency", "units": "Hz"})


#: The power spectrum, in definitions.
POWER = "the power spectrum P(f) = |sum_l g(l) exp(-2 pi i f l)|^2"
#: The envelope, in definitions.
ENVELOPE = "the squared envelope P(l), the analytic signal of the map continued by its mirror image"

#: The measures of this room, by name.
MEASURES: dict[str, Measure] = {
    "centroid_frequency": Measure(
        lambda block: _only(block, block.spectral_moments[0]),
        "centroid of the power spectrum",
        "Hz",
        f"sum f P(f) / sum P(f) of {POWER}",
        ONE,
    ),
    "peak_frequency": Measure(
        lambda block: _only(block, block.grid.frequency[block.power.argmax(axis=1)]),
        "maximum of the power spectrum",
        "Hz",
        f"argmax of {POWER}, on the grid of the transform",
        ONE,
    ),
    "bandwidth": Measure(
        lambda block: _only(block, 2 * block.spectral_moments[1]),
        "width of the power spectrum (2 sd)",
        "Hz",
        f"twice the standard deviation of {POWER}",
        ONE,
    ),
    "latency": Measure(
        lambda block: _only(block, block.grid.lag[block.envelope.argmax(axis=1)]),
        "latency of the envelope's peak",
        "ms",
        f"argmax of {ENVELOPE}, exact to one sample",
        ONE,
    ),
    "latency_envelope": Measure(
        lambda block: _only(block, block.envelope_moments[0]),
        "latency of the envelope (centroid)",
        "ms",
        f"centroid of {ENVELOPE}, cut at 5 % of its peak",
        ONE,
    ),
    "duration": Measure(
        lambda block: _only(block, 2 * block.envelope_moments[1]),
        "duration of the envelope (2 sd)",
        "ms",
        f"twice the standard deviation of {ENVELOPE}, cut at 5 % of its peak",
        ONE,
    ),
    "duration_50": Measure(
        lambda block: _only(block, _half_width(block)),
        "width of the squared envelope at half its peak",
        "ms",
        f"distance of the points where {ENVELOPE}, falls to half its peak, interpolated",
        f"{ONE}, or the envelope does not fall so far within the window",
    ),
    "norm": Measure(
        lambda block: block.scale * np.sqrt((block.maps**2).sum(axis=1)),
        "norm of the map",
        OF_THE_MAP,
        "sqrt(sum g^2)",
        UNUSABLE,
    ),
    "spectrum": Measure(
        lambda block: _only(block, block.power) * block.scale[:, None] ** 2,
        "power spectrum",
        "1",
        f"{POWER}, 0 to half the sample rate, without window or scaling",
        ONE,
        axes={"waveform_frequency": _frequencies},
        summarised=False,
    ),
}
