"""The driver's loop: bundles go out, reports stream back, and the ledger says what happens next."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from pipeline.plan.stragglers import Pace
from pipeline.text import readable_seconds
from tasks.executor import BundleEnded, Executor, Item, Started, Ticket
from tasks.ledger import Assignment, Ledger

#: Bundles of one slot that are on the way at a time: one that runs and one that waits behind it.
BUNDLES_PER_SLOT = 2

#: Seconds between two writes of the record where nothing new arrives to trigger one.
FLUSH_S = 2.0

#: Times that a store in trouble is asked to take the record before the run stops.
RECORD_TRIES = 5

#: Seconds given to reports that are already on their way when a run is stopped.
LAST_REPORTS_S = 0.3

#: Seconds within which such a report arrives.
ON_ITS_WAY_S = 0.1

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
    """How long things may take before something is done about them."""

    #: Time for one shard, counted from when a worker started on it. Longer counts as a hang.
    shard_s: float = 1800.0
    #: Time after which a run that has nothing but waiting bundles says what it waits for, again and again.
    silence_s: float = 60.0
    #: Losses of nodes or objects that a run takes.
    infrastructure: int = 100
    #: Time for which a cluster's head may not answer before the run stops.
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
    """The shards of a plan on their way to an executor and back, until none is left or it must stop."""

    #: Computes the bundles.
    executor: Executor
    ledger: Ledger
    #: Takes every final report; the only thing that writes a record.
    recorder: Recorder
    limits: Limits = Limits()
    stop: Callable[[], bool] = lambda: False
    #: Takes sentences for the user.
    say: Callable[[str], None] = lambda sentence: None
    #: Knows which shards take too long for their kind; without it none is told.
    pace: Pace | None = None
    _flights: dict[Ticket, _Flight] = field(default_factory=dict)
    _answers: bool = True
    _looked: float = 0.0
    _alive: float = 0.0
    _said: float = 0.0
    _flushed: float = 0.0

    def run(self) -> bool:
        """Whether everything was computed; False where it was stopped from outside or by the ledger."""
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
        slots = self.executor.slots()
        self._answers = slots is not None
        if (lost := self.executor.why_lost()) is not None:
            self.ledger.stop(lost)
        if slots is None:
            return
        most = BUNDLES_PER_SLOT * max(slots, 1)
        while len(self._flights) < most and (assignment := self.ledger.take(slots)) is not None:
            self._flights[self.executor.submit(assignment)] = _Flight(assignment)

    def _collect(self, timeout_s: float = 0.2) -> bool:
        """Whether anything arrived, and was taken; the first item is waited for."""
        if not self._flights:
            # Everything is held back for a while, after trouble with the storage.
            time.sleep(min(timeout_s, max(0.01, self.ledger.next_due_s())))
            return False
        arrived = self.executor.poll(list(self._flights), timeout_s)
        for bundle, item in arrived:
            self._receive(bundle, item)
        return bool(arrived)

    def _take_last_reports(self) -> None:
        until = time.monotonic() + LAST_REPORTS_S
        # A report that left its worker a moment ago is not here yet: without the wait it would be computed again.
        while time.monotonic() < until and self._collect(timeout_s=ON_ITS_WAY_S):
            pass

    def _receive(self, bundle: Ticket, item: Item) -> None:
        """Take one item of a bundle: that it started, or the report of its current shard, or how it ended."""
        flight = self._flights[bundle]
        self._alive = time.monotonic()
        if isinstance(item, BundleEnded):
            del self._flights[bundle]
            if item.problem is None:
                self._finish(flight)
            else:
                self._fail(flight, item.problem, item.setup)
            return
        flight.since = self._alive
        if isinstance(item, Started):
            flight.node = item.node
        else:
            self._note(flight, item)

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

    def _fail(self, flight: _Flight, problem: Problem, setup: str | None) -> None:
        if flight.position >= len(flight.assignment.shards):
            return  # it died after its last report: nothing is missing
        if flight.since is None and setup is not None:
            self.ledger.stop(
                f"the workers cannot be set up, so no shard can be computed: {setup}; see that they have the"
                " packages and modules that this machine has"
            )
            self._give_back(flight.assignment.shards[flight.position :])
            return
        if flight.cancelled:
            problem = Problem("hang", f"not finished {self.limits.shard_s:g} s after a worker started on it")
        finals = self.ledger.failed(flight.current, problem)
        self._give_back(flight.rest)
        for final in finals:
            self._record(final)

    def _give_back(self, shards: Sequence[Shard]) -> None:
        for refused in self.ledger.give_back(shards):
            self._record(refused)

    def _end_hangs(self) -> None:
        now = time.monotonic()
        for bundle, flight in self._flights.items():
            if flight.since is not None and not flight.cancelled and now - flight.since > self.limits.shard_s:
                flight.cancelled = True
                self.executor.cancel(bundle)

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
        for bundle in self._flights:
            self.executor.cancel(bundle)
        self._flights.clear()

    def _say_what_is_missing(self) -> None:
        now = time.monotonic()
        if any(flight.since is not None for flight in self._flights.values()) or not self._flights:
            self._alive = now
            return
        if now - max(self._alive, self._said) < self.limits.silence_s or not self._answers:
            return
        self._said = now
        self.say(
            f"no worker has started for {now - self._alive:.0f} s: {self.executor.shortage()}; waiting for nodes to"
            " join or to become free"
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
