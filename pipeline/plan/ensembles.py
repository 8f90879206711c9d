"""Rows of a cube that stand for several checkpoints, which differ in one label, such as their seed."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipeline.plan.run_plan import Checkpoint, CheckpointSource
from pipeline.plan.urls import ConfigError
from pipeline.words import ENSEMBLE

#: Where the files of an ensemble lie: nowhere, as it is made of those of its members.
NOWHERE = "made of its members"


def with_ensembles(where: str, checkpoints: Sequence[Checkpoint], labels: Iterable[str]) -> tuple[Checkpoint, ...]:
    """The checkpoints of a cohort, followed by the ensembles over each of these labels.

    ``where``: The cohort, for messages. Raises `ConfigError` if no two checkpoints differ in such a label and are
    otherwise of one kind.
    """
    made = [one for label in dict.fromkeys(labels) for one in _ensembles(where, checkpoints, label)]
    return (*checkpoints, *made)


def _ensembles(where: str, checkpoints: Sequence[Checkpoint], label: str) -> list[Checkpoint]:
    """Checkpoints that load and agree in class and every other label that several checkpoints share.

    Their neurons may stand in another order: they are matched by label.
    """
    candidates = [checkpoint for checkpoint in checkpoints if checkpoint.usable and label in checkpoint.scalars]
    shared = _shared_labels(candidates) - {label}
    groups: dict[tuple[object, ...], list[Checkpoint]] = {}
    for checkpoint in candidates:
        others = tuple(sorted((key, str(checkpoint.scalars.get(key))) for key in shared))
        key = (checkpoint.model_class, checkpoint.front_end, others)
        groups.setdefault(key, []).append(checkpoint)
    members = [group for group in groups.values() if len(group) > 1]
    if not members:
        raise ConfigError(
            f"{where}: ensemble = {label!r} averages checkpoints that differ in {label!r} and agree in all that tells"
            " others apart, and there are no two of them; name a label that the checkpoints have, or take it out"
        )
    return [_ensemble(group, label) for group in members]


def _shared_labels(checkpoints: Sequence[Checkpoint]) -> set[str]:
    """Labels that tell groups of checkpoints apart, and not each from all others as its best epoch or score does.

    Text of which a value occurs twice, and numbers of which every value does.
    """
    shared = set()
    for key in {key for checkpoint in checkpoints for key in checkpoint.scalars}:
        values = [checkpoint.scalars.get(key) for checkpoint in checkpoints]
        counts = Counter(map(str, values)).values()
        if max(counts) > 1 if any(isinstance(value, str) for value in values) else min(counts) > 1:
            shared.add(key)
    return shared


def _ensemble(members: Sequence[Checkpoint], label: str) -> Checkpoint:
    first = members[0]
    common = {key: value for key, value in first.scalars.items() if all(m.scalars.get(key) == value for m in members)}
    prints = " ".join(f"{member.id}={member.fingerprint}" for member in members)
    name = f"{first.id} and {len(members) - 1} more over {label}"
    return replace(
        first,
        source=CheckpointSource(name, NOWHERE, first.source.entry, first.source.where),
        fingerprint=hashlib.sha256(prints.encode()).hexdigest()[:32],
        scalars={**common, ENSEMBLE: label},
        neurons=None,
        per_neuron={},
        members=tuple(member.id for member in members),
        ensemble=label,
    )
