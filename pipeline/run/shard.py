"""One shard end to end: load the checkpoint, compute its maps, write its region, report."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.gradients.gradmaps import Gradmaps, compute_strf_gradmaps, compute_waveform_gradmaps
from pipeline.gradients.health import Health, assess
from pipeline.inputs.checkpoints import CheckpointError, load_checkpoint, probe_response
from pipeline.inputs.stimuli import read_sound, read_spectrograms
from pipeline.plan.config import ConfigError
from pipeline.plan.reports import Cause, Problem, ShardReport
from pipeline.plan.shards import Checkpoint, CohortPlan, MapPlan, RunPlan, Shard
from pipeline.store.cube import NonFiniteError, label, write_region

#: Threads of one task. Sums over a different number of threads round differently, so every executor uses the same.
THREADS = 1


def run_bundle(plan: RunPlan, shards: Sequence[Shard], device: str = "cpu") -> Iterator[ShardReport]:
    """The reports of several shards of one checkpoint, each as soon as it is finished; the module is loaded once."""
    for number, shard in enumerate(shards):
        yield run_shard(plan, shard, device, with_probe=number == 0)


def run_shard(plan: RunPlan, shard: Shard, device: str = "cpu", *, with_probe: bool = True) -> ShardReport:
    """Compute one shard and write its region.

    Whatever goes wrong with the checkpoint, the numbers or the store comes back as the report's problem; nothing is
    written then.
    """
    started = time.perf_counter()
    try:
        with _threads(THREADS):
            report = _compute(plan, shard, device, with_probe)
    except Exception as error:
        problem = Problem(_cause(error), _message(error))
        return ShardReport(shard, problem, seconds=time.perf_counter() - started)
    return report


def _cause(error: Exception) -> Cause:
    if isinstance(error, (CheckpointError, ConfigError)):
        return "load"
    if isinstance(error, NonFiniteError):
        return "non-finite"
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, OSError):
        return "storage"
    return "compute"


def _message(error: Exception) -> str:
    text = str(error) or "no message"
    return (
        text if isinstance(error, (CheckpointError, ConfigError, NonFiniteError)) else f"{type(error).__name__}: {text}"
    )


def _compute(plan: RunPlan, shard: Shard, device: str, with_probe: bool) -> ShardReport:
    started = time.perf_counter()
    cohort = plan.cohort(shard.cohort)
    entry = cohort.map_plan(shard.map)
    checkpoint = cohort.checkpoints[shard.checkpoint]
    model = _model(checkpoint, device)
    order = _model_neurons(cohort, checkpoint)
    neurons: list[int] | str = "sum" if shard.neurons is None else list(shard.neurons.of(order))
    stimuli = _stimuli(cohort, entry, shard, device)
    before = time.perf_counter()
    gradmaps = _gradmaps(plan, cohort, entry, model, stimuli, neurons)
    health = assess(
        model,
        gradmaps,
        stimuli,
        kind=entry.kind,
        objective=entry.objective,
        neurons=neurons,
        level=entry.silence_level,
        space=entry.space,
        finite_difference_neurons=plan.config.engine.finite_difference_neurons,
    )
    after = time.perf_counter()
    values = gradmaps.values.to("cpu", torch.float32).numpy()
    write_region(plan, shard, label(plan, shard, _on_map_axes(values, entry)))
    return ShardReport(
        shard,
        route=gradmaps.route,
        block=gradmaps.block,
        seconds=time.perf_counter() - started,
        engine_seconds=after - before,
        companions=_companions(cohort, entry, gradmaps, health),
        probe=probe_response(model, checkpoint.front_end)[order] if with_probe else None,
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@lru_cache(maxsize=2)
def _loaded(key: "_ModelKey") -> nn.Module:
    return load_checkpoint(key.checkpoint.source, device=key.device)


class _ModelKey:
    """A checkpoint on a device, equal to another one by the fingerprint of its weights and recipe."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.checkpoint, self.device = checkpoint, device
        self._key = (checkpoint.id, checkpoint.fingerprint, checkpoint.source.location, device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ModelKey) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _model(checkpoint: Checkpoint, device: str) -> nn.Module:
    """The module of a checkpoint, kept for the next shard of the same one."""
    if checkpoint.error is not None:
        raise CheckpointError(checkpoint.error)
    return _loaded(_ModelKey(checkpoint, device))


def _model_neurons(cohort: CohortPlan, checkpoint: Checkpoint) -> list[int]:
    """For each neuron of the cohort, its position in the model's output."""
    if checkpoint.neurons is None or checkpoint.neurons == cohort.neurons:
        return list(range(len(cohort.neurons)))
    position = {name: index for index, name in enumerate(checkpoint.neurons)}
    return [position[name] for name in cohort.neurons]


@lru_cache(maxsize=4)
def _spectrograms(files: tuple[str, ...]) -> dict[str, np.ndarray]:
    return read_spectrograms(files)


@lru_cache(maxsize=64)
def _sound(path: str) -> np.ndarray:
    return read_sound(path)


def _stimuli(cohort: CohortPlan, entry: MapPlan, shard: Shard, device: str) -> list[Tensor] | None:
    """The stimuli of a shard, each (frequency, time) or (sample,); None for the null or silent spectrogram."""
    if entry.baseline in ("null", "silence"):
        return None
    if entry.kind == "waveform":
        assert shard.stimuli is not None
        arrays = [_sound(path) for path in shard.stimuli.of(entry.stimuli_files)]
    elif entry.baseline == "mean":
        everything = np.concatenate(list(_spectrograms(entry.stimuli_files).values()), axis=1)
        # The mean of each band, held for the whole window.
        arrays = [np.repeat(everything.mean(axis=1, keepdims=True), cohort.lags, axis=1)]
    else:
        assert shard.stimuli is not None
        spectrograms = _spectrograms(entry.stimuli_files)
        arrays = [spectrograms[name] for name in shard.stimuli.of(entry.stimuli)]
    return [torch.as_tensor(array, dtype=torch.float32, device=device) for array in arrays]


def _gradmaps(
    plan: RunPlan,
    cohort: CohortPlan,
    entry: MapPlan,
    model: nn.Module,
    stimuli: list[Tensor] | None,
    neurons: list[int] | str,
) -> Gradmaps:
    engine = plan.config.engine
    common: dict[str, Any] = {
        "neurons": neurons,
        "objective": entry.objective,
        "route": entry.route,
        "dtype": getattr(torch, engine.precision),
        "memory_bytes": None if engine.memory_mib is None else engine.memory_mib * 2**20,
    }
    if entry.kind == "waveform":
        assert stimuli is not None
        assert entry.window is not None
        return Gradmaps.joined(
            [compute_waveform_gradmaps(model, batch, entry.window, **common) for batch in _of_one_length(stimuli)]
        )
    common |= {"space": entry.space, "level": entry.silence_level}
    batches: list[Tensor | None] = [None] if stimuli is None else [*_of_one_length(stimuli)]
    return Gradmaps.joined([compute_strf_gradmaps(model, batch, cohort.lags, **common) for batch in batches])


def _of_one_length(stimuli: list[Tensor]) -> list[Tensor]:
    """Neighbouring stimuli of one length stacked into batches, in order."""
    batches: list[list[Tensor]] = []
    for stimulus in stimuli:
        if batches and batches[-1][0].shape == stimulus.shape:
            batches[-1].append(stimulus)
        else:
            batches.append([stimulus])
    return [torch.stack(batch) for batch in batches]


def _on_map_axes(values: np.ndarray, entry: MapPlan) -> np.ndarray:
    """The engine's (stimulus, neuron, ...) array with the axes of the map: one checkpoint, and no axis it lacks."""
    if "neuron" not in entry.dims:
        values = values[:, 0]
    if entry.stimulus_dim is None:
        values = values[0]
    return values[np.newaxis]


def _companions(cohort: CohortPlan, entry: MapPlan, gradmaps: Gradmaps, health: Health) -> dict[str, np.ndarray]:
    """The numbers beside the map, over (neuron[, stimulus])."""
    step_ms = cohort.frame_ms if entry.kind == "strf" else 1000.0 / (entry.sample_rate or 1.0)
    per_map = {
        "health": health.flags.numpy().astype("uint16"),
        "memory_90": health.memory_lags_90.numpy().astype("float32") * step_ms,
        "memory_99": health.memory_lags_99.numpy().astype("float32") * step_ms,
        "oldest_share": health.oldest_share.numpy().astype("float32"),
        "frame": gradmaps.frames.cpu().numpy().astype("int32"),
    }
    arranged = {}
    for name, values in per_map.items():
        values = values.T  # (neuron, stimulus), as the status lies in the cube
        if entry.stimulus_dim is None:
            values = values[:, 0]
        if "neuron" not in entry.dims:
            values = values[0]
        arranged[name] = np.asarray(values, dtype=values.dtype)
    return arranged
