"""What stands out of a map's own noise, and what noise alone would look like."""

from functools import cache

import numpy as np
from scipy import stats
from scipy.ndimage import gaussian_filter, gaussian_filter1d

#: Share of maps of noise that are called significant.
RATE = 0.05

#: Robust standard deviation over the median magnitude of normal noise.
ROBUST = 1.4826

#: A median is as sure of a standard deviation as the sum of squares of this share of the entries.
EFFICIENCY = 0.37

#: Share of a map's energy that is rounding, not noise.
ROUNDING = 1e-9


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
    """Maps (map, frequency, lag) times the exponential in the lag that makes their noise even over the lags.

    Noise is what the best separable map leaves, and its level at a lag the median magnitude over the bands, whose
    logarithm is compared half a window apart. What is left does not depend on how fast the noise decays, so that what
    is decided on it holds for every exponential decay as for none. A map that is separable to rounding has no noise.
    """
    half = maps.shape[2] // 2
    if half < 2:
        return maps
    for _ in range(2):  # the best separable map is another one once the decay is gone
        steps = np.arange(maps.shape[2]) - maps.shape[2] / 2
        maps = maps * np.exp(-_slope(maps - _separable(maps), maps, half)[:, None, None] * steps)
    return maps


def _slope(noise: np.ndarray, maps: np.ndarray, half: int) -> np.ndarray:
    """Growth per lag of the logarithm of the noise (map, frequency, lag); 0 where a lag or the map has none."""
    middle = np.median(np.abs(noise), axis=1)
    known = (middle > 0).all(axis=1) & ~_is_rounding(noise, maps)
    logs = np.log(np.where(middle > 0, middle, 1.0))
    return np.where(known, np.median(logs[:, half : 2 * half] - logs[:, :half], axis=1) / half, 0.0)


def _separable(maps: np.ndarray) -> np.ndarray:
    """Best separable part of each map (map, frequency, lag), by four steps of the power method."""
    over_lags = np.abs(maps).max(axis=1)
    for _ in range(4):
        bands = np.einsum("nfl,nl->nf", maps, over_lags)
        bands /= np.maximum(np.linalg.norm(bands, axis=1, keepdims=True), np.finfo(float).tiny)
        over_lags = np.einsum("nfl,nf->nl", maps, bands)
    return np.asarray(bands[:, :, None] * over_lags[:, None])


def prominence(maps: np.ndarray) -> np.ndarray:
    """Largest magnitude of each map (map, frequency, lag), in robust standard deviations; 0 for a map of zeros."""
    peak, noise = np.abs(maps).max(axis=(1, 2)), noise_of(maps)
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(peak > 0, peak / noise, 0.0)


def stands_out(maps: np.ndarray) -> np.ndarray:
    """Whether the prominence of each even map (map, frequency, lag) exceeds that of 95 % of maps of noise as smooth.

    A map that is separable to rounding has no noise, and stands out.
    """
    return (prominence(maps) > _highest_of_noise(maps)[:, 0]) | _is_without_noise(maps)


def is_sparse(maps: np.ndarray) -> np.ndarray:
    """Whether fewer entries hold each even map (map, frequency, lag) than hold 95 % of maps of noise as smooth."""
    return gini(maps) > _highest_of_noise(maps)[:, 1]


def gini(maps: np.ndarray) -> np.ndarray:
    """Gini coefficient of the magnitudes of each map (map, ...); NaN for a map of zeros."""
    ordered = np.sort(np.abs(maps).reshape(len(maps), -1), axis=1)
    n = ordered.shape[1]
    weights, total = 2 * np.arange(1, n + 1) - n - 1, ordered.sum(axis=1)
    return np.asarray((ordered * weights).sum(axis=1) / (n * np.where(total > 0, total, np.nan)))


def _is_without_noise(maps: np.ndarray) -> np.ndarray:
    return _is_rounding(maps - _separable(maps), maps) & maps.any(axis=(1, 2)) & (min(maps.shape[1:]) > 1)


def _is_rounding(rest: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Whether what is left of each map (map, frequency, lag) is no more than rounding leaves."""
    return np.asarray((rest**2).sum(axis=(1, 2)) <= ROUNDING * (maps**2).sum(axis=(1, 2)))


def _highest_of_noise(maps: np.ndarray) -> np.ndarray:
    """Prominence and Gini coefficient (map, 2) that 5 % of maps of noise as smooth as each map exceed.

    Neighbours of normal noise that correlate by r have the same sign as often as arcsin(r) says, whatever the spread
    of the entries is and however large a field's are; r tells how smooth the noise is along each axis.
    """
    smooth = np.stack([np.abs(_alike(maps, axis)[:, None] - _CORRELATIONS).argmin(axis=1) for axis in (1, 2)])
    kinds, which = np.unique(smooth, axis=1, return_inverse=True)
    return np.array([_simulated(maps.shape[1:], (_WIDTHS[i], _WIDTHS[j])) for i, j in kinds.T])[which.ravel()]


def _alike(maps: np.ndarray, axis: int) -> np.ndarray:
    """Correlation of neighbours along an axis as their signs tell it; 0 where there is one entry."""
    signs, size = np.sign(maps), maps.shape[axis]
    if size < 2:
        return np.zeros(len(maps))
    agree = np.take(signs, range(size - 1), axis) * np.take(signs, range(1, size), axis)
    return np.asarray(np.sin(np.pi / 2 * agree.mean(axis=(1, 2))))


def _correlation_of(width: float) -> float:
    """Correlation of neighbours in white noise that a Gaussian of that width (sd, entries) has smoothed."""
    weights = gaussian_filter1d(np.eye(1, 61, 30)[0], width) if width else np.eye(1, 61, 30)[0]
    return float(weights[1:] @ weights[:-1] / (weights @ weights))


#: Widths (sd, entries) of the Gaussians that noise is smoothed with, and the correlation of neighbours each makes.
_WIDTHS = (0.0, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_CORRELATIONS = np.array([_correlation_of(width) for width in _WIDTHS])


#: Normal numbers drawn for one threshold: a fraction of a second.
_NUMBERS = 5e6


@cache
def _simulated(shape: tuple[int, int], widths: tuple[float, float]) -> tuple[float, float]:
    """Prominence and Gini coefficient that 5 % of simulated maps of smoothed normal noise exceed.

    The noise is mirrored at the edges before it is smoothed, as scipy does it, which makes it larger there: maps
    without such edges exceed the values less often.
    """
    trials = int(np.clip(_NUMBERS / (shape[0] * shape[1]), 500, 20_000))
    rng, found = np.random.default_rng(0), []
    for start in range(0, trials, 500):
        noise = rng.standard_normal((min(500, trials - start), *shape), dtype=np.float32)
        even = decay_undone(gaussian_filter(noise, (0.0, *widths)) if any(widths) else noise)
        found.append((prominence(even), gini(even)))
    highest = np.quantile(np.concatenate(found, axis=1), 1 - RATE, axis=1)
    return float(highest[0]), float(highest[1])


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
