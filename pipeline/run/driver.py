"""The driver's side of a run: what is still to be computed, and the record of what came back."""

import getpass
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from pipeline.gradients.health.flags import TABLE
from pipeline.inputs.checkpoint_description import Keep
from pipeline.inputs.checkpoint_memory import Memory, recall
from pipeline.inputs.search_path import look_in
from pipeline.plan.config import RunConfig
from pipeline.plan.run_plan import Checkpoint, RunPlan
from pipeline.plan.shard_reports import Cause, Failure, Problem, ShardReport, tally
from pipeline.plan.shards import Shard
from pipeline.plan.stragglers import Pace, Straggler
from pipeline.run.prepare import prepare_run
from pipeline.store.backend import clean_partials
from pipeline.store.checkpoint_cache import read_memory, write_memory
from pipeline.store.cube import create_or_extend
from pipeline.store.lease import Lease, hold_lease
from pipeline.store.record import record
from pipeline.store.status import backlog
from pipeline.words import Flag

if TYPE_CHECKING:
    from torch import nn

#: Seconds between two writes of the record. A crash costs at most the work of this time, done again.
FLUSH_SECONDS = 2.0

#: Seconds before each further try after the storage failed.
STORAGE_PAUSES = (0.5, 2.0)

#: Parameters of all the modules together that a run in one process keeps between describing and computing.
KEPT_PARAMETERS = 2**26

#: Shards in one bundle at most, so that one checkpoint with many shards still spreads over the workers.
BUNDLE_SHARDS = 16

#: All that a cube tells of its health flags, by name.
HEALTH_FLAGS = {
    one.name: Flag(one.name, one.bit, one.degree, one.meaning, f"{one.threshold}; {one.decided}", one.remedy)
    for one in TABLE
}


@dataclass(frozen=True)
class Bundle:
    """Shards of one checkpoint that one task computes, so that its module is loaded once."""

    cohort: str
    checkpoint: int
    shards: tuple[Shard, ...]


def bundles(shards: Sequence[Shard], most: int = BUNDLE_SHARDS) -> list[Bundle]:
    """The shards grouped by checkpoint, in order; a checkpoint with more than ``most`` shards gets several bundles."""
    grouped: dict[tuple[str, int], list[Shard]] = {}
    for shard in shards:
        grouped.setdefault((shard.cohort, shard.checkpoint), []).append(shard)
    return [
        Bundle(cohort, checkpoint, tuple(group[start : start + most]))
        for (cohort, checkpoint), group in grouped.items()
        for start in range(0, len(group), most)
    ]


@dataclass(frozen=True)
class RunReport:
    """What a run did and what it left."""

    done: int
    failed: int
    pending: int
    computed: int
    seconds: float
    engine_seconds: float
    failures: tuple[Failure, ...] = ()
    stragglers: tuple[Straggler, ...] = ()
    stopped: bool = False
    reason: str = ""
    #: Everything that went wrong on the way, by cause, retried or not.
    faults: tuple[tuple[str, int], ...] = ()

    @property
    def by_cause(self) -> dict[str, int]:
        """Number of failed shards of this run by cause."""
        counts: Counter[str] = Counter()
        for failure in self.failures:
            counts[failure.cause] += failure.shards
        return dict(counts)


@dataclass
class OpenedRun:
    """A run whose cubes exist and belong to this driver; the only way in which results are recorded."""

    plan: RunPlan
    pending: list[Shard]
    done_before: int
    failed_before: int
    lease: Lease
    pace: Pace
    tell: Callable[["OpenedRun"], None]
    started: float = field(default_factory=time.monotonic)
    computed: int = 0
    failed: int = 0
    engine_seconds: float = 0.0
    _failures: dict[tuple[str, str, str, str], Failure] = field(default_factory=dict)
    _waiting: list[ShardReport] = field(default_factory=list)
    _flushed: float = field(default_factory=time.monotonic)

    def record(self, report: ShardReport) -> None:
        """Note the outcome of one shard; it reaches the store within seconds, or at `flush`."""
        self._waiting.append(report)
        self.engine_seconds += report.engine_seconds
        if report.done:
            self.computed += 1
            self.pace.finished(report)
        checkpoint = self.plan.cohort(report.shard.cohort).checkpoints[report.shard.checkpoint].id
        if (failure := report.failure(checkpoint)) is not None:
            self.failed += 1
            tally(self._failures, failure)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()
        self.tell(self)

    def flush(self) -> None:
        """Write everything noted so far into the store, trying again after a pause where the storage failed.

        Raises `LeaseLostError` if another driver has taken the store over, and `OSError` if the storage failed every
        time; what was noted stays noted.
        """
        for pause in (*STORAGE_PAUSES, None):
            # A driver that slept for long may have been given up for dead, and another one works on the store now.
            if self._waiting:
                self.lease.check()
            try:
                record(self.plan, self._waiting, held=self.lease.store)
                break
            except OSError:
                if pause is None:
                    raise
                time.sleep(pause)
        self._waiting = []
        self._flushed = time.monotonic()

    def summary(
        self, *, stopped: bool = False, reason: str = "", faults: Mapping[Cause, int] = MappingProxyType({})
    ) -> RunReport:
        """The counts of the run so far."""
        return RunReport(
            done=self.done_before + self.computed,
            failed=self.failed_before + self.failed,
            pending=len(self.pending) - self.computed - self.failed,
            computed=self.computed,
            seconds=time.monotonic() - self.started,
            engine_seconds=self.engine_seconds,
            failures=tuple(self._failures.values()),
            stragglers=self.pace.stragglers,
            stopped=stopped,
            reason=reason,
            faults=tuple(sorted(faults.items())),
        )


def prepare_remembering(
    config: RunConfig, keep: Keep | None = None, reading: Callable[[int, int], None] = lambda done, total: None
) -> tuple[RunPlan, Memory]:
    """The plan of a run and what is known of its checkpoints, most of it remembered by the store."""
    look_in(config.folder)  # what is remembered of a lab's modules holds where they are found as they were
    memory = recall(read_memory(config.store_location()))
    return prepare_run(config, keep, memory, reading), memory


@contextmanager
def open_run(
    plan: RunPlan, tell: Callable[[OpenedRun], None] | None = None, memory: Memory | None = None
) -> Iterator[OpenedRun]:
    """A run ready to be computed: this driver alone on the store, the cubes created or extended, the rest listed.

    What was learnt of the checkpoints is remembered. Those that could not be described are recorded as failed here;
    their shards are not pending. What was recorded is written when the context ends, however it ends. ``tell`` is
    called once the run is open and after every record, for a progress display.

    Raises `ConfigError` if the store holds something else under the same names, or another driver works on it.
    """
    with hold_lease(plan.store, owner=f"{getpass.getuser()}@{socket.gethostname()}") as lease:
        clean_partials(plan.store)
        create_or_extend(plan, health_flags=HEALTH_FLAGS, held=lease.store)
        if memory is not None and memory.changed:
            write_memory(lease.store, memory.written())
        left = backlog(plan)
        told = tell or (lambda opened: None)
        opened = OpenedRun(left.plan, left.pending, left.done, left.failed, lease, Pace(left.plan), told)
        try:
            _record_unusable(opened)
            opened.tell(opened)
            yield opened
        finally:
            opened.flush()


def _record_unusable(opened: OpenedRun) -> None:
    for shard in opened.pending:
        checkpoint = opened.plan.cohort(shard.cohort).checkpoints[shard.checkpoint]
        if checkpoint.error is not None:
            opened.record(ShardReport(shard, Problem("load", checkpoint.error)))
    opened.flush()


def run_locally(
    run: RunConfig | RunPlan,
    *,
    report: Callable[[OpenedRun], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    device: str = "cpu",
    reading: Callable[[int, int], None] = lambda done, total: None,
) -> RunReport:
    """Report of a run that computes everything that is missing, shard by shard, in this process.

    Parameters
    ----------
    report
        Called when the run is open, then after every record, for a progress display.
    stop
        Asked before every shard; once it answers True nothing more is started, and what was computed is recorded.
    reading
        Called with how many checkpoints are described, and of how many.

    Raises
    ------
    ConfigError
        If the run is refused before any compute.

    Examples
    --------
    >>> from pipeline import load_config, run_locally
    >>> report = run_locally(load_config("run.toml"))
    >>> report.done, report.failed, report.computed  # all of it was there already
    (4, 0, 0)
    """
    models = Models()
    plan, memory = (run, None) if isinstance(run, RunPlan) else prepare_remembering(run, models.keep, reading)
    with open_run(plan, report, memory) as opened:
        waiting = bundles(computable(opened))
        if waiting:
            # Torch and the engine are imported here: a run that finds everything written does without them.
            from pipeline.run.local_loop import compute_bundles

            failure = compute_bundles(opened, waiting, models, stop, device)
            if opened.summary().pending and failure:
                return opened.summary(stopped=True, reason=failure)
        left = opened.summary().pending
        return opened.summary(stopped=left > 0, reason="asked to stop" if left else "")


class Models:
    """Modules that were built to describe their checkpoints, kept for their shards as far as they are small."""

    def __init__(self) -> None:
        self._modules: dict[tuple[str, str], "nn.Module"] = {}
        self._parameters = 0

    @property
    def modules(self) -> "dict[str, nn.Module]":
        """The modules by fingerprint."""
        return {fingerprint: module for (_, fingerprint), module in self._modules.items()}

    def keep(self, checkpoint: Checkpoint, module: "nn.Module") -> None:
        if self._parameters + checkpoint.n_parameters <= KEPT_PARAMETERS:
            self._parameters += checkpoint.n_parameters
            self._modules[checkpoint.source.location, checkpoint.fingerprint] = module

    def take(self, checkpoint: Checkpoint) -> "nn.Module | None":
        module = self._modules.pop((checkpoint.source.location, checkpoint.fingerprint), None)
        self._parameters -= checkpoint.n_parameters if module is not None else 0
        return module


def computable(opened: OpenedRun) -> list[Shard]:
    """The pending shards whose checkpoint can be loaded."""
    cohorts = {cohort.name: cohort for cohort in opened.plan.cohorts}
    return [shard for shard in opened.pending if cohorts[shard.cohort].checkpoints[shard.checkpoint].usable]
