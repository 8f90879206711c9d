"""What a run weighs before it starts."""

from dataclasses import dataclass
from math import prod

import numpy as np

from pipeline.plan.run_plan import CohortPlan, MapPlan, RunPlan, VariablePlan
from pipeline.plan.shards import cut_shards
from pipeline.words import axis_of

#: Objects that hold an axis with its labels, and the bookkeeping of a map, about.
OBJECTS_PER_AXIS = 4
#: Objects of a store that a map has beside its regions.
OBJECTS_PER_MAP = 12

#: Bytes of one parameter of a checkpoint in memory.
PARAMETER_BYTES = 4

#: What the process of a task takes before it holds a model: Python, torch and what reads and writes a store.
PROCESS_BYTES = 480 * 2**20

#: Rows whose activations live at one time, and what the engine's temporary tensors take where no limit is set.
ROWS_AT_ONCE = 64
#: Bytes of temporary tensors of one task, where the config says nothing.
TEMPORARY_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Weight:
    """What a run costs before it starts."""

    checkpoints: int
    shards: int
    map_bytes: int
    objects: int
    requests: int
    largest_task_bytes: int


def weight_of(plan: RunPlan) -> Weight:
    """Checkpoints, shards, bytes of maps (uncompressed), objects in the store, requests to write it, memory per task.

    What one shard writes of a variable is one object and one request. Metadata, coordinates and the status of a map
    are a few dozen objects per cohort, counted as 12 per map and 4 per axis.
    """
    map_bytes = objects = largest = n_checkpoints = n_shards = 0
    for cohort in plan.cohorts:
        n_checkpoints += len(cohort.checkpoints)
        n_shards += sum(1 for _ in cut_shards(cohort))
        for entry in cohort.maps:
            for variable in entry.computed:
                shape = entry.shape(variable, len(cohort.checkpoints))
                map_bytes += variable_bytes(cohort, entry, variable)
                objects += prod(-(-size // chunk) for size, chunk in zip(shape, variable.chunks, strict=True))
            objects += OBJECTS_PER_MAP
            largest = max(largest, task_bytes(plan, cohort, entry))
        objects += OBJECTS_PER_AXIS * len(cohort.axes())
    return Weight(n_checkpoints, n_shards, map_bytes, objects, objects, largest)


def variable_bytes(cohort: CohortPlan, entry: MapPlan, variable: VariablePlan) -> int:
    """Bytes of a variable, uncompressed."""
    return np.dtype(variable.dtype).itemsize * prod(entry.shape(variable, len(cohort.checkpoints)))


def task_bytes(plan: RunPlan, cohort: CohortPlan, entry: MapPlan) -> int:
    """Memory of one task: the process, the weights and a copy of them, what the kind of map asks for, activations."""
    weights = max((checkpoint.n_parameters for checkpoint in cohort.checkpoints), default=0) * PARAMETER_BYTES
    per_frame = max((checkpoint.frame_bytes for checkpoint in cohort.checkpoints), default=0)
    limit = plan.config.engine.memory_mib
    temporary = min(TEMPORARY_BYTES if limit is None else limit * 2**20, ROWS_AT_ONCE * per_frame * 4 * cohort.lags)
    axes = {axis.name: axis for axis in entry.axes.values()}
    block = {axis_of(dim): length for dim, length in entry.blocks.items()}
    return PROCESS_BYTES + 2 * weights + entry.settings.cost(axes, block).bytes + temporary
