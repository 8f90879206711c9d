"""How strongly a neuron responds to its map, frame by frame, and how far the map alone explains the response."""

import numpy as np

from pipeline.numbers.correlation import correlation
from pipeline.numbers.dynamic.arrays import checked


def gain(maps: np.ndarray) -> np.ndarray:
    """Norm of each frame's map (neuron, time), in response units per unit of the stimulus.

    Parameters
    ----------
    maps
        Dynamic STRFs (neuron, time, lag, frequency).

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import gain
    >>> gain(np.full((1, 3, 2, 2), 0.5))
    array([[1., 1., 1.]])
    """
    maps = checked(maps)
    return np.sqrt(np.einsum("ntlf,ntlf->nt", maps, maps, dtype=np.float64, casting="same_kind"))


def gain_change(maps: np.ndarray) -> np.ndarray:
    """Standard deviation over time (n - 1) of the norm of each neuron's map (Keshishian et al. 2020).

    It has the units of the gain itself, so it compares neurons only where their responses share a unit. 0 for a
    linear model.

    Parameters
    ----------
    maps
        Dynamic STRFs (neuron, time, lag, frequency) of two frames at least.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import gain_change
    >>> kernel = np.array([[3.0, 4.0]])
    >>> gain_change(np.array([1.0, 2.0, 3.0])[None, :, None, None] * kernel)
    array([5.])
    """
    return gain(checked(maps, frames=2)).std(axis=1, ddof=1)


def local_linearity(maps: np.ndarray, windows: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Pearson correlation over time of each neuron's response with what its maps, as linear filters, predict.

    The prediction at frame t is the sum of the map at t times the stimulus under it. It is exactly the response above
    the response to nothing (so r is 1) only for piecewise-linear models without biases. NaN where either side does not
    change.

    Parameters
    ----------
    maps
        Dynamic STRFs (neuron, time, lag, frequency).
    windows
        The stimulus under each map (time, lag, frequency), as `stimulus_windows` cuts it.
    response
        The model's own response (neuron, time) at the same frames. A constant, such as the response to nothing, may
        be subtracted or not: the correlation is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import local_linearity, stimulus_windows
    >>> sound = np.array([[1.0, 0.0, 2.0, -1.0]])
    >>> local_linearity(np.full((1, 4, 1, 1), 3.0), stimulus_windows(sound, 1), 3 * sound)
    array([1.])
    """
    maps = checked(maps, frames=2)
    predicted = np.zeros(maps.shape[:2])
    for row, one in zip(predicted, maps, strict=True):
        np.einsum("tlf,tlf->t", one.astype(np.float64), windows, out=row)
    return correlation(predicted, np.asarray(response, dtype=np.float64))
