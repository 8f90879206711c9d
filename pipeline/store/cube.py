"""The cubes of a run, laid out before any number is computed."""

import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from zarr.abc.store import Store

from pipeline.plan.config import CheckpointsConfig, ConfigError, plain
from pipeline.plan.shards import Checkpoint, CheckpointSource, CohortPlan, RunPlan
from pipeline.store.backend import location_of, open_store, scrub
from pipeline.store.groups import (
    CHANGING,
    CREATING,
    FORMAT,
    READY,
    Group,
    claim_root,
    consolidate,
    create_arrays,
    delete_array,
    existing_group,
    open_existing,
    read_group,
    resize,
    write_attributes,
)
from pipeline.store.layout import (
    SIGN,
    ArraySpec,
    cohort_arrays,
    flag_attributes,
)
from pipeline.store.record import pruned
from pipeline.store.refusals import check_plan, checkpoints_with_done, is_changed, refuse_differences
from pipeline.store.regions import forget
from pipeline.words import FAILED, PENDING, health_name

#: Location of a checkpoint that the store holds and the config no longer names.
ABSENT = ""


def create_or_extend(plan: RunPlan, *, health_flags: Mapping[str, int]) -> None:
    """Lay out every cohort of a plan: new cubes, new checkpoints at the end of old ones, new maps beside old ones.

    Only the driver that holds the store's lease calls it. What an earlier start left half done is undone first. Maps
    that are there are not touched, and checkpoints that the plan no longer names are kept.

    Parameters
    ----------
    health_flags
        Meaning of each bit of `<map>_health`.

    Raises
    ------
    ConfigError
        If the store holds something else, or numbers made under other settings; nothing has been changed then.
    """
    check_plan(plan)
    location = location_of(plan.store)
    store = open_store(location, writable=True)
    forget(location)
    claim_root(store, location)
    for cohort in plan.cohorts:
        _undo_half_done(store, location, cohort.name)
    groups = {cohort.name: read_group(store, location, cohort.name) for cohort in plan.cohorts}
    for cohort in plan.cohorts:
        group = groups[cohort.name]
        if group is not None and group.state == READY:
            refuse_differences(cohort, group)
            _refuse_other_flags(group, cohort, health_flags)
    for cohort in plan.cohorts:
        group = groups[cohort.name]
        if group is None or group.state == CREATING:
            _create(store, plan, cohort, health_flags)
        else:
            _extend(plan, cohort, group, health_flags)
    consolidate(store)
    forget(location)


def _undo_half_done(store: Store, location: str, name: str) -> None:
    """Take back what a start that was killed had begun; no number can have been written into it."""
    group = read_group(store, location, name)
    if group is None or group.state == READY:
        return
    if group.state == CREATING:
        for array in group.arrays:
            delete_array(store, name, array)
        return
    intent = group.document("intent")
    for array in intent["adding"]:
        delete_array(store, name, array)
    group = read_group(store, location, name)
    if group is not None:
        resize(group, intent["checkpoints"])
        attributes = {key: value for key, value in group.attributes.items() if key != "intent"}
        write_attributes(store, name, {**attributes, "state": READY})


def _refuse_other_flags(group: Group, cohort: CohortPlan, health_flags: Mapping[str, int]) -> None:
    meaning = flag_attributes(health_flags)
    new = dict(zip(meaning["flag_meanings"].split(), meaning["flag_masks"], strict=True))
    for entry in cohort.maps:
        name = health_name(entry.name)
        if name not in group.arrays:
            continue
        stored = group.array_attributes(name)
        old = dict(zip(stored["flag_meanings"].split(), stored["flag_masks"], strict=True))
        if old != new:
            raise ConfigError(
                f"{name} of {scrub(group.location)} has the bits {old} and this version of gradmap-pipeline writes"
                f" {new}, so one bit would mean two things; continue with the version that wrote it, or give another"
                " store"
            )


def _create(store: Store, plan: RunPlan, cohort: CohortPlan, health_flags: Mapping[str, int]) -> None:
    write_attributes(store, cohort.name, {"gradmap_format": FORMAT, "state": CREATING})
    specs = cohort_arrays(cohort, health_flags)
    create_arrays(store, cohort.name, specs)
    prints = {checkpoint.id: checkpoint.fingerprint for checkpoint in cohort.checkpoints}
    write_attributes(store, cohort.name, _attributes(plan, cohort, prints, _coordinate_names(specs), {}))


def _extend(plan: RunPlan, cohort: CohortPlan, group: Group, health_flags: Mapping[str, int]) -> None:
    prints = group.document("fingerprints")
    labels = [str(label) for label in group.read("checkpoint")]
    replaced = _replaced(cohort, group, prints)
    whole = _aligned(cohort, labels, prints, add_new=True)
    kinds = _column_types(group)
    whole = replace(whole, checkpoints=tuple(_fitting(entry, kinds) for entry in whole.checkpoints))
    wanted = {_identity(spec): spec for spec in cohort_arrays(whole, health_flags)}
    there = {_stored_identity(group, name): name for name in group.arrays}
    adding = [
        _renamed(spec, group) for key, spec in wanted.items() if key not in there or _is_stale(group, spec, there)
    ]
    size, n_stored = len(whole.checkpoints), len(labels)
    rows = sorted({*range(n_stored, size), *(labels.index(entry) for entry in replaced)})
    attributes = _attributes(
        plan,
        cohort,
        prints
        | {entry.id: entry.fingerprint for entry in whole.checkpoints if entry.id not in prints}
        | {entry.id: entry.fingerprint for entry in cohort.checkpoints if entry.id in replaced},
        [*group.attributes.get("coordinates", "").split(), *_coordinate_names(adding)],
        group.attributes,
    )
    if adding or rows:
        intent = {"checkpoints": n_stored, "adding": [spec.name for spec in adding]}
        write_attributes(group.store, group.name, group.attributes | {"state": CHANGING, "intent": json.dumps(intent)})
        for spec in adding:
            if spec.name in group.arrays:
                delete_array(group.store, group.name, spec.name)
        create_arrays(group.store, group.name, adding)
        resize(group, size)
        added = {spec.name for spec in adding}
        for key, spec in wanted.items():
            name = there.get(key)
            if name is not None and name not in added and spec.values is not None and "checkpoint" in spec.dims:
                _write_rows(group, name, spec, rows)
        _reset(group, [row for row in rows if row < n_stored])
    if attributes != group.attributes:
        write_attributes(group.store, group.name, attributes)


def _replaced(cohort: CohortPlan, group: Group, prints: Mapping[str, str]) -> set[str]:
    """Checkpoints whose file changed before anything of them was done."""
    changed = {entry.id for entry in cohort.checkpoints if is_changed(entry, prints)}
    return changed - checkpoints_with_done(group) if changed else set()


def _identity(spec: ArraySpec) -> tuple[Any, ...]:
    """What an array is, whatever its name: metadata are known by the key they came from."""
    source = spec.attributes.get("source")
    return (spec.dims, source) if source is not None else (spec.name,)


def _stored_identity(group: Group, name: str) -> tuple[Any, ...]:
    source = group.array_attributes(name).get("source")
    return (group.dims(name), source) if source is not None else (name,)


def _renamed(spec: ArraySpec, group: Group) -> ArraySpec:
    """An added array of metadata under a name that the store does not use for anything else."""
    name = spec.name
    while name in group.arrays and _stored_identity(group, name) != _identity(spec):
        name = f"{name}_2"
    return replace(spec, name=name)


def _is_stale(group: Group, spec: ArraySpec, there: Mapping[tuple[Any, ...], str]) -> bool:
    """Whether metadata of the neurons were corrected since they were stored."""
    if spec.role != "metadata" or spec.dims != ("neuron",) or spec.values is None:
        return False
    stored = group.read(there[_identity(spec)])
    if stored.dtype.kind != spec.values.dtype.kind or stored.shape != spec.values.shape:
        return True
    return not np.array_equal(stored, spec.values, equal_nan=stored.dtype.kind == "f")


def _column_types(group: Group) -> dict[str, str]:
    """Type of each stored scalar of the checkpoints."""
    return {
        group.array_attributes(name)["source"]: group.arrays[name]["data_type"]
        for name in group.with_role("metadata")
        if group.dims(name) == ("checkpoint",)
    }


def _fitting(checkpoint: Checkpoint, kinds: Mapping[str, str]) -> Checkpoint:
    """A checkpoint whose scalars fit the columns that the store has: text for a column of numbers gets its own."""
    scalars = {
        f"{key} as text" if isinstance(value, str) and kinds.get(key) == "float64" else key: value
        for key, value in checkpoint.scalars.items()
    }
    return replace(checkpoint, scalars=scalars)


def _write_rows(group: Group, name: str, spec: ArraySpec, rows: list[int]) -> None:
    array = group.open(name)
    values = spec.values
    if values is None or not rows:
        return
    if group.arrays[name]["data_type"] == "string" and values.dtype != object:
        values = np.array(["" if np.isnan(value) else f"{value:g}" for value in values], dtype=object)
    fresh = [row for row in rows if row >= group.shape(name)[0]]
    if fresh:
        array[fresh[0] : fresh[-1] + 1] = values[fresh[0] : fresh[-1] + 1]
    for row in rows[: len(rows) - len(fresh)]:
        array[row : row + 1] = values[row : row + 1]


def _reset(group: Group, rows: list[int]) -> None:
    """Make replaced checkpoints pending, and forget the probe of the file that they were."""
    for name in group.with_role("status", "probe") if rows else []:
        array, status = group.open(name), group.array_attributes(name)["role"] == "status"
        for row in rows:
            values = np.asarray(array[row : row + 1])
            values = np.where(values == FAILED, np.uint8(PENDING), values) if status else np.full_like(values, np.nan)
            array[row : row + 1] = values


def _coordinate_names(specs: list[ArraySpec]) -> list[str]:
    """Names of the further coordinates: everything known of a single axis that is not the axis itself."""
    return [spec.name for spec in specs if spec.role == "metadata" and len(spec.dims) == 1]


def _attributes(
    plan: RunPlan,
    cohort: CohortPlan,
    fingerprints: Mapping[str, str],
    coordinates: list[str],
    stored: Mapping[str, Any],
) -> dict[str, Any]:
    """What a reader has to know of a cohort; `routes` and `failures` follow as the run goes."""
    given = {
        key: value if isinstance(value, (str, int, float)) else json.dumps(plain(value), default=str)
        for key, value in cohort.attributes.items()
        if key != "versions"
    }
    kept = {key: value for key, value in stored.items() if key not in ("intent", "state")}
    before = json.loads(stored.get("maps", "{}"))
    maps = before | {entry.name: {"kind": entry.kind, **entry.settings.facts()} for entry in cohort.maps}
    failures = kept.get("failures", "{}")
    prints_before = json.loads(stored.get("fingerprints", "{}"))
    replaced = {key for key, value in fingerprints.items() if prints_before.get(key, value) != value}
    return {
        **kept,
        **given,
        "gradmap_format": FORMAT,
        "state": READY,
        "Conventions": "CF-1.12",
        "title": f"gradmaps of the cohort {cohort.name}",
        "sign": SIGN,
        "frame_ms": cohort.frame_ms,
        "maps": json.dumps(maps),
        "versions": json.dumps({**_versions(), **dict(cohort.attributes.get("versions", {}))}, default=str),
        "config": scrub(plan.config.text),
        "fingerprints": json.dumps(dict(fingerprints)),
        "routes": kept.get("routes", "{}"),
        "blocks": kept.get("blocks", "{}"),
        "failures": pruned(failures, replaced) if replaced else failures,
        "coordinates": " ".join(dict.fromkeys(coordinates)),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("gradmap-pipeline", "numpy", "xarray", "zarr"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def positions(plan: RunPlan) -> dict[str, dict[str, int]]:
    """Position of every checkpoint of the store by its id, cohort by cohort."""
    store, location = open_existing(plan.store)
    return {
        cohort.name: {
            str(label): row for row, label in enumerate(existing_group(store, location, cohort.name).read("checkpoint"))
        }
        for cohort in plan.cohorts
    }


def align(plan: RunPlan) -> RunPlan:
    """The plan with its checkpoints where the store has them, so that `Shard.checkpoint` is a position of the store.

    A checkpoint that the store holds and the plan does not name stands in its place with the location `ABSENT` and an
    error; it is left alone.

    Raises
    ------
    ValueError
        If the store does not hold a checkpoint of the plan yet.
    """
    store, location = open_existing(plan.store)
    cohorts = []
    for cohort in plan.cohorts:
        group = existing_group(store, location, cohort.name)
        labels = [str(label) for label in group.read("checkpoint")]
        lacking = sorted({entry.id for entry in cohort.checkpoints} - set(labels))
        if lacking:
            raise ValueError(
                f"cohort {cohort.name!r} of {scrub(location)} has no place for {', '.join(lacking[:5])}, so their maps"
                " could not be written; call create_or_extend with this plan first"
            )
        cohorts.append(_aligned(cohort, labels, group.document("fingerprints")))
    return replace(plan, cohorts=tuple(cohorts))


def _aligned(
    cohort: CohortPlan, labels: list[str], fingerprints: Mapping[str, str], *, add_new: bool = False
) -> CohortPlan:
    by_id = {entry.id: entry for entry in cohort.checkpoints}
    ordered = [by_id.get(label) or _absent(label, fingerprints.get(label, "")) for label in labels]
    if add_new:
        known = set(labels)
        ordered += [entry for entry in cohort.checkpoints if entry.id not in known]
    return replace(cohort, checkpoints=tuple(ordered))


def _absent(label: str, fingerprint: str) -> Checkpoint:
    source = CheckpointSource(label, ABSENT, CheckpointsConfig(path="-"), "not in the config")
    return Checkpoint(source, fingerprint, error="not in the config; its maps are kept as they are")
