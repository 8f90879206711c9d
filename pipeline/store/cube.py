"""The cubes of a run, laid out before any number is computed."""

from collections.abc import Mapping

from zarr.abc.store import Store

from pipeline.plan.run_plan import CohortPlan, RunPlan
from pipeline.store.array_specs import cohort_arrays
from pipeline.store.attributes import coordinate_names, group_attributes, label_digests, with_label_digests
from pipeline.store.backend import location_of, open_store
from pipeline.store.damage import sound_group
from pipeline.store.groups import (
    CREATING,
    FORMAT,
    claim_root,
    clear_group,
    consolidate,
    copies,
    create_arrays,
    write_attributes,
)
from pipeline.store.growth import extend, wanted_of
from pipeline.store.refusals import outdated_arrays
from pipeline.store.regions import forget
from pipeline.words import Flag


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
    location = location_of(plan.store)
    store = held or open_store(location, writable=True)
    forget(location)
    claim_root(store, location)
    copied = copies(store)  # once: the root tells of all cohorts in one object
    there = [sound_group(store, location, one, copied.get(one.name, {}), health_flags) for one in plan.cohorts]
    wanted = [
        None if group is None else wanted_of(cohort, group, health_flags)
        for cohort, group in zip(plan.cohorts, there, strict=True)
    ]
    outdated = [None if one is None else outdated_arrays(one) for one in wanted]
    for cohort, one, old in zip(plan.cohorts, wanted, outdated, strict=True):
        if one is None or old is None:
            _create(store, plan, cohort, health_flags)
        else:
            extend(plan, one, old)
    consolidate(store)
    forget(location)


def _create(store: Store, plan: RunPlan, cohort: CohortPlan, health_flags: Mapping[str, int | Flag]) -> None:
    write_attributes(store, cohort.name, {"gradmap_format": FORMAT, "state": CREATING})
    clear_group(store, cohort.name)
    specs = cohort_arrays(cohort, health_flags)
    create_arrays(store, cohort.name, specs)
    prints = {checkpoint.id: checkpoint.fingerprint for checkpoint in cohort.checkpoints}
    attributes = group_attributes(plan, cohort, prints, coordinate_names(specs), {})
    write_attributes(store, cohort.name, with_label_digests(attributes, label_digests(specs)))
