"""Checked axes of labelled maps."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

#: How far, in bands, a band may lie from its place on an even octave axis: room for centres rounded to whole hertz.
LOG_TOLERANCE = 0.25

#: Octaves between neighbouring bands up to which maps can be put on an even octave axis.
WIDEST_GAP = 1.0


@dataclass(frozen=True)
class StrfGrid:
    """The axes of a spectro-temporal map: ``frequency`` in Hz, ascending, and ``lag`` in ms, even, 0 first."""

    frequency: np.ndarray
    lag: np.ndarray

    @property
    def frame_ms(self) -> float:
        """Width of a frame; NaN where there is only one lag."""
        return _step(self.lag)

    @property
    def octaves(self) -> np.ndarray:
        """log2 of the frequency in Hz."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log2(self.frequency)

    @property
    def octaves_per_band(self) -> float:
        """Mean distance of neighbouring bands; NaN where there is only one."""
        return _step(self.octaves)

    def why_no_octaves(self) -> str | None:
        """Why distances on the frequency axis have no octaves, or None."""
        if self.frequency.size and self.frequency[0] <= 0:
            return f"the lowest band lies at {self.frequency[0]:g} Hz, and there is no octave from 0 Hz"
        return None

    @cached_property
    def is_log(self) -> bool:
        """Whether the frequency axis is evenly spaced in octaves."""
        if self.why_no_octaves() is not None:
            return False
        if self.frequency.size <= 2:
            return True
        even = np.linspace(self.octaves[0], self.octaves[-1], self.frequency.size)
        return bool(np.abs(self.octaves - even).max() <= LOG_TOLERANCE * self.octaves_per_band)

    def why_no_octave_axis(self) -> str | None:
        """Why the maps cannot be put on an even octave axis, or None."""
        reason = self.why_no_octaves()
        if reason is None and not self.is_log and np.diff(self.octaves).max() > WIDEST_GAP:
            at = int(np.diff(self.octaves).argmax())
            reason = (
                f"no band lies within {np.diff(self.octaves)[at]:.1f} octaves above {self.frequency[at]:g} Hz, so that"
                " what an even octave axis would show there is not known"
            )
        return reason

    @cached_property
    def on_octaves(self) -> "StrfGrid":
        """This grid, or one of up to twice as many bands that are even in octaves, as fine as the finest bands."""
        if self.is_log:
            return self
        span, n = self.octaves[-1] - self.octaves[0], self.frequency.size
        count = int(np.clip(np.ceil(span / np.diff(self.octaves).min()) + 1, n, 2 * n))
        return StrfGrid(2.0 ** np.linspace(self.octaves[0], self.octaves[-1], count), self.lag)

    @cached_property
    def to_octaves(self) -> np.ndarray:
        """Weights (band, octave band) that interpolate maps linearly in octaves."""
        there = self.on_octaves.octaves
        return np.stack([np.interp(there, self.octaves, one) for one in np.eye(self.frequency.size)])

    def resampling(self) -> str | None:
        """What was done to put maps on an even octave axis, in words; None where the axis is one."""
        if self.is_log:
            return None
        return (
            f"maps of {self.frequency.size} bands that are not even in octaves, interpolated onto"
            f" {self.on_octaves.frequency.size} bands of {self.on_octaves.octaves_per_band:.3g} octaves"
        )


def rising(maps: xr.DataArray) -> xr.DataArray:
    """The maps with their bands from low to high: models may take them the other way round."""
    bands = maps.coords.get("frequency") if isinstance(maps, xr.DataArray) else None
    if bands is None or bands.dims != ("frequency",) or bands.size < 2 or not bool((np.diff(bands.values) < 0).all()):
        return maps
    return maps.isel(frequency=slice(None, None, -1))


def strf_grid(maps: xr.DataArray) -> StrfGrid:
    """Checked axes of spectro-temporal maps."""
    frequency, lag = axis_values(maps, "frequency", "Hz"), axis_values(maps, "lag", "ms")
    _check_lags(lag, "lag")
    return StrfGrid(frequency, lag)


@dataclass(frozen=True)
class WaveformGrid:
    """The axis of a waveform map: ``waveform_lag`` in ms, even, 0 first."""

    lag: np.ndarray

    @property
    def sample_ms(self) -> float:
        """Distance of two samples; NaN where there is only one."""
        return _step(self.lag)

    @property
    def frequency(self) -> np.ndarray:
        """Frequencies of the discrete Fourier transform along the lags, in Hz."""
        if self.lag.size < 2:
            return np.zeros(1)
        return np.fft.rfftfreq(self.lag.size, self.sample_ms / 1000)


def waveform_grid(maps: xr.DataArray) -> WaveformGrid:
    """Checked axis of waveform maps."""
    lag = axis_values(maps, "waveform_lag", "ms")
    _check_lags(lag, "waveform_lag")
    return WaveformGrid(lag)


def axis_values(maps: xr.DataArray, dim: str, units: str) -> np.ndarray:
    """Coordinate of ``dim`` of the maps, refused where it is missing, in another unit, or not ascending."""
    if not isinstance(maps, xr.DataArray):
        raise ValueError(
            f"maps is a {type(maps).__name__}, not an xarray.DataArray; without labels no number has a unit;"
            " pass one variable of an opened cube, such as cube['strf']"
        )
    if dim not in maps.dims or dim not in maps.coords:
        raise ValueError(
            f"the maps have the dimensions {tuple(maps.dims)} and no coordinate {dim!r}; positions without labels"
            f" give numbers without units; add it with assign_coords({dim}=...) in {units}"
        )
    stated = maps.coords[dim].attrs.get("units", units)
    if stated != units:
        raise ValueError(
            f"the coordinate {dim!r} is in {stated!r}; every result would be wrong by that factor; convert it to"
            f" {units!r}"
        )
    values = np.asarray(maps.coords[dim].values, dtype=np.float64)
    if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
        raise ValueError(
            f"the coordinate {dim!r} is not finite and strictly ascending ({_excerpt(values)}); neighbours on the axis"
            f" must be neighbours in {units}; sort the maps with maps.sortby({dim!r}) and name no value twice"
        )
    return values


def _check_lags(lag: np.ndarray, dim: str) -> None:
    if lag.size and lag[0] < 0:
        raise ValueError(
            f"the first {dim} is {lag[0]:g} ms; positive lags are earlier stimulus and none lies in the future;"
            f" turn the axis round: maps.assign_coords({dim}=-maps.{dim}).sortby({dim!r})"
        )
    steps = np.diff(lag)
    if steps.size and np.ptp(steps) > 0.01 * steps.mean():
        raise ValueError(
            f"the coordinate {dim!r} is not evenly spaced ({_excerpt(lag)}); durations and modulation rates need one"
            " frame width; resample the maps, for example with maps.interp"
        )


def _step(values: np.ndarray) -> float:
    return float((values[-1] - values[0]) / (values.size - 1)) if values.size > 1 else float("nan")


def _excerpt(values: np.ndarray) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:4])
    return shown + (", ..." if values.size > 4 else "")
