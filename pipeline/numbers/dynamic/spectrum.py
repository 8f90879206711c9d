"""Singular values of a neuron's maps over time."""

import numpy as np

from pipeline.numbers.dynamic.arrays import checked, rows
from pipeline.numbers.dynamic.eigen import eigenvalues


def complexity(maps: np.ndarray) -> np.ndarray:
    """Sum of the singular values of each neuron's maps over the largest one (Keshishian et al. 2020).

    The matrix (time, lag x frequency) is not centred and no singular value is left out: 1 for a model whose map only
    changes in strength, and it grows with every further shape that the map takes. It also grows with the number of
    frames, so compare neurons over equal numbers of frames, and report that number. NaN for maps that are all zero.

    Parameters
    ----------
    maps
        Dynamic STRFs (neuron, time, lag, frequency).

    Examples
    --------
    Two orthogonal maps, the first at three frames and the second at one: 1 + sqrt(1 / 3).

    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import complexity
    >>> maps = np.zeros((1, 4, 1, 2))
    >>> maps[0, :3, 0, 0] = maps[0, 3, 0, 1] = 1.0
    >>> complexity(maps).round(4)
    array([1.5774])
    """
    return np.array([_complexity(matrix) for matrix in rows(checked(maps))])


def _complexity(matrix: np.ndarray) -> float:
    singular = np.sqrt(eigenvalues(gram(matrix)))
    return float(singular.sum() / singular[0]) if singular[0] > 0 else np.nan


def gram(matrix: np.ndarray) -> np.ndarray:
    """The smaller of the two Gram matrices of (time, entry): over time or over entries."""
    return matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
