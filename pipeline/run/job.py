"""What a kind of map is given to compute one shard, and what it gives back."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.inputs.recordings import read_recordings
from pipeline.inputs.stimuli import read_sound, read_spectrograms, samples_digest
from pipeline.plan.config import ConfigError, EngineConfig
from pipeline.plan.map_config import Stimuli
from pipeline.plan.run_plan import Checkpoint, CohortPlan, MapPlan
from pipeline.plan.shards import Shard


@dataclass(frozen=True)
class Job:
    """One shard with everything that its map is computed from."""

    cohort: CohortPlan
    map: MapPlan
    shard: Shard
    engine: EngineConfig
    device: str
    #: Gives the module of a checkpoint of the cohort, in eval mode and on the device.
    load: Callable[[Checkpoint], nn.Module]
    #: For each neuron of the shard, its position in the module's output.
    neurons: tuple[int, ...]

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, or the ensemble, that the shard is of."""
        return self.cohort.checkpoints[self.shard.checkpoint]

    @property
    def model(self) -> nn.Module:
        """The module of the checkpoint."""
        return self.load(self.checkpoint)

    def members(self) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
        """The modules that the shard's row stands for, one or an ensemble's, each with the positions of the neurons."""
        by_id = {checkpoint.id: checkpoint for checkpoint in self.cohort.checkpoints}
        for member in map(by_id.__getitem__, self.checkpoint.members or (self.checkpoint.id,)):
            order = model_neurons(self.cohort, member)
            yield self.load(member), tuple(order if self.shard.neurons is None else self.shard.neurons.of(order))

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the config asks for."""
        return torch.float64 if self.engine.precision == "float64" else torch.float32

    @property
    def memory_bytes(self) -> int | None:
        """The budget of the engine; None where the config sets none."""
        return None if self.engine.memory_mib is None else self.engine.memory_mib * 2**20

    def stimulus_names(self) -> Sequence[str]:
        """Names of the shard's stimuli, in the order of the map's axis."""
        names = self.map.stimuli.names
        return names if self.shard.stimuli is None else self.shard.stimuli.of(names)

    def spectrograms(self) -> list[np.ndarray]:
        """The shard's stimuli as spectrograms (frequency, time)."""
        read = read_stimuli(self.map.stimuli)
        return [read[name] for name in self.stimulus_names()]

    def all_spectrograms(self) -> list[np.ndarray]:
        """All stimuli of the map as spectrograms (frequency, time), whichever of them are the shard's."""
        read = read_stimuli(self.map.stimuli)
        return [read[name] for name in self.map.stimuli.names]

    def recordings(self) -> list[np.ndarray]:
        """Recorded responses (neuron, repeat, time) of the shard's neurons to every stimulus of the map."""
        read = _recordings(self.map.stimuli)
        rows = slice(None) if self.shard.neurons is None else self.shard.neurons.slice()
        found = [read[name][rows] for name in self.map.stimuli.names]
        return [one if one.ndim == 3 else one[:, None] for one in found]

    def sounds(self) -> list[np.ndarray]:
        """The shard's stimuli as sounds (sample,)."""
        stimuli = self.map.stimuli
        named = tuple(zip(stimuli.files, stimuli.names, stimuli.digests, strict=True))
        return [_sound(*one) for one in (named if self.shard.stimuli is None else self.shard.stimuli.of(named))]

    def stacks(self, stimuli: Iterable[np.ndarray]) -> list[Tensor]:
        """Neighbouring stimuli of one length as one float32 tensor each, on the device."""
        return [
            torch.as_tensor(np.stack(list(group)), dtype=torch.float32, device=self.device)
            for _, group in groupby(stimuli, key=lambda stimulus: stimulus.shape)
        ]


@dataclass(frozen=True)
class Computed:
    """What one shard of a map came to."""

    #: One for each variable by its suffix, over the variable's axes without ``checkpoint``.
    arrays: Mapping[str, np.ndarray]
    #: Health, memory and the like by their endings, over the axes of the map's status without ``checkpoint``.
    companions: Mapping[str, np.ndarray]
    #: How the engine went, and how many rows it took at a time; for the record.
    route: str = ""
    block: int = 0


Compute = Callable[[Job], Computed]


@lru_cache(maxsize=4)
def read_stimuli(stimuli: Stimuli) -> dict[str, np.ndarray]:
    """The spectrograms of a map by name, as they were when the run was planned."""
    with _still_there():
        arrays = read_spectrograms(stimuli.files)
    for name, digest in zip(stimuli.names, stimuli.digests, strict=True):
        _refuse_changed(name, arrays.get(name), digest)
    return arrays


@lru_cache(maxsize=4)
def _recordings(stimuli: Stimuli) -> dict[str, np.ndarray]:
    with _still_there():
        arrays = read_recordings(stimuli.recording, stimuli.names)
    for name, digest in zip(stimuli.names, stimuli.recording_digests, strict=True):
        _refuse_changed(f"response to {name}", arrays.get(name), digest)
    return arrays


@lru_cache(maxsize=64)
def _sound(path: str, name: str, digest: str) -> np.ndarray:
    with _still_there():
        waveform = read_sound(path)
    _refuse_changed(name, waveform, digest)
    return waveform


@contextmanager
def _still_there() -> Iterator[None]:
    """A stimulus that the plan has read and that cannot be read now is the storage's fault, and is tried again."""
    try:
        yield
    except ConfigError as error:
        raise OSError(str(error)) from error


def _refuse_changed(name: str, samples: np.ndarray | None, digest: str) -> None:
    if samples is None or samples_digest(samples) != digest:
        raise ConfigError(
            f"the stimulus {name!r} is not what it was when the run was planned, so its map would stand beside maps"
            " around other numbers; put the old file back, or plan the run again"
        )


def model_neurons(cohort: CohortPlan, checkpoint: Checkpoint) -> list[int]:
    """For each neuron of the cohort, its position in the model's output."""
    if checkpoint.neurons is None or checkpoint.neurons == cohort.neurons:
        return list(range(len(cohort.neurons)))
    position = {name: index for index, name in enumerate(checkpoint.neurons)}
    return [position[name] for name in cohort.neurons]
