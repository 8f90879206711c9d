"""Arrays of dynamic STRFs as every measure takes them, checked at the door."""

from collections.abc import Iterator

import numpy as np


def checked(maps: np.ndarray, frames: int = 1) -> np.ndarray:
    """Maps (neuron, time, lag, frequency) as they were given, once their axes and numbers are in order.

    Parameters
    ----------
    maps
        Dynamic STRFs, lag 0 first.
    frames
        The fewest frames that the measure at hand can use.

    Raises
    ------
    ValueError
        If there are not four axes, if one of them is empty, if there are too few frames, or if an entry is not finite.
    """
    maps = np.asarray(maps)
    if maps.ndim != 4 or 0 in maps.shape[1:]:
        raise ValueError(
            f"maps have the shape {maps.shape}, but a dynamic STRF has the axes (neuron, time, lag, frequency), none"
            " of them empty; add the axis that is missing, or transpose"
        )
    if maps.shape[1] < frames:
        raise ValueError(
            f"maps have {maps.shape[1]} frames, and a measure of change over time needs {frames} at least; give more"
            " frames of the sound"
        )
    if not np.issubdtype(maps.dtype, np.floating):
        maps = maps.astype(np.float64)
    if not np.isfinite(maps).all():
        bad = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2, 3)))
        raise ValueError(
            f"maps of the neurons at {bad[:5].tolist()} hold entries that are not finite, which no measure can use;"
            " leave these neurons out"
        )
    return maps


def rows(maps: np.ndarray) -> Iterator[np.ndarray]:
    """The matrix (time, lag x frequency) of each neuron in turn, in double precision."""
    for neuron in maps:
        yield neuron.reshape(len(neuron), -1).astype(np.float64)
