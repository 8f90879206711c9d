"""The same work as `run_locally`, on Ray: on this machine, or on a cluster."""

import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from pipeline.plan.config import RunConfig
from pipeline.plan.run_plan import RunPlan
from pipeline.run.driver import OpenedRun, RunReport, computable, open_run, prepare_remembering
from tasks.dispatch import Dispatcher, Limits
from tasks.gpus import gpus_per_task
from tasks.ledger import Ledger
from tasks.on_ray import RayExecutor, Work
from tasks.session import attached_ray, cluster_address, local_ray


@dataclass(frozen=True)
class Watch:
    """Who follows a run, and may stop it."""

    #: Called when the run is open, then after every record, for a progress display.
    report: Callable[[OpenedRun], None] | None = None
    #: Takes sentences for the user: what the run waits for, or works around.
    say: Callable[[str], None] = lambda sentence: None
    #: Asked several times a second; once it answers True, nothing more is started and what came back is recorded.
    stop: Callable[[], bool] = lambda: False
    #: Called before Ray is started or joined, which takes some seconds, and once it runs.
    begin: Callable[[], None] = lambda: None
    ready: Callable[[], None] = lambda: None
    #: Called with how many checkpoints are described, and of how many.
    reading: Callable[[int, int], None] = lambda done, total: None


def run_on_ray(
    run: RunConfig | RunPlan,
    *,
    address: str | None = None,
    gpus: float | Literal["auto"] | None = None,
    watch: Watch = Watch(),
    limits: Limits | None = None,
    workers: int | None = None,
    work: Work | None = None,
) -> RunReport:
    """Report of a run on Ray that computes everything that is missing, and nothing else.

    Parameters
    ----------
    address
        A cluster's ``host:port`` or ``"auto"``. By default a Ray of our own is started on this machine, or,
        inside a submitted job, the job's cluster is used.
    gpus
        Share of a GPU per task, 0 for CPUs, ``"auto"`` for as many tasks on a GPU as its memory takes. By default a
        whole GPU where the cluster has one.
    watch
        Who follows the run, and may stop it.
    limits
        How long a shard may take, and how much bad luck a run takes.
    workers
        Number of tasks at a time on a Ray of our own; one per core by default.
    work
        Computes shards on a worker; `run_bundle` by default.

    Raises
    ------
    ConfigError
        If the run is refused before any compute, or the cluster cannot be reached.
    """
    where = cluster_address(address)
    plan, memory = (run, None) if isinstance(run, RunPlan) else prepare_remembering(run, reading=watch.reading)
    limits = limits or Limits()
    with open_run(plan, watch.report, memory) as opened:
        shards = computable(opened)
        if not shards:
            return _summary(opened, Ledger(()), stopped=False)
        ledger = Ledger(shards, infrastructure_cap=limits.infrastructure)
        watch.begin()
        with _session(opened.plan, where, workers):
            watch.ready()
            share = gpus_per_task(gpus, opened.plan, watch.say)
            executor = RayExecutor(opened.plan, work or _run_bundle(), gpus=share, head_s=limits.head_s)
            dispatcher = Dispatcher(
                executor, ledger, opened, limits=limits, stop=watch.stop, say=watch.say, pace=opened.pace
            )
            finished = dispatcher.run()
            opened.flush()
        return _summary(opened, ledger, stopped=not finished)


def _run_bundle() -> Work:
    from pipeline.run.shard import run_bundle  # which waits for torch

    return run_bundle


def _session(plan: RunPlan, where: str | None, workers: int | None) -> AbstractContextManager[None]:
    if where is None:
        return local_ray(workers, plan_bytes=len(pickle.dumps(plan)), beside=plan.config.folder)
    return attached_ray(where, named_modules(plan.config), plan.config.folder)


def named_modules(config: RunConfig) -> Iterator[str]:
    """Every module that the config names a class or a factory of."""
    for cohort in config.cohort:
        for entry in cohort.checkpoints:
            names = [entry.class_name, entry.factory, *(module.class_name for module in entry.modules.values())]
            yield from (name.partition(":")[0] for name in names if name)


def _summary(opened: OpenedRun, ledger: Ledger, *, stopped: bool) -> RunReport:
    left = next(iter(ledger.left.values()), None)
    reason = ledger.stop_reason or (f"the storage failed for some shards: {left.message}" if left else "")
    return opened.summary(stopped=stopped or left is not None, reason=reason, faults=ledger.faults)
