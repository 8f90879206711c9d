"""Peaks, edges, widths and envelopes of many profiles at a time."""

import numpy as np
from scipy import fft


def edges(
    profile: np.ndarray, peak: np.ndarray, level: np.ndarray | float, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where each profile (map, bin) first falls under ``level`` on the left and right of bin ``peak``.

    Positions are interpolated linearly between bins; NaN where the profile does not fall under the level before the
    axis ends.
    """
    n, m = profile.shape
    level = np.broadcast_to(level, (n,))
    index = np.arange(m)
    below = profile < level[:, None]
    left = np.where(below & (index < peak[:, None]), index, -1).max(axis=1)
    right = np.where(below & (index > peak[:, None]), index, m).min(axis=1)
    low = np.where(left >= 0, _crossing(profile, left, left + 1, level, positions), np.nan)
    high = np.where(right < m, _crossing(profile, right, right - 1, level, positions), np.nan)
    return low, high


def _crossing(
    profile: np.ndarray, outside: np.ndarray, inside: np.ndarray, level: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    last = profile.shape[1] - 1
    rows, outside, inside = np.arange(len(profile)), np.clip(outside, 0, last), np.clip(inside, 0, last)
    under, over = profile[rows, outside], profile[rows, inside]
    share = (level - under) / (over - under)
    return positions[outside] + share * (positions[inside] - positions[outside])


def around_peak(profile: np.ndarray, share: float) -> np.ndarray:
    """The profiles, zero from the first bin under ``share`` of the peak on, on either side."""
    m = profile.shape[1]
    index, peak = np.arange(m), profile.argmax(axis=1)[:, None]
    below = profile < share * profile.max(axis=1, keepdims=True)
    left = np.where(below & (index < peak), index, -1).max(axis=1, keepdims=True)
    right = np.where(below & (index > peak), index, m).min(axis=1, keepdims=True)
    return np.where((index > left) & (index < right), profile, 0.0)


def moments(profile: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroid and standard deviation of profiles that are taken as densities over ``positions``."""
    weights = profile / profile.sum(axis=1, keepdims=True)
    mean = (weights * positions).sum(axis=1)  # not a matrix product, whose rounding depends on the number of rows
    variance = (weights * (positions - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(np.maximum(variance, 0.0))


def envelope_power(values: np.ndarray, axis: int) -> np.ndarray:
    """Squared magnitude of the analytic signal along ``axis``.

    The values are continued by their mirror image first, so that the two ends of the axis do not see each other.
    """
    size = values.shape[axis]
    mirrored = np.concatenate([values, np.flip(values, axis)], axis=axis)
    spectrum = fft.rfft(mirrored, axis=axis)
    shape = [1] * values.ndim
    shape[axis] = spectrum.shape[axis]
    quarter_turn = np.full(spectrum.shape[axis], -1j)
    quarter_turn[[0, -1]] = 0.0  # neither the mean nor the highest frequency has a conjugate
    conjugate = fft.irfft(spectrum * quarter_turn.reshape(shape), n=2 * size, axis=axis)
    return values**2 + np.take(conjugate, np.arange(size), axis=axis) ** 2


def refined_peak(profile: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Position of the largest value, placed between even bins by the parabola through its neighbours."""
    n, m = profile.shape
    rows, peak = np.arange(n), profile.argmax(axis=1)
    if m < 3:
        return positions[peak]
    before, at, after = (profile[rows, np.clip(peak + shift, 0, m - 1)] for shift in (-1, 0, 1))
    curvature = before - 2 * at + after
    shift = np.where(curvature < 0, 0.5 * (before - after) / np.where(curvature < 0, curvature, 1.0), 0.0)
    shift = np.where((peak > 0) & (peak < m - 1), shift, 0.0)
    return positions[peak] + shift * (positions[1] - positions[0])
