"""What a store holds and what it lacks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.plan.run_plan import CohortPlan, MapPlan, RunPlan
from pipeline.plan.shard_reports import Failure
from pipeline.plan.shards import Shard, cut_blocks
from pipeline.store.checkpoint_rows import aligned_groups
from pipeline.store.failures import Failures
from pipeline.store.groups import Group
from pipeline.store.open_store import open_existing
from pipeline.store.regions import shard_extents
from pipeline.words import DEGREES, DONE, FAILED, PENDING, Degree, flags_of, health_name, status_name


@dataclass(frozen=True)
class Backlog:
    """A plan as it lies in the store: its shards that are still to be computed, and how many are done and failed."""

    plan: RunPlan
    pending: list[Shard]
    done: int
    failed: int


def backlog(plan: RunPlan) -> Backlog:
    """The shards of a plan with a position neither done nor failed, checkpoint by checkpoint, and the rest counted.

    The plan comes back aligned with the store (`align`). What failed stays aside until it is requeued, or until the
    checkpoint's file changes. Raises `ValueError` if the store does not hold a cohort, a map or a checkpoint of the
    plan.
    """
    plan, groups = aligned_groups(plan)
    pending: list[Shard] = []
    done = failed = 0
    for cohort, group in zip(plan.cohorts, groups, strict=True):
        rows, changed = _rows(cohort, group)
        cut = [
            _Blocks(entry, group.read(status_name(entry.name)), changed, group.rows_of(entry.name))
            for entry in cohort.maps
        ]
        for row in rows:
            for blocks_of_map in cut:
                pending += blocks_of_map.shards(cohort.name, row)
        for blocks_of_map in cut:
            asked = [row for row in rows if blocks_of_map.asked[row]]
            failed += int(blocks_of_map.failed[asked].sum())
            done += int((~blocks_of_map.todo & ~blocks_of_map.failed)[asked].sum())
    return Backlog(plan, pending, done, failed)


def _rows(cohort: CohortPlan, group: Group) -> tuple[list[int], np.ndarray]:
    """Positions of the plan's checkpoints in the store, and which of all have another file than when they failed."""
    lacking = [entry.name for entry in cohort.maps if status_name(entry.name) not in group.arrays]
    if lacking:
        raise ValueError(
            f"cohort {cohort.name!r} of the store has no place for {', '.join(lacking[:5])}, so nothing says what is"
            " missing of it; call create_or_extend with this plan first"
        )
    prints = group.document("fingerprints")
    changed = [entry.usable and prints.get(entry.id) != entry.fingerprint for entry in cohort.checkpoints]
    rows = [row for row, entry in enumerate(cohort.checkpoints) if entry.source.location]
    return rows, np.array(changed, dtype=bool)


class _Blocks:
    """The regions of one map: which are to be computed and which failed, by checkpoint, neurons and stimuli."""

    def __init__(self, entry: MapPlan, status: np.ndarray, changed: np.ndarray, asked: np.ndarray) -> None:
        self.map, self.asked = entry.name, asked
        # One axis for neurons and one for stimuli, whether or not the status counts them.
        for axis, dim in ((1, "neuron"), (2, entry.stimulus_dim)):
            if dim not in entry.status_dims:
                status = np.expand_dims(status, axis)
        self.neurons, self.stimuli = cut_blocks(entry, "neuron"), cut_blocks(entry, entry.stimulus_dim)
        todo, failed = status == PENDING, status == FAILED
        todo[changed] |= failed[changed]
        self.todo = self._any(todo)
        self.failed = self._any(failed) & ~self.todo

    def _any(self, flags: np.ndarray) -> np.ndarray:
        for axis, parts in ((1, self.neurons), (2, self.stimuli)):
            starts = [0 if part is None else part.start for part in parts]
            flags = np.logical_or.reduceat(flags, starts, axis=axis)
        return flags

    def shards(self, cohort: str, row: int) -> list[Shard]:
        """The shards of one checkpoint that are to be computed."""
        if not self.asked[row]:
            return []
        return [
            Shard(cohort, row, self.map, self.neurons[first], self.stimuli[second])
            for first, second in np.argwhere(self.todo[row]).tolist()
        ]


@dataclass(frozen=True)
class Counts:
    """How many of something are done, failed and pending."""

    done: int = 0
    failed: int = 0
    pending: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.done + self.failed + self.pending

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.done + other.done, self.failed + other.failed, self.pending + other.pending)


@dataclass(frozen=True)
class MapStatus:
    """One map: its regions (what one shard computes), its single maps, and its regions by checkpoint.

    A region counts as failed where an entry of it failed, and as done where every entry of it is. ``flagged`` counts
    the single maps that are done by the degree of their worst health flag, ``flags`` by each flag that they carry.
    """

    name: str
    regions: Counts
    entries: Counts
    by_checkpoint: Mapping[str, Counts]
    flagged: Mapping[Degree, int] = field(default_factory=dict)
    flags: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class CohortStatus:
    """One cohort: its size, its maps, and what failed and why."""

    name: str
    state: str
    checkpoints: tuple[str, ...]
    n_neurons: int
    maps: tuple[MapStatus, ...]
    failures: tuple[Failure, ...]
    causes: Mapping[str, int]

    @property
    def regions(self) -> Counts:
        """Regions of all maps."""
        return sum((entry.regions for entry in self.maps), Counts())

    @property
    def complete(self) -> bool:
        """Whether every region of every map is done."""
        return self.regions.done == self.regions.total


def store_status(store: str | Path) -> tuple[CohortStatus, ...]:
    """What each cohort of a store holds, what it lacks, and why.

    Raises `ValueError` if there is no store of gradmaps.
    """
    return tuple(_cohort_status(group) for group in open_existing(store).groups(any_state=True))


def _cohort_status(group: Group) -> CohortStatus:
    if "checkpoint" not in group.arrays or group.state != "ready":
        return CohortStatus(group.name, group.state, (), 0, (), (), {})
    labels = tuple(group.labels())
    failures = Failures.of(group)
    return CohortStatus(
        group.name,
        group.state,
        labels,
        group.shape("neuron")[0],
        tuple(_map_status(group, name, labels) for name in group.maps()),
        failures.kept,
        failures.counts,
    )


def _map_status(group: Group, name: str, labels: tuple[str, ...]) -> MapStatus:
    rows = group.rows_of(name)
    status = group.read(status_name(name))[rows]
    labels = tuple(label for label, asked in zip(labels, rows.tolist(), strict=True) if asked)
    entries = _count(status)
    extents = shard_extents(group, name)
    failed, done = status == FAILED, status == DONE
    for axis, dim in enumerate(group.dims(status_name(name))):
        if dim != "checkpoint" and status.shape[axis]:
            starts = np.arange(0, status.shape[axis], extents[dim])
            failed = np.logical_or.reduceat(failed, starts, axis=axis)
            done = np.logical_and.reduceat(done, starts, axis=axis)
    failed, done = failed.reshape(len(labels), -1), done.reshape(len(labels), -1)
    per_row = zip(done.sum(axis=1).tolist(), failed.sum(axis=1).tolist(), strict=True)
    count = done.shape[1] if labels else 0
    by_checkpoint = {
        label: Counts(is_done, has_failed, count - is_done - has_failed)
        for label, (is_done, has_failed) in zip(labels, per_row, strict=True)
    }
    return MapStatus(
        name, sum(by_checkpoint.values(), Counts()), entries, by_checkpoint, *_flagged(group, name, status, rows)
    )


def _flagged(group: Group, name: str, status: np.ndarray, rows: np.ndarray) -> tuple[dict[Degree, int], dict[str, int]]:
    """How many maps that are done carry a flag, by the degree of the worst one, and by flag."""
    if health_name(name) not in group.arrays:
        return {}, {}
    known = flags_of(group.array_attributes(health_name(name)))
    bits = np.where(status == DONE, group.read(health_name(name))[rows].astype(np.int64), 0)
    by_degree: dict[Degree, int] = {}
    rest = bits
    for degree in DEGREES:
        here = np.logical_or.reduce(
            [(rest & flag.bit) != 0 for flag in known if flag.degree == degree] or [rest != rest]
        )
        by_degree[degree] = int(here.sum())
        rest = np.where(here, 0, rest)
    by_flag = {flag.name: int(((bits & flag.bit) != 0).sum()) for flag in known}
    return {key: n for key, n in by_degree.items() if n}, {key: n for key, n in by_flag.items() if n}


def _count(status: np.ndarray) -> Counts:
    tally = np.bincount(status.ravel(), minlength=3)
    return Counts(int(tally[DONE]), int(tally[FAILED]), int(tally[PENDING]))
