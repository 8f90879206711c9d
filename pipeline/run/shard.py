"""One shard end to end: load the checkpoint, compute its maps, write its region, report."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.gradients.gradmaps import compute_strf_gradmaps, compute_waveform_gradmaps
from pipeline.gradients.health import assess
from pipeline.gradients.routes.memory import is_out_of_memory
from pipeline.inputs.checkpoints import CheckpointError, load_checkpoint, probe_response
from pipeline.inputs.stimuli import read_sound, read_spectrograms, samples_digest
from pipeline.plan.config import ConfigError
from pipeline.plan.reports import Problem, ShardReport
from pipeline.plan.shards import Checkpoint, CohortPlan, MapPlan, RunPlan, Shard
from pipeline.store.regions import NonFiniteError, label, write_region
from pipeline.text import of_error
from pipeline.words import Cause

#: Threads of one task. Sums over a different number of threads round differently, so every executor uses the same.
THREADS = 1


def run_bundle(plan: RunPlan, shards: Sequence[Shard], device: str = "cpu") -> Iterator[ShardReport]:
    """The reports of several shards of one checkpoint, each as soon as it is finished; the module is loaded once."""
    for number, shard in enumerate(shards):
        yield run_shard(plan, shard, device, with_probe=number == 0)


def run_shard(
    plan: RunPlan, shard: Shard, device: str = "cpu", *, with_probe: bool = True, model: nn.Module | None = None
) -> ShardReport:
    """Compute one shard and write its region.

    Whatever goes wrong with the checkpoint, the numbers or the store comes back as the report's problem; nothing is
    written then.

    Parameters
    ----------
    with_probe
        Whether the checkpoint's response to the fixed probe is reported as well.
    model
        The checkpoint's module, where the caller has it; loaded otherwise.
    """
    return store_shard(plan, *compute_shard(plan, shard, device, with_probe=with_probe, model=model))


def compute_shard(
    plan: RunPlan, shard: Shard, device: str = "cpu", *, with_probe: bool = True, model: nn.Module | None = None
) -> tuple[ShardReport, np.ndarray | None]:
    """The report of a shard and its maps, which are still to be written; None in their place if there is a problem.

    The parameters are those of `run_shard`.
    """
    started = time.perf_counter()
    try:
        with _threads(THREADS):
            return _compute(plan, shard, device, with_probe, model)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a model's own code may ask the process to end, which is not its to decide
        return _failed(shard, error, started), None


def store_shard(plan: RunPlan, report: ShardReport, values: np.ndarray | None) -> ShardReport:
    """The report of a shard whose maps have been written, or the problem why they could not."""
    if values is None:
        return report
    started = time.perf_counter() - report.seconds
    try:
        write_region(plan, report.shard, label(plan, report.shard, values))
    except Exception as error:
        return _failed(report.shard, error, started)
    return replace(report, seconds=time.perf_counter() - started)


def _failed(shard: Shard, error: BaseException, started: float) -> ShardReport:
    return ShardReport(shard, Problem(_cause(error), _message(error)), seconds=time.perf_counter() - started)


def _cause(error: BaseException) -> Cause:
    if isinstance(error, (CheckpointError, ConfigError)):
        return "load"
    if isinstance(error, NonFiniteError):
        return "non-finite"
    if isinstance(error, OSError):
        return "storage"
    if is_out_of_memory(error):
        return "out of memory"
    return "compute"


def _message(error: BaseException) -> str:
    if isinstance(error, (CheckpointError, ConfigError, NonFiniteError)):
        return str(error)
    if isinstance(error, SystemExit):
        return (
            f"the model's code asked the process to end (sys.exit({error.code!r})), so no map was made; take the call"
            " out of the code that runs in forward"
        )
    return of_error(error)


def _compute(
    plan: RunPlan, shard: Shard, device: str, with_probe: bool, model: nn.Module | None
) -> tuple[ShardReport, np.ndarray]:
    started = time.perf_counter()
    cohort = plan.cohort(shard.cohort)
    entry = cohort.map_plan(shard.map)
    checkpoint = cohort.checkpoints[shard.checkpoint]
    model = _model(checkpoint, device) if model is None else model.to(device)
    order = _model_neurons(cohort, checkpoint)
    neurons: list[int] | str = "sum" if shard.neurons is None else list(shard.neurons.of(order))
    batches = _stimuli(cohort, entry, shard, device)
    before = time.perf_counter()
    found = _joined([_found(plan, cohort, entry, model, batch, neurons) for batch in batches])
    after = time.perf_counter()
    report = ShardReport(
        shard,
        route=found.route,
        block=found.block,
        engine_seconds=after - before,
        companions=_companions(cohort, entry, found),
        probe=probe_response(model, checkpoint.front_end)[order] if with_probe else None,
        seconds=time.perf_counter() - started,
    )
    return report, _on_map_axes(found.values, entry)


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
    return load_checkpoint(key.checkpoint.source, device=key.device, fingerprint=key.checkpoint.fingerprint or None)


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
def _spectrograms(files: tuple[str, ...], names: tuple[str, ...], digests: tuple[str, ...]) -> dict[str, np.ndarray]:
    with _still_there():
        arrays = read_spectrograms(files)
    for name, digest in zip(names, digests, strict=True):
        _refuse_changed(name, arrays.get(name), digest)
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


def _stimuli(cohort: CohortPlan, entry: MapPlan, shard: Shard, device: str) -> list[Tensor | None]:
    """The stimuli of a shard, those of one length stacked; one None for the null or silent spectrogram."""
    if entry.baseline in ("null", "silence"):
        return [None]
    if entry.kind == "waveform":
        assert shard.stimuli is not None
        named = zip(entry.stimuli_files, entry.stimuli, entry.stimuli_digests, strict=True)
        arrays = [_sound(*one) for one in shard.stimuli.of(tuple(named))]
    elif entry.baseline == "mean":
        heard = _spectrograms(entry.stimuli_files, entry.stimuli, entry.stimuli_digests)
        everything = np.concatenate([heard[name] for name in entry.stimuli], axis=1)
        # The mean of each band, held for the whole window.
        arrays = [np.repeat(everything.mean(axis=1, keepdims=True), cohort.lags, axis=1)]
    else:
        assert shard.stimuli is not None
        spectrograms = _spectrograms(entry.stimuli_files, entry.stimuli, entry.stimuli_digests)
        arrays = [spectrograms[name] for name in shard.stimuli.of(entry.stimuli)]
    neighbours = groupby(arrays, key=lambda array: array.shape)
    return [torch.as_tensor(np.stack(list(group)), dtype=torch.float32, device=device) for _, group in neighbours]


@dataclass(frozen=True)
class _Found:
    """The maps of some stimuli and the numbers beside them, all (stimulus, neuron, ...)."""

    values: np.ndarray
    companions: dict[str, np.ndarray]
    route: str
    block: int


def _found(
    plan: RunPlan,
    cohort: CohortPlan,
    entry: MapPlan,
    model: nn.Module,
    stimuli: Tensor | None,
    neurons: list[int] | str,
) -> _Found:
    engine = plan.config.engine
    settings: dict[str, Any] = {
        "neurons": neurons,
        "objective": entry.objective,
        "route": entry.route,
        "dtype": getattr(torch, engine.precision),
        "memory_bytes": None if engine.memory_mib is None else engine.memory_mib * 2**20,
    }
    about: dict[str, Any] = {"objective": entry.objective, "neurons": neurons, "level": entry.silence_level}
    if entry.kind == "waveform":
        assert stimuli is not None
        assert entry.window is not None
        lags = entry.window
        maps = compute_waveform_gradmaps(model, stimuli, lags, **settings)
    else:
        lags = cohort.lags
        about["space"] = entry.space
        maps = compute_strf_gradmaps(model, stimuli, lags, space=entry.space, level=entry.silence_level, **settings)
    sample = engine.finite_difference_neurons
    health = assess(model, maps, stimuli, lags, sample=sample, finite_difference=sample > 0, **about)
    return _Found(
        values=_array(maps.values, "float32"),
        companions={
            "health": _array(health.flags, "uint16"),
            "memory_90": _array(health.memory_lags_90, "float32"),
            "memory_99": _array(health.memory_lags_99, "float32"),
            "oldest_share": _array(health.oldest_share, "float32"),
            "frame": _array(maps.frames, "int32"),
        },
        route=maps.route,
        block=maps.block,
    )


def _array(tensor: Tensor, dtype: str) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(dtype, copy=False)


def _joined(found: list[_Found]) -> _Found:
    if len(found) == 1:
        return found[0]
    return _Found(
        values=np.concatenate([part.values for part in found]),
        companions={name: np.concatenate([part.companions[name] for part in found]) for name in found[0].companions},
        route="+".join(dict.fromkeys(part.route for part in found)),
        block=min(part.block for part in found),
    )


def _on_map_axes(values: np.ndarray, entry: MapPlan) -> np.ndarray:
    """The engine's (stimulus, neuron, ...) array with the axes of the map: one checkpoint, and no axis it lacks."""
    if "neuron" not in entry.dims:
        values = values[:, 0]
    if entry.stimulus_dim is None:
        values = values[0]
    return values[np.newaxis]


def _companions(cohort: CohortPlan, entry: MapPlan, found: _Found) -> dict[str, np.ndarray]:
    """The numbers beside the map, over (neuron[, stimulus]), times in ms."""
    step_ms = np.float32(cohort.frame_ms if entry.kind == "strf" else 1000.0 / (entry.sample_rate or 1.0))
    arranged = {}
    for name, values in found.companions.items():
        # A memory of n lags reaches to the lag (n - 1) steps back; an all-zero map has none.
        scaled = (
            np.where(values > 0, (values - 1) * step_ms, np.float32(np.nan)) if name.startswith("memory") else values
        )
        by_neuron = scaled.T if entry.stimulus_dim is not None else scaled[0]
        arranged[name] = by_neuron if "neuron" in entry.dims else by_neuron[0]
    return arranged
