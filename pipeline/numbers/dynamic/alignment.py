"""How much a neuron's map changes its shape once the moves along the lags are undone."""

import numpy as np
from scipy import fft

from pipeline.numbers.dynamic.arrays import checked
from pipeline.numbers.dynamic.hold_duration import longest_hold
from pipeline.numbers.dynamic.spectrum import complexity

#: Rounds of alignment before it is taken as it is.
ROUNDS = 100
#: Lags over which the power is smoothed before its peak is taken.
SMOOTHING = 9


def shape_change(maps: np.ndarray) -> np.ndarray:
    """Complexity of each neuron's maps after they were aligned along the lags (Keshishian et al. 2020).

    Each map is moved, round the padded window, to where it is most similar to the mean of all, until none moves any
    more. What is left is change of shape, not of latency. It can be larger than the complexity: maps that change their
    sign are "aligned" by moving them. NaN for maps that are all zero.

    Parameters
    ----------
    maps
        Dynamic STRFs (neuron, time, lag, frequency) at *every* frame of one sound.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import shape_change
    >>> one_lag = np.eye(8)[np.arange(40) % 3][None, :, :, None]
    >>> shape_change(one_lag).round(6)
    array([1.])
    """
    maps = checked(maps)
    return np.array([complexity(_aligned(one)[None])[0] for one in maps])


def _aligned(maps: np.ndarray) -> np.ndarray:
    """Maps (time, lag, frequency) of one neuron, moved onto each other and cut to the lags that hold most energy."""
    lags = maps.shape[1]
    empty = longest_hold(lags)
    window = np.pad(maps.astype(np.float64), ((0, 0), (empty, empty), (0, 0)))
    window = _centred(_rolled(window, _moves(window)))
    share = np.convolve(_power(window), np.ones(lags), mode="valid")
    start = int(share.argmax())
    return window[:, start : start + lags]


def _moves(window: np.ndarray) -> np.ndarray:
    """For each frame, by how many lags its map is moved round the window to lie where the others do.

    A circular move changes neither the mean nor the norm of a map, so its correlation with the mean of all is largest
    where their product is. In Fourier space a move by s lags is a phase, and the products of a map at all moves come
    from one inverse transform: product[t, s] = sum over k of conj(W_t[k]) M[k] exp(2 pi i k s / n), summed over bands.
    """
    n = window.shape[1]
    spectra = np.ascontiguousarray(fft.rfft(window, axis=1).transpose(1, 0, 2))  # (k, time, band)
    moves = np.zeros(len(window), dtype=int)
    turns = np.exp(-2j * np.pi * np.arange(n)[:, None] * np.arange(len(spectra)) / n)  # (move, k)
    for _ in range(ROUNDS):
        mean = turns[moves].T[:, None, :] @ spectra / len(window)  # (k, 1, band)
        product = fft.irfft((spectra.conj() @ mean.transpose(0, 2, 1))[:, :, 0].T, n=n, axis=1)
        best = product.argmax(axis=1)
        # A move that gains nothing but rounding would never let the alignment come to rest.
        frames = np.arange(len(window))
        gained = product[frames, best] - product[frames, moves] > 1e-9 * np.abs(product).max(axis=1)
        if not gained.any():
            break
        moves = np.where(gained, best, moves)
    return moves


def _rolled(window: np.ndarray, moves: np.ndarray) -> np.ndarray:
    n = window.shape[1]
    source = (np.arange(n)[None, :] - moves[:, None]) % n
    return np.take_along_axis(window, source[:, :, None], axis=1)


def _centred(window: np.ndarray) -> np.ndarray:
    """All maps moved together until the peak of their smoothed power lies in the middle of the window."""
    smooth = np.convolve(_power(window), np.ones(SMOOTHING) / SMOOTHING, mode="same")
    return np.roll(window, window.shape[1] // 2 - int(smooth.argmax()), axis=1)


def _power(window: np.ndarray) -> np.ndarray:
    return np.einsum("tlf,tlf->l", window, window)
