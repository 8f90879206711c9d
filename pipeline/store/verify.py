"""Whether a store holds what it says it holds: every object decoded, every claim compared with what is there."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store

from pipeline.plan.axes import blocks
from pipeline.store.array_specs import BOOKKEEPING
from pipeline.store.backend import METADATA, delete_object, keys_below, names_in, read_json, storage_errors, write_json
from pipeline.store.damage import copied_arrays, damaged_labels, missing_chunks
from pipeline.store.digests import map_digests
from pipeline.store.failures import pruned
from pipeline.store.findings import UNSOUND, Finding, Kind, Verification
from pipeline.store.groups import (
    READY,
    Group,
    behind,
    cohort_names,
    consolidate,
    copied_in,
    copies_arrays,
    delete_array,
    read_group,
    write_attributes,
)
from pipeline.store.open_store import open_existing
from pipeline.store.record import edit_array
from pipeline.store.regions import forget, object_grid, object_keys, shard_extents
from pipeline.words import (
    COMPANIONS,
    DONE,
    FAILED,
    PENDING,
    axis_named,
    digest_name,
    is_map,
    map_of,
    status_name,
    variable_name,
)

Index = tuple[slice, ...]


def verify_store(store: str | Path, *, requeue: bool = False, held: Store | None = None) -> Verification:
    """What a complete check of a store finds.

    ``requeue``: Mark what is missing, damaged or not finite, and what failed, as pending, so that the next run computes
    it again. To be called only while no run writes the store. ``held``: The store as the holder of its lease writes it
    (`Lease.store`). Raises `ValueError` if there is no store of gradmaps.
    """
    handle = open_existing(store, writable=requeue, held=held)
    opened, location = handle.store, handle.location
    findings: list[Finding] = []
    regions = objects = done = requeued = 0
    for name in _every_cohort(opened):
        lost = _lost_descriptions(opened, name)
        findings += [Finding("missing", name, entry, detail=detail) for entry, detail in lost]
        if requeue:
            _restore_descriptions(opened, name)
        group = read_group(opened, location, name)
        if group is None:
            continue
        if group.state != READY:
            findings.append(Finding("damaged", name, METADATA, detail=f"the cohort is {group.state}; run again"))
            continue
        check = _CohortCheck(group)
        check.run()
        findings += check.findings
        regions, objects, done = regions + check.regions, objects + check.objects, done + check.done
        if requeue:
            requeued += check.requeue()
    if not copies_arrays(opened):
        findings.append(Finding("damaged", "/", METADATA, detail="its copy of the metadata is out of date; run again"))
    findings += [Finding("outdated", name, METADATA) for name in behind(opened)]
    if requeue:
        consolidate(opened)
        forget(location)
    return Verification(tuple(findings), regions, objects, done, requeued)


def _every_cohort(store: Store) -> list[str]:
    """Cohorts that are there, and those of which the root says that they should be."""
    copied = copied_in(read_json(store, METADATA))
    return list(dict.fromkeys((*cohort_names(store), *(key for key in copied if "/" not in key))))


def _lost_descriptions(store: Store, cohort: str) -> list[tuple[str, str]]:
    """Names of what the root describes and a cohort has no description of any more, and what is gone of each."""
    copied = copied_arrays(store, cohort)
    there = set(names_in(store, cohort))
    if "" in copied and not there:
        return [(METADATA, f"the whole cohort {cohort!r}; a run makes it anew")]
    lost = [(METADATA, "the description of the cohort")] if "" in copied and METADATA not in there else []
    group = read_group(store, "", cohort)
    if lost or group is None or group.state != READY:
        return lost
    return [(name, "its description zarr.json") for name in copied if name and name not in group.arrays]


def _restore_descriptions(store: Store, cohort: str) -> None:
    """Write descriptions that are gone as the root has them; there is nothing to describe of a cohort that is gone."""
    copied = copied_arrays(store, cohort)
    for name, _ in _lost_descriptions(store, cohort):
        if name == METADATA:
            if names_in(store, cohort):
                write_attributes(store, cohort, copied[""]["attributes"])
                _restore_descriptions(store, cohort)
        else:
            write_json(store, f"{cohort}/{name}/{METADATA}", copied[name])


class _DamagedError(Exception):
    """An object that cannot be decoded, or that is not what was recorded."""


class _MissingError(_DamagedError):
    """An object that must be there and is not."""


class _CohortCheck:
    """The check of one cohort: what it found, and what has to be computed again."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.findings: list[Finding] = []
        self.regions = self.objects = self.done = 0
        self._again: dict[str, list[Index]] = defaultdict(list)
        self._bookkeeping: list[tuple[str, Index]] = []
        self._summaries: set[str] = set()
        self._maps: list[str] = []
        self._labels: dict[str, np.ndarray] = {}
        names = group.with_role(*BOOKKEEPING, "summary", "coordinate", "metadata")
        self._missing = set(missing_chunks(group, names))

    def run(self) -> None:
        """Decode everything of the cohort."""
        self._check_labels()
        for name in self.group.with_role("probe", "summary"):
            self._check_whole(name)
        for name in self.group.maps():
            variables = self.group.variables(name)
            if variables and all(set(self.group.dims(entry)) <= set(self._labels) for entry in variables):
                status = self._status(name)
                self._map(name, status, self._companions(name, status))
            else:
                # Without labels nothing can be said of the maps, least of all that they are done.
                self.regions += sum(1 for _ in self._regions(name))
        for name in set(self.group.with_role("map", "measure")) - self._variables():
            # Nor can it without a status.
            array = self.group.open(name)
            self.regions += sum(1 for _ in _cuts(array.shape, object_grid(array)))

    def _variables(self) -> set[str]:
        return {entry for name in self.group.maps() for entry in self.group.variables(name)}

    def _regions(self, name: str) -> Iterator[Index]:
        """The regions of a map, one shard each, over the axes of its status."""
        extents, rows = shard_extents(self.group, name), self.group.rows_of(name)
        cuts = _cuts(self.group.shape(status_name(name)), tuple(extents.values()))
        return (where for where in cuts if rows[where[0].start])

    def requeue(self) -> int:
        """Number of regions marked as pending, after what cannot be decoded was removed."""
        group, count = self.group, 0
        failures = group.attributes.get("failures", "{}")
        for name, index in self._bookkeeping:
            self._restore(name, index)
        for name, indices in self._again.items():
            unique = list({str(index): index for index in indices}.values())
            count += len(unique)
            changes = [
                (index, np.full([part.stop - part.start for part in index], PENDING, np.uint8)) for index in unique
            ]
            edit_array(group.open(status_name(name)), changes, group.location)
            failures = pruned(failures, {str(self._labels["checkpoint"][index[0].start]) for index in unique}, name)
            # What was made of these maps is not true of those that follow.
            self._summaries |= {entry for entry in group.with_role("summary") if self._owner(entry) == name}
        for key in self._maps:
            delete_object(group.store, key)
        for name in self._summaries:
            delete_array(group.store, group.name, name)
        if failures != group.attributes.get("failures", "{}"):
            write_attributes(group.store, group.name, group.attributes | {"failures": failures})
        return count

    def _owner(self, name: str) -> str:
        return map_of(name, self.group.array_attributes(name))

    def _restore(self, name: str, index: Index) -> None:
        """Put a lost or damaged object of the driver's back as it was laid out."""
        array = self.group.open(name)
        for key in object_keys(array, array.chunks, index):
            delete_object(self.group.store, key)
        with storage_errors(self.group.location):
            array[index] = array.fill_value

    def _damaged(self, name: str, problem: Exception, rows: slice | None = None) -> None:
        span = ""
        if rows is not None and "checkpoint" in self._labels:
            labels = self._labels["checkpoint"][rows]
            span = str(labels[0]) if len(labels) == 1 else f"{labels[0]} to {labels[-1]}"
        kind: Kind = "missing" if isinstance(problem, _MissingError) else "damaged"
        self.findings.append(Finding(kind, self.group.name, name, span, detail=str(problem)))

    def _decoded(self, array: zarr.Array, index: Index, name: str) -> np.ndarray:
        """One chunk of an array of which every chunk must be there."""
        for key in object_keys(array, array.chunks, index):
            if key.removeprefix(f"{self.group.name}/") in self._missing:
                raise _MissingError(f"its chunk {key.removeprefix(f'{self.group.name}/{name}/')}")
        self.objects += 1
        return _decode(array, index, self.group.location)

    def _check_labels(self) -> None:
        """Decode labels and metadata, and compare them with what was recorded."""
        read: dict[str, np.ndarray | None] = {}
        for name in self.group.with_role("coordinate", "metadata"):
            read[name] = self.group.read(name) if self._check_whole(name) else None
        damaged = damaged_labels(self.group, read)
        for name in damaged:
            if read[name] is not None:
                self._damaged(name, _DamagedError("its values are not those that were recorded"))
        for name in self.group.with_role("coordinate"):
            values = read[name]
            if values is not None and name not in damaged:
                self._labels[name] = values

    def _check_whole(self, name: str) -> bool:
        """Whether an array without a status decodes."""
        array = self.group.open(name)
        whole = True
        for index in _cuts(array.shape, array.chunks):
            try:
                self._decoded(array, index, name)
            except _DamagedError as problem:
                self._damaged(name, problem)
                whole = False
                role = self.group.array_attributes(name)["role"]
                self._bookkeeping += [(name, index)] if role == "probe" else []
                self._summaries |= {name} if role == "summary" else set()
        return whole

    def _status(self, name: str) -> np.ndarray:
        """The status of a map; what cannot be decoded counts as pending."""
        array = self.group.open(status_name(name))
        status = np.full(array.shape, PENDING, np.uint8)
        for index in _cuts(array.shape, array.chunks):
            try:
                status[index] = self._decoded(array, index, status_name(name))
            except _DamagedError as problem:
                self._damaged(status_name(name), problem, index[0])
                self._bookkeeping.append((status_name(name), index))
                self._again[name] += _rows(index)
        return status

    def _companions(self, name: str, status: np.ndarray) -> dict[str, np.ndarray]:
        """Companions and digests of a map by their endings; maps beside a damaged one have to be computed again."""
        found = {}
        for ending in ("digest", *COMPANIONS):
            companion = variable_name(name, ending)
            if companion not in self.group.arrays:
                continue
            array = self.group.open(companion)
            found[ending] = np.full(array.shape, array.fill_value, array.dtype)
            for index in _cuts(array.shape, array.chunks):
                try:
                    found[ending][index] = self._decoded(array, index, companion)
                except _DamagedError as problem:
                    self._damaged(companion, problem, index[0])
                    self._bookkeeping.append((companion, index))
                    self._again[name] += [row for row in _rows(index) if (status[row] == DONE).any()]
                    found["digest"][index] = 0  # of numbers that are not known
        return found

    def _map(self, name: str, status: np.ndarray, beside: Mapping[str, np.ndarray]) -> None:
        dims = self.group.dims(status_name(name))
        variables = [_Stored.of(self.group, entry) for entry in self.group.variables(name)]

        def judge(where: Index) -> tuple[Index, list[_Verdict]]:
            states = xr.Variable(dims, status[where])
            verdicts = [self._judge(entry, dict(zip(dims, where, strict=True)), states) for entry in variables]
            if self._is_foreign(name, verdicts, states, {ending: values[where] for ending, values in beside.items()}):
                detail = "it or the numbers beside it are not those that were recorded"
                verdicts[0] = replace(verdicts[0], kind="damaged", detail=detail)
            return where, [replace(verdict, values=None) for verdict in verdicts]

        with ThreadPoolExecutor(max_workers=8) as pool:
            regions = self._regions(name)
            while some := list(islice(regions, 64)):
                for where, verdicts in pool.map(judge, some):
                    self._settle(name, dims, where, verdicts)

    def _settle(self, name: str, dims: tuple[str, ...], where: Index, verdicts: list["_Verdict"]) -> None:
        """Count one region, by the worst that is wrong with any of its variables."""
        self.regions += 1
        self.objects += sum(len(verdict.written) for verdict in verdicts)
        wrong = [verdict for verdict in verdicts if verdict.kind in UNSOUND]
        open_ones = [verdict for verdict in verdicts if verdict.kind is not None]
        if not open_ones:
            self.done += 1
            return
        for verdict in wrong:
            assert verdict.kind is not None
            self.findings.append(self._finding(verdict.kind, verdict.variable, dims, where, verdict.detail))
            if verdict.kind == "damaged":
                self._maps += verdict.written
        if not wrong:
            first = next((verdict for verdict in open_ones if verdict.kind != "pending"), open_ones[0])
            assert first.kind is not None
            self.findings.append(self._finding(first.kind, name, dims, where, first.detail))
        if wrong or any(verdict.kind == "failed" for verdict in open_ones):
            self._again[name].append(where)

    def _judge(self, entry: "_Stored", where: Mapping[str, slice], states: xr.Variable) -> "_Verdict":
        """What is wrong with one variable in one region."""
        index = tuple(where.get(dim, slice(0, size)) for dim, size in zip(entry.dims, entry.array.shape, strict=True))
        keys = object_keys(entry.array, entry.grid, index)
        written = [key for key in keys if key in entry.present]

        def verdict(kind: Kind | None, detail: str = "", values: xr.Variable | None = None) -> _Verdict:
            return _Verdict(entry.name, written, kind, detail, values)

        done = states == DONE
        detail, values = "", None
        if bool(done.any()) and len(written) < len(keys):
            return verdict("missing")
        if len(written) == len(keys):
            try:
                values = xr.Variable(entry.dims, _decode(entry.array, index, self.group.location))
            except _DamagedError as problem:
                if bool(done.any()):
                    return verdict("damaged", str(problem))
                detail = str(problem)
            else:
                if entry.is_map and bool((~np.isfinite(values) & done).any()):
                    return verdict("non-finite")
        if bool(done.all()):
            return verdict(None, values=values)
        if bool((states == FAILED).any()):
            return verdict("failed", values=values)
        return verdict("unclaimed", detail, values) if len(written) == len(keys) else verdict("pending")

    def _is_foreign(
        self, name: str, verdicts: list["_Verdict"], states: xr.Variable, beside: Mapping[str, np.ndarray]
    ) -> bool:
        """Whether a region holds done maps of which other digests were recorded; what is lost is told by itself."""
        variables = {verdict.variable: verdict.values for verdict in verdicts if verdict.values is not None}
        recorded = beside.get("digest")
        if recorded is None:
            return False
        about = self.group.array_attributes(digest_name(name))
        names, endings = (str(about.get(key, "")).split() for key in ("variables", "companions"))
        checked = (states.values == DONE) & (recorded != 0)
        if not checked.any() or set(names) != set(variables) or not set(endings) <= set(beside):
            return False
        found = map_digests(tuple(map(str, states.dims)), variables, beside, endings)
        return bool((found != recorded)[checked].any())

    def _finding(self, kind: Kind, name: str, dims: tuple[str, ...], index: Index, detail: str) -> Finding:
        stimulus = axis_named("stimulus", dims) or ""
        labels = {
            dim: tuple(str(label) for label in self._labels[dim][part])
            for dim, part in zip(dims, index, strict=True)
            if dim in ("checkpoint", "neuron", stimulus)
        }
        neurons, stimuli = labels.get("neuron", ()), labels.get(stimulus, ())
        return Finding(kind, self.group.name, name, labels["checkpoint"][0], neurons, stimuli, detail)


@dataclass(frozen=True)
class _Stored:
    """A variable as it lies in the store: its array, the extent of its objects, and which of them are there."""

    name: str
    array: zarr.Array
    dims: tuple[str, ...]
    grid: tuple[int, ...]
    is_map: bool
    present: frozenset[str]

    @classmethod
    def of(cls, group: Group, name: str) -> "_Stored":
        array = group.open(name)
        present = frozenset(keys_below(group.store, f"{group.name}/{name}/"))
        return cls(name, array, group.dims(name), object_grid(array), is_map(group.array_attributes(name)), present)


@dataclass(frozen=True)
class _Verdict:
    """What is wrong with one variable in one region, None where nothing is, and its objects that are there."""

    variable: str
    written: list[str]
    kind: Kind | None
    detail: str
    values: xr.Variable | None = None


def _decode(array: zarr.Array, index: Index, where: str) -> np.ndarray:
    try:
        with storage_errors(where):
            return np.asarray(array[index])
    except OSError:
        raise
    except Exception as error:
        raise _DamagedError(str(error) or type(error).__name__) from error


def _cuts(shape: tuple[int, ...], extents: tuple[int, ...]) -> Iterator[Index]:
    """An array cut on a grid."""
    return product(
        *([block.slice() for block in blocks(size, extent)] for size, extent in zip(shape, extents, strict=True))
    )


def _rows(index: Index) -> list[Index]:
    """An index cut into single checkpoints."""
    return [(slice(row, row + 1), *index[1:]) for row in range(index[0].start, index[0].stop)]
