"""Which shards take much longer than others like them, while they run and afterwards."""

from bisect import insort
from collections import defaultdict
from dataclasses import dataclass, replace

from pipeline.plan.run_plan import RunPlan
from pipeline.plan.shard_reports import ShardReport, span
from pipeline.plan.shards import Shard

#: A shard is a straggler when it takes so many times the median of those like it, of which so many are finished.
TIMES = 4.0
#: Shards of a kind after which it is known what is slow for it.
FEWEST = 5

#: Fewer seconds are no straggler: the first shards of a process take some more than the others, and nobody minds.
LEAST_S = 10.0


@dataclass(frozen=True)
class Straggler:
    """A shard that takes, or took, much longer than others like it."""

    cohort: str
    checkpoint: str
    map: str
    neurons: tuple[str, ...]
    stimuli: tuple[str, ...]
    #: The longest of its attempts, so far.
    seconds: float
    #: Median time of the shards like it that were finished when it was noticed, and their number.
    median_s: float
    alike: int
    #: Name of the machine that computes it; empty without Ray.
    node: str = ""

    def __str__(self) -> str:
        parts = [f"{self.cohort}/{self.checkpoint} {self.map}", span("neuron", self.neurons)]
        where = ", ".join(part for part in [*parts, span("stimulus", self.stimuli)] if part)
        node = f" on {self.node}" if self.node else ""
        return f"{where}: {self.seconds:.0f} s{node}; {self.alike} shards like it took {self.median_s:.2f} s (median)"


_Kind = tuple[str, str, str, int]  # cohort, map, class and number of parameters


class Pace:
    """The times of the shards of a run, and the stragglers among them.

    Shards are alike when they are of one map and of checkpoints of one class and size. One that had to load its
    checkpoint may take as long as others that did. Sounds of one map may differ in length: one that is much longer than
    the others is a straggler too.
    """

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._finished: defaultdict[_Kind, list[float]] = defaultdict(list)
        self._loading: defaultdict[_Kind, list[float]] = defaultdict(list)  # those among them that loaded
        self._stragglers: dict[Shard, Straggler] = {}

    @property
    def stragglers(self) -> tuple[Straggler, ...]:
        """Every shard that was noticed, in the order in which they were."""
        return tuple(self._stragglers.values())

    def running(self, shard: Shard, seconds: float, node: str = "", *, first: bool = False) -> Straggler | None:
        """The shard where it has just become a straggler, after so many seconds of this attempt; None otherwise.

        The ``first`` shard that a worker computes of a checkpoint loads it.
        """
        known = self._stragglers.get(shard)
        if known is not None:
            self._stragglers[shard] = replace(known, seconds=max(known.seconds, seconds))
            return None
        if seconds <= LEAST_S:
            return None
        kind = self._kind(shard)
        finished = self._finished[kind]
        if len(finished) < FEWEST or seconds <= TIMES * _median(finished):
            return None
        if first and self._loading[kind] and seconds <= TIMES * _median(self._loading[kind]):
            return None
        self._stragglers[shard] = self._straggler(shard, seconds, finished, node)
        return self._stragglers[shard]

    def finished(self, report: ShardReport) -> None:
        """Take the time of a shard that is done."""
        first = report.probe is not None  # the first shard of a checkpoint answers the probe as well
        self.running(report.shard, report.seconds, first=first)
        kind = self._kind(report.shard)
        insort(self._finished[kind], report.seconds)
        if first:
            insort(self._loading[kind], report.seconds)

    def _kind(self, shard: Shard) -> _Kind:
        checkpoint = self._plan.cohort(shard.cohort).checkpoints[shard.checkpoint]
        return (shard.cohort, shard.map, checkpoint.model_class, checkpoint.n_parameters)

    def _straggler(self, shard: Shard, seconds: float, finished: list[float], node: str) -> Straggler:
        cohort = self._plan.cohort(shard.cohort)
        stimuli = cohort.map_plan(shard.map).stimuli.names
        return Straggler(
            cohort=shard.cohort,
            checkpoint=cohort.checkpoints[shard.checkpoint].id,
            map=shard.map,
            neurons=() if shard.neurons is None else tuple(shard.neurons.of(cohort.neurons)),
            stimuli=() if shard.stimuli is None else tuple(shard.stimuli.of(stimuli)),
            seconds=seconds,
            median_s=_median(finished),
            alike=len(finished),
            node=node,
        )


def _median(ascending: list[float]) -> float:
    return ascending[len(ascending) // 2]
