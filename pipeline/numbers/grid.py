"""Checked axes of labelled maps."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

LOG_TOLERANCE = 0.25
"""How far, in bands, a band may lie from its place on an even octave axis: room for centres rounded to whole hertz."""


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

    def why_not_log(self) -> str | None:
        """Why the frequency axis is not evenly spaced in octaves, or None."""
        reason = self.why_no_octaves()
        if reason is None and self.frequency.size > 2:
            even = np.linspace(self.octaves[0], self.octaves[-1], self.frequency.size)
            away = np.abs(self.octaves - even) / self.octaves_per_band
            if away.max() > LOG_TOLERANCE:
                at = int(away.argmax())
                reason = (
                    f"the frequency axis is not logarithmic (the band at {self.frequency[at]:g} Hz lies {away[at]:.1f}"
                    " bands from its place on an even octave axis), as on a mel or linear axis"
                )
        return reason


def rising(maps: xr.DataArray) -> xr.DataArray:
    """The maps with their bands from low to high: models may take them the other way round."""
    bands = maps.coords.get("frequency") if isinstance(maps, xr.DataArray) else None
    if bands is None or bands.dims != ("frequency",) or bands.size < 2 or not bool((np.diff(bands.values) < 0).all()):
        return maps
    return maps.isel(frequency=slice(None, None, -1))


def strf_grid(maps: xr.DataArray) -> StrfGrid:
    """Return the checked axes of spectro-temporal maps."""
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
    """Return the checked axis of waveform maps."""
    lag = axis_values(maps, "waveform_lag", "ms")
    _check_lags(lag, "waveform_lag")
    return WaveformGrid(lag)


def axis_values(maps: xr.DataArray, dim: str, units: str) -> np.ndarray:
    """Return the coordinate of ``dim``, refusing one that is missing, in another unit, or not ascending."""
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
