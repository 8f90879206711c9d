"""The cubes of a run, laid out before any number is computed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from zarr.abc.store import Store

from pipeline.plan.shards import CohortPlan, RunPlan
from pipeline.store.array_specs import cohort_arrays
from pipeline.store.attributes import coordinate_names, group_attributes
from pipeline.store.backend import location_of, open_store, scrub
from pipeline.store.damage import (
    damaged_labels,
    label_digests,
    mend_labels,
    recorded_labels,
    refuse_leftovers,
    refuse_losses,
    with_label_digests,
)
from pipeline.store.groups import (
    CREATING,
    FORMAT,
    READY,
    Group,
    claim_root,
    clear_group,
    consolidate,
    copies,
    create_arrays,
    delete_array,
    read_group,
    resize,
    write_attributes,
)
from pipeline.store.growth import ABSENT, aligned, as_stored, extend
from pipeline.store.opened import groups_of_plan
from pipeline.store.refusals import check_plan, outdated_arrays, refuse_foreign
from pipeline.store.regions import forget
from pipeline.words import Flag

__all__ = ["ABSENT", "align", "create_or_extend", "positions"]


def create_or_extend(plan: RunPlan, *, health_flags: Mapping[str, int | Flag], held: Store | None = None) -> None:
    """Lay out every cohort of a plan: new cubes, new checkpoints at the end of old ones, new maps beside old ones.

    Only the driver that holds the store's lease calls it. What an earlier start left half done is undone first. Maps
    that are there are not touched, and checkpoints that the plan no longer names are kept. Corrected metadata of
    neurons and checkpoints are taken over. Maps of which nothing was computed are laid out anew where their settings
    changed.

    ``health_flags``: The bit of each reason in `<map>_health` by its name, or all that is told about it. ``held``: The
    store as the holder of its lease writes it (`Lease.store`). Raises `ConfigError` if the store holds something else,
    numbers made under other settings, or is damaged; nothing but labels that the plan knew how to mend has been changed
    then.
    """
    check_plan(plan)
    location = location_of(plan.store)
    store = held or open_store(location, writable=True)
    forget(location)
    claim_root(store, location)
    settled = [(cohort, _settled(store, location, cohort.name)) for cohort in plan.cohorts]
    copied = copies(store)  # once: the root tells of all cohorts in one object
    groups = {
        cohort.name: _sound(group, cohort, copied.get(cohort.name, {}), health_flags) for cohort, group in settled
    }
    outdated = {
        cohort.name: outdated_arrays(cohort, group, health_flags)
        for cohort in plan.cohorts
        if (group := groups[cohort.name]) is not None
    }
    for cohort in plan.cohorts:
        group, old = groups[cohort.name], outdated.get(cohort.name)
        if group is None or old is None:
            _create(store, plan, cohort, health_flags)
        else:
            extend(plan, cohort, group, health_flags, old)
    consolidate(store)
    forget(location)


def _sound(
    group: Group | None, cohort: CohortPlan, copied: Iterable[str], health_flags: Mapping[str, int | Flag]
) -> Group | None:
    """The group of a cohort, with all that it needs; None where there is none, or one without anything in it yet."""
    if group is None or group.state != READY:
        return None
    refuse_foreign(cohort, group)
    refuse_losses(group, copied)
    damaged = damaged_labels(group)
    if damaged:
        labels = recorded_labels(group)
        mend_labels(
            group, damaged, as_stored(group, aligned(cohort, labels, group.document("fingerprints")), health_flags)
        )
    return group


def _settled(store: Store, location: str, name: str) -> Group | None:
    """The group of a cohort, without what a start that was killed had begun: no number was written into that."""
    group = read_group(store, location, name)
    if group is None:
        refuse_leftovers(store, location, name)
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


def _create(store: Store, plan: RunPlan, cohort: CohortPlan, health_flags: Mapping[str, int | Flag]) -> None:
    write_attributes(store, cohort.name, {"gradmap_format": FORMAT, "state": CREATING})
    clear_group(store, cohort.name)
    specs = cohort_arrays(cohort, health_flags)
    create_arrays(store, cohort.name, specs)
    prints = {checkpoint.id: checkpoint.fingerprint for checkpoint in cohort.checkpoints}
    attributes = group_attributes(plan, cohort, prints, coordinate_names(specs), {})
    write_attributes(store, cohort.name, with_label_digests(attributes, label_digests(specs)))


def positions(plan: RunPlan) -> dict[str, dict[str, int]]:
    """Position of every checkpoint of the store by its id, cohort by cohort."""
    return {group.name: {label: row for row, label in enumerate(group.labels())} for group in groups_of_plan(plan)}


def align(plan: RunPlan, groups: Sequence[Group] | None = None) -> RunPlan:
    """The plan with its checkpoints where the store has them, so that `Shard.checkpoint` is a position of the store.

    A checkpoint that the store holds and the plan does not name stands in its place with the location `ABSENT` and an
    error; it is left alone.

    ``groups``: The groups of its cohorts, in their order, where the caller has read them. Raises `ValueError` if the
    store does not hold a checkpoint of the plan yet.
    """
    cohorts = []
    for cohort, group in zip(plan.cohorts, groups or groups_of_plan(plan), strict=True):
        labels = group.labels()
        lacking = sorted({entry.id for entry in cohort.checkpoints} - set(labels))
        if lacking:
            raise ValueError(
                f"cohort {cohort.name!r} of {scrub(group.location)} has no place for {', '.join(lacking[:5])}, so"
                " their maps could not be written; call create_or_extend with this plan first"
            )
        cohorts.append(aligned(cohort, labels, group.document("fingerprints")))
    return replace(plan, cohorts=tuple(cohorts))
