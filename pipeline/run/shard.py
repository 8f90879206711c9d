"""One shard end to end: load the checkpoint, compute its maps, write its region, report."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import nn

from pipeline.gradients.contract import ContractError
from pipeline.gradients.naming import name_of
from pipeline.gradients.torch_state.memory import is_out_of_memory
from pipeline.inputs.checkpoints import CheckpointError, load_checkpoint, probe_response
from pipeline.inputs.lab_code import InterruptedItselfError, asked_interrupts_only
from pipeline.plan.config import ConfigError
from pipeline.plan.run_plan import Checkpoint, RunPlan
from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from pipeline.run.job import Job, model_neurons
from pipeline.run.kinds import COMPUTE
from pipeline.store.digests import map_digests
from pipeline.store.regions import NonFiniteError, label, write_region
from pipeline.text import of_error, of_exit
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
    """Report of one shard, computed and written.

    Whatever goes wrong with the checkpoint, the numbers or the store comes back as the report's problem; nothing is
    written then.

    ``with_probe``: Whether the checkpoint's response to the fixed probe is reported as well. ``model``: The
    checkpoint's module, where the caller has it; loaded otherwise.
    """
    return store_shard(plan, *compute_shard(plan, shard, device, with_probe=with_probe, model=model))


def compute_shard(
    plan: RunPlan, shard: Shard, device: str = "cpu", *, with_probe: bool = True, model: nn.Module | None = None
) -> tuple[ShardReport, dict[str, np.ndarray] | None]:
    """The report of a shard and its maps, which are still to be written; None in their place if there is a problem.

    The parameters are those of `run_shard`.
    """
    started = time.perf_counter()
    try:
        with _threads(THREADS), asked_interrupts_only():
            return _compute(plan, shard, device, with_probe, model)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a model's own code may ask the process to end, which is not its to decide
        return _failed(shard, error, started), None


def store_shard(plan: RunPlan, report: ShardReport, arrays: dict[str, np.ndarray] | None) -> ShardReport:
    """The report of a shard whose maps have been written, or the problem why they could not."""
    if arrays is None:
        return report
    started = time.perf_counter() - report.seconds
    try:
        labelled = label(plan, report.shard, arrays)
        write_region(plan, report.shard, labelled)
        entry = plan.cohort(report.shard.cohort).map_plan(report.shard.map)
        variables = {name: values.variable for name, values in labelled.items()}
        digests = map_digests(entry.status_dims, variables, report.companions, entry.settings.companions)
    except Exception as error:
        return _failed(report.shard, error, started)
    return replace(report, digests=digests, seconds=time.perf_counter() - started)


def _failed(shard: Shard, error: BaseException, started: float) -> ShardReport:
    return ShardReport(shard, Problem(_cause(error), _message(error)), seconds=time.perf_counter() - started)


def _cause(error: BaseException) -> Cause:
    if isinstance(error, (CheckpointError, ConfigError)):
        return "load"
    if isinstance(error, (ContractError, SystemExit, InterruptedItselfError)):
        return "contract"
    if isinstance(error, NonFiniteError):
        return "non-finite"
    if isinstance(error, OSError):
        return "storage"
    if is_out_of_memory(error):
        return "out of memory"
    return "compute"


def _message(error: BaseException) -> str:
    if isinstance(error, (CheckpointError, ConfigError, ContractError, NonFiniteError)):
        return str(error)
    if isinstance(error, (SystemExit, InterruptedItselfError)):
        call = of_exit(error) if isinstance(error, SystemExit) else str(error)
        return (
            f"the model's code asked the process to end ({call}), so no map was made; take the call"
            " out of the code that runs in forward"
        )
    return of_error(error)


def _compute(
    plan: RunPlan, shard: Shard, device: str, with_probe: bool, model: nn.Module | None
) -> tuple[ShardReport, dict[str, np.ndarray]]:
    started = time.perf_counter()
    cohort = plan.cohort(shard.cohort)
    entry = cohort.map_plan(shard.map)
    checkpoint = cohort.checkpoints[shard.checkpoint]
    load = _loader(checkpoint, device, model)
    order = model_neurons(cohort, checkpoint)
    neurons = order if shard.neurons is None else shard.neurons.of(order)
    job = Job(cohort, entry, shard, plan.config.engine, device, load, tuple(neurons))
    model = None if checkpoint.members else load(checkpoint)
    before = time.perf_counter()
    computed = COMPUTE[entry.kind](job)
    after = time.perf_counter()
    report = ShardReport(
        shard,
        route=computed.route,
        device=device_name(device),
        block=computed.block,
        engine_seconds=after - before,
        companions=dict(computed.companions),
        probe=probe_response(model, checkpoint.front_end)[order] if with_probe and model is not None else None,
        seconds=time.perf_counter() - started,
    )
    return report, {variable.name: computed.arrays[variable.suffix] for variable in entry.computed}


def device_name(device: str) -> str:
    """What a device is called by its maker; the processor is just that."""
    if not device.startswith("cuda"):
        return device
    return torch.cuda.get_device_name(device).replace(",", " ")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Torch and numpy's linear algebra on so many threads.

    Several threads also take longer than one for matrices as small as those of one neuron, above all on busy cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with _linear_algebra().limit(limits=count, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _linear_algebra() -> ThreadpoolController:
    return ThreadpoolController()


@lru_cache(maxsize=2)
def _loaded(key: "_ModelKey") -> nn.Module:
    checkpoint = key.checkpoint
    model = load_checkpoint(checkpoint.source, device=key.device, fingerprint=checkpoint.fingerprint or None)
    for name, described in (("O", checkpoint.n_neurons), ("F", checkpoint.n_bands)):
        if getattr(model, name, described) != described:
            raise CheckpointError(
                f"{name_of(model)} of {checkpoint.id} has {name} = {getattr(model, name)}, and {described} when"
                " the run was planned, so its code is not the same; plan the run again, on the machine that computes"
            )
    return model


class _ModelKey:
    """A checkpoint on a device, equal to another one by the fingerprint of its weights and recipe."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.checkpoint, self.device = checkpoint, device
        self._key = (checkpoint.id, checkpoint.fingerprint, checkpoint.source.location, device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ModelKey) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _loader(given_for: Checkpoint, device: str, given: nn.Module | None) -> Callable[[Checkpoint], nn.Module]:
    """What gives a checkpoint's module, kept for the next shard of the same one; one that the caller has, as it is."""

    def load(checkpoint: Checkpoint) -> nn.Module:
        if given is not None and checkpoint is given_for:
            return given.to(device)
        if checkpoint.error is not None:
            raise CheckpointError(checkpoint.error)
        return _loaded(_ModelKey(checkpoint, device))

    return load
