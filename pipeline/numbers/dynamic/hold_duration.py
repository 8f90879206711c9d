"""How long a neuron's map stays with the sound that it first responded to."""

from typing import NamedTuple

import numpy as np
from scipy import special

from pipeline.numbers.dynamic.arrays import checked

#: A delay counts as held where the test says so at this level (Keshishian et al. 2020).
LEVEL = 0.001
#: Differences of which so few are asked about by the exact distribution.
MOST_EXACT = 50


def longest_hold(lags: int) -> int:
    """The longest delay that is tested, in frames, for maps of ``lags`` lags."""
    return max(lags - 10, min(lags, 5))


def temporal_hold(maps: np.ndarray) -> np.ndarray:
    """Frames for which each neuron's map travels with the sound (Keshishian et al. 2020).

    At every delay k the map k frames later is compared with the map now, as it is and moved back by k lags; the count
    is that of the leading delays at which the moved map is more similar (one-sided Wilcoxon test over frames, p below
    0.001). It is that statistic, not a duration: kernels that were planted to stay for 3, 6 and 9 frames give 2, 3 and
    5. A sound too short for the delays gives NaN.

    Parameters
    ----------
    maps
        Dynamic STRFs (neuron, time, lag, frequency) at *every* frame of one sound.

    Examples
    --------
    A map that never moves does not travel with the sound.

    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import temporal_hold
    >>> temporal_hold(np.broadcast_to(np.eye(12, 3), (1, 60, 12, 3)))
    array([0.])
    """
    maps = checked(maps)
    longest = longest_hold(maps.shape[2])
    if maps.shape[1] <= longest:
        return np.full(len(maps), np.nan)
    return np.array([_hold(one, longest) for one in maps], dtype=float)


def _hold(maps: np.ndarray, longest: int) -> int:
    frames, lags, bands = maps.shape
    maps = maps.astype(np.float64)
    # The window has `longest` empty lags before lag 0, into which a moved map's newest entries go: nothing is lost, so
    # that its mean and norm over the window are those of the map as it was.
    moments = _Moments.of(maps, (lags + longest) * bands)
    compared = frames - longest
    now = maps[:compared]
    for delay in range(1, longest + 1):
        later = maps[delay : delay + compared]
        stays = np.einsum("tlf,tlf->t", now, later)
        travels = np.einsum("tlf,tlf->t", now[:, : lags - delay], later[:, delay:])
        if not _is_larger(moments.correlation(travels, delay), moments.correlation(stays, delay)):
            return delay - 1
    return longest


class _Moments(NamedTuple):
    """Mean of each frame's padded map, and its scale: the root of the sum of squares about the mean."""

    mean: np.ndarray
    scale: np.ndarray
    entries: int

    @classmethod
    def of(cls, maps: np.ndarray, entries: int) -> "_Moments":
        mean = maps.sum(axis=(1, 2)) / entries
        squares = np.einsum("tlf,tlf->t", maps, maps) - entries * mean**2
        return cls(mean, np.sqrt(np.maximum(squares, 0.0)), entries)

    def correlation(self, product: np.ndarray, delay: int) -> np.ndarray:
        """Pearson r of the maps whose sum of products is given with those ``delay`` frames later; NaN for no map."""
        now, later = slice(len(product)), slice(delay, delay + len(product))
        scale = self.scale[now] * self.scale[later]
        with np.errstate(invalid="ignore", divide="ignore"):
            r = (product - self.entries * self.mean[now] * self.mean[later]) / scale
        return np.where(scale > 0, r, np.nan)


def _is_larger(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether paired numbers lie higher on one side; pairs in which a map is empty do not count."""
    difference = (one - other)[np.isfinite(one) & np.isfinite(other)]
    if not np.any(difference):
        return False
    return wilcoxon_above(difference) < LEVEL


def wilcoxon_above(difference: np.ndarray) -> float:
    """One-sided p of Wilcoxon's signed-rank test that differences lie above 0, as `scipy.stats.wilcoxon` gives it."""
    if len(difference) <= MOST_EXACT:
        from scipy import stats  # which takes longer to load than all maps of a sound

        return float(stats.wilcoxon(difference, alternative="greater").pvalue)
    kept = difference[difference != 0]
    count, (_, place, ties) = len(kept), np.unique(np.abs(kept), return_inverse=True, return_counts=True)
    # Equal sizes share the mean of their ranks. The sum of positive ranks is normal about count (count + 1) / 4.
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    variance = (count * (count + 1) * (2 * count + 1) - (ties.astype(float) ** 3 - ties).sum() / 2) / 24
    return float(special.ndtr((count * (count + 1) / 4 - ranks[kept > 0].sum()) / np.sqrt(variance)))
