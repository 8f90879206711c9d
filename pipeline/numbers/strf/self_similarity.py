"""How fast a map ceases to resemble itself when it is moved along one of its axes."""

import numpy as np
import xarray as xr
from scipy import fft

from pipeline.numbers.map_axes import StrfGrid
from pipeline.numbers.measures import ONE_BAND, ONE_LAG, Measure
from pipeline.numbers.profiles import edges
from pipeline.numbers.strf.block import StrfBlock, StrfSettings, only

#: Source of the correlation widths.
TOURYAN = "Touryan, Lau and Dan 2002"
#: How a definition begins.
OVERLAP = "Pearson correlation of the entries of g that overlap with those of the map moved along the"


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


def _lag_shifts(grid: StrfGrid, settings: StrfSettings) -> xr.Variable:
    return xr.Variable("lag_shift", grid.lag - grid.lag[0], {"long_name": "shift along the lags", "units": "ms"})


def _octave_shifts(grid: StrfGrid, settings: StrfSettings) -> xr.Variable:
    step = grid.on_octaves.octaves_per_band if grid.frequency.size > 1 else 0.0
    attributes = {"long_name": "shift along the frequencies", "units": "octave"}
    return xr.Variable("frequency_shift", np.arange(grid.on_octaves.frequency.size) * step, attributes)


#: The measures of this room, by name.
MEASURES: dict[str, Measure] = {
    "temporal_correlation_width": Measure(
        lambda block: _falls(block, _temporal_correlation(block), block.grid.frame_ms),
        "shift in time at which the map no longer resembles itself",
        "ms",
        "first shift at which the temporal correlation index falls to 1/e, interpolated",
        f"{ONE_LAG}, or the correlation stays above the level",
        TOURYAN,
    ),
    "spectral_correlation_width": Measure(
        lambda block: _falls(block, _spectral_correlation(block), block.grid.octaves_per_band),
        "shift in frequency at which the map no longer resembles itself",
        "octave",
        "first shift at which the spectral correlation index falls to 1/e, interpolated",
        f"{ONE_BAND}, or the correlation stays above the level",
        TOURYAN,
        "octaves",
    ),
    "temporal_correlation": Measure(
        _temporal_correlation,
        "temporal correlation index",
        "1",
        f"{OVERLAP} lags",
        f"{ONE_LAG}, or the entries that overlap are constant",
        TOURYAN,
        axes={"lag_shift": _lag_shifts},
        summarised=False,
    ),
    "spectral_correlation": Measure(
        _spectral_correlation,
        "spectral correlation index",
        "1",
        f"{OVERLAP} frequencies",
        f"{ONE_BAND}, or the entries that overlap are constant",
        TOURYAN,
        "octaves",
        axes={"frequency_shift": _octave_shifts},
        summarised=False,
    ),
}
