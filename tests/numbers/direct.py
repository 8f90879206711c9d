"""The measures once more, one map and one entry at a time, from the formulas alone."""

import numpy as np
from scipy.signal import hilbert


def envelope(g, axis):
    """Mirror, analytic signal by scipy, energy over the other axis."""
    size = g.shape[axis]
    analytic = hilbert(np.concatenate([g, np.flip(g, axis)], axis=axis), axis=axis)
    return (np.abs(np.take(analytic, range(size), axis=axis)) ** 2).sum(axis=1 - axis)


def trimmed(profile, share=0.05):
    kept = np.zeros_like(profile)
    peak = int(profile.argmax())
    for k in range(peak, len(profile)):
        if profile[k] < share * profile[peak]:
            break
        kept[k] = profile[k]
    for k in range(peak, -1, -1):
        if profile[k] < share * profile[peak]:
            break
        kept[k] = profile[k]
    return kept


def mean_sd(profile, positions):
    weights = profile / profile.sum()
    mean = (weights * positions).sum()
    return mean, np.sqrt((weights * (positions - mean) ** 2).sum())


def crossing_width(profile, peak, level, positions, closed_start=False):
    """Walk away from the peak on both sides until the level is crossed."""
    ends = []
    for step in (-1, 1):
        k = peak
        while 0 <= k < len(profile) and profile[k] >= level:
            k += step
        if k == len(profile) or (k < 0 and not closed_start):
            return np.nan
        if k < 0:
            ends.append(positions[0])
        else:
            share = (level - profile[k]) / (profile[k - step] - profile[k])
            ends.append(positions[k] + share * (positions[k - step] - positions[k]))
    return abs(ends[1] - ends[0])


def transform(g, x, lag_s, scales, rates):
    """The Fourier sum of the definition, term by term, for octaves x and lags in seconds."""
    found = np.empty((len(scales), len(rates)))
    for i, scale in enumerate(scales):
        for j, rate in enumerate(rates):
            phase = np.exp(-2j * np.pi * (scale * x[:, None] + rate * lag_s[None, :]))
            found[i, j] = abs((g * phase).sum())
    return found


def gini(g):
    """Mean absolute difference of all pairs over twice the mean."""
    a = np.abs(g).ravel()
    return np.abs(a[:, None] - a[None, :]).mean() / (2 * a.mean())


def vinje_gallant(g):
    a = np.abs(g).ravel()
    return (1 - a.mean() ** 2 / (a**2).mean()) / (1 - 1 / a.size)


def shifted_correlation(g, shift):
    """Pearson correlation of a map and itself moved along its last axis."""
    kept = g.shape[1] - shift
    return np.corrcoef(g[:, :kept].ravel(), g[:, shift:].ravel())[0, 1]
