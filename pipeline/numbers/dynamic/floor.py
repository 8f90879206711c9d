"""The variance that a component reaches when nothing in time is shared between entries."""

import numpy as np
from scipy import optimize


def noise_floor(variances: np.ndarray, frames: int) -> np.ndarray:
    """Largest component variance of each neuron's maps once every entry is shuffled over time on its own.

    Shuffling leaves the entries' variances v and makes them independent. The largest eigenvalue of their sample
    covariance then lies at the edge of its limiting spectrum,

        min over a > max v of  a (1 + (D / T) mean(v / (a - v))),   D entries, T frames

    (Silverstein & Choi 1995), so no shuffle is needed: within 3 to 5 % of what shuffles give. 0 where nothing varies.

    Parameters
    ----------
    variances
        Variance over time of every entry (neuron, entry).
    frames
        Number of frames T that the variances were taken over.

    Examples
    --------
    Of equal variances, the edge of Marchenko & Pastur: (1 + sqrt(D / T)) squared.

    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import noise_floor
    >>> noise_floor(np.ones((1, 100)), 400)
    array([2.25])
    """
    variances = np.asarray(variances, dtype=np.float64)
    return np.array([_edge(one.ravel(), frames) for one in variances])


def _edge(variances: np.ndarray, frames: int) -> float:
    """The minimum, where the derivative 1 - (D / T) mean(v^2 / (a - v)^2) is 0; it grows with a."""
    top = float(variances.max())
    if top <= 0:
        return 0.0
    scaled = variances / top
    ratio = len(scaled) / frames

    def slope(a: float) -> float:
        return 1.0 - ratio * float(np.mean((scaled / (a - scaled)) ** 2))

    # The largest entry alone keeps the slope under 0 up to here, and D entries as large keep it above 0 from there.
    low, high = 1.0 + 0.5 / np.sqrt(frames), 1.0 + 2.0 * np.sqrt(ratio)
    high = max(high, low * 2)
    a = optimize.brentq(slope, low, high, xtol=1e-12)
    return top * a * (1.0 + ratio * float(np.mean(scaled / (a - scaled))))
