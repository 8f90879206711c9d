"""What has become of every shard of a run, and what is done next about those that failed."""

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from pipeline.plan.shard_reports import Cause, Problem, ShardReport
from pipeline.plan.shards import Shard


@dataclass(frozen=True)
class Policy:
    """What is done about one cause of failure.

    ``tries`` is how often a shard may fail this way before it is given up (0: it is never charged). ``takes_down`` says
    what goes with a shard that is given up before anything of its checkpoint succeeded. ``breaker`` is the number of
    shards given up this way after which the rest of the map or checkpoint is not tried any more (0: never).
    """

    tries: int
    takes_down: str = "shard"
    breaker: int = 0
    breaks: str = "checkpoint"
    smaller: bool = False
    backoff_s: float = 0.0


#: Crashes are retried, bugs are not: a checkpoint that cannot be loaded now cannot be loaded a second later.
POLICIES: dict[Cause, Policy] = {
    "load": Policy(tries=1, takes_down="checkpoint", breaker=1),
    "contract": Policy(tries=1, takes_down="checkpoint", breaker=1),
    "compute": Policy(tries=1, breaker=3, breaks="map"),
    "non-finite": Policy(tries=1),
    "out of memory": Policy(tries=3, smaller=True, breaker=2),
    "crash": Policy(tries=4, takes_down="checkpoint", breaker=2),
    "hang": Policy(tries=2, takes_down="checkpoint", breaker=2),
    "storage": Policy(tries=5, backoff_s=0.5),
    "infrastructure": Policy(tries=0),
}

#: Causes after which it is not known whether the checkpoint works at all.
_UNPROVEN = frozenset(("load", "out of memory", "crash", "hang", "storage", "infrastructure"))

#: Seconds between two tries after the storage failed, at most.
LONGEST_BACKOFF_S = 30.0
#: Seconds that a bundle should take.
TARGET_BUNDLE_S = 60.0
#: Shards in a bundle before it is known how long one takes.
FIRST_BUNDLE = 8
#: Shards in a bundle, at most.
LARGEST_BUNDLE = 500


@dataclass(frozen=True)
class Assignment:
    """One bundle to be submitted: shards of one checkpoint, and how often its memory must be halved."""

    shards: tuple[Shard, ...]
    halvings: int = 0


CheckpointKey = tuple[str, int]


@dataclass
class _Checkpoint:
    """How far one checkpoint has come."""

    waiting: deque[Shard] = field(default_factory=deque)
    proven: bool = False  # a shard came back, so the other shards may be spread over the workers
    probing: bool = False  # its canary is on the way
    succeeded: Counter[str] = field(default_factory=Counter)  # by map
    given_up: Counter[tuple[Cause, str]] = field(default_factory=Counter)  # by cause and map
    broken: Problem | None = None
    broken_maps: dict[str, Problem] = field(default_factory=dict)

    def refusal(self, shard: Shard) -> Problem | None:
        """Why a shard of this checkpoint is not tried any more, if so."""
        return self.broken or self.broken_maps.get(shard.map)

    def times_given_up(self, cause: Cause, map_name: str, policy: Policy) -> int:
        """Shards given up for a cause, in the map or the whole checkpoint, whichever the policy's breaker watches."""
        return sum(
            count
            for (each, name), count in self.given_up.items()
            if each == cause and (policy.breaks == "checkpoint" or name == map_name)
        )


class Ledger:
    """The shards that wait, and the record of failures that decides which of them are tried again.

    Parameters
    ----------
    shards
        What is to be computed, checkpoint by checkpoint.
    infrastructure_cap
        How many losses of nodes or objects a run takes before it stops. They are never charged to a shard.
    clock, rng
        Seconds that only increase, and the source of the jitter of the backoff.
    """

    def __init__(
        self,
        shards: Iterable[Shard],
        *,
        infrastructure_cap: int = 100,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.stop_reason: str | None = None
        self.faults: Counter[Cause] = Counter()
        self.left: dict[Shard, Problem] = {}
        self._cap = infrastructure_cap
        self._clock = clock
        self._rng = rng or random.Random()
        self._checkpoints: dict[CheckpointKey, _Checkpoint] = {}
        for shard in shards:
            self._checkpoints.setdefault(_key(shard), _Checkpoint()).waiting.append(shard)
        self._fresh: deque[CheckpointKey] = deque(self._checkpoints)
        self._open: deque[CheckpointKey] = deque()
        self._retries: list[tuple[float, int, Shard]] = []
        self._charges: dict[Shard, Counter[Cause]] = {}
        self._storage_pause = 0.0
        self._storage_streak = 0  # rounds of trouble since the last success, and the shards they hit
        self._storage_victims: set[Shard] = set()
        self._successes = 0
        self._sequence = 0
        self._seconds = 0.0
        self._waiting = sum(len(entry.waiting) for entry in self._checkpoints.values())

    @property
    def waiting(self) -> int:
        """Number of shards that are neither finished nor on the way to a worker."""
        return self._waiting

    def take(self, slots: int = 1) -> Assignment | None:
        """The next bundle to submit, or None where nothing may be submitted now.

        A shard that failed runs alone. The first bundle of a checkpoint carries its canary: until that shard came back,
        nothing else of the checkpoint is submitted.
        """
        now = self._clock()
        if self.stop_reason is not None or now < self._storage_pause:
            return None
        return self._take_retry(now) or self._take_open(slots) or self._take_fresh(slots)

    def next_due_s(self) -> float:
        """Seconds until something that waits may be submitted."""
        due = self._storage_pause
        if self._retries and len(self._retries) == self._waiting:
            due = max(due, self._retries[0][0])
        return max(0.0, due - self._clock())

    def done(self, report: ShardReport) -> ShardReport:
        """The report of a shard that was written, with the number of its attempts."""
        checkpoint = self._checkpoints[_key(report.shard)]
        checkpoint.succeeded[report.shard.map] += 1
        self._prove(_key(report.shard))
        self._successes += 1
        self._seconds += report.seconds
        attempts = 1 + self._failures(report.shard)
        self._charges.pop(report.shard, None)
        self._storage_streak, self._storage_pause = 0, 0.0
        self._storage_victims.clear()
        return replace(report, attempts=attempts)

    def failed(self, shard: Shard, problem: Problem) -> list[ShardReport]:
        """The shards that are given up because of a failure: none where it is tried again."""
        self.faults[problem.cause] += 1
        checkpoint = self._checkpoints[_key(shard)]
        checkpoint.probing = False
        if problem.cause not in _UNPROVEN:
            self._prove(_key(shard))
        policy = POLICIES[problem.cause]
        charges = self._charges.setdefault(shard, Counter())
        charges[problem.cause] += 1
        if policy.tries == 0:
            self._note_infrastructure(problem)
        elif problem.cause == "storage":
            return self._storage_failed(shard, problem, charges["storage"])
        elif checkpoint.refusal(shard) is not None or charges[problem.cause] >= policy.tries:
            return self._give_up(shard, problem)
        self._retry(shard, self._clock())
        return []

    def give_back(self, shards: Iterable[Shard]) -> list[ShardReport]:
        """The shards that are given up though they were never tried; the others wait again, without a charge.

        For what was on the way to a worker, or behind another shard of its bundle, when the bundle ended.
        """
        refused = []
        for shard in reversed(tuple(shards)):
            checkpoint = self._checkpoints[_key(shard)]
            refusal = checkpoint.refusal(shard)
            if refusal is not None:
                refused.append(ShardReport(shard, refusal, attempts=self._failures(shard)))
                continue
            checkpoint.waiting.appendleft(shard)
            checkpoint.probing = False
            self._waiting += 1
            self._enlist(_key(shard))
        return refused

    def stop(self, reason: str) -> None:
        """Submit nothing any more, for a reason that the report gives."""
        if self.stop_reason is None:
            self.stop_reason = reason

    def _take_retry(self, now: float) -> Assignment | None:
        held = []
        found = None
        while self._retries and self._retries[0][0] <= now:
            entry = heappop(self._retries)
            checkpoint = self._checkpoints[_key(entry[2])]
            if checkpoint.probing and not checkpoint.proven:
                held.append(entry)  # another shard of it is the canary
                continue
            found = entry[2]
            break
        for entry in held:
            heappush(self._retries, entry)
        if found is None:
            return None
        self._waiting -= 1
        checkpoint = self._checkpoints[_key(found)]
        checkpoint.probing = not checkpoint.proven
        return Assignment((found,), self._charges.get(found, Counter())["out of memory"])

    def _take_open(self, slots: int) -> Assignment | None:
        while self._open:
            checkpoint = self._checkpoints[self._open[0]]
            if checkpoint.waiting:
                return self._cut(checkpoint, slots)
            self._open.popleft()
        return None

    def _take_fresh(self, slots: int) -> Assignment | None:
        while self._fresh:
            checkpoint = self._checkpoints[self._fresh.popleft()]
            if checkpoint.waiting and not checkpoint.probing and not checkpoint.proven:
                checkpoint.probing = True
                return self._cut(checkpoint, slots)
        return None

    def _cut(self, checkpoint: _Checkpoint, slots: int) -> Assignment:
        size = FIRST_BUNDLE
        if self._seconds > 0:
            size = int(TARGET_BUNDLE_S * self._successes / self._seconds)
        # Towards the end of a run smaller bundles keep all workers busy until the last moment.
        share = -(-self._waiting // (2 * max(1, slots)))
        size = max(1, min(size, share, LARGEST_BUNDLE, len(checkpoint.waiting)))
        self._waiting -= size
        return Assignment(tuple(checkpoint.waiting.popleft() for _ in range(size)))

    def _prove(self, key: CheckpointKey) -> None:
        checkpoint = self._checkpoints[key]
        if not checkpoint.proven:
            checkpoint.proven, checkpoint.probing = True, False
            self._enlist(key)

    def _enlist(self, key: CheckpointKey) -> None:
        checkpoint = self._checkpoints[key]
        if not checkpoint.waiting:
            return
        if checkpoint.proven:
            if key not in self._open:
                self._open.append(key)
        elif not checkpoint.probing:
            self._fresh.appendleft(key)

    def _retry(self, shard: Shard, due: float) -> None:
        self._sequence += 1
        self._waiting += 1
        heappush(self._retries, (due, self._sequence, shard))

    def _note_infrastructure(self, problem: Problem) -> None:
        if self.faults["infrastructure"] > self._cap:
            self.stop(
                f"nodes or objects were lost {self.faults['infrastructure']} times, more than a run takes"
                f" ({self._cap}); mend the cluster and run again. Last: {problem.message}"
            )

    def _storage_failed(self, shard: Shard, problem: Problem, times: int) -> list[ShardReport]:
        """Everything waits, ever longer, not this shard alone: a store in trouble is not helped by other writers."""
        policy = POLICIES["storage"]
        now = self._clock()
        if now >= self._storage_pause:  # failures during the pause belong to the same trouble
            self._storage_streak += 1
            self._storage_pause = now + self._backoff_s(self._storage_streak)
        self._storage_victims.add(shard)
        if self._storage_streak >= policy.tries and len(self._storage_victims) > 1:
            self.stop(f"the storage failed {policy.tries} times in a row, so the run stops: {problem.message}")
        if times >= policy.tries:
            self.left[shard] = problem
        else:
            # A moment after the pause: another shard shows first whether the store or this shard is at fault.
            self._retry(shard, max(self._storage_pause, now + self._backoff_s(times)) + 0.2)
        self._enlist(_key(shard))
        return []

    def _backoff_s(self, times: int) -> float:
        longest = POLICIES["storage"].backoff_s * 2 ** (times - 1)
        return min(LONGEST_BACKOFF_S, longest) * self._rng.uniform(0.5, 1.5)

    def _give_up(self, shard: Shard, problem: Problem) -> list[ShardReport]:
        policy = POLICIES[problem.cause]
        key = _key(shard)
        checkpoint = self._checkpoints[key]
        final = [ShardReport(shard, problem, attempts=self._failures(shard))]
        self._charges.pop(shard, None)
        checkpoint.given_up[problem.cause, shard.map] += 1
        rest = Problem(problem.cause, f"not tried, after this in {shard.key()}: {problem.message}")
        if policy.takes_down == "checkpoint" and not checkpoint.succeeded.total():
            checkpoint.broken = rest
        elif policy.breaker and checkpoint.times_given_up(problem.cause, shard.map, policy) >= policy.breaker:
            if policy.breaks == "checkpoint":
                checkpoint.broken = rest
            elif not checkpoint.succeeded[shard.map]:
                checkpoint.broken_maps[shard.map] = rest
        if checkpoint.refusal(shard) is not None:
            final += self._refuse_rest(key)
        self._enlist(key)
        return final

    def _refuse_rest(self, key: CheckpointKey) -> list[ShardReport]:
        """Reports of the shards that a tripped breaker covers, taken out of everything that waits."""
        checkpoint = self._checkpoints[key]
        everything = [*checkpoint.waiting, *(shard for _, _, shard in self._retries if _key(shard) == key)]
        refused = {shard: problem for shard in everything if (problem := checkpoint.refusal(shard)) is not None}
        checkpoint.waiting = deque(shard for shard in checkpoint.waiting if shard not in refused)
        self._retries = sorted(entry for entry in self._retries if entry[2] not in refused)
        self._waiting -= len(refused)
        return [ShardReport(shard, problem, attempts=self._failures(shard)) for shard, problem in refused.items()]

    def _failures(self, shard: Shard) -> int:
        return self._charges.get(shard, Counter()).total()


def _key(shard: Shard) -> CheckpointKey:
    return shard.cohort, shard.checkpoint
