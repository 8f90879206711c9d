"""Which few maps of a large cube a page shows and measures, and how they were chosen, in words."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import xarray as xr

from pipeline.pictures.cube_reading import COMPUTED, group_labels

GRID_CHECKPOINTS, GRID_NEURONS = 6, 8
#: Maps that the page measures, at most.
MEASURED_MAPS = 2400
#: Checkpoints that it measures, at most.
MEASURED_CHECKPOINTS = 24


@dataclass(frozen=True)
class Choice:
    """Positions of checkpoints and neurons, and how they were chosen."""

    checkpoints: np.ndarray
    neurons: np.ndarray
    how: str


def choose_drawn(best: xr.DataArray, cube: xr.Dataset, order: np.ndarray | None = None) -> Choice:
    """The maps to draw: some checkpoints of each architecture, and neurons spread over the population.

    ``best``: Standing over (checkpoint, neuron), the best over sounds. ``order``: A number per neuron, such as its best
    frequency, over whose ranks the neurons are spread; the cube's order by default.
    """
    checkpoints, first = choose_checkpoints(best, cube, GRID_CHECKPOINTS)
    ranked = np.arange(best.sizes["neuron"])
    spread = "in the cube's order"
    if order is not None and np.isfinite(order).any():
        ranked = np.argsort(order, kind="stable")[: int(np.isfinite(order).sum())]
        spread = "in the order of their frequency"
    if best.sizes["neuron"] <= GRID_NEURONS:
        return Choice(checkpoints, np.arange(best.sizes["neuron"]), f"{first}; all neurons")
    neurons = ranked[evenly(ranked.size, GRID_NEURONS)]
    return Choice(
        checkpoints, neurons, f"{first}; {neurons.size} of {best.sizes['neuron']} neurons, evenly spaced {spread}"
    )


def choose_measured(best: xr.DataArray, cube: xr.Dataset, sounds: int = 1) -> Choice:
    """The maps to measure, a bounded number spread over checkpoints and neurons, each with all its sounds."""
    checkpoints, first = choose_checkpoints(best, cube, MEASURED_CHECKPOINTS)
    room = max(1, MEASURED_MAPS // max(1, checkpoints.size * sounds))
    neurons = evenly(best.sizes["neuron"], room)
    second = "all neurons"
    if neurons.size < best.sizes["neuron"]:
        second = f"{neurons.size} of {best.sizes['neuron']} neurons, evenly spaced in the cube's order"
    return Choice(checkpoints, neurons, f"{first}; {second}")


def choose_checkpoints(best: xr.DataArray, cube: xr.Dataset, most: int) -> tuple[np.ndarray, str]:
    """Positions of checkpoints that have maps, taken in turn from each architecture, and how in words."""
    present = np.isin(best.transpose("checkpoint", "neuron").values, COMPUTED).any(axis=1)
    candidates = np.flatnonzero(present)
    total = best.sizes["checkpoint"]
    if candidates.size == total <= most:
        return candidates, "all checkpoints"
    if candidates.size <= most:
        return candidates, f"{candidates.size} of {total} checkpoints, all that have maps"
    groups = group_labels(cube, "architecture")
    members = [[int(at) for at in candidates if groups[at] == group] for group in dict.fromkeys(groups)]
    members = [group for group in members if group]
    if len(members) < 2 or len(members) > most:
        picked = candidates[evenly(candidates.size, most)]
        return picked, f"{picked.size} of {total} checkpoints, evenly spaced among those that have maps"
    turns = [at for turn in zip_longest(*members) for at in turn if at is not None]
    return np.sort(
        turns[:most]
    ), f"{most} of {total} checkpoints, in turn from each architecture, passing over those without maps"


def grouping(labelled: xr.DataArray | xr.Dataset) -> str | None:
    """The label by which numbers or maps stand in groups: the architecture, where they have one."""
    return "architecture" if "architecture" in labelled.coords else None


def evenly(size: int, most: int) -> np.ndarray:
    """At most ``most`` positions on an axis of ``size``, evenly spaced, both ends included."""
    return np.unique(np.linspace(0, size - 1, min(size, most)).round().astype(int)) if size else np.arange(0)


def in_turn(lists: Sequence[Sequence[tuple[int, ...]]], most: int) -> list[tuple[int, ...]]:
    """The first entries of each list in turn, without repetition, at most ``most``."""
    turns = (entry for turn in zip_longest(*lists) for entry in turn if entry is not None)
    return list(dict.fromkeys(turns))[:most]
