"""A config and what lies on disk, made into a plan that can be computed; everything wrong is refused here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from pipeline.gradients.window import find_window
from pipeline.inputs.checkpoints import describe_checkpoint, discover, load_checkpoint
from pipeline.inputs.neurons import read_neuron_table
from pipeline.inputs.stimuli import SoundFile, describe_sounds, describe_spectrograms
from pipeline.plan import shards
from pipeline.plan.config import CohortConfig, ConfigError, RunConfig, read_frequencies
from pipeline.plan.layout import lay_out_maps
from pipeline.plan.maps import CohortFacts, MapConfig, Stimuli
from pipeline.plan.shards import Checkpoint, CohortPlan, RunPlan, Shard
from pipeline.words import Hears

#: The longest window, in frames, that ``lags = "auto"`` may choose.
LONGEST_WINDOW = 512


#: Takes each checkpoint with its module, as it is described.
Keep = Callable[[Checkpoint, nn.Module], None]


def prepare_run(config: RunConfig, keep: Keep | None = None) -> RunPlan:
    """The plan of a run: every checkpoint described, every axis labelled, every map laid out.

    No map is computed and nothing is written. A checkpoint whose file is at fault stays in the plan with its error, so
    that it fails alone; what the config itself gets wrong is refused.

    Raises
    ------
    ConfigError
        If a path matches nothing, two checkpoints share an id, or the checkpoints of a cohort do not fit each other,
        its axes or its maps. The message says what to change.
    """
    stimuli = {name: _describe_stimuli(config, name, settings) for name, settings in config.maps.items()}
    cohorts = tuple(_prepare_cohort(config, cohort, stimuli, keep) for cohort in config.cohort)
    return RunPlan(store=config.store_location(), cohorts=cohorts, config=config)


def plan_shards(run: RunConfig | RunPlan) -> tuple[Shard, ...]:
    """Every shard of a run: checkpoint x map x block of neurons x block of stimuli, cut on the cube's chunk grid."""
    return shards.plan_shards(run if isinstance(run, RunPlan) else prepare_run(run))


def _describe_stimuli(config: RunConfig, name: str, settings: MapConfig) -> Stimuli:
    paths = [config.resolve(path) for path in settings.stimulus_paths]
    try:
        return _READERS[settings.hears](paths)
    except ConfigError as error:
        raise ConfigError(f"maps.{name}.stimuli: {error}") from error


def _nothing(paths: Sequence[str]) -> Stimuli:
    return Stimuli()


def _spectrograms(paths: Sequence[str]) -> Stimuli:
    described = describe_spectrograms(paths)
    return Stimuli(
        names=tuple(described),
        files=tuple(paths),
        digests=tuple(found.digest for found in described.values()),
        lengths=tuple(found.shape[1] for found in described.values()),
        bands=tuple(found.shape[0] for found in described.values()),
    )


def _sounds(paths: Sequence[str]) -> Stimuli:
    sounds = describe_sounds(paths)
    return Stimuli(
        names=tuple(sound.name for sound in sounds),
        files=tuple(sound.path for sound in sounds),
        digests=tuple(sound.digest for sound in sounds),
        lengths=tuple(sound.samples for sound in sounds),
        sample_rate=_one_sample_rate(sounds),
    )


_READERS: dict[Hears, Callable[[Sequence[str]], Stimuli]] = {
    "nothing": _nothing,
    "spectrograms": _spectrograms,
    "sounds": _sounds,
}


def _one_sample_rate(sounds: Sequence[SoundFile]) -> float:
    rates = {sound.sample_rate: sound.name for sound in sounds}
    if len(rates) > 1:
        listed = ", ".join(f"{sound} at {rate:g} Hz" for rate, sound in rates.items())
        raise ConfigError(
            f"the sounds have different sample rates ({listed}), but a map has one lag axis in samples;"
            " resample them to the front-end's rate"
        )
    return float(next(iter(rates)))


def _prepare_cohort(
    config: RunConfig, cohort: CohortConfig, stimuli: Mapping[str, Stimuli], keep: Keep | None
) -> CohortPlan:
    frequencies = read_frequencies(config, cohort)
    checkpoints = [describe_checkpoint(source, keep) for source in discover(config, cohort)]
    usable = [checkpoint for checkpoint in checkpoints if checkpoint.usable]
    neurons, metadata = _neurons(config, cohort, usable, checkpoints)
    for checkpoint in usable:
        _check_bands(cohort, checkpoint, len(frequencies))
    facts = CohortFacts(cohort.name, cohort.frame_ms, 0, neurons, frequencies, tuple(checkpoints))
    settings = config.maps_of(cohort.name)
    for name, entry in settings.items():
        entry.check(f"maps.{name} over cohort {cohort.name!r}", facts, stimuli[name])
    lags = cohort.lags if isinstance(cohort.lags, int) else _found_window(config, cohort, usable)
    return CohortPlan(
        name=cohort.name,
        frame_ms=cohort.frame_ms,
        lags=lags,
        neurons=neurons,
        frequencies_hz=frequencies,
        checkpoints=tuple(checkpoints),
        maps=lay_out_maps(config, replace(facts, lags=lags), settings, stimuli),
        neuron_metadata=metadata,
        attributes={"window": "found" if cohort.lags == "auto" else "given"},
    )


def _neurons(
    config: RunConfig, cohort: CohortConfig, usable: Sequence[Checkpoint], everything: Sequence[Checkpoint]
) -> tuple[tuple[str, ...], dict[str, tuple[Any, ...]]]:
    """Labels of the neurons and their metadata: the table's, else the checkpoints' own, else numbers."""
    names: tuple[str, ...] | None = None
    metadata: dict[str, tuple[Any, ...]] = {}
    source = ""
    if cohort.neurons is not None:
        names, metadata = read_neuron_table(config.resolve(cohort.neurons))
        source = f"the table {cohort.neurons}"
    for checkpoint in usable:
        if names is None:
            names = checkpoint.neurons or tuple(f"neuron{index:04d}" for index in range(checkpoint.n_neurons))
            source = f"checkpoint {checkpoint.id!r}"
        if checkpoint.n_neurons != len(names):
            raise ConfigError(
                f"cohort {cohort.name!r}: checkpoint {checkpoint.id!r} has {checkpoint.n_neurons} neurons, but {source}"
                f" has {len(names)}; the checkpoints of a cohort share their neurons, so move it to a cohort of its own"
            )
        if checkpoint.neurons is not None and set(checkpoint.neurons) != set(names):
            stranger = next(name for name in checkpoint.neurons if name not in names)
            raise ConfigError(
                f"cohort {cohort.name!r}: checkpoint {checkpoint.id!r} was trained on a neuron {stranger!r} that"
                f" {source} does not have; maps would be labelled with another neuron's name, so mend the table or move"
                " the checkpoint to a cohort of its own"
            )
    if names is None:
        reasons = "; ".join(f"{checkpoint.id}: {checkpoint.error}" for checkpoint in everything[:5])
        raise ConfigError(
            f"cohort {cohort.name!r}: none of its {len(everything)} checkpoints can be used, so its neurons are not"
            f" known ({reasons}); mend the files, or name the neurons in a table"
        )
    return names, metadata


def _check_bands(cohort: CohortConfig, checkpoint: Checkpoint, bands: int) -> None:
    if checkpoint.n_bands != bands:
        raise ConfigError(
            f"cohort {cohort.name!r}: checkpoint {checkpoint.id!r} hears {checkpoint.n_bands} bands, but frequencies_hz"
            f" has {bands}; its maps could not be labelled in Hz, so give the centres of its own bands"
        )


def _found_window(config: RunConfig, cohort: CohortConfig, usable: Sequence[Checkpoint]) -> int:
    """The longest window that a model of each class of the cohort needs, found on its first checkpoint."""
    chosen: dict[tuple[str, str], Checkpoint] = {}
    for checkpoint in usable:
        chosen.setdefault((checkpoint.model_class, checkpoint.source.where), checkpoint)
    if not chosen:
        raise ConfigError(
            f'cohort {cohort.name!r}: lags = "auto" needs a checkpoint that loads to find the window with, and none'
            " does; mend the files or give lags as a number"
        )
    windows = [
        find_window(load_checkpoint(checkpoint.source), maximum=LONGEST_WINDOW).lags for checkpoint in chosen.values()
    ]
    return max(windows)
