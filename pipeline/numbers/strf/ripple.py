"""Ripple responses of a map: modulation rate, modulation scale, direction, correlation along its axes."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import xarray as xr
from scipy import fft

from pipeline.numbers.grid import StrfGrid
from pipeline.numbers.measures import UNUSABLE, Measure
from pipeline.numbers.profiles import edges, moments, refined_peak
from pipeline.numbers.strf.block import DEFAULTS, StrfBlock, StrfSettings, one, only, ripple_axes

LINE = f"{UNUSABLE}, or all energy lies in one band or at one lag"
CLASSES = {0: "low_pass", 1: "band_pass", 2: "high_pass", 3: "all_pass"}


def ripple_transfer_function(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the ripple transfer function (..., scale, rate) of each map, in the units of the maps.

    R(O, w) = |sum_{f,l} g(f, l) exp(-2 pi i (O x_f + w l))| with x in octaves and l the lag, for spectral modulations
    ``scale`` O >= 0 in cycles per octave and temporal modulations ``rate`` w of both signs in Hz, ascending (Miller,
    Escabi, Read and Schreiner 2002). The transform is ``settings.padding`` times longer than the map, which
    interpolates it without adding resolution.

    Sign of the rate: **positive = upward**, a ripple whose frequency rises with time. (On the lag axis, which runs
    against time, its phase O x + w l is constant where frequency falls with growing lag.)

    Needs a log-spaced frequency axis. NaN: the map is degenerate or holds anything in one band or at one lag only.
    """

    def compute(block: StrfBlock) -> np.ndarray:
        transfer = fft.fftshift(block.ripple, axes=2) * block.scale[:, None, None]
        return only(block, transfer, bands=True, lags=True)

    axes = {
        "scale": lambda grid: _scale_axis(grid, settings),
        "rate": lambda grid: xr.Variable(
            "rate",
            np.fft.fftshift(ripple_axes(grid, settings)[1]),
            {"long_name": "temporal modulation, positive = upward", "units": "Hz"},
        ),
    }
    measure = Measure(compute, "ripple transfer function", "1", LINE, axes=axes)
    result = one(maps, "ripple_transfer_function", measure, settings, StrfGrid.why_not_log)
    return result.assign_attrs(units=str(maps.attrs.get("units", "1")))


def temporal_modulation(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the temporal modulation transfer function (..., rate) of each map, its maximum set to 1.

    tMTF(w) = sum over O of R(O, w) + R(O, -w) for w >= 0 in Hz, with R as in `ripple_transfer_function` (Miller et al.
    2002). The sum runs over all spectral modulations, so that any frequency axis will do.

    NaN: the map is degenerate or holds anything at one lag only.
    """
    axes = {
        "rate": lambda grid: xr.Variable(
            "rate", _rates(grid, settings), {"long_name": "temporal modulation", "units": "Hz"}
        )
    }
    measure = Measure(
        lambda block: only(block, block.temporal_transfer, lags=True),
        "temporal modulation transfer function",
        "1",
        LINE,
        axes=axes,
    )
    return one(maps, "temporal_modulation", measure, settings)


def spectral_modulation(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the spectral modulation transfer function (..., scale) of each map, its maximum set to 1.

    sMTF(O) = sum over w of R(O, w) for O >= 0 in cycles per octave, with R as in `ripple_transfer_function` (Miller
    et al. 2002).

    Needs a log-spaced frequency axis. NaN: the map is degenerate or holds anything in one band only.
    """
    measure = Measure(
        lambda block: only(block, block.spectral_transfer, bands=True),
        "spectral modulation transfer function",
        "1",
        LINE,
        axes={"scale": lambda grid: _scale_axis(grid, settings)},
    )
    return one(maps, "spectral_modulation", measure, settings, StrfGrid.why_not_log)


def best_rate(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the temporal modulation (Hz, >= 0) at the maximum of each map's tMTF (see `temporal_modulation`).

    Placed between the bins of the transform by a parabola. 0 for maps that sum energy over time.

    NaN: the map is degenerate or holds anything at one lag only.
    """
    return _one(maps, "best_rate", settings)


def best_scale(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the spectral modulation (cycles per octave, >= 0) at the maximum of each map's sMTF.

    See `spectral_modulation`; placed between the bins of the transform by a parabola.

    Needs a log-spaced frequency axis. NaN: the map is degenerate or holds anything in one band only.
    """
    return _one(maps, "best_scale", settings)


def modulation_centroid(
    maps: xr.DataArray, axis: Literal["rate", "scale"], *, settings: StrfSettings = DEFAULTS
) -> xr.DataArray:
    """Return the centroid of each map's tMTF (Hz) or sMTF (cycles per octave).

    sum w MTF(w) / sum MTF(w) over the values above ``settings.mtf_floor`` (10 %) of the maximum (Escabi's
    ``strfparam``).

    The scale needs a log-spaced frequency axis. NaN: the map is degenerate or holds anything at one lag (one band)
    only.
    """
    return _one(maps, f"{_known(axis)}_centroid", settings)


def modulation_bandwidth(
    maps: xr.DataArray, axis: Literal["rate", "scale"], *, settings: StrfSettings = DEFAULTS
) -> xr.DataArray:
    """Return the width of the pass-band of each map's tMTF (Hz) or sMTF (cycles per octave).

    Distance of the points around the maximum where the MTF falls to ``settings.mtf_level`` (0.7), interpolated; a
    low-pass band begins at 0 (Miller et al. 2002).

    The scale needs a log-spaced frequency axis. NaN: the map is degenerate, holds anything at one lag (one band) only,
    or the band runs past the highest modulation of the axis.
    """
    return _one(maps, f"{_known(axis)}_bandwidth", settings)


def modulation_class(
    maps: xr.DataArray, axis: Literal["rate", "scale"], *, settings: StrfSettings = DEFAULTS
) -> xr.DataArray:
    """Return the filter type of each map's tMTF or sMTF: 0 low-pass, 1 band-pass, 2 high-pass, 3 all-pass.

    By whether the MTF drops under ``settings.mtf_level`` (0.7) below and above its maximum: on both sides band-pass,
    above only low-pass, below only high-pass (Miller et al. 2002).

    The scale needs a log-spaced frequency axis. NaN: the map is degenerate or holds anything at one lag (one band)
    only.
    """
    return _one(maps, f"{_known(axis)}_class", settings)


def direction_selectivity(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the direction selectivity (P_up - P_down) / (P_up + P_down) of each map, from -1 to 1.

    **Positive = upward**: the neuron prefers ripples whose frequency rises with time. P_up and P_down are the sums of
    R^2 over rates w > 0 and w < 0 at scales O > 0 (see `ripple_transfer_function`); w = 0 and O = 0 have no direction
    and do not count (Depireux et al. 2001).

    Needs a log-spaced frequency axis. NaN: the map is degenerate or holds anything in one band or at one lag only.
    """
    return _one(maps, "direction_selectivity", settings)


def temporal_correlation(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the correlation (..., lag_shift) of each map with itself moved along the lags by so many ms.

    Pearson correlation of the entries of g that overlap with those of the moved map (Touryan, Lau and Dan 2002).

    NaN: the map is degenerate or holds anything at one lag only; or the entries that overlap are constant.
    """
    axes = {
        "lag_shift": lambda grid: xr.Variable(
            "lag_shift", grid.lag - grid.lag[0], {"long_name": "shift along the lags", "units": "ms"}
        )
    }
    measure = Measure(_temporal_correlation, "temporal correlation index", "1", LINE, axes=axes)
    return one(maps, "temporal_correlation", measure, settings)


def spectral_correlation(maps: xr.DataArray, *, settings: StrfSettings = DEFAULTS) -> xr.DataArray:
    """Return the correlation (..., shift_octaves) of each map with itself moved along the frequencies.

    As `temporal_correlation`, for shifts in octaves. Needs a log-spaced frequency axis.

    NaN: the map is degenerate or holds anything in one band only; or the entries that overlap are constant.
    """
    axes = {
        "frequency_shift": lambda grid: xr.Variable(
            "frequency_shift",
            np.arange(grid.frequency.size) * (grid.octaves_per_band if grid.frequency.size > 1 else 0.0),
            {"long_name": "shift along the frequencies", "units": "octave"},
        )
    }
    measure = Measure(_spectral_correlation, "spectral correlation index", "1", LINE, axes=axes)
    return one(maps, "spectral_correlation", measure, settings, StrfGrid.why_not_log)


def correlation_width(
    maps: xr.DataArray, along: Literal["frequency", "lag"], *, settings: StrfSettings = DEFAULTS
) -> xr.DataArray:
    """Return the shift at which each map no longer resembles itself, in ms (``lag``) or octaves (``frequency``).

    The first shift at which `temporal_correlation` or `spectral_correlation` falls to ``settings.correlation`` (1/e),
    interpolated. Octaves need a log-spaced frequency axis.

    NaN: the map is degenerate, holds anything at one lag (one band) only, or the correlation stays above that level.
    """
    names = {"lag": "temporal_correlation_width", "frequency": "spectral_correlation_width"}
    if along not in names:
        raise ValueError(
            f"along={along!r} is no axis of a map; a shift has a direction; give 'lag' (ms) or 'frequency' (octaves)"
        )
    return _one(maps, names[along], settings)


def _one(maps: xr.DataArray, name: str, settings: StrfSettings) -> xr.DataArray:
    return one(maps, name, MEASURES[name], settings, REQUIREMENTS.get(name))


def _known(axis: str) -> str:
    if axis not in ("rate", "scale"):
        raise ValueError(
            f"axis={axis!r} is no modulation axis; a transfer function runs over one; give 'rate' (Hz) or 'scale'"
            " (cycles per octave)"
        )
    return axis


def _rates(grid: StrfGrid, settings: StrfSettings) -> np.ndarray:
    rates = ripple_axes(grid, settings)[1]
    return np.abs(rates[: rates.size // 2 + 1])


def _scale_axis(grid: StrfGrid, settings: StrfSettings) -> xr.Variable:
    attributes = {"long_name": "spectral modulation", "units": "cycle/octave"}
    return xr.Variable("scale", ripple_axes(grid, settings)[0], attributes)


def _transfer(block: StrfBlock, axis: str) -> tuple[np.ndarray, np.ndarray]:
    if axis == "rate":
        return block.temporal_transfer, _rates(block.grid, block.settings)
    return block.spectral_transfer, ripple_axes(block.grid, block.settings)[0]


def _mask(block: StrfBlock, numbers: np.ndarray, axis: str) -> np.ndarray:
    return only(block, numbers, bands=axis == "scale", lags=axis == "rate")


def _best(axis: str) -> Callable[[StrfBlock], np.ndarray]:
    return lambda block: _mask(block, refined_peak(*_transfer(block, axis)), axis)


def _centroid(axis: str) -> Callable[[StrfBlock], np.ndarray]:
    def compute(block: StrfBlock) -> np.ndarray:
        transfer, positions = _transfer(block, axis)
        counted = np.where(transfer > block.settings.mtf_floor, transfer, 0.0)
        return _mask(block, moments(counted, positions)[0], axis)

    return compute


def _pass_band(block: StrfBlock, axis: str) -> tuple[np.ndarray, np.ndarray]:
    transfer, positions = _transfer(block, axis)
    return edges(transfer, transfer.argmax(axis=1), block.settings.mtf_level, positions)


def _width(axis: str) -> Callable[[StrfBlock], np.ndarray]:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = _pass_band(block, axis)
        return _mask(block, high - np.where(np.isnan(low), 0.0, low), axis)

    return compute


def _class(axis: str) -> Callable[[StrfBlock], np.ndarray]:
    def compute(block: StrfBlock) -> np.ndarray:
        low, high = _pass_band(block, axis)
        drops_below, drops_above = ~np.isnan(low), ~np.isnan(high)
        code = np.select([drops_below & drops_above, drops_above, drops_below], [1.0, 0.0, 2.0], 3.0)
        return _mask(block, code, axis)

    return compute


def _direction(block: StrfBlock) -> np.ndarray:
    half = block.ripple.shape[2] // 2
    directed = block.ripple[:, 1:-1] ** 2
    up = directed[:, :, 1:half].sum(axis=(1, 2))
    down = directed[:, :, half + 1 :].sum(axis=(1, 2))
    return only(block, (up - down) / (up + down), bands=True, lags=True)


def _shifted_correlation(maps: np.ndarray) -> np.ndarray:
    """Correlation (map, shift) of maps (map, other, axis) and the maps moved along ``axis``, where they overlap."""
    others, size = maps.shape[1:]
    spectrum = fft.rfft(maps, n=fft.next_fast_len(2 * size, real=True), axis=2)
    padded = fft.irfft((np.abs(spectrum) ** 2).sum(axis=1), n=fft.next_fast_len(2 * size, real=True), axis=1)
    products = padded[:, :size]
    sums, squares = maps.sum(axis=1), (maps**2).sum(axis=1)
    count = others * np.arange(size, 0, -1)

    def leading(values: np.ndarray) -> np.ndarray:
        return np.cumsum(values, axis=1)[:, ::-1]

    a, b = leading(sums), leading(sums[:, ::-1])
    covariance = products - a * b / count
    variance_a = leading(squares) - a**2 / count
    variance_b = leading(squares[:, ::-1]) - b**2 / count
    floor = 1e-12 * squares.sum(axis=1, keepdims=True)
    defined = (variance_a > floor) & (variance_b > floor)
    return np.where(defined, covariance / np.sqrt(np.where(defined, variance_a * variance_b, 1.0)), np.nan)


def _temporal_correlation(block: StrfBlock) -> np.ndarray:
    return only(block, _shifted_correlation(block.maps), lags=True)


def _spectral_correlation(block: StrfBlock) -> np.ndarray:
    return only(block, _shifted_correlation(block.maps.transpose(0, 2, 1)), bands=True)


def _falls(block: StrfBlock, correlation: np.ndarray, step: float) -> np.ndarray:
    start = np.zeros(len(correlation), dtype=int)
    return edges(correlation, start, block.settings.correlation, step * np.arange(correlation.shape[1]))[1]


def _measures(axis: str, word: str, units: str) -> dict[str, Measure]:
    line = f"{UNUSABLE}, or all energy lies " + ("at one lag" if axis == "rate" else "in one band")
    return {
        f"best_{axis}": Measure(_best(axis), f"best {word} modulation", units, line),
        f"{axis}_centroid": Measure(
            _centroid(axis), f"centroid of the {word} modulation transfer function", units, line
        ),
        f"{axis}_bandwidth": Measure(
            _width(axis),
            f"bandwidth of the {word} modulation transfer function",
            units,
            f"{line}, or the band runs past the highest modulation",
        ),
        f"{axis}_class": Measure(
            _class(axis), f"type of the {word} modulation transfer function", "1", line, flags=CLASSES
        ),
    }


MEASURES: dict[str, Measure] = {
    **_measures("rate", "temporal", "Hz"),
    **_measures("scale", "spectral", "cycle/octave"),
    "direction_selectivity": Measure(_direction, "direction selectivity, positive = upward", "1", LINE),
    "temporal_correlation_width": Measure(
        lambda block: _falls(block, _temporal_correlation(block), block.grid.frame_ms),
        "shift in time at which the map no longer resembles itself",
        "ms",
        f"{LINE}, or the correlation stays above the level",
    ),
    "spectral_correlation_width": Measure(
        lambda block: _falls(block, _spectral_correlation(block), block.grid.octaves_per_band),
        "shift in frequency at which the map no longer resembles itself",
        "octave",
        f"{LINE}, or the correlation stays above the level",
    ),
}

REQUIREMENTS: dict[str, Callable[[StrfGrid], str | None]] = {
    name: StrfGrid.why_not_log
    for name in MEASURES
    if name.startswith(("best_scale", "scale_", "direction", "spectral_"))
}
