"""The plan of a run: its cohorts, each with its checkpoints, its maps and their variables."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.plan.axes import Axis
from pipeline.plan.config import CheckpointsConfig, ConfigError, RunConfig
from pipeline.plan.map_config import MapConfig, Stimuli, Variable
from pipeline.text import listed
from pipeline.words import axis_named


@dataclass(frozen=True)
class CheckpointSource:
    """Where one checkpoint lies and how its module is rebuilt; all that a worker needs to load it."""

    id: str
    #: A folder holding model.safetensors or best.pt, or a weights file itself (path or URL).
    location: str
    entry: CheckpointsConfig
    #: The entry's place in the config, for messages.
    where: str
    #: What the config says of it, by the words of its path or as constants.
    labels: Mapping[str, str | float | int | bool] = field(default_factory=dict)


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
    #: What a user should know though nothing failed: prefixes taken off, metadata that the cube has no place for.
    notes: tuple[str, ...] = ()
    #: What the model keeps of one frame of a stimulus between its parts; 0 where that was not measured.
    frame_bytes: int = 0
    error: str | None = None
    #: Ids of the checkpoints that a row of their ensemble stands for; empty for a checkpoint of its own.
    members: tuple[str, ...] = ()
    #: The label by which these differ.
    ensemble: str = ""

    @property
    def id(self) -> str:
        """The label of the checkpoint in the cube."""
        return self.source.id

    def differs_from(self, fingerprints: Mapping[str, str]) -> bool:
        """Whether it loads and is another one than the fingerprint under its id tells, where there is one."""
        return self.usable and fingerprints.get(self.id, self.fingerprint) != self.fingerprint

    @property
    def usable(self) -> bool:
        """Whether it loaded."""
        return self.error is None


@dataclass(frozen=True, kw_only=True)
class VariablePlan(Variable):
    """One array of a map as it lies in the cube, its axes called as there."""

    name: str
    #: The extent of one object of the store, which one shard owns whole.
    chunks: tuple[int, ...]
    #: The extent of the chunks inside an object, where it is a Zarr storage shard that holds several.
    inner_chunks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.computed and (self.dims[0] != "checkpoint" or self.chunks[0] != 1):
            raise ValueError(
                f"{self.name!r} is planned with axes {self.dims} in objects of {self.chunks}, but a shard is one"
                " checkpoint and must own whole objects; plan 'checkpoint' first, one per object"
            )


@dataclass(frozen=True)
class MapPlan:
    """One map of one cohort: what the config asks for, its axes, its variables, and how shards cut it."""

    name: str
    settings: MapConfig
    #: Every axis beside ``checkpoint``, by its name in the cube.
    axes: Mapping[str, Axis]
    variables: tuple[VariablePlan, ...]
    #: Number of positions in one shard, for each axis along which shards cut the map.
    blocks: Mapping[str, int]
    stimuli: Stimuli = field(default_factory=Stimuli)
    precision: str = "float32"

    @property
    def kind(self) -> str:
        """The kind of map."""
        return self.settings.kind

    @property
    def dims(self) -> tuple[str, ...]:
        """Every axis of the map, ``checkpoint`` first."""
        return ("checkpoint", *self.axes)

    @property
    def stimulus_dim(self) -> str | None:
        """Name of the stimulus axis, if the map has one."""
        return axis_named("stimulus", self.axes)

    @property
    def computed(self) -> tuple[VariablePlan, ...]:
        """The variables that shards write."""
        return tuple(variable for variable in self.variables if variable.computed)

    @property
    def status_dims(self) -> tuple[str, ...]:
        """Axes of `<map>_status` and of the companions: those of all gradients that count entries one by one."""
        names = ("checkpoint", "neuron", self.stimulus_dim)
        gradients = [variable for variable in self.computed if variable.role == "map"] or self.computed
        shared = set.intersection(*(set(variable.dims) for variable in gradients))
        return tuple(name for name in names if name in shared and name is not None)

    def size(self, dim: str) -> int:
        """Number of positions on an axis beside ``checkpoint``."""
        return len(self.axes[dim])

    def block(self, dim: str) -> int:
        """Number of positions on an axis in one shard."""
        return self.blocks.get(dim, self.size(dim))

    def shape(self, variable: VariablePlan, n_checkpoints: int) -> tuple[int, ...]:
        """Number of positions along each axis of a variable."""
        return tuple(n_checkpoints if dim == "checkpoint" else self.size(dim) for dim in variable.dims)

    def signature(self, variable: VariablePlan) -> dict[str, Any]:
        """What every number of a variable shares, as JSON has it: the map's settings, and how the variable lies.

        Stimuli are known by their names and the digests of their samples, wherever the files lie.
        """
        stimuli = self.stimuli
        settings = {
            "kind": self.kind,
            **self.settings.identity(),
            "precision": self.precision,
            "stimuli": stimuli.names,
            "stimuli_digests": stimuli.digests,
            **({"recording_digests": stimuli.recording_digests} if stimuli.recording else {}),
            "dims": variable.dims,
            "shape": [self.size(dim) for dim in variable.dims if dim != "checkpoint"],
            "objects": variable.chunks,
            "chunks": variable.inner_chunks,
        }
        as_stored: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return as_stored


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
    causal: bool = True

    def __post_init__(self) -> None:
        for what, labels in (("checkpoints", [entry.id for entry in self.checkpoints]), ("neurons", self.neurons)):
            if len(set(labels)) < len(labels):
                twice = sorted(label for label, count in Counter(labels).items() if count > 1)
                raise ConfigError(
                    f"cohort {self.name!r} has {what} of the same name ({listed(twice)}), so a label would not select"
                    " one of them; give each its own"
                )

    def map_plan(self, name: str) -> MapPlan:
        """The map of that name."""
        return next(entry for entry in self.maps if entry.name == name)

    def axes(self) -> dict[str, Axis]:
        """Every axis of the cube by its name, in the order in which the maps use them."""
        own: dict[str, Axis] = {"checkpoint": Axis("checkpoint", tuple(entry.id for entry in self.checkpoints))}
        own["neuron"] = Axis("neuron", self.neurons)
        for entry in self.maps:
            own |= {dim: axis for dim, axis in entry.axes.items() if dim not in own}
        return own


@dataclass(frozen=True)
class RunPlan:
    """The whole run as plain data; travels to the workers once."""

    store: str
    cohorts: tuple[CohortPlan, ...]
    config: RunConfig

    def cohort(self, name: str) -> CohortPlan:
        """The cohort of that name."""
        return next(cohort for cohort in self.cohorts if cohort.name == name)


def told_twins(fingerprints: Mapping[str, str]) -> list[str]:
    """What is to be known of checkpoints that are one and the same model, a sentence for each such model.

    ``fingerprints``: Of the content and the recipe of each checkpoint, by its id.
    """
    alike: dict[str, list[str]] = {}
    for label, fingerprint in fingerprints.items():
        alike.setdefault(fingerprint, []).append(label)
    return [
        f"note: {', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''} are one and the same model ({len(labels)}"
        " checkpoints of equal files), so they agree fully and count as repetitions that they are not; keep one"
        for fingerprint, labels in alike.items()
        if fingerprint and len(labels) > 1
    ]
