"""The driver's loop on Ray: bundles go out, reports stream back, and the ledger says what happens next."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

from pipeline.plan.pace import Pace
from pipeline.plan.reports import Problem, ShardReport
from pipeline.plan.shards import RunPlan, Shard
from pipeline.plan.weight import weigh
from pipeline.text import of_error, printable
from tasks import importing
from tasks.ledger import Assignment, Ledger
from tasks.outcome import readable_seconds
from tasks.session import head_address, head_answers

Work = Callable[[RunPlan, Sequence[Shard], str], Iterator[ShardReport]]

#: Bundles of one slot that are on the way at a time: one that runs and one that waits behind it.
BUNDLES_PER_SLOT = 2

#: Ray ends a worker after each GPU task unless told otherwise, and every new one imports torch again.
CALLS_PER_GPU_WORKER = 50

#: Seconds between two writes of the record where nothing new arrives to trigger one.
FLUSH_S = 2.0

RECORD_TRIES = 5

#: Seconds given to reports that are already on their way when a run is stopped.
LAST_REPORTS_S = 0.3

#: A round of the driver that took longer says nothing of the shards: it was busy with the record.
BUSY_S = 2.0

#: Stragglers that are told while they run; a whole slow node would fill the log.
TOLD_STRAGGLERS = 20


class Recorder(Protocol):
    """What keeps the record of a run: takes final reports, writes them now or at the next flush."""

    def record(self, report: ShardReport) -> None:
        """Note the outcome of one shard."""

    def flush(self) -> None:
        """Write what was noted."""


@dataclass(frozen=True)
class Limits:
    """How long things may take before something is done about them.

    Attributes
    ----------
    shard_s
        Time for one shard, counted from when a worker started on it. Longer counts as a hang.
    silence_s
        Time after which a run that has nothing but waiting bundles says what it waits for, again and again.
    infrastructure
        Losses of nodes or objects that a run takes.
    head_s
        Time for which the head may not answer before the run stops. Ray ends the driver after a minute of it, without
        a word that says how far the run came; leaving it takes up to 15 s.
    """

    shard_s: float = 1800.0
    silence_s: float = 60.0
    infrastructure: int = 100
    head_s: float = 15.0


@dataclass
class _Flight:
    """One bundle on the way: which of its shards is being computed, since when, and on which machine."""

    assignment: Assignment
    position: int = 0
    since: float | None = None
    node: str = ""
    cancelled: bool = False

    @property
    def current(self) -> Shard:
        return self.assignment.shards[self.position]

    @property
    def rest(self) -> tuple[Shard, ...]:
        return self.assignment.shards[self.position + 1 :]


@dataclass
class Dispatcher:
    """Sends the shards of a plan to the workers of the Ray that is connected, until none is left or it must stop.

    Attributes
    ----------
    recorder
        Takes every final report; the only thing that writes a record.
    work
        Computes shards of one checkpoint on a worker, in order, and yields a report for each.
    gpus
        Share of a GPU per task; 0 computes on CPUs. Bookkeeping only: nothing limits the memory of a task to it.
    say
        Takes sentences for the user.
    pace
        Knows which shards take too long for their kind; without it none is told.
    """

    plan: RunPlan
    ledger: Ledger
    recorder: Recorder
    work: Work
    gpus: float = 0.0
    limits: Limits = Limits()
    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda sentence: None
    pace: Pace | None = None
    _flights: dict[Any, _Flight] = field(default_factory=dict)
    _slots: int = 0
    _slots_read: float = 0.0
    _head_silent: float | None = None
    _looked: float = 0.0
    _alive: float = 0.0
    _said: float = 0.0
    _flushed: float = 0.0

    def run(self) -> bool:
        """Compute everything; False where it was stopped from outside or by the ledger."""
        import ray

        self._plan_ref = ray.put(self.plan)
        calls = CALLS_PER_GPU_WORKER if self.gpus else 0
        # By value: a worker that looked for it by name could find a lab's `tasks.py`.
        ray.cloudpickle.register_pickle_by_value(importing)
        self._task = ray.remote(num_cpus=1, max_retries=0, max_calls=calls, num_returns="streaming")(
            importing.compute_bundle
        )
        self._alive = time.monotonic()
        while (self._flights or self.ledger.waiting) and self.ledger.stop_reason is None:
            if self.stop():
                self._take_last_reports()
                self._cancel_all()
                return False
            self._submit()
            self._collect()
            self._end_hangs()
            self._tell_stragglers()
            self._flush_now_and_then()
            self._say_what_is_missing()
        self._cancel_all()
        return self.ledger.stop_reason is None

    def _submit(self) -> None:
        import ray

        self._read_slots()
        if self._head_silent is not None:
            return
        most = max(BUNDLES_PER_SLOT * self._slots, BUNDLES_PER_SLOT)
        while len(self._flights) < most and (assignment := self.ledger.take(self._slots)) is not None:
            options = self._options(assignment)
            generator = self._task.options(**options).remote(
                [self._plan_ref],
                ray.cloudpickle.dumps((assignment, self.work)),
                "cuda" if self.gpus else "cpu",
                os.getcwd(),
                self.plan.config.folder,
            )
            self._flights[generator] = _Flight(assignment)

    def _options(self, assignment: Assignment) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.gpus:
            options["num_gpus"] = min(max(1.0, self.gpus), self.gpus * 2**assignment.halvings)
        if assignment.halvings:
            wanted = weigh(self.plan).largest_task_bytes * 2**assignment.halvings
            options["memory"] = min(wanted, int(0.9 * _largest_node_memory()))
        return options

    def _read_slots(self) -> None:
        """Nodes come and go, so the number of tasks that can run is read again every few seconds."""
        import ray

        now = time.monotonic()
        if self._slots and now - self._slots_read < 5.0:
            return
        self._slots_read = now
        if not self._head_is_there():
            return  # Ray would wait for its answer, and nothing else would be done meanwhile
        resources = ray.cluster_resources()
        self._slots = int(resources.get("GPU", 0) / self.gpus) if self.gpus else int(resources.get("CPU", 0))

    def _head_is_there(self) -> bool:
        """Whether the head answers now; the run stops once it has not for too long."""
        if head_answers():
            self._head_silent = None
            return True
        now = time.monotonic()
        if self._head_silent is None:
            self._head_silent = now  # and not when it was last asked: this process may have been busy since
        silence = now - self._head_silent
        if silence > self.limits.head_s:
            self.ledger.stop(
                f"Ray's head at {head_address()} has not answered for {silence:.0f} s, so nothing can be computed any"
                " more; see to its machine, or start another cluster"
            )
        return False

    def _collect(self, timeout: float = 0.2) -> bool:
        """Take what has arrived, waiting for the first item; False where nothing did."""
        import ray

        if not self._flights:
            # Everything is held back for a while, after trouble with the storage.
            time.sleep(min(timeout, max(0.01, self.ledger.next_due_s())))
            return False
        generators = list(self._flights)
        ready, _ = ray.wait(generators, num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(generators, num_returns=len(generators), timeout=0)
        for generator in ready:
            self._receive(generator)
        return bool(ready)

    def _take_last_reports(self) -> None:
        until = time.monotonic() + LAST_REPORTS_S
        while time.monotonic() < until and self._collect(timeout=0):
            pass

    def _receive(self, generator: Any) -> None:
        """Take one item of a bundle: that it started, or the report of its current shard, or how it ended."""
        import ray

        flight = self._flights[generator]
        self._alive = time.monotonic()
        try:
            item = ray.get(next(generator))
        except StopIteration:
            del self._flights[generator]
            self._finish(flight)
            return
        except ray.exceptions.RayError as error:
            del self._flights[generator]
            self._fail(flight, error)
            return
        flight.since = self._alive
        if isinstance(item, ShardReport):
            self._note(flight, item)
        else:
            flight.node = item.node

    def _note(self, flight: _Flight, report: ShardReport) -> None:
        if report.done:
            self._tell_if_slow(flight, report.seconds)
        flight.position += 1
        if report.problem is None:
            self._record(self.ledger.done(report))
            return
        for final in self.ledger.failed(report.shard, report.problem):
            # The shard that was tried carries its own numbers (seconds, route); those given up with it have none.
            self._record(replace(final, seconds=report.seconds) if final.shard == report.shard else final)

    def _finish(self, flight: _Flight) -> None:
        """A bundle ended in good order; after trouble with the storage it ends early, and the rest waits again."""
        if flight.position < len(flight.assignment.shards):
            self._give_back(flight.assignment.shards[flight.position :])

    def _fail(self, flight: _Flight, error: Exception) -> None:
        if flight.position >= len(flight.assignment.shards):
            return  # it died after its last report: nothing is missing
        if flight.since is None and (reason := setup_failure(error)) is not None:
            self.ledger.stop(
                f"the workers cannot be set up, so no shard can be computed: {reason}; see that they have"
                " the packages and modules that this machine has"
            )
            self._give_back(flight.assignment.shards[flight.position :])
            return
        problem = self._problem(flight, error)
        finals = self.ledger.failed(flight.current, problem)
        self._give_back(flight.rest)
        for final in finals:
            self._record(final)

    def _problem(self, flight: _Flight, error: Exception) -> Problem:
        if flight.cancelled:
            return Problem("hang", f"not finished {self.limits.shard_s:g} s after a worker started on it")
        return classify(error)

    def _give_back(self, shards: Sequence[Shard]) -> None:
        for refused in self.ledger.give_back(shards):
            self._record(refused)

    def _end_hangs(self) -> None:
        import ray

        now = time.monotonic()
        for generator, flight in self._flights.items():
            if flight.since is not None and not flight.cancelled and now - flight.since > self.limits.shard_s:
                flight.cancelled = True
                # A gentle cancel does not interrupt a sleeping task, nor one inside a call into C.
                ray.cancel(generator, force=True)

    def _tell_stragglers(self) -> None:
        now = time.monotonic()
        busy, self._looked = now - self._looked > BUSY_S, now
        if busy:
            return  # reports may have come meanwhile that are still to be read
        for flight in self._flights.values():
            if flight.since is not None and flight.position < len(flight.assignment.shards):
                self._tell_if_slow(flight, now - flight.since)

    def _tell_if_slow(self, flight: _Flight, seconds: float) -> None:
        if self.pace is None:
            return
        found = self.pace.running(flight.current, seconds, flight.node, first=flight.position == 0)
        if found is not None and len(self.pace.stragglers) <= TOLD_STRAGGLERS:
            self.say(f"slow: {found}; its deadline is {readable_seconds(self.limits.shard_s)}")

    def _cancel_all(self) -> None:
        import ray

        for generator in self._flights:
            ray.cancel(generator, force=True)
        self._flights.clear()

    def _say_what_is_missing(self) -> None:
        import ray

        now = time.monotonic()
        if any(flight.since is not None for flight in self._flights.values()) or not self._flights:
            self._alive = now
            return
        if now - max(self._alive, self._said) < self.limits.silence_s or self._head_silent is not None:
            return
        self._said = now
        request = f"1 CPU and {self.gpus:g} GPU" if self.gpus else "1 CPU"
        resources = ray.cluster_resources()
        has = f"{resources.get('CPU', 0):g} CPU, {resources.get('GPU', 0):g} GPU"
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        self.say(
            f"no worker has started for {now - self._alive:.0f} s: each task asks for {request}, and the cluster has"
            f" {has} on {nodes} node(s); waiting for nodes to join or to become free"
        )

    def _record(self, report: ShardReport) -> None:
        self._write(lambda: self.recorder.record(report))

    def _flush_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._flushed > FLUSH_S:
            self._flushed = now
            self._write(self.recorder.flush)

    def _write(self, write: Callable[[], None]) -> None:
        """Write the record; a store in trouble is asked again, ever later, before the run stops."""
        for number in range(RECORD_TRIES):
            try:
                write()
            except OSError as error:
                if number == RECORD_TRIES - 1 or self.stop():
                    self.ledger.stop(f"the record cannot be written, so nothing more is computed: {error}")
                    return
                time.sleep(0.5 * 2**number)
                write = self.recorder.flush  # the report itself was noted before the writing failed
            else:
                return


@dataclass(frozen=True)
class Started:
    """First item of a bundle: a worker has begun, so the deadline of its first shard runs from now."""

    node: str


def reports(
    plan_ref: Sequence[Any], assignment: Assignment, device: str, work: Work
) -> Iterator[Started | ShardReport]:
    """What a worker has to say: that it began, then one report per shard."""
    plan = _shipped_plan(plan_ref[0])
    if assignment.halvings:
        plan = _with_less_memory(plan, assignment.halvings)
    yield Started(socket.gethostname())
    for report in work(plan, assignment.shards, device):
        yield report
        if report.problem is not None and report.problem.cause == "storage":
            return  # the next shard would only meet the same trouble


@lru_cache(maxsize=1)
def _shipped_plan(ref: Any) -> RunPlan:
    """The plan that the driver sent once, kept by the worker for its next bundles."""
    import ray

    return ray.get(ref)


def _with_less_memory(plan: RunPlan, halvings: int) -> RunPlan:
    engine = plan.config.engine
    smaller = max(1, (engine.memory_mib or 512) // 2**halvings)
    engine = engine.model_copy(update={"memory_mib": smaller})
    return replace(plan, config=plan.config.model_copy(update={"engine": engine}))


def classify(error: Exception) -> Problem:
    """The cause of an error that Ray raised in place of a report."""
    from ray import exceptions

    message = _first_line(error)
    if isinstance(error, exceptions.OutOfMemoryError):
        return Problem("out of memory", f"the machine ran out of memory, and Ray ended the worker: {message}")
    if isinstance(error, exceptions.WorkerCrashedError):
        return Problem("crash", "the worker process died while computing it (a crash in compiled code, or a kill)")
    if isinstance(error, exceptions.RayTaskError):
        cause = error.cause if isinstance(error.cause, BaseException) else error
        return Problem("storage" if isinstance(cause, OSError) else "compute", of_error(cause))
    return Problem("infrastructure", f"{type(error).__name__}: {message}")


def setup_failure(error: Exception) -> str | None:
    """Why workers cannot begin at all, where an error before their first sign of life says that; None otherwise.

    Their environment fails, or they lack a module that the plan or the work needs. A node or an object that was lost is
    not that: there, another worker may begin.
    """
    from ray import exceptions

    cause = error.cause if isinstance(error, exceptions.RayTaskError) else error
    lost = isinstance(cause, exceptions.RayError) and not isinstance(
        cause, (exceptions.RaySystemError, exceptions.RuntimeEnvSetupError)
    )
    if not isinstance(error, (exceptions.RayTaskError, exceptions.RuntimeEnvSetupError)) or lost:
        return None
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return printable(
        lines[-1] if isinstance(cause, exceptions.RaySystemError) else f"{type(cause).__name__}: {lines[0]}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _largest_node_memory() -> float:
    import ray

    return max((node["Resources"].get("memory", 0.0) for node in ray.nodes() if node["Alive"]), default=0.0)
