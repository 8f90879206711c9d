"""Numbers of waveform maps: which sound frequencies, when, and how long."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from pipeline.numbers import measures as engine
from pipeline.numbers.grid import WaveformGrid, waveform_grid
from pipeline.numbers.measures import UNUSABLE, Measure, evaluate, refuse
from pipeline.numbers.profiles import around_peak, edges, envelope_power, moments

TAIL = 0.05
"""Envelopes are cut at the first bin under this share of their peak (Escabi's ``strfparam``)."""

ONE = f"{UNUSABLE}, or has one sample only"


def waveform_summaries(maps: xr.DataArray, measures: Sequence[str] | None = None) -> xr.Dataset:
    """Return every number of every waveform map, one variable per measure.

    Each variable is what the function of that name returns and carries ``long_name``, ``units`` and, as
    ``description``, what NaN means there; ``degenerate`` says why the numbers of a map are NaN. A dask-backed cube
    gives a lazy result, worked out chunk by chunk; any other is read block by block.

    Parameters
    ----------
    maps
        Maps with the dimension ``waveform_lag`` (ms, even, 0 first, positive = earlier sound) and any others.
    measures
        Names of the measures wanted; all by default.
    """
    wanted = list(MEASURES) if measures is None else list(measures)
    refuse(wanted, MEASURES)
    result = _measured(maps, {name: MEASURES[name] for name in wanted})
    if "norm" in result:
        result["norm"].attrs["units"] = str(maps.attrs.get("units", "1"))
    return result


def spectrum(maps: xr.DataArray) -> xr.DataArray:
    """Return the power spectrum (..., waveform_frequency) of each map.

    P(f) = |sum_l g(l) exp(-2 pi i f l)|^2 at the frequencies (Hz) of the discrete Fourier transform, 0 to half the
    sample rate, without window or scaling, in the squared units of the maps.

    NaN: the map is degenerate or has one sample only.
    """
    axes = {
        "waveform_frequency": lambda grid: xr.Variable(
            "waveform_frequency", grid.frequency, {"long_name": "sound frequency", "units": "Hz"}
        )
    }
    measure = Measure(
        lambda block: _only(block, block.power) * block.scale[:, None] ** 2, "power spectrum", "1", ONE, axes=axes
    )
    units = str(maps.attrs.get("units", "1"))
    result = _measured(maps, {"spectrum": measure})["spectrum"]
    return result.assign_attrs(units=units if units == "1" else f"({units})^2")


def centroid_frequency(maps: xr.DataArray) -> xr.DataArray:
    """Return the centroid sum f P(f) / sum P(f) (Hz) of each map's power spectrum (see `spectrum`).

    NaN: the map is degenerate or has one sample only.
    """
    return _one(maps, "centroid_frequency")


def peak_frequency(maps: xr.DataArray) -> xr.DataArray:
    """Return the frequency (Hz) at the maximum of each map's power spectrum, on the grid of the transform.

    NaN: the map is degenerate or has one sample only.
    """
    return _one(maps, "peak_frequency")


def bandwidth(maps: xr.DataArray) -> xr.DataArray:
    """Return twice the standard deviation (Hz) of each map's power spectrum around its centroid.

    2 sqrt(sum (f - centroid)^2 P(f) / sum P(f)).

    NaN: the map is degenerate or has one sample only.
    """
    return _one(maps, "bandwidth")


def peak_latency(maps: xr.DataArray) -> xr.DataArray:
    """Return the lag (ms) at the maximum of each map's envelope, exact to one sample.

    The envelope is the magnitude of the analytic signal of the map, continued by its mirror image at both ends.

    NaN: the map is degenerate or has one sample only.
    """
    return _one(maps, "latency")


def envelope_latency(maps: xr.DataArray) -> xr.DataArray:
    """Return the centroid sum l P(l) (ms) of each map's squared envelope.

    P is the squared envelope (see `peak_latency`), normalised to sum 1 without the tail beyond the first sample under
    5 % of its peak on either side.

    NaN: the map is degenerate or has one sample only.
    """
    return _one(maps, "latency_envelope")


def duration(maps: xr.DataArray) -> xr.DataArray:
    """Return twice the standard deviation (ms) of each map's squared envelope P (see `envelope_latency`).

    NaN: the map is degenerate or has one sample only.
    """
    return _one(maps, "duration")


def _one(maps: xr.DataArray, name: str) -> xr.DataArray:
    return _measured(maps, {name: MEASURES[name]})[name]


def _measured(maps: xr.DataArray, table: dict[str, Measure]) -> xr.Dataset:
    grid = waveform_grid(maps)
    return evaluate(maps, ("waveform_lag",), grid, lambda values: WaveformBlock(values, grid), table)


@dataclass(frozen=True)
class WaveformBlock:
    """Usable waveform maps (map, lag), with what several measures need computed once."""

    values: np.ndarray
    grid: WaveformGrid

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


MEASURES: dict[str, Measure] = {
    "centroid_frequency": Measure(
        lambda block: _only(block, block.spectral_moments[0]), "centroid of the power spectrum", "Hz", ONE
    ),
    "peak_frequency": Measure(
        lambda block: _only(block, block.grid.frequency[block.power.argmax(axis=1)]),
        "maximum of the power spectrum",
        "Hz",
        ONE,
    ),
    "bandwidth": Measure(
        lambda block: _only(block, 2 * block.spectral_moments[1]), "width of the power spectrum (2 sd)", "Hz", ONE
    ),
    "latency": Measure(
        lambda block: _only(block, block.grid.lag[block.envelope.argmax(axis=1)]),
        "latency of the envelope's peak",
        "ms",
        ONE,
    ),
    "latency_envelope": Measure(
        lambda block: _only(block, block.envelope_moments[0]), "latency of the envelope (centroid)", "ms", ONE
    ),
    "duration": Measure(
        lambda block: _only(block, 2 * block.envelope_moments[1]), "duration of the envelope (2 sd)", "ms", ONE
    ),
    "duration_50": Measure(
        lambda block: _only(block, _half_width(block)),
        "width of the squared envelope at half its peak",
        "ms",
        f"{ONE}, or the envelope does not fall so far within the window",
    ),
    "norm": Measure(lambda block: block.scale * np.sqrt((block.maps**2).sum(axis=1)), "norm of the map", "1", UNUSABLE),
}
