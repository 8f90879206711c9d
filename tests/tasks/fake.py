"""A place that computes bundles as a test says: no process, no Ray, every item at once."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from tasks.executor import BundleEnded, Item, Started
from tasks.ledger import Assignment

#: What becomes of a shard at its n-th attempt: None where it is done, a cause that its report tells, a cause after
#: "dies: " with which its bundle ends, or "hangs".
Fate = Callable[[Shard, int], str | None]


@dataclass
class FakeExecutor:
    """Computes one bundle per slot at a time; the others wait."""

    fate: Fate = lambda shard, attempt: None
    n_slots: int | None = 2
    lost: str | None = None
    setup: str | None = None
    begun: Counter[Shard] = field(default_factory=Counter)
    submitted: list[Assignment] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    most: int = 0
    _running: dict[int, tuple[Assignment, int]] = field(default_factory=dict)

    def submit(self, assignment: Assignment) -> int:
        self.submitted.append(assignment)
        self._running[len(self.submitted)] = (assignment, -1)
        self.most = max(self.most, len(self._running))
        return len(self.submitted)

    def poll(self, bundles: Sequence[int], timeout_s: float) -> list[tuple[int, Item]]:
        first = [bundle for bundle in bundles if bundle in self._running][: max(1, self.n_slots or 1)]
        found = [(bundle, self._next(bundle)) for bundle in first]
        return [(bundle, item) for bundle, item in found if item is not None]

    def _next(self, bundle: int) -> Item | None:
        assignment, position = self._running[bundle]
        if self.setup is not None:
            return self._end(bundle, BundleEnded(Problem("compute", self.setup), self.setup))
        if bundle in self.cancelled:
            return self._end(bundle, BundleEnded(Problem("crash", "it was cancelled")))
        if position == -1:
            self._running[bundle] = (assignment, 0)
            return Started("a node")
        if position == len(assignment.shards):
            return self._end(bundle, BundleEnded())
        shard = assignment.shards[position]
        self.begun[shard] += 1
        told = self.fate(shard, self.begun[shard])
        if told == "hangs":
            self.begun[shard] -= 1
            return None
        if told is not None and told.startswith("dies: "):
            return self._end(bundle, BundleEnded(Problem(told.removeprefix("dies: "), "told so")))
        self._running[bundle] = (assignment, position + 1)
        return ShardReport(shard, None if told is None else Problem(told, "told so"), seconds=0.01)

    def _end(self, bundle: int, ended: BundleEnded) -> BundleEnded:
        del self._running[bundle]
        return ended

    def cancel(self, bundle: int) -> None:
        self.cancelled.append(bundle)

    def slots(self) -> int | None:
        return self.n_slots

    def why_lost(self) -> str | None:
        return self.lost

    def shortage(self) -> str:
        return "each bundle asks for a slot, and there are none"
