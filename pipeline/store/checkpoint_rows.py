"""Where the checkpoints of a plan lie in the store."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.plan.config import CheckpointsConfig
from pipeline.plan.run_plan import Checkpoint, CheckpointSource, CohortPlan, RunPlan
from pipeline.store.backend import scrub
from pipeline.store.groups import Group
from pipeline.store.open_store import open_existing

#: Location of a checkpoint that the store holds and the config no longer names.
ABSENT = ""


def align(plan: RunPlan) -> RunPlan:
    """The plan with its checkpoints where the store has them, so that `Shard.checkpoint` is a position of the store.

    A checkpoint that the store holds and the plan does not name stands in its place with the location `ABSENT` and an
    error; it is left alone. Raises `ValueError` if the store does not hold a cohort or a checkpoint of the plan yet.
    """
    return aligned_groups(plan)[0]


def aligned_groups(plan: RunPlan) -> tuple[RunPlan, list[Group]]:
    """The plan as `align` gives it, and the groups of its cohorts, in their order, as they stand now."""
    groups = list(open_existing(plan.store).groups([cohort.name for cohort in plan.cohorts]))
    cohorts = []
    for cohort, group in zip(plan.cohorts, groups, strict=True):
        labels = group.labels()
        lacking = sorted({entry.id for entry in cohort.checkpoints} - set(labels))
        if lacking:
            raise ValueError(
                f"cohort {cohort.name!r} of {scrub(group.location)} has no place for {', '.join(lacking[:5])}, so"
                " their maps could not be written; call create_or_extend with this plan first"
            )
        cohorts.append(aligned(cohort, labels, group.document("fingerprints")))
    return replace(plan, cohorts=tuple(cohorts)), groups


def aligned(
    cohort: CohortPlan, labels: Sequence[str], fingerprints: Mapping[str, str], *, add_new: bool = False
) -> CohortPlan:
    """A cohort of a plan with its checkpoints where the store has them, new ones behind them where they are wanted."""
    by_id = {entry.id: entry for entry in cohort.checkpoints}
    ordered = [by_id.get(label) or _absent(label, fingerprints.get(label, "")) for label in labels]
    if add_new:
        known = set(labels)
        ordered += [entry for entry in cohort.checkpoints if entry.id not in known]
    return replace(cohort, checkpoints=tuple(ordered))


def _absent(label: str, fingerprint: str) -> Checkpoint:
    source = CheckpointSource(label, ABSENT, CheckpointsConfig(path="-"), "not in the config")
    return Checkpoint(source, fingerprint, error="not in the config; its maps are kept as they are")
