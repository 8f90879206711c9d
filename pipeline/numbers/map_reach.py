"""How far back a map reaches: one definition for the numbers that a run writes and those that are computed later."""

import numpy as np

from pipeline.numbers.measures import BLOCK_ENTRIES, USABLE, degeneracy

#: Slack on a share of a total, which is rounded too: without it a map might be a lag short of all its energy.
ROUNDING = 1e-12


def memory(energy_by_lag: np.ndarray, share: float) -> np.ndarray:
    """Position of the first lag up to which maps (map, lag) hold a share of their energy."""
    held = np.cumsum(energy_by_lag, axis=1)
    return (held >= share * held[:, -1:] * (1 - ROUNDING)).argmax(axis=1)


def oldest(energy_by_lag: np.ndarray) -> np.ndarray:
    """Share of the energy of maps (map, lag) in the oldest tenth of their window, in whole lags, at least one."""
    tenth = max(1, round(energy_by_lag.shape[1] / 10))
    return energy_by_lag[:, -tenth:].sum(axis=1) / energy_by_lag.sum(axis=1)


def spans_lags(energy_by_lag: np.ndarray) -> np.ndarray:
    """Whether more than one lag of maps (map, lag) holds anything."""
    return np.count_nonzero(energy_by_lag, axis=1) > 1


def reach(maps: np.ndarray, step: float) -> dict[str, np.ndarray]:
    """Memory lengths and oldest shares of maps (..., lag), whose axes before the last two or more are counted.

    Parameters
    ----------
    maps
        (stimulus, neuron, \\*axes, lag), lag 0 first.
    step
        From one lag to the next, in the unit of the memory lengths.

    Returns
    -------
    dict
        ``memory_90``, ``memory_99`` and ``oldest_share`` (stimulus, neuron) in float32; NaN where the map is not
        finite, all zero, constant, a single entry, or holds anything at one lag only.
    """
    counted, lags = maps.shape[:2], maps.shape[-1]
    flat = maps.reshape(counted[0] * counted[1], -1, lags)
    found = np.full((3, len(flat)), np.nan, dtype=np.float32)
    rows = max(1, BLOCK_ENTRIES // max(1, flat.shape[1] * lags))
    for start in range(0, len(flat), rows):
        block = flat[start : start + rows]
        each = block.reshape(len(block), flat.shape[1] * lags)
        lowest, highest = each.min(axis=1), each.max(axis=1)
        usable = degeneracy(each, (lowest, highest)) == USABLE
        some = block if usable.all() else block[usable]
        # Over their largest magnitude, so that squares neither overflow nor vanish.
        largest = np.maximum(highest, -lowest)[usable]
        some = some.astype(np.float64) / largest[:, None, None]
        energy = np.einsum("mal,mal->ml", some, some)
        several = spans_lags(energy)
        energy, place = energy[several], start + np.flatnonzero(usable)[several]
        found[:, place] = [memory(energy, 0.9) * step, memory(energy, 0.99) * step, oldest(energy)]
    names = ("memory_90", "memory_99", "oldest_share")
    return {name: row.reshape(counted) for name, row in zip(names, found, strict=True)}
