"""Reasons not to continue a store with a config: every number of one variable must mean the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.plan.axes import AXIS_ATTRIBUTES
from pipeline.plan.config import ConfigError
from pipeline.plan.shards import CohortPlan, MapPlan, RunPlan, VariablePlan
from pipeline.store.array_specs import flag_attributes, map_arrays
from pipeline.store.backend import scrub
from pipeline.store.groups import Group
from pipeline.text import listed
from pipeline.words import Flag, axis_of, health_name, map_of, status_name

_WHAT_TO_SET = {
    "objects": "storage.object_mib",
    "chunks": "storage.chunks_per_object",
    "shape": "lags, window_ms, the bands or the number of stimuli",
}


def check_plan(plan: RunPlan) -> None:
    """Refuse a plan whose shards could not own whole objects, or whose labels are not unique."""
    for cohort in plan.cohorts:
        for what, labels in (("checkpoints", [c.id for c in cohort.checkpoints]), ("neurons", list(cohort.neurons))):
            twice = (
                sorted({label for label in labels if labels.count(label) > 1}) if len(set(labels)) < len(labels) else []
            )
            if twice:
                raise ConfigError(
                    f"cohort {cohort.name!r} has {what} of the same name ({listed(twice)}), so a label would not select"
                    " one of them; give each its own"
                )
        for entry in cohort.maps:
            for variable in entry.computed:
                if variable.dims[0] != "checkpoint" or variable.chunks[0] != 1:
                    raise ValueError(
                        f"{variable.name!r} is planned with axes {variable.dims} in objects of {variable.chunks}, but a"
                        " shard is one checkpoint and must own whole objects; plan 'checkpoint' first, one per object"
                    )


def refuse_foreign(cohort: CohortPlan, group: Group) -> None:
    """Refuse a group that was not made by this program."""
    if "gradmap_format" not in group.attributes:
        raise ConfigError(
            f"the group {cohort.name!r} of {scrub(group.location)} was not made by this program, and writing into it"
            " could destroy it; rename the cohort or give another store"
        )


def outdated_arrays(cohort: CohortPlan, group: Group, health_flags: Mapping[str, int | Flag]) -> frozenset[str] | None:
    """Arrays that were laid out under other settings and hold nothing yet; None where that is the whole cohort.

    Raises `ConfigError` if numbers were made under other settings. The message names what differs, both values, and
    what to do.
    """
    try:
        _refuse_differences(cohort, group, health_flags)
    except ConfigError:
        done = group.maps_with_done()
        if not done:
            return None
        empty = _empty_arrays(group, done)
        _refuse_differences(cohort, replace(group, arrays=_without(group, empty)), health_flags)
        return empty
    return frozenset()


def _empty_arrays(group: Group, done: set[str]) -> frozenset[str]:
    """Arrays of the maps of which nothing is done, with the axes that only these have."""
    maps = set(group.maps()) - done
    owned = {name for name in group.arrays if map_of(name, group.array_attributes(name)) in maps}
    used = {dim for name in group.arrays if name not in owned for dim in group.dims(name) if dim != name}
    axes = {dim for name in owned for dim in group.dims(name)} - used
    return frozenset(owned | axes)


def _without(group: Group, names: frozenset[str]) -> dict[str, Any]:
    return {name: entry for name, entry in group.arrays.items() if name not in names}


def _refuse_differences(cohort: CohortPlan, group: Group, health_flags: Mapping[str, int | Flag]) -> None:
    """Refuse to continue a cohort whose numbers in the store were made under other settings."""
    _same_labels(cohort, group)
    for entry in cohort.maps:
        if status_name(entry.name) in group.arrays:
            for variable in entry.variables:
                _same_settings(cohort, entry, variable, group)
            _same_flags(entry, group, health_flags)
        else:
            _name_is_free(cohort, entry, group)
    _same_checkpoints(cohort, group)


def _same_flags(entry: MapPlan, group: Group, health_flags: Mapping[str, int | Flag]) -> None:
    name = health_name(entry.name)
    if name not in group.arrays:
        return
    stored, meaning = group.array_attributes(name), flag_attributes(health_flags)
    old = dict(zip(stored["flag_meanings"].split(), stored["flag_masks"], strict=True))
    new = dict(zip(meaning["flag_meanings"].split(), meaning["flag_masks"], strict=True))
    if old != new:
        raise ConfigError(
            f"{name} of {scrub(group.location)} has the bits {old} and this version of gradmap-pipeline writes"
            f" {new}, so one bit would mean two things; continue with the version that wrote it, or give another"
            " store"
        )


def _same_labels(cohort: CohortPlan, group: Group) -> None:
    where = f"cohort {cohort.name!r} of {scrub(group.location)}"
    for dim in cohort.dims():
        if dim == "checkpoint" or dim not in group.arrays:
            continue
        stored, wanted = group.read(dim), cohort.coordinate(dim)
        if same_labels(stored, wanted):
            continue
        units = AXIS_ATTRIBUTES.get(axis_of(dim), {}).get("units", "")
        advice = {
            "frequency": "set frequencies_hz as it was",
            "lag": "set lags and frame_ms as they were",
            "neuron": "give the neurons that it was made with",
        }.get(dim, "give the map another name")
        raise ConfigError(
            f"{where}: the axis {dim!r} is {_axis(wanted, units)} in the config but {_axis(stored, units)} in the"
            f" store{_first_difference(stored, wanted)}, so the numbers of both cannot stand in one cube; {advice}, or"
            " give another store"
        )


def same_labels(stored: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two coordinates label the same positions; numbers may differ by rounding."""
    if stored.shape != wanted.shape:
        return False
    if stored.dtype.kind == "f" and wanted.dtype.kind in "fiu":
        return bool(np.allclose(stored, wanted, rtol=1e-9, atol=1e-12))
    return bool(np.array_equal(stored, wanted))


def _axis(values: np.ndarray, units: str) -> str:
    if not len(values):
        return "empty"
    if values.dtype == object:
        return f"{len(values)} labels"
    return f"{len(values)} values from {values[0]:g} to {values[-1]:g} {units}".strip()


def _first_difference(stored: np.ndarray, wanted: np.ndarray) -> str:
    for position, (old, new) in enumerate(zip(stored, wanted, strict=False)):
        if old != new:
            return f" (position {position}: {new!s} against {old!s})"
    return ""


def _same_settings(cohort: CohortPlan, entry: MapPlan, variable: VariablePlan, group: Group) -> None:
    if variable.name not in group.arrays:
        raise ConfigError(
            f"maps.{entry.name} of cohort {cohort.name!r}: {scrub(group.location)} holds the map without"
            f" {variable.name!r}, so the maps that are done would lack it; give the map another name, or give another"
            " store"
        )
    stored = json.loads(group.array_attributes(variable.name).get("settings", "{}"))
    wanted = entry.signature(variable)
    where = f"maps.{entry.name} of cohort {cohort.name!r}"
    for key in dict.fromkeys((*wanted, *stored)):
        if stored.get(key) == wanted.get(key):
            continue
        if key == "stimuli_digests":
            _refuse_other_sounds(where, entry, stored[key], group)
        setting = _WHAT_TO_SET.get(key, key)
        raise ConfigError(
            f"{where}: {setting} is {_value(wanted.get(key))} in the config but"
            f" {_value(stored.get(key))} in {scrub(group.location)}, so new numbers would mean something else than"
            f" those beside them; set {setting} as it was, give the map another name, or give another store"
        )


def _refuse_other_sounds(where: str, entry: MapPlan, stored: Sequence[str], group: Group) -> None:
    pairs = zip(entry.stimuli.names, entry.stimuli.digests, stored, strict=True)
    changed = [name for name, now, before in pairs if now != before]
    raise ConfigError(
        f"{where}: the samples of {listed(changed)} are not those around which {scrub(group.location)} holds maps of"
        " that name, so one label would stand for two sounds; put the old files back, give the map another name or"
        " the sounds other names, or give another store"
    )


def _value(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _name_is_free(cohort: CohortPlan, entry: MapPlan, group: Group) -> None:
    wanted = {spec.name for spec in map_arrays(cohort, entry, {})}
    taken = sorted(wanted & set(group.arrays))
    if taken:
        raise ConfigError(
            f"maps.{entry.name}: the cohort {cohort.name!r} of {scrub(group.location)} already uses"
            f" {listed(taken)} for something else; give the map another name"
        )


def _same_checkpoints(cohort: CohortPlan, group: Group) -> None:
    fingerprints = group.document("fingerprints")
    changed = [c for c in cohort.checkpoints if c.differs_from(fingerprints)]
    if not changed:
        return
    done = group.checkpoints_with_done()
    kept = [checkpoint.id for checkpoint in changed if checkpoint.id in done]
    if kept:
        raise ConfigError(
            f"cohort {cohort.name!r}: the weights or the recipe of {listed(kept)} changed since {scrub(group.location)}"
            " holds maps of that name, so old and new maps would stand under one label; put the old file back, give"
            " the new one another id, or give another store"
        )
