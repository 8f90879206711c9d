"""What stands out of a map's own noise, and what noise alone would look like."""

from functools import cache

import numpy as np
from scipy import stats

#: Share of maps of noise that are called significant.
RATE = 0.05

#: Robust standard deviation over the median magnitude of normal noise.
ROBUST = 1.4826

#: A median is as sure of a standard deviation as the sum of squares of this share of the entries.
EFFICIENCY = 0.37

#: Gini coefficient of the magnitudes of normal noise, and its standard deviation times the root of the entries.
GINI_OF_NOISE, GINI_SPREAD = np.sqrt(2.0) - 1.0, 0.252


def level(entries: int) -> float:
    """Robust standard deviations that the largest of so many entries of noise exceeds in 5 % of maps.

    Each entry is Student's t: normal, over a standard deviation known as well as the median of all tells it. The
    largest of n exceeds what one exceeds at a rate of 1 - (1 - 0.05)^(1/n) (Sidak), on either side of 0.
    """
    each = -np.expm1(np.log1p(-RATE) / entries)
    return float(stats.t.isf(each / 2, max(2.0, EFFICIENCY * entries)))


def noise_of(maps: np.ndarray) -> np.ndarray:
    """Robust standard deviation of each map's entries (map, ...)."""
    return ROBUST * np.median(np.abs(maps).reshape(len(maps), -1), axis=1)


def decay_undone(maps: np.ndarray) -> np.ndarray:
    """Maps (map, frequency, lag) whose noise no longer decays over the lags, where it does so exponentially.

    Median magnitudes over the bands are a field's only where it covers half of these; elsewhere they are the noise of
    that lag. Their logarithm is compared half a window apart. It counts as a decay only if that is beyond chance and
    explains most of how the medians vary, so that a field is not taken for one.
    """
    bands, lags = maps.shape[1:]
    half = lags // 2
    if half < 2:
        return maps
    middle = np.median(np.abs(maps), axis=1)
    known = (middle > 0).all(axis=1)
    logs = np.log(np.where(middle > 0, middle, 1.0))
    slope = np.median((logs[:, half : 2 * half] - logs[:, :half]) / half, axis=1)
    rest = logs - slope[:, None] * np.arange(lags)
    # the log of a median over n normal entries has a standard deviation of 1.17 / sqrt(n)
    chance = 3 * 1.25 * np.sqrt(2) * 1.17 / (np.sqrt(bands) * half * np.sqrt(half))
    decays = known & (np.abs(slope) > chance) & (_spread(rest) < 0.4 * _spread(logs))
    steps = np.arange(lags) - lags / 2
    return maps * np.exp(-np.where(decays, slope, 0.0)[:, None, None] * steps)


def _spread(rows: np.ndarray) -> np.ndarray:
    return np.median(np.abs(rows - np.median(rows, axis=1, keepdims=True)), axis=1)


@cache
def _middle_of_noise(bands: int, lags: int) -> float:
    """Median of the squared singular values of noise of variance 1, over the longer side (Marchenko and Pastur)."""
    ratio = min(bands, lags) / max(bands, lags)
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    edges = np.linspace(low, high, 20_001)
    middles = (edges[1:] + edges[:-1]) / 2
    density = np.sqrt((high - middles) * (middles - low)) / middles
    held = np.cumsum(density)
    return float(middles[np.searchsorted(held, held[-1] / 2)])


def noise_beside_field(squares: np.ndarray, bands: int, lags: int) -> np.ndarray:
    """Standard deviation of the noise in maps of these squared singular values (map, component).

    A field fills few components, whatever share of the window it covers: the median one is the noise's (Gavish and
    Donoho 2014).
    """
    return np.sqrt(np.median(squares, axis=1) / (max(bands, lags) * _middle_of_noise(bands, lags)))


def beyond_separable(residual: np.ndarray, noise: np.ndarray, bands: int, lags: int) -> np.ndarray:
    """Whether the energy outside the best separable map is more than noise of that standard deviation leaves there.

    Such noise leaves a chi square of (bands - 1)(lags - 1) degrees of freedom; what is not known of its standard
    deviation adds to the spread.
    """
    freedom, entries = (bands - 1) * (lags - 1), bands * lags
    ratio = residual / np.maximum(noise**2 * freedom, np.finfo(float).tiny)
    spread = np.sqrt(2 / freedom + 2 / (EFFICIENCY * entries))
    return (ratio - 1) / spread > stats.norm.isf(RATE)


def beyond_noise_gini(gini: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """Whether magnitudes (map, frequency, lag) are held by fewer entries than in normal noise.

    Entries that resemble their neighbours count for fewer: by (1 + r) / (1 - r) along each axis, with the correlation r
    of neighbours, as in a series that forgets at that rate.
    """
    apart = _neighbours_count(magnitudes, 1) * _neighbours_count(magnitudes, 2)
    entries = magnitudes[0].size / apart
    return (gini - GINI_OF_NOISE) * np.sqrt(entries) / GINI_SPREAD > stats.norm.isf(RATE)


def _neighbours_count(magnitudes: np.ndarray, axis: int) -> np.ndarray:
    centred = magnitudes - magnitudes.mean(axis=(1, 2), keepdims=True)
    size = centred.shape[axis]
    if size < 2:
        return np.ones(len(centred))
    products = (np.take(centred, range(size - 1), axis) * np.take(centred, range(1, size), axis)).mean(axis=(1, 2))
    variance = (centred**2).mean(axis=(1, 2))
    r = np.clip(products / np.where(variance > 0, variance, 1.0), 0.0, 0.99)
    return (1 + r) / (1 - r)
