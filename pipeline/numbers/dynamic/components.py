"""The few maps that a neuron's dynamic STRF is made of."""

from typing import Literal, NamedTuple

import numpy as np

from pipeline.numbers.dynamic.arrays import checked, rows
from pipeline.numbers.dynamic.eigen import leading
from pipeline.numbers.dynamic.floor import noise_floor
from pipeline.numbers.dynamic.spectrum import gram

#: Frames whose map lies so many times farther from the mean than the mean itself is large do not take part in the fit.
OUTLIER = 5.0
#: Unless they are the rule rather than the exception, as where the mean map is next to nothing.
FEWEST = 0.5

FirstComponent = Literal["principal", "mean"]


class Components(NamedTuple):
    """Components of dynamic STRFs, and how many there are.

    Attributes
    ----------
    component
        Maps (neuron, component, lag, frequency) of norm 1 and positive sum, those of the largest variance first; 0
        where the maps have fewer components than were asked for.
    component_sd
        Standard deviation (n - 1) over time of the projection on each (neuron, component).
    noise_floor
        The variance that a component reaches by chance (neuron), see `noise_floor`.
    above_floor
        Number of components whose variance is above it (neuron).
    size_90, size_95
        Number of components that hold 90 and 95 % of the variance over time (neuron).
    """

    component: np.ndarray
    component_sd: np.ndarray
    noise_floor: np.ndarray
    above_floor: np.ndarray
    size_90: np.ndarray
    size_95: np.ndarray


def components(maps: np.ndarray, count: int = 15, first_component: FirstComponent = "principal") -> Components:
    """Principal components over time of each neuron's maps (Wingert et al. 2026).

    Frames whose map lies more than five times as far from the mean map as that is large are left out of the fit, as
    long as they are fewer than half. The sign of a component is arbitrary; it
    is set so that its entries have a positive sum.

    Parameters
    ----------
    maps
        Dynamic STRFs (neuron, time, lag, frequency).
    count
        Number of components.
    first_component
        "principal" for components of the maps about their mean; "mean" to take the mean map, scaled to norm 1, as
        the first one, and the principal components of what is left of the maps as the others. The noise floor and the
        sizes do not depend on it.

    Raises
    ------
    ValueError
        If there are fewer than two frames, or ``count`` or ``first_component`` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.dynamic import components
    >>> maps = np.array([1.0, -1.0, 3.0, 1.0])[None, :, None, None] * np.array([[0.6, 0.8]])
    >>> found = components(maps, 1)
    >>> found.component.round(3), found.size_90
    (array([[[[0.6, 0.8]]]]), array([1]))
    """
    maps = checked(maps, frames=2)
    if count < 1:
        raise ValueError(f"count = {count} asks for no component; give 1 or more")
    if first_component not in ("principal", "mean"):
        raise ValueError(f'first_component = {first_component!r} is not known; give "principal" or "mean"')
    found = [_of_one(matrix, count, first_component) for matrix in rows(maps)]
    shape = (len(maps), count, *maps.shape[2:])
    columns = [np.array([one[k] for one in found]) for k in range(1, 6)]
    return Components(np.array([one[0] for one in found]).reshape(shape), *columns)


def fitted_frames(matrix: np.ndarray) -> np.ndarray:
    """Which rows of (time, entry) take part in the fit: all but outliers, or all where most would be."""
    mean = matrix.mean(axis=0)
    spread, size = (matrix - mean).std(axis=1), mean.std()
    kept = spread <= OUTLIER * size
    return kept if kept.sum() >= max(2, FEWEST * len(matrix)) else np.ones(len(matrix), dtype=bool)


def _of_one(
    matrix: np.ndarray, count: int, first: FirstComponent
) -> tuple[np.ndarray, np.ndarray, float, int, int, int]:
    fitted = matrix[fitted_frames(matrix)]
    mean = fitted.mean(axis=0)
    centred = fitted - mean
    degrees = len(centred) - 1
    entry_variances = np.einsum("te,te->e", centred, centred) / degrees
    floor = float(noise_floor(entry_variances[None], len(centred))[0])
    total = float(entry_variances.sum())
    values, axes = principal(centred, count)
    variances = values / degrees
    cumulative = np.cumsum(variances)
    size_90, size_95 = (
        int(np.searchsorted(cumulative, share * total * (1 - 1e-12)) + 1) if total > 0 else 0 for share in (0.9, 0.95)
    )
    above = int((variances > floor).sum())
    sd = np.sqrt(variances)
    if first == "mean":
        sd, axes = _mean_first(fitted, mean, count)
    return (*exactly(axes, sd, count), floor, above, size_90, size_95)


def _mean_first(fitted: np.ndarray, mean: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean map as the first component, and the principal components of what is orthogonal to it."""
    norm = np.linalg.norm(mean)
    axis = mean / norm if norm > 0 else mean
    strength = fitted @ axis
    left = fitted - strength[:, None] * axis
    left = left - left.mean(axis=0)
    degrees = len(fitted) - 1
    values, axes = principal(left, max(1, count - 1))
    sd = np.concatenate([[strength.std(ddof=1)], np.sqrt(values / degrees)])
    return sd, np.concatenate([axis[None], axes])


def exactly(axes: np.ndarray, sd: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` components with a positive sum, those that the maps do not have as 0."""
    signs = np.where(axes.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    axes = (axes * signs)[:count]
    missing = count - len(axes)
    return np.pad(axes, ((0, missing), (0, 0))), np.pad(sd[:count], (0, max(0, count - len(sd))))


def principal(centred: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All eigenvalues of the scatter matrix of (time, entry), and the axes (component, entry) of at most ``count``."""
    over_time = len(centred) <= centred.shape[1]
    values, vectors = leading(gram(centred), count)
    kept = values[: vectors.shape[1]] > 0
    vectors = vectors[:, kept]
    # An eigenvector over time is the component's course along the sound; the maps it belongs to give the component.
    axes = centred.T @ vectors / np.sqrt(values[: len(kept)][kept]) if over_time else vectors
    return values, axes.T
