"""What a start finds amiss in a store: mended where the plan knows better, refused otherwise, never built upon."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from zarr.abc.store import Store

from pipeline.plan.config import ConfigError
from pipeline.plan.run_plan import CohortPlan
from pipeline.store.array_specs import BOOKKEEPING, ArraySpec
from pipeline.store.attributes import with_label_digests
from pipeline.store.backend import METADATA, DamagedStoreError, keys_below_each, names_in, read_json, scrub
from pipeline.store.checkpoint_rows import aligned
from pipeline.store.digests import values_digest
from pipeline.store.groups import (
    CREATING,
    READY,
    Group,
    clear_group,
    copied_in,
    delete_array,
    read_group,
    resize,
    write_attributes,
)
from pipeline.store.growth import as_stored
from pipeline.words import Flag

_REQUEUE = "restore it from a copy, or mend the store with `gradmap verify --requeue`, and run again"


def copied_arrays(store: Store, cohort: str) -> dict[str, Any]:
    """Descriptions of a cohort's arrays by name, as the root's copy has them; of the group itself under ``""``."""
    copied = copied_in(read_json(store, METADATA))
    arrays = {key.removeprefix(f"{cohort}/"): entry for key, entry in copied.items() if key.startswith(f"{cohort}/")}
    return {**({"": copied[cohort]} if cohort in copied else {}), **arrays}


def sound_group(
    store: Store, location: str, cohort: CohortPlan, copied: Iterable[str], health_flags: Mapping[str, int | Flag]
) -> Group | None:
    """The group of a cohort, with all that it needs; None where there is none, or one without anything in it yet.

    What a start that was killed had begun is taken away: no number was written into that. Labels that the plan knows
    are mended. ``copied``: Names of the cohort's arrays as the root has them. Raises `DamagedStoreError`, naming what
    is gone, and `ConfigError` if the group was not made by this program.
    """
    group = _settled(store, location, cohort.name)
    if group is None or group.state != READY:
        return None
    if "gradmap_format" not in group.attributes:
        raise ConfigError(
            f"the group {cohort.name!r} of {scrub(location)} was not made by this program, and writing into it could"
            " destroy it; rename the cohort or give another store"
        )
    _refuse_losses(group, copied)
    damaged = damaged_labels(group)
    if damaged:
        found = aligned(cohort, _recorded_labels(group), group.document("fingerprints"))
        _mend_labels(group, damaged, as_stored(group, found, health_flags))
    return group


def _settled(store: Store, location: str, name: str) -> Group | None:
    """The group of a cohort, without what a start that was killed had begun."""
    group = read_group(store, location, name)
    if group is None:
        _refuse_leftovers(store, location, name)
    if group is None or group.state == READY:
        return group
    if group.state == CREATING:
        clear_group(store, name)
        return group
    intent = group.document("intent")
    for array in intent["adding"]:
        delete_array(store, name, array)
    group = read_group(store, location, name)
    if group is None:
        return None
    resize(group, intent["checkpoints"])
    kept = {key: value for key, value in group.attributes.items() if key != "intent"}
    digests = {array: digest for array, digest in group.document("label_digests").items() if array in group.arrays}
    write_attributes(store, name, {**with_label_digests(kept, digests), "state": READY})
    return read_group(store, location, name)


def _refuse_leftovers(store: Store, location: str, cohort: str) -> None:
    """Refuse to begin a cohort where something lies that nothing describes: it would be taken for the new one's."""
    left = [name for name in names_in(store, cohort) if not name.endswith(".partial")]
    if left:
        advice = _REQUEUE if copied_arrays(store, cohort) else "take what lies there away, or give another store"
        raise DamagedStoreError(
            f"{cohort}/{METADATA} of {scrub(location)} is gone while {', '.join(left[:3])} and more lie beside it, so"
            f" old numbers could stand under new labels; {advice}"
        )


def _refuse_losses(group: Group, copied: Iterable[str]) -> None:
    """Refuse to go on with a cohort of which a description or a chunk of the driver's own arrays is gone."""
    lost = [f"{name}/{METADATA}" for name in copied if name not in group.arrays]
    lost = lost or missing_chunks(group, group.with_role(*BOOKKEEPING))
    if lost:
        raise DamagedStoreError(
            f"{group.name}/{lost[0]} of {scrub(group.location)} is gone{_more(lost)}, so what is recorded there reads"
            f" as if it had never been; {_REQUEUE}"
        )


def missing_chunks(group: Group, names: Sequence[str]) -> list[str]:
    """Keys, below the group, of chunks that every one of these arrays must have and that are not there."""
    there = keys_below_each(group.store, [f"{group.name}/{name}/c" for name in names])
    missing = []
    for name, keys in zip(names, map(set, there), strict=True):
        missing += [key for key in chunk_keys(group, name) if f"{group.name}/{key}" not in keys]
    return missing


def chunk_keys(group: Group, name: str) -> list[str]:
    """Keys, below the group, of every chunk of an array that is not sharded."""
    shape, grid = group.shape(name), group.arrays[name]["chunk_grid"]["configuration"]["chunk_shape"]
    counts = [range(-(-size // extent)) for size, extent in zip(shape, grid, strict=True)]
    return ["/".join((name, "c", *map(str, place))) for place in product(*counts)]


def _more(lost: Sequence[str]) -> str:
    return f", and {len(lost) - 1} more" if len(lost) > 1 else ""


def damaged_labels(group: Group, read: Mapping[str, np.ndarray | None] | None = None) -> list[str]:
    """Names of coordinates and metadata that are not as they were recorded.

    ``read``: Values of arrays that were read already, None where that failed.
    """
    damaged = []
    for name, digest in group.document("label_digests").items():
        if name not in group.arrays:
            continue
        values = _read(group, name) if read is None else read.get(name)
        if values is None or values_digest(values) != digest:
            damaged.append(name)
    return damaged


def _read(group: Group, name: str) -> np.ndarray | None:
    try:
        return group.read(name)
    except DamagedStoreError:
        return None


def _mend_labels(group: Group, damaged: Sequence[str], known: Mapping[str, ArraySpec]) -> None:
    """Write coordinates and metadata anew that the plan knows exactly as they were recorded, all of them or none."""
    recorded = group.document("label_digests")
    for name in damaged:
        spec = known.get(name)
        if spec is None or spec.digest() != recorded[name]:
            raise DamagedStoreError(
                f"{group.name}/{name} of {scrub(group.location)} is not what was recorded{_more(damaged)}: a chunk"
                " is gone or from elsewhere, and maps would stand under wrong labels; put the config and its tables"
                " back as they were and run again, or restore the file from a copy"
            )
    for name in damaged:
        group.open(name)[...] = known[name].stored()


def _recorded_labels(group: Group) -> list[str]:
    """Ids of the checkpoints of a cohort: its coordinate, or its list of fingerprints where that one is damaged."""
    digests = group.document("label_digests")
    values = _read(group, "checkpoint") if "checkpoint" in group.arrays else None
    if values is not None and values_digest(values) == digests.get("checkpoint", values_digest(values)):
        return [str(label) for label in values]
    labels = list(group.document("fingerprints"))
    if values_digest(np.array(labels, dtype=object)) != digests.get("checkpoint"):
        raise DamagedStoreError(
            f"{group.name}/checkpoint of {scrub(group.location)} is gone or not what was recorded, so whose maps these"
            " are cannot be told; restore it from a copy"
        )
    return labels
