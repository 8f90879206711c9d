"""What became of the shards, as the driver alone writes it: companions first, the status last."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from pipeline.plan.run_plan import MapPlan, RunPlan
from pipeline.plan.shard_reports import Problem, ShardReport
from pipeline.plan.shards import Shard
from pipeline.store.backend import is_local, storage_errors
from pipeline.store.digests import companion_values
from pipeline.store.failures import Failures
from pipeline.store.groups import Group, copy_attributes, write_attributes
from pipeline.store.open_store import open_existing
from pipeline.words import DONE, FAILED, PROBE, digest_name, status_name, variable_name

#: Largest difference between two probes of one checkpoint, relative to the largest response.
PROBE_TOLERANCE = 1e-4

Index = tuple[slice, ...]
Edits = dict[str, list[tuple[Index, np.ndarray]]]


def record(plan: RunPlan, reports: Sequence[ShardReport], *, held: Store | None = None) -> None:
    """Record what became of shards; a shard counts as done from the moment this returns.

    Only the driver that holds the store's lease calls it, with many reports at once rather than one by one: each call
    rewrites a few objects per map.

    A checkpoint whose probe differs from the one stored with its done maps was rebuilt as another model, under the
    same weights. Its shard is recorded as failed, with the cause "load".

    ``plan``: Aligned with the store (`align`). ``held``: The store as the holder of its lease writes it
    (`Lease.store`). Raises `LeaseLostError` if another driver has taken the store over, and `ValueError` if a companion
    of a report does not have the shape of its shard, and `OSError` if the storage fails; shards of this call may be
    recorded or not, and recording them again is right.
    """
    if not reports:
        return
    opened = open_existing(plan.store, writable=True, held=held)
    by_cohort: dict[str, list[ShardReport]] = defaultdict(list)
    for report in reports:
        by_cohort[report.shard.cohort].append(report)
    left = [_record_companions(plan, group, by_cohort[group.name]) for group in opened.groups(by_cohort)]
    copy_attributes(opened.store, {arrays.group.name: changed for arrays, _, changed in left if changed is not None})
    for arrays, status, _ in left:
        _apply(arrays, status)


def _record_companions(
    plan: RunPlan, group: Group, reports: list[ShardReport]
) -> tuple["_Arrays", Edits, dict[str, Any] | None]:
    """The arrays of a cohort, what is to be put into its status, and its attributes if they changed.

    Everything that stands beside the status is written.
    """
    cohort = plan.cohort(group.name)
    labels = group.labels()
    for report in reports:
        position = report.shard.checkpoint
        if not 0 <= position < len(labels) or cohort.checkpoints[position].id != labels[position]:
            raise ValueError(
                f"{report.shard.key()}: position {position} is not the same checkpoint in the plan and in the store, so"
                " the report would be recorded for another one; align the plan with the store first"
            )
    arrays = _Arrays(group)
    reports, probes = _checked_probes(group, arrays, reports, labels)
    edits: Edits = defaultdict(list)
    status: Edits = defaultdict(list)
    for report in reports:
        entry = cohort.map_plan(report.shard.map)
        index = status_index(report.shard, entry)
        value = DONE if report.done else FAILED
        shape = tuple(part.stop - part.start for part in index)
        status[status_name(entry.name)].append((index, np.full(shape, value, np.uint8)))
        for name, values in _beside(report, entry, shape).items() if report.done else ():
            edits[name].append((index, values))
    for position, response in probes.items():
        edits[PROBE].append(((slice(position, position + 1), slice(None)), response[None]))
    _apply(arrays, edits)
    return arrays, status, _record_attributes(group, arrays, reports, status, labels)


class _Arrays:
    """The arrays of a group, each opened once, and their rows as they were before this record."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self._open: dict[str, zarr.Array] = {}
        self._blocks: dict[tuple[str, int], np.ndarray] = {}

    def __getitem__(self, name: str) -> zarr.Array:
        if name not in self._open:
            self._open[name] = self.group.open(name)
        return self._open[name]

    def before(self, name: str, position: int) -> np.ndarray:
        """What an array held for one checkpoint."""
        rows = self[name].chunks[0]
        chunk = position // rows
        if (name, chunk) not in self._blocks:
            with storage_errors(self.group.location):
                self._blocks[name, chunk] = np.array(self[name][chunk * rows : (chunk + 1) * rows])
        return self._blocks[name, chunk][position - chunk * rows]


def status_index(shard: Shard, entry: MapPlan) -> Index:
    """Where a shard stands in `<map>_status` and in the companions."""
    region = shard.region(entry)
    return tuple(region[dim] for dim in entry.status_dims)


def _beside(report: ShardReport, entry: MapPlan, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The companions of a report and its digests, by the names of their arrays."""
    endings = entry.settings.companions
    strange = sorted(set(report.companions) - set(endings))
    if strange:
        raise ValueError(
            f"{report.shard.key()}: the report carries {strange[0]!r}, which the cube has no place for; it takes"
            f" {', '.join(endings)}"
        )
    try:
        found = {
            variable_name(entry.name, ending): companion_values(ending, report.companions.get(ending), shape)
            for ending in endings
        }
    except ValueError as error:
        raise ValueError(f"{report.shard.key()}: {error}") from error
    # A region written anew without digests must not be held against those of before.
    digests = np.zeros(shape, np.uint64) if report.digests is None else np.asarray(report.digests).reshape(shape)
    return {**found, digest_name(entry.name): digests}


def _checked_probes(
    group: Group, arrays: _Arrays, reports: list[ShardReport], labels: list[str]
) -> tuple[list[ShardReport], dict[int, np.ndarray]]:
    """The reports, failed where a probe tells of another model, and the probes that are new."""
    fresh: dict[int, np.ndarray] = {}
    stored: dict[int, np.ndarray | None] = {}
    checked = []
    size = group.shape(PROBE)[1]
    for report in reports:
        position = report.shard.checkpoint
        if report.done and report.probe is not None:
            probe = np.asarray(report.probe, dtype=np.float32)
            if probe.shape != (size,):
                raise ValueError(
                    f"{report.shard.key()}: the probe has the shape {probe.shape} for {size} neurons, so it cannot be"
                    " compared; give one response per neuron"
                )
            if position not in stored:
                stored[position] = _stored_probe(arrays, position)
            known = stored[position]
            if known is None:
                fresh[position] = stored[position] = probe
            elif (difference := _relative(probe, known)) > PROBE_TOLERANCE:
                report = replace(report, problem=Problem("load", _other_model(labels[position], difference)))
        checked.append(report)
    return checked, fresh


def _stored_probe(arrays: _Arrays, position: int) -> np.ndarray | None:
    """The stored probe of a checkpoint; None where there is none, or where no done map depends on it."""
    group = arrays.group
    probe = arrays.before(PROBE, position)
    if np.isnan(probe).all():
        return None
    relied_on = any(bool((arrays.before(name, position) == DONE).any()) for name in group.with_role("status"))
    return probe if relied_on else None


def _relative(probe: np.ndarray, known: np.ndarray) -> float:
    scale = float(np.nanmax(np.abs(known), initial=0.0))
    with np.errstate(invalid="ignore"):
        difference = np.abs(probe.astype(float) - known.astype(float))
    same = (probe == known) | (np.isnan(probe) & np.isnan(known))
    worst = float(np.max(np.where(same, 0.0, np.nan_to_num(difference, nan=np.inf)), initial=0.0))
    return worst / scale if scale > 0 else worst


def _other_model(checkpoint: str, difference: float) -> str:
    return (
        f"{checkpoint} answers the fixed probe otherwise than when its stored maps were made (relative difference"
        f" {difference:.2g}), so it was rebuilt as another model under the same weights; restore the versions of the"
        " libraries and modules that it was built with, or give it another id"
    )


def _apply(arrays: _Arrays, edits: Edits) -> None:
    """Make all edits, each chunk of rows read and written once."""
    if not edits:
        return
    if is_local(arrays.group.location):
        for name, changes in edits.items():
            edit_array(arrays[name], changes, arrays.group.location)
        return
    opened = {name: arrays[name] for name in edits}
    with ThreadPoolExecutor(max_workers=8) as pool:
        jobs = [pool.submit(edit_array, opened[name], edits[name], arrays.group.location) for name in edits]
        for job in jobs:
            job.result()


def edit_array(array: zarr.Array, changes: Iterable[tuple[Index, np.ndarray]], where: str) -> None:
    """Put values into an array along whose first axis each chunk is read and written once."""
    rows = array.chunks[0]
    by_chunk: dict[int, list[tuple[Index, np.ndarray]]] = defaultdict(list)
    for index, values in changes:
        by_chunk[index[0].start // rows].append((index, values))
    with storage_errors(where):
        for chunk, entries in by_chunk.items():
            start, stop = chunk * rows, min((chunk + 1) * rows, array.shape[0])
            block = np.array(array[start:stop])
            before = block.copy()
            for (first, *others), values in entries:
                block[(slice(first.start - start, first.stop - start), *others)] = values
            if not np.array_equal(block, before, equal_nan=block.dtype.kind == "f"):
                array[start:stop] = block


def _record_attributes(
    group: Group, arrays: _Arrays, reports: list[ShardReport], status: Edits, labels: list[str]
) -> dict[str, Any] | None:
    """The attributes with routes, devices, rows per backward pass, and failures with their cause; None if unchanged."""
    told = {key: group.document(key) for key in ("routes", "devices", "blocks")}
    failures = Failures.of(group)
    for report in reports:
        checkpoint, name = labels[report.shard.checkpoint], report.shard.map
        for key, words in (("routes", report.route), ("devices", report.device)) if report.done else ():
            if words:
                known = told[key].setdefault(name, {}).get(checkpoint, "")
                told[key][name][checkpoint] = ", ".join(sorted({*known.split(", "), words} - {""}))
        if report.done and report.block:
            # The smallest, after any halving where memory ran out.
            rows = told["blocks"].setdefault(name, {})
            rows[checkpoint] = min(report.block, rows.get(checkpoint, report.block))
        if (failure := report.failure(checkpoint)) is not None:
            failures.note(failure)
    healed = {
        (labels[report.shard.checkpoint], report.shard.map): report.shard.checkpoint
        for report in reports
        if report.done and failures.holds(labels[report.shard.checkpoint], report.shard.map)
    }
    for (checkpoint, name), position in healed.items():
        rows = arrays.before(status_name(name), position)[None].copy()
        for (first, *others), values in status[status_name(name)]:
            if first.start == position:
                rows[(slice(0, 1), *others)] = values
        if not (rows == FAILED).any():
            failures.forget([checkpoint], name)
    changed = dict(group.attributes)
    for key, document in told.items():
        if document != group.document(key):
            changed[key] = json.dumps(document, sort_keys=True)
    if json.loads(failures.text()) != group.document("failures"):
        changed["failures"] = failures.text()
    if changed == group.attributes:
        return None
    write_attributes(group.store, group.name, changed)
    return changed
