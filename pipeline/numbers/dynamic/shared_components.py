"""The components that the neurons of one checkpoint share."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from pipeline.numbers.dynamic.arrays import checked, rows
from pipeline.numbers.dynamic.components import exactly, fitted_frames
from pipeline.numbers.dynamic.eigen import leading


class PopulationComponents(NamedTuple):
    """Components of a whole population's dynamic STRFs.

    Attributes
    ----------
    component
        Maps (component, lag, frequency) of norm 1 and positive sum, those of the largest variance first.
    component_sd
        Square root of the variance that each holds (component), averaged over neurons.
    share
        Share of each neuron's own variance over time that all of them together hold (neuron); NaN where its map does
        not change.
    """

    component: np.ndarray
    component_sd: np.ndarray
    share: np.ndarray


def population_components(blocks: Callable[[], Iterable[np.ndarray]], count: int = 15) -> PopulationComponents:
    """Principal components over time and over neurons, each neuron's maps about their own mean.

    The scatter matrices of all neurons are summed, so memory does not grow with their number. Neurons weigh as their
    variance does.

    Parameters
    ----------
    blocks
        Called twice; gives the maps (neuron, time, lag, frequency) of all neurons, block by block, in the same order.
    count
        Number of components.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import population_components
    >>> maps = np.array([1.0, -1.0, 3.0, 1.0])[None, :, None, None] * np.array([[[[0.6, 0.8]]]] * 2)
    >>> population_components(lambda: [maps], 1).share.round(6)
    array([1., 1.])
    """
    scatter, neurons, shape = np.zeros((0, 0)), 0, (0, 0)
    for block in blocks():
        shape = checked(block, frames=2).shape[2:]
        for scaled in _scaled(block):
            scatter = scatter + scaled.T @ scaled if scatter.size else scaled.T @ scaled
            neurons += 1
    if not neurons:
        raise ValueError("there are no neurons, so nothing is shared between them; give one block of maps at least")
    values, vectors = leading(scatter / neurons, count)
    axes, sd = exactly(vectors.T, np.sqrt(values), count)
    shares = [_share(scaled, axes) for block in blocks() for scaled in _scaled(block)]
    return PopulationComponents(axes.reshape(count, *shape), sd, np.array(shares))


def _scaled(block: np.ndarray) -> Iterable[np.ndarray]:
    """Each neuron's maps about their mean, so scaled that their Gram matrix is their covariance."""
    for matrix in rows(block):
        fitted = matrix[fitted_frames(matrix)]
        yield (fitted - fitted.mean(axis=0)) / np.sqrt(len(fitted) - 1)


def _share(scaled: np.ndarray, axes: np.ndarray) -> float:
    total = float((scaled**2).sum())
    return float(((scaled @ axes.T) ** 2).sum()) / total if total > 0 else np.nan
