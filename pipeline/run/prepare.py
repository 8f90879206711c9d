"""A config and what lies on disk, made into a plan that can be computed; everything wrong is refused here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pipeline.inputs.checkpoint_description import Keep, describe_checkpoints
from pipeline.inputs.checkpoint_discovery import discover
from pipeline.inputs.checkpoint_memory import Memory
from pipeline.inputs.cohort_expansion import expand_cohorts
from pipeline.inputs.files import split
from pipeline.inputs.recordings import describe_recordings
from pipeline.inputs.search_path import look_in
from pipeline.inputs.stimuli import SoundFile, describe_arrays, describe_sounds
from pipeline.plan.config import CohortConfig, ConfigError, RunConfig, read_frequencies
from pipeline.plan.derived_maps import with_derived
from pipeline.plan.ensembles import with_ensembles
from pipeline.plan.map_config import CohortFacts, MapConfig, Stimuli
from pipeline.plan.map_layout import lay_out_maps
from pipeline.plan.run_plan import Checkpoint, CohortPlan, RunPlan
from pipeline.plan.shards import Shard, shards_of
from pipeline.run.cohort_members import settle_members
from pipeline.words import Hears

#: The longest window, in frames, that ``lags = "auto"`` may choose.
LONGEST_WINDOW = 512


def prepare_run(
    config: RunConfig,
    keep: Keep | None = None,
    memory: Memory | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> RunPlan:
    """The plan of a run: every checkpoint described, every axis labelled, every map laid out.

    No map is computed and nothing is written. A checkpoint whose file is at fault stays in the plan with its error, so
    that it fails alone; what the config itself gets wrong is refused.

    Parameters
    ----------
    keep
        Given each checkpoint that is built, with its module.
    memory
        What was learnt of checkpoints before; what is learnt now is added.
    report
        Called with how many checkpoints are described, and of how many.

    Raises
    ------
    ConfigError
        If a path matches nothing, two checkpoints share an id, or the checkpoints of a cohort do not fit each other,
        its axes or its maps. The message says what to change.
    """
    look_in(config.folder)
    config = with_derived(expand_cohorts(config, memory))
    stimuli = {name: _describe_stimuli(config, name, settings) for name, settings in config.maps.items()}
    sources = [discover(config, cohort, memory) for cohort in config.cohort]
    total, before = sum(map(len, sources)), 0
    cohorts = []
    for cohort, own in zip(config.cohort, sources, strict=True):

        def told(done: int, _: int, before: int = before) -> None:
            report(before + done, total)

        described = describe_checkpoints(own, keep, memory, told)
        cohorts.append(_prepare_cohort(config, cohort, stimuli, described, memory or Memory()))
        before += len(own)
    return RunPlan(store=config.store_location(), cohorts=tuple(cohorts), config=config)


def plan_shards(run: RunConfig | RunPlan) -> tuple[Shard, ...]:
    """Every shard of a run: checkpoint x map x block of neurons x block of stimuli, cut on the cube's chunk grid.

    Examples
    --------
    >>> from pipeline import load_config, plan_shards
    >>> shards = plan_shards(load_config("run.toml"))
    >>> len(shards), shards[0].cohort, shards[0].map
    (4, 'lab', 'strf')
    """
    return shards_of(run if isinstance(run, RunPlan) else prepare_run(run))


def _describe_stimuli(config: RunConfig, name: str, settings: MapConfig) -> Stimuli:
    paths = [config.resolve(path) for path in settings.stimulus_paths]
    try:
        stimuli = _READERS[settings.hears](paths)
    except ConfigError as error:
        raise ConfigError(f"maps.{name}.stimuli: {error}") from error
    return stimuli if settings.recording_path is None else _with_recording(config, name, settings, stimuli)


def _with_recording(config: RunConfig, name: str, settings: MapConfig, stimuli: Stimuli) -> Stimuli:
    path = config.resolve(settings.recording_path or "")
    try:
        found = describe_recordings(path, stimuli.names)
    except ConfigError as error:
        raise ConfigError(f"maps.{name}.responses: {error}") from error
    return replace(
        stimuli,
        recording=path,
        recording_digests=tuple(one.digest for one in found),
        recording_shapes=tuple(one.shape for one in found),
    )


def _spectrograms(paths: Sequence[str]) -> Stimuli:
    described = describe_arrays(paths)
    return Stimuli(
        names=tuple(described),
        files=tuple(paths),
        digests=tuple(found.digest for found in described.values()),
        lengths=tuple(found.shape[1] for found in described.values()),
        bands=tuple(found.shape[0] for found in described.values()),
        levels=tuple(found.levels for found in described.values()),
    )


def _sounds(paths: Sequence[str]) -> Stimuli:
    sounds = describe_sounds(paths)
    return Stimuli(
        names=tuple(sound.name for sound in sounds),
        files=tuple(sound.path for sound in sounds),
        digests=tuple(sound.digest for sound in sounds),
        lengths=tuple(sound.samples for sound in sounds),
        sample_rate=_one_sample_rate(sounds),
        levels=tuple(sound.levels for sound in sounds),
    )


_READERS: dict[Hears, Callable[[Sequence[str]], Stimuli]] = {
    "nothing": lambda paths: Stimuli(),
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
    config: RunConfig,
    cohort: CohortConfig,
    stimuli: Mapping[str, Stimuli],
    described: Sequence[Checkpoint],
    memory: Memory,
) -> CohortPlan:
    frequencies = read_frequencies(config, cohort)
    members = settle_members(config, cohort, described, len(frequencies))
    checkpoints, neurons, usable = members.checkpoints, members.neurons, members.usable
    facts = CohortFacts(cohort.name, cohort.frame_ms, 0, neurons, frequencies, checkpoints)
    settings = config.maps_of(cohort.name)
    for name, entry in settings.items():
        entry.check(f"maps.{name} over cohort {cohort.name!r}", facts, stimuli[name])
    lags = cohort.lags if isinstance(cohort.lags, int) else _found_window(cohort, usable, memory)
    over = [entry.ensemble_over for entry in settings.values() if entry.ensemble_over]
    return CohortPlan(
        name=cohort.name,
        frame_ms=cohort.frame_ms,
        lags=lags,
        neurons=neurons,
        frequencies_hz=frequencies,
        checkpoints=with_ensembles(f"cohort {cohort.name!r}", checkpoints, over),
        maps=lay_out_maps(config, replace(facts, lags=lags), settings, stimuli),
        neuron_metadata=members.neuron_metadata,
        attributes={"window": "found" if cohort.lags == "auto" else "given"},
        causal=cohort.causal,
    )


def _found_window(cohort: CohortConfig, usable: Sequence[Checkpoint], memory: Memory) -> int:
    """The longest window that a model of each class of the cohort needs, found on its first checkpoint."""
    chosen: dict[tuple[str, str], Checkpoint] = {}
    for checkpoint in usable:
        chosen.setdefault((checkpoint.model_class, checkpoint.source.where), checkpoint)
    if not chosen:
        raise ConfigError(
            f'cohort {cohort.name!r}: lags = "auto" needs a checkpoint that loads to find the window with, and none'
            " does; mend the files or give lags as a number"
        )
    return max(_window_of(checkpoint, memory) for checkpoint in chosen.values())


def _window_of(checkpoint: Checkpoint, memory: Memory) -> int:
    key = f"{checkpoint.fingerprint} {split(checkpoint.source.location)[1]} {LONGEST_WINDOW}"
    known = memory.windows.take(key)
    if known is not None:
        return known
    from pipeline.gradients.window import find_window
    from pipeline.inputs.checkpoints import load_checkpoint

    return memory.windows.keep(key, find_window(load_checkpoint(checkpoint.source), maximum=LONGEST_WINDOW).lags)
