"""Reasons not to continue a store with a config: every number of one variable must mean the same."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.plan.config import ConfigError
from pipeline.plan.run_plan import CohortPlan, MapPlan
from pipeline.store.array_specs import ArraySpec
from pipeline.store.backend import scrub
from pipeline.store.groups import Group
from pipeline.store.growth import Wanted
from pipeline.text import listed
from pipeline.words import DONE, map_of, status_name

_WHAT_TO_SET = {
    "objects": "storage.object_mib",
    "chunks": "storage.chunks_per_object",
    "shape": "lags, window_ms, the bands or the number of stimuli",
}

#: Settings of how a variable lies in the store.
_LAYOUT = ("dims", "shape", "objects", "chunks")


def outdated_arrays(wanted: Wanted) -> frozenset[str] | None:
    """Arrays that were laid out under other settings and hold nothing yet; None where that is the whole cohort.

    Raises `ConfigError` if numbers were made under other settings. The message names what differs, both values, and
    what to do.
    """
    group = wanted.group
    try:
        _refuse_differences(wanted, group)
    except ConfigError:
        done = {name for name in group.maps() if bool((group.read(status_name(name)) == DONE).any())}
        if not done:
            return None
        empty = _empty_arrays(group, done)
        kept = {name: entry for name, entry in group.arrays.items() if name not in empty}
        _refuse_differences(wanted, replace(group, arrays=kept))
        return empty
    return frozenset()


def _empty_arrays(group: Group, done: set[str]) -> frozenset[str]:
    """Arrays of the maps of which nothing is done, with the axes that only these have."""
    maps = set(group.maps()) - done
    owned = {name for name in group.arrays if map_of(name, group.array_attributes(name)) in maps}
    used = {dim for name in group.arrays if name not in owned for dim in group.dims(name) if dim != name}
    axes = {dim for name in owned for dim in group.dims(name)} - used
    return frozenset(owned | axes)


def _refuse_differences(wanted: Wanted, group: Group) -> None:
    """Refuse to continue a cohort whose numbers in the store were made under other settings."""
    for spec in wanted.arrays.values():
        if spec.role == "coordinate" and spec.name != "checkpoint" and spec.name in group.arrays:
            _same_axis(spec, group)
    for entry in wanted.cohort.maps:
        specs = [spec for spec in wanted.arrays.values() if spec.attributes.get("map") == entry.name]
        if status_name(entry.name) in group.arrays:
            for spec in specs:
                if "settings" in spec.attributes:
                    _same_settings(entry, spec, group)
                if "flag_masks" in spec.attributes and spec.name in group.arrays:
                    _same_flags(spec, group)
        else:
            _names_are_free(entry, specs, group)
    _same_checkpoints(wanted.cohort, group)


def _same_flags(spec: ArraySpec, group: Group) -> None:
    old, new = (
        dict(zip(told["flag_meanings"].split(), told["flag_masks"], strict=True))
        for told in (group.array_attributes(spec.name), spec.attributes)
    )
    if old != new:
        raise ConfigError(
            f"{spec.name} of {scrub(group.location)} has the bits {old} and this version of gradmap-pipeline writes"
            f" {new}, so one bit would mean two things; continue with the version that wrote it, or give another"
            " store"
        )


def _same_axis(spec: ArraySpec, group: Group) -> None:
    stored, wanted = group.read(spec.name), spec.stored()
    if same_labels(stored, wanted):
        return
    units = spec.attributes.get("units", "")
    advice = {
        "frequency": "set frequencies_hz as it was",
        "lag": "set lags and frame_ms as they were",
        "neuron": "give the neurons that it was made with",
    }.get(spec.name, "give the map another name")
    raise ConfigError(
        f"cohort {group.name!r} of {scrub(group.location)}: the axis {spec.name!r} is {_axis(wanted, units)} in the"
        f" config but {_axis(stored, units)} in the store{_first_difference(stored, wanted)}, so the numbers of both"
        f" cannot stand in one cube; {advice}, or give another store"
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


def _same_settings(entry: MapPlan, spec: ArraySpec, group: Group) -> None:
    where = f"maps.{entry.name} of cohort {group.name!r}"
    if spec.name not in group.arrays:
        raise ConfigError(
            f"{where}: {scrub(group.location)} holds the map without {spec.name!r}, so the maps that are done would"
            " lack it; give the map another name, or give another store"
        )
    stored = json.loads(group.array_attributes(spec.name).get("settings", "{}"))
    wanted = json.loads(spec.attributes["settings"])
    # What a map is comes first in the message, how it lies in the store last.
    for key in sorted(dict.fromkeys((*wanted, *stored)), key=lambda key: (key in _LAYOUT, key != "kind")):
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


def _names_are_free(entry: MapPlan, specs: Sequence[ArraySpec], group: Group) -> None:
    taken = sorted({spec.name for spec in specs} & set(group.arrays))
    if taken:
        raise ConfigError(
            f"maps.{entry.name}: the cohort {group.name!r} of {scrub(group.location)} already uses"
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
