"""A run cut into shards: which numbers are to be computed, by whom, and what they weigh."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from pipeline.plan.axes import Block, blocks, lag_ms, samples_in, waveform_lag_ms
from pipeline.plan.config import CheckpointsConfig, RunConfig
from pipeline.words import axis_named, axis_of

FLOAT_BYTES = 4

#: Axes that may be cut between the objects of a map.
SHARED_OUT = ("checkpoint", "neuron", "stimulus")


@dataclass(frozen=True)
class CheckpointSource:
    """Where one checkpoint lies and how its module is rebuilt; all that a worker needs to load it."""

    id: str
    location: str
    entry: CheckpointsConfig
    where: str

    # location: a folder holding model.safetensors or best.pt, or a weights file itself (path or URL)
    # where: the entry's place in the config, for messages


@dataclass(frozen=True)
class FrontEnd:
    """What the waveform part of a model expects."""

    sample_rate: float
    hop: int


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as the driver found it: its source, its shape, or why it cannot be used."""

    source: CheckpointSource
    fingerprint: str
    model_class: str = ""
    n_neurons: int = 0
    n_bands: int = 0
    n_channels: int = 1
    n_parameters: int = 0
    front_end: FrontEnd | None = None
    neurons: tuple[str, ...] | None = None
    scalars: Mapping[str, str | float | int | bool] = field(default_factory=dict)
    per_neuron: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    error: str | None = None

    @property
    def id(self) -> str:
        """The label of the checkpoint in the cube."""
        return self.source.id

    @property
    def usable(self) -> bool:
        """Whether it loaded."""
        return self.error is None


@dataclass(frozen=True)
class MapPlan:
    """One map of one cohort: its axes, its chunks, and the words the engine is called with.

    ``chunks`` is the extent of one object of the store, which one shard owns whole; where ``inner_chunks`` is given,
    the object is a Zarr storage shard that holds several chunks of that extent.
    """

    name: str
    kind: Literal["strf", "waveform"]
    objective: str | Mapping[str, Any]
    baseline: str
    space: str
    over_neurons: Literal["each", "sum"]
    route: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    inner_chunks: tuple[int, ...] | None = None
    stimuli: tuple[str, ...] = ()
    stimuli_files: tuple[str, ...] = ()
    stimuli_digests: tuple[str, ...] = ()
    silence_level: float = 0.0
    precision: str = "float32"
    window: int | None = None
    sample_rate: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stimulus_dim(self) -> str | None:
        """Name of the stimulus axis, if the map has one."""
        return axis_named("stimulus", self.dims)

    @property
    def status_dims(self) -> tuple[str, ...]:
        """Axes of `<map>_status` and of the other per-map numbers."""
        names = ("checkpoint", "neuron", self.stimulus_dim)
        return tuple(name for name in names if name in self.dims and name is not None)

    def size(self, dim: str) -> int:
        """Number of positions on an axis."""
        return self.shape[self.dims.index(dim)]

    def chunk(self, dim: str) -> int:
        """Number of positions of an axis in one chunk, hence in one shard."""
        return self.chunks[self.dims.index(dim)]


@dataclass(frozen=True)
class CohortPlan:
    """One cube to be written: every label, every map, every checkpoint."""

    name: str
    frame_ms: float
    lags: int
    neurons: tuple[str, ...]
    frequencies_hz: tuple[float, ...]
    checkpoints: tuple[Checkpoint, ...]
    maps: tuple[MapPlan, ...]
    neuron_metadata: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def map_plan(self, name: str) -> MapPlan:
        """The map of that name."""
        return next(entry for entry in self.maps if entry.name == name)

    def coordinate(self, dim: str) -> np.ndarray:
        """Labels or values along an axis of this cohort's cube."""
        if dim == "checkpoint":
            return _labels(checkpoint.id for checkpoint in self.checkpoints)
        if dim == "neuron":
            return _labels(self.neurons)
        if dim == "frequency":
            return np.asarray(self.frequencies_hz)
        if dim == "lag":
            return lag_ms(self.lags, self.frame_ms)
        owner = next(entry for entry in self.maps if dim in entry.dims)
        if dim == owner.stimulus_dim:
            return _labels(owner.stimuli)
        if dim == "channel":
            return np.arange(owner.size("channel"))
        return waveform_lag_ms(owner.size(dim), owner.sample_rate or 1.0)

    def dims(self) -> tuple[str, ...]:
        """Every axis of the cube, in the order in which the maps use them."""
        return tuple(dict.fromkeys(("checkpoint", "neuron", *(dim for entry in self.maps for dim in entry.dims))))


@dataclass(frozen=True)
class RunPlan:
    """The whole run as plain data; travels to the workers once."""

    store: str
    cohorts: tuple[CohortPlan, ...]
    config: RunConfig

    def cohort(self, name: str) -> CohortPlan:
        """The cohort of that name."""
        return next(cohort for cohort in self.cohorts if cohort.name == name)


@dataclass(frozen=True)
class Shard:
    """One piece of work: a map of one checkpoint, a block of neurons, a block of stimuli; whole chunks of the cube."""

    cohort: str
    checkpoint: int
    map: str
    neurons: Block | None
    stimuli: Block | None

    def key(self) -> str:
        """A short name for messages and ledgers."""
        parts = [self.cohort, str(self.checkpoint), self.map]
        if self.neurons is not None:
            parts.append(f"neurons {self.neurons.start}:{self.neurons.stop}")
        if self.stimuli is not None:
            parts.append(f"stimuli {self.stimuli.start}:{self.stimuli.stop}")
        return "/".join(parts)

    def region(self, plan: MapPlan) -> dict[str, slice]:
        """The positions that this shard owns along each axis of its map."""
        owned: dict[str, slice] = {dim: slice(0, size) for dim, size in zip(plan.dims, plan.shape, strict=True)}
        owned["checkpoint"] = slice(self.checkpoint, self.checkpoint + 1)
        if self.neurons is not None:
            owned["neuron"] = self.neurons.slice()
        if self.stimuli is not None and plan.stimulus_dim is not None:
            owned[plan.stimulus_dim] = self.stimuli.slice()
        return owned


def _labels(names: Any) -> np.ndarray:
    """Names as an object array: what Zarr format 3 stores as strings of any length."""
    return np.array(list(names), dtype=object)


def cut_shards(cohort: CohortPlan, checkpoints: Iterator[int] | None = None) -> Iterator[Shard]:
    """The shards of a cohort, checkpoint by checkpoint, each one cut on the chunk grid of the cube.

    Every number of every map of every checkpoint belongs to exactly one shard, and no two shards share a chunk.
    """
    for position in range(len(cohort.checkpoints)) if checkpoints is None else checkpoints:
        for entry in cohort.maps:
            neuron_blocks: list[Block | None] = [None]
            stimulus_blocks: list[Block | None] = [None]
            if "neuron" in entry.dims:
                neuron_blocks = [*blocks(entry.size("neuron"), entry.chunk("neuron"))]
            if entry.stimulus_dim is not None:
                stimulus_blocks = [*blocks(entry.size(entry.stimulus_dim), entry.chunk(entry.stimulus_dim))]
            for neurons in neuron_blocks:
                for stimuli in stimulus_blocks:
                    yield Shard(cohort.name, position, entry.name, neurons, stimuli)


def plan_shards(plan: RunPlan) -> tuple[Shard, ...]:
    """Every shard of a run, cohort by cohort and checkpoint by checkpoint."""
    return tuple(shard for cohort in plan.cohorts for shard in cut_shards(cohort))


def object_shape(dims: tuple[str, ...], shape: tuple[int, ...], object_mib: float) -> tuple[int, ...]:
    """Objects of about ``object_mib`` that hold one checkpoint each and never cut a single map.

    Neurons share an object first, then stimuli: a reader mostly wants all neurons of one checkpoint.
    """
    chunks = [size if axis_of(dim) not in SHARED_OUT else 1 for dim, size in zip(dims, shape, strict=True)]
    budget = max(1, int(object_mib * 2**20 / (FLOAT_BYTES * prod(chunks))))
    for axis in sorted(range(len(dims)), key=lambda axis: dims[axis] != "neuron"):
        if axis_of(dims[axis]) in ("neuron", "stimulus"):
            # Blocks of equal length waste no task on a short remainder.
            pieces = -(-shape[axis] // max(1, min(shape[axis], budget)))
            chunks[axis] = -(-shape[axis] // pieces)
            budget = max(1, budget // chunks[axis])
    return tuple(chunks)


def inner_chunk_shape(dims: tuple[str, ...], objects: tuple[int, ...], per_object: int) -> tuple[int, ...] | None:
    """Chunks inside an object: its neurons cut into up to ``per_object`` equal parts; None where that is one part."""
    if per_object == 1 or "neuron" not in dims:
        return None
    axis = dims.index("neuron")
    parts = max(k for k in range(1, per_object + 1) if objects[axis] % k == 0)
    return None if parts == 1 else (*objects[:axis], objects[axis] // parts, *objects[axis + 1 :])


@dataclass(frozen=True)
class Weight:
    """What a run costs before it starts."""

    checkpoints: int
    shards: int
    map_bytes: int
    objects: int
    requests: int
    largest_task_bytes: int


def weigh(plan: RunPlan) -> Weight:
    """Checkpoints, shards, bytes of maps (uncompressed), objects in the store, requests to write it, memory per task.

    What one shard writes of a map is one object and one request. Metadata, coordinates and the status of a map are a
    few dozen objects per cohort, counted as 12 per map and 4 per axis.
    """
    map_bytes = objects = largest = n_checkpoints = n_shards = 0
    for cohort in plan.cohorts:
        n_checkpoints += len(cohort.checkpoints)
        n_shards += sum(1 for _ in cut_shards(cohort))
        for entry in cohort.maps:
            map_bytes += FLOAT_BYTES * prod(entry.shape)
            chunk_count = prod(-(-size // chunk) for size, chunk in zip(entry.shape, entry.chunks, strict=True))
            objects += chunk_count + 12
            largest = max(largest, _task_bytes(cohort, entry))
        objects += 4 * len(cohort.dims())
    return Weight(n_checkpoints, n_shards, map_bytes, objects, objects, largest)


def _task_bytes(cohort: CohortPlan, entry: MapPlan) -> int:
    """Memory of one task: weights, the block of maps, and a backward pass of about eight copies of it."""
    weights = max((checkpoint.n_parameters for checkpoint in cohort.checkpoints), default=0) * FLOAT_BYTES
    return weights + 8 * FLOAT_BYTES * prod(entry.chunks)


def waveform_window(window_ms: float | None, samples: int, sample_rate: float) -> int:
    """Length of a waveform map in samples: the window asked for, or the whole stimulus."""
    return samples if window_ms is None else max(1, samples_in(window_ms, sample_rate))
