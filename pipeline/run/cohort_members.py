"""What the checkpoints of a cohort have in common; those that differ from the others fail alone."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.inputs.neuron_table import read_neuron_table
from pipeline.plan.config import CohortConfig, ConfigError, RunConfig
from pipeline.plan.run_plan import Checkpoint

#: What every message about a stranger in a cohort ends with.
APART = "move it to a cohort of its own"


@dataclass(frozen=True)
class Members:
    """The checkpoints of a cohort, each usable one fitting the others, and the neurons that they share."""

    checkpoints: tuple[Checkpoint, ...]
    neurons: tuple[str, ...]
    neuron_metadata: Mapping[str, tuple[Any, ...]]

    @property
    def usable(self) -> list[Checkpoint]:
        """The checkpoints that loaded and fit."""
        return [checkpoint for checkpoint in self.checkpoints if checkpoint.usable]


def settle_members(config: RunConfig, cohort: CohortConfig, found: Sequence[Checkpoint], bands: int) -> Members:
    """The checkpoints of a cohort with an error on each that does not fit, and the labels of their neurons.

    The neuron table and ``frequencies_hz`` say what fits; where there is no table, what most checkpoints have does.

    Raises `ConfigError` if none fits, or as many have one thing as have another.
    """
    names, metadata = (None, {}) if cohort.neurons is None else read_neuron_table(config.resolve(cohort.neurons))
    members = _with_bands(cohort, found, bands)
    members = _with_one_front_end(config, cohort, members)
    if names is None:
        members = _by_majority(cohort, members, lambda entry: entry.n_neurons, lambda size: f"{size} neurons")
        members = _by_majority(cohort, members, _own_names, lambda own: f"the neurons {_few(own)}")
        usable = [checkpoint for checkpoint in members if checkpoint.usable]
        if not usable:
            raise _nobody(cohort, members)
        labelled = next((entry.neurons for entry in usable if entry.neurons is not None), None)
        names = labelled or tuple(f"neuron{index:04d}" for index in range(usable[0].n_neurons))
    else:
        members = _as_in_table(cohort, members, names)
    return Members(tuple(members), names, metadata)


def _alone(checkpoint: Checkpoint, reason: str) -> Checkpoint:
    return replace(checkpoint, error=reason)


def _with_bands(cohort: CohortConfig, found: Sequence[Checkpoint], bands: int) -> list[Checkpoint]:
    usable = [checkpoint for checkpoint in found if checkpoint.usable]
    strangers = [checkpoint for checkpoint in usable if checkpoint.n_bands != bands]
    if strangers and len(strangers) == len(usable):
        raise ConfigError(
            f"cohort {cohort.name!r}: checkpoint {strangers[0].id!r} hears {strangers[0].n_bands} bands, but"
            f" frequencies_hz has {bands}; its maps could not be labelled in Hz, so give the centres of its own bands"
        )
    return [
        _alone(
            checkpoint,
            f"checkpoint {checkpoint.id!r} hears {checkpoint.n_bands} bands, but frequencies_hz has {bands}; its maps"
            f" could not be labelled in Hz, so {APART}",
        )
        if checkpoint in strangers
        else checkpoint
        for checkpoint in found
    ]


def _with_one_front_end(config: RunConfig, cohort: CohortConfig, found: list[Checkpoint]) -> list[Checkpoint]:
    """Only where waveforms are differentiated does it matter what the front-ends expect."""
    if not any(entry.hears == "sounds" for entry in config.maps_of(cohort.name).values()):
        return found

    def told(trait: Any) -> str:
        (front_end,) = trait
        if front_end is None:
            return "no front-end"
        return f"a front-end for {front_end.sample_rate:g} Hz with {front_end.hop} samples per frame"

    return _by_majority(cohort, found, lambda entry: (entry.front_end,), told, refuse_ties=False)


def _by_majority(
    cohort: CohortConfig,
    found: Sequence[Checkpoint],
    trait: Callable[[Checkpoint], Hashable],
    told: Callable[[Any], str],
    refuse_ties: bool = True,
) -> list[Checkpoint]:
    """The checkpoints, with an error on each that has another trait than most; a trait of None is nobody's."""
    traits = {checkpoint.id: trait(checkpoint) for checkpoint in found if checkpoint.usable}
    counts = Counter(value for value in traits.values() if value is not None).most_common(2)
    if len(counts) < 2:
        return list(found)
    (usual, most), (other, next_most) = counts
    if most == next_most:
        if not refuse_ties:
            return list(found)
        one, two = (next(name for name, value in traits.items() if value == entry) for entry in (usual, other))
        raise ConfigError(
            f"cohort {cohort.name!r}: checkpoint {two!r} has {told(other)}, but checkpoint {one!r} has {told(usual)};"
            f" the checkpoints of a cohort share their neurons, so {APART}, or name the neurons in a table"
        )
    return [
        checkpoint
        if not checkpoint.usable or traits[checkpoint.id] in (usual, None)
        else _alone(
            checkpoint,
            f"checkpoint {checkpoint.id!r} has {told(traits[checkpoint.id])}, but {most} checkpoints of the cohort"
            f" {cohort.name!r} have {told(usual)}, and what stacks into one cube shares them; {APART}",
        )
        for checkpoint in found
    ]


def _own_names(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    """The names a checkpoint gives its neurons, in whatever order."""
    return None if checkpoint.neurons is None else tuple(sorted(checkpoint.neurons))


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _as_in_table(cohort: CohortConfig, found: Sequence[Checkpoint], names: tuple[str, ...]) -> list[Checkpoint]:
    known = set(names)
    reasons = {}
    for checkpoint in found:
        if not checkpoint.usable:
            continue
        if checkpoint.n_neurons != len(names):
            reasons[checkpoint.id] = (
                f"checkpoint {checkpoint.id!r} has {checkpoint.n_neurons} neurons, but the table {cohort.neurons} has"
                f" {len(names)}; the checkpoints of a cohort share their neurons, so {APART}"
            )
        elif checkpoint.neurons is not None and set(checkpoint.neurons) != known:
            stranger = next(name for name in checkpoint.neurons if name not in known)
            reasons[checkpoint.id] = (
                f"checkpoint {checkpoint.id!r} was trained on a neuron {stranger!r} that the table {cohort.neurons}"
                " does not have; maps would be labelled with another neuron's name, so mend the table, or"
                f" {APART}"
            )
    usable = sum(checkpoint.usable for checkpoint in found)
    if usable and len(reasons) == usable:
        raise ConfigError(f"cohort {cohort.name!r}: {next(iter(reasons.values()))}")
    return [_alone(entry, reasons[entry.id]) if entry.id in reasons else entry for entry in found]


def _nobody(cohort: CohortConfig, found: Sequence[Checkpoint]) -> ConfigError:
    reasons = "; ".join(f"{checkpoint.id}: {checkpoint.error}" for checkpoint in found[:5])
    return ConfigError(
        f"cohort {cohort.name!r}: none of its {len(found)} checkpoints can be used, so its neurons are not known"
        f" ({reasons}); mend the files, or name the neurons in a table"
    )
