"""A cohort that grows: new checkpoints, new maps, and corrected metadata, beside maps that are not touched."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.plan.run_plan import CohortPlan, RunPlan
from pipeline.store.array_specs import NONE_OF, ArraySpec, cohort_arrays
from pipeline.store.attributes import coordinate_names, group_attributes, with_label_digests
from pipeline.store.backend import storage_errors
from pipeline.store.checkpoint_rows import aligned
from pipeline.store.digests import values_digest
from pipeline.store.failures import pruned
from pipeline.store.groups import (
    CHANGING,
    Group,
    create_arrays,
    delete_array,
    resize,
    text_as_objects,
    write_attributes,
)
from pipeline.words import FAILED, PENDING, Flag


@dataclass(frozen=True)
class Wanted:
    """What the plan wants of a cohort that the store holds."""

    cohort: CohortPlan
    group: Group
    #: The cohort with its checkpoints where the store has them, new ones behind them, and what only the store knows.
    whole: CohortPlan
    #: Every array by the name that it has in the store, or would get there.
    arrays: Mapping[str, ArraySpec]


def wanted_of(cohort: CohortPlan, group: Group, health_flags: Mapping[str, int | Flag]) -> Wanted:
    """What the plan wants of a cohort, as the store would have it."""
    whole = _recalled(group, aligned(cohort, group.labels(), group.document("fingerprints"), add_new=True))
    return Wanted(cohort, group, whole, as_stored(group, whole, health_flags))


def extend(plan: RunPlan, wanted: Wanted, outdated: frozenset[str]) -> None:
    """Give a cohort of the store what the plan has more or otherwise.

    ``outdated``: Names of arrays that hold nothing and are to be laid out anew.
    """
    group, arrays = wanted.group, wanted.arrays
    replaced = _replaced(wanted)
    leaving = outdated | _left_over(group, arrays)
    adding = [spec for name, spec in arrays.items() if name not in group.arrays or name in leaving]
    staying = replace(group, arrays={name: entry for name, entry in group.arrays.items() if name not in leaving})
    changed = {name: spec for name, spec in arrays.items() if name in staying.arrays and _differs(staying, name, spec)}
    attributes = _attributes(plan, wanted, adding, replaced, leaving)
    rows = {entry.id: row for row, entry in enumerate(wanted.whole.checkpoints)}
    before = group.shape("checkpoint")[0]
    if adding or leaving or changed or replaced or len(rows) > before:
        recorded = {name: digest for name, digest in group.document("label_digests").items() if name not in changed}
        fresh = sorted(leaving | {spec.name for spec in adding})
        intent = {"checkpoints": before, "adding": fresh}
        changing = {**with_label_digests(group.attributes, recorded), "state": CHANGING, "intent": json.dumps(intent)}
        write_attributes(group.store, group.name, changing)
        for name in fresh:
            delete_array(group.store, group.name, name)
        create_arrays(group.store, group.name, adding)
        resize(staying, len(rows))
        for name, spec in changed.items():
            _write_values(staying, name, spec)
        _reset(staying, sorted(rows[entry] for entry in replaced))
    elif attributes == group.attributes:
        return
    write_attributes(group.store, group.name, attributes)


def _attributes(
    plan: RunPlan, wanted: Wanted, adding: list[ArraySpec], replaced: set[str], leaving: frozenset[str]
) -> dict[str, Any]:
    cohort, group = wanted.cohort, wanted.group
    prints = group.document("fingerprints")
    new = {
        entry.id: entry.fingerprint for entry in cohort.checkpoints if entry.id not in prints or entry.id in replaced
    }
    coordinates = [name for name in group.attributes.get("coordinates", "").split() if name not in leaving]
    attributes = group_attributes(
        plan, cohort, prints | new, [*coordinates, *coordinate_names(adding)], group.attributes
    )
    for name in leaving & {entry.name for entry in cohort.maps}:
        attributes["failures"] = pruned(attributes["failures"], prints, name)
    return with_label_digests(attributes, _digests(group, wanted.arrays, leaving))


def _digests(group: Group, wanted: Mapping[str, ArraySpec], leaving: frozenset[str]) -> dict[str, str]:
    """Digests of every label and metadata of a group once it has what is wanted."""
    recorded = group.document("label_digests")
    digests = {}
    for name in dict.fromkeys((*group.with_role("coordinate", "metadata"), *wanted)):
        spec = wanted.get(name)
        stays = name in group.arrays and name not in leaving
        if spec is not None and spec.values is not None and (not stays or _is_rewritten(spec)):
            digests[name] = spec.digest()
        elif stays and group.array_attributes(name)["role"] in ("coordinate", "metadata"):
            digests[name] = recorded.get(name) or values_digest(group.read(name))
    return digests


def _is_rewritten(spec: ArraySpec) -> bool:
    """Whether an array follows the plan; axes other than the checkpoints' stay as they were first written."""
    return "source" in spec.attributes or spec.name == "checkpoint"


def _differs(group: Group, name: str, spec: ArraySpec) -> bool:
    if spec.values is None or not _is_rewritten(spec):
        return False
    return not _equal(group.read(name), spec.stored())


def _equal(stored: np.ndarray, wanted: np.ndarray) -> bool:
    return stored.shape == wanted.shape and bool(
        np.array_equal(stored, wanted, equal_nan=stored.dtype.kind == "f" and wanted.dtype.kind == "f")
    )


def _left_over(group: Group, wanted: Mapping[str, ArraySpec]) -> frozenset[str]:
    """Metadata that nobody has any more, or that changed their type."""
    return frozenset(
        name
        for name in group.with_role("metadata")
        if "source" in group.array_attributes(name)
        if name not in wanted
        or group.arrays[name]["data_type"] != wanted[name].dtype.replace("str", "string")
        or group.array_attributes(name).get("missing_value") != wanted[name].attributes.get("missing_value")
    )


def _replaced(wanted: Wanted) -> set[str]:
    """Checkpoints whose file changed before anything of them was done."""
    prints = wanted.group.document("fingerprints")
    changed = {entry.id for entry in wanted.cohort.checkpoints if entry.differs_from(prints)}
    return changed - wanted.group.checkpoints_with_done() if changed else set()


def as_stored(group: Group, cohort: CohortPlan, health_flags: Mapping[str, int | Flag]) -> dict[str, ArraySpec]:
    """Every array of a cohort by the name that it has in the store, or would get there.

    Metadata are known by the key that they came from.
    """
    there = {_stored_identity(group, name): name for name in group.arrays}
    specs = cohort_arrays(cohort, health_flags)
    taken = set(group.arrays) | {spec.name for spec in specs if spec.role != "metadata"}
    named = {}
    for spec in specs:
        name = there.get(_identity(spec))
        if name is None:
            name = spec.name
            while spec.role == "metadata" and "map" not in spec.attributes and name in taken:
                name = f"{name}_2"
            taken.add(name)
        named[name] = replace(spec, name=name)
    return named


def _identity(spec: ArraySpec) -> tuple[Any, ...]:
    source = spec.attributes.get("source")
    return (spec.dims, source) if source is not None else (spec.name,)


def _stored_identity(group: Group, name: str) -> tuple[Any, ...]:
    source = group.array_attributes(name).get("source")
    return (group.dims(name), source) if source is not None else (name,)


def _recalled(group: Group, cohort: CohortPlan) -> CohortPlan:
    """The cohort with what the store knows of checkpoints that the config no longer names, or that do not load now."""
    unknown = [row for row, entry in enumerate(cohort.checkpoints) if not entry.usable]
    if not unknown:
        return cohort
    scalars: dict[int, dict[str, Any]] = {row: {} for row in unknown}
    per_neuron: dict[int, dict[str, tuple[float, ...]]] = {row: {} for row in unknown}
    for name in group.with_role("metadata"):
        dims, key = group.dims(name), group.array_attributes(name).get("source")
        if key is None or "checkpoint" not in dims:
            continue
        values = group.read(name)
        for row in (row for row in unknown if row < len(values)):
            if dims != ("checkpoint",):
                per_neuron[row][key] = tuple(values[row].tolist())
            elif not _is_missing(values[row]):
                scalars[row][key] = _recalled_scalar(values[row])
    checkpoints = list(cohort.checkpoints)
    for row in unknown:
        entry = checkpoints[row]
        checkpoints[row] = replace(
            entry, scalars=scalars[row] | dict(entry.scalars), per_neuron=per_neuron[row] | dict(entry.per_neuron)
        )
    return replace(cohort, checkpoints=tuple(checkpoints))


def _is_missing(value: Any) -> bool:
    none = NONE_OF.get(str(value.dtype)) if isinstance(value, np.generic) else None
    return value == "" or bool(value != value) or (none is not None and bool(value == none))


def _recalled_scalar(value: Any) -> Any:
    """A stored label as it was given: truth values lie as 0 and 1 beside one that is missing."""
    plain = value.item() if isinstance(value, np.generic) else value
    return bool(plain) if isinstance(value, np.int8) else plain


def _write_values(group: Group, name: str, spec: ArraySpec) -> None:
    """Put values into an array, chunk by chunk where they differ."""
    array, values = group.open(name), spec.stored()
    rows = array.chunks[0]
    with storage_errors(group.location):
        for start in range(0, len(values), rows):
            block = values[start : start + rows]
            if not _equal(text_as_objects(np.asarray(array[start : start + rows])), block):
                array[start : start + len(block)] = block


def _reset(group: Group, rows: Iterable[int]) -> None:
    """Make replaced checkpoints pending, and forget the probe of the file that they were."""
    rows = list(rows)
    for name in group.with_role("status", "probe") if rows else []:
        array, status = group.open(name), group.array_attributes(name)["role"] == "status"
        for row in rows:
            values = np.asarray(array[row : row + 1])
            values = np.where(values == FAILED, np.uint8(PENDING), values) if status else np.full_like(values, np.nan)
            array[row : row + 1] = values
