"""A config and what lies on disk, made into a plan that can be computed; everything wrong is refused here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from pipeline.gradients.window import find_window
from pipeline.inputs.checkpoints import describe_checkpoint, discover, load_checkpoint
from pipeline.inputs.neurons import read_neuron_table
from pipeline.inputs.stimuli import SoundFile, describe_sounds, describe_spectrograms
from pipeline.plan import shards
from pipeline.plan.axes import samples_in
from pipeline.plan.config import (
    CohortConfig,
    ConfigError,
    FrameObjective,
    MeanObjective,
    RunConfig,
    StrfMapConfig,
    WaveformMapConfig,
    plain,
    read_frequencies,
)
from pipeline.plan.shards import Checkpoint, CohortPlan, MapPlan, RunPlan, Shard, inner_chunk_shape, object_shape

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


@dataclass(frozen=True)
class _Stimuli:
    """Names, lengths and digests of the sounds of one map, and the files they come from."""

    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    bands: tuple[int, ...] = ()
    sample_rate: float | None = None


def _describe_stimuli(config: RunConfig, name: str, settings: StrfMapConfig | WaveformMapConfig) -> _Stimuli:
    if not settings.stimuli:
        return _Stimuli()
    patterns = [settings.stimuli] if isinstance(settings.stimuli, str) else list(settings.stimuli)
    paths = [config.resolve(pattern) for pattern in patterns]
    try:
        if isinstance(settings, StrfMapConfig):
            described = describe_spectrograms(paths)
            return _Stimuli(
                names=tuple(described),
                files=tuple(paths),
                digests=tuple(found.digest for found in described.values()),
                lengths=tuple(found.shape[1] for found in described.values()),
                bands=tuple(found.shape[0] for found in described.values()),
            )
        sounds = describe_sounds(paths)
    except ConfigError as error:
        raise ConfigError(f"maps.{name}.stimuli: {error}") from error
    return _Stimuli(
        names=tuple(sound.name for sound in sounds),
        files=tuple(sound.path for sound in sounds),
        digests=tuple(sound.digest for sound in sounds),
        lengths=tuple(sound.samples for sound in sounds),
        sample_rate=_one_sample_rate(name, sounds),
    )


def _one_sample_rate(name: str, sounds: Sequence[SoundFile]) -> float:
    rates = {sound.sample_rate: sound.name for sound in sounds}
    if len(rates) > 1:
        listed = ", ".join(f"{sound} at {rate:g} Hz" for rate, sound in rates.items())
        raise ConfigError(
            f"maps.{name}.stimuli have different sample rates ({listed}), but a map has one lag axis in samples;"
            " resample them to the front-end's rate"
        )
    return float(next(iter(rates)))


def _prepare_cohort(
    config: RunConfig, cohort: CohortConfig, stimuli: Mapping[str, _Stimuli], keep: Keep | None
) -> CohortPlan:
    frequencies = read_frequencies(config, cohort)
    checkpoints = [describe_checkpoint(source, keep) for source in discover(config, cohort)]
    usable = [checkpoint for checkpoint in checkpoints if checkpoint.usable]
    neurons, metadata = _neurons(config, cohort, usable, checkpoints)
    for checkpoint in usable:
        _check_bands(cohort, checkpoint, len(frequencies))
    settings = config.maps_of(cohort.name)
    for name, entry in settings.items():
        _check_map(cohort, name, entry, stimuli[name], usable, len(frequencies))
    lags = cohort.lags if isinstance(cohort.lags, int) else _found_window(config, cohort, usable)
    return CohortPlan(
        name=cohort.name,
        frame_ms=cohort.frame_ms,
        lags=lags,
        neurons=neurons,
        frequencies_hz=frequencies,
        checkpoints=tuple(checkpoints),
        maps=tuple(
            _lay_out(
                config,
                name,
                entry,
                stimuli[name],
                usable,
                _Sizes(len(checkpoints), len(neurons), len(frequencies), lags),
                _own_axes(settings, stimuli, name),
            )
            for name, entry in settings.items()
        ),
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


def _check_map(
    cohort: CohortConfig,
    name: str,
    entry: StrfMapConfig | WaveformMapConfig,
    stimuli: _Stimuli,
    usable: Sequence[Checkpoint],
    bands: int,
) -> None:
    where = f"maps.{name} over cohort {cohort.name!r}"
    if isinstance(entry, StrfMapConfig):
        for stimulus, count in zip(stimuli.names, stimuli.bands, strict=True):
            if count != bands:
                raise ConfigError(
                    f"{where}: the spectrogram {stimulus!r} has {count} bands, but the cohort has {bands};"
                    " give spectrograms of shape (frequency, time) as the models were trained on"
                )
        frames = stimuli.lengths if entry.baseline == "stimuli" else ()
        _check_frames(where, entry.objective, stimuli.names, frames)
        if entry.space == "prefiltered" and len({checkpoint.n_channels for checkpoint in usable}) > 1:
            raise ConfigError(
                f'{where}: space = "prefiltered" needs one number of channels, but the checkpoints have'
                f" {sorted({checkpoint.n_channels for checkpoint in usable})}; put them into cohorts by prefilter"
            )
        return
    for checkpoint in usable:
        if checkpoint.front_end is None:
            raise ConfigError(
                f"{where}: checkpoint {checkpoint.id!r} has no front-end, so there is no waveform to differentiate;"
                f' name the cohorts with front-ends in maps.{name}.cohorts, or add the "wav2spec" module to its entry'
            )
        front_end = checkpoint.front_end
        if front_end.sample_rate != stimuli.sample_rate:
            raise ConfigError(
                f"{where}: the sounds have {stimuli.sample_rate:g} Hz, but the front-end of checkpoint"
                f" {checkpoint.id!r} expects {front_end.sample_rate:g} Hz; resample the sounds"
            )
        if abs(front_end.hop * 1000.0 / front_end.sample_rate - cohort.frame_ms) > 1e-6 * cohort.frame_ms:
            raise ConfigError(
                f"{where}: the front-end of checkpoint {checkpoint.id!r} makes a frame every"
                f" {front_end.hop * 1000.0 / front_end.sample_rate:g} ms, but frame_ms = {cohort.frame_ms:g};"
                " lags would be labelled wrongly, so set frame_ms to the front-end's"
            )
        for stimulus, samples in zip(stimuli.names, stimuli.lengths, strict=True):
            if samples % front_end.hop or samples == 0:
                raise ConfigError(
                    f"{where}: the sound {stimulus!r} has {samples} samples, which is no whole number of frames of"
                    f" {front_end.hop} samples; cut it to {samples - samples % front_end.hop} samples"
                )
        frames = tuple(samples // front_end.hop for samples in stimuli.lengths)
        _check_frames(where, entry.objective, stimuli.names, frames)
    if entry.window_ms is None and len(set(stimuli.lengths)) > 1:
        raise ConfigError(f"{where}: the sounds have different lengths, so their maps share no lag axis; set window_ms")
    if entry.window_ms is not None and samples_in(entry.window_ms, stimuli.sample_rate or 1.0) < 1:
        raise ConfigError(f"{where}: window_ms = {entry.window_ms:g} is shorter than one sample; give a longer one")


def _check_frames(where: str, objective: Any, names: Sequence[str], frames: Sequence[int]) -> None:
    """Refuse an objective at frames that a stimulus does not have."""
    if isinstance(objective, FrameObjective):
        last = objective.frame
    elif isinstance(objective, MeanObjective):
        last = objective.mean_over[1] - 1
    else:
        return
    for name, count in zip(names, frames, strict=False):
        if last >= count:
            raise ConfigError(
                f"{where}: the objective needs frame {last}, but the stimulus {name!r} has {count} frames"
                f" (0 to {count - 1}); choose frames that every stimulus has"
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


@dataclass(frozen=True)
class _Sizes:
    checkpoints: int
    neurons: int
    bands: int
    lags: int


@dataclass(frozen=True)
class _AxisNames:
    """What the stimulus and the audio lag axis of one map are called in its cohort."""

    stimulus: str
    waveform_lag: str


def _own_axes(
    settings: Mapping[str, StrfMapConfig | WaveformMapConfig], stimuli: Mapping[str, _Stimuli], name: str
) -> _AxisNames:
    """What the axes of a map are called: maps with the same labels share an axis, and the first one has the plain name.

    An axis with other labels than the cohort's first is called after the first map that has it.
    """
    around = {key: stimuli[key].names for key, entry in settings.items() if _has_stimulus_axis(entry)}
    windows = {
        key: (entry.window_ms, stimuli[key].sample_rate, None if entry.window_ms else stimuli[key].lengths[0])
        for key, entry in settings.items()
        if isinstance(entry, WaveformMapConfig)
    }
    return _AxisNames(
        stimulus=_axis_name("stimulus", around, name), waveform_lag=_axis_name("waveform_lag", windows, name)
    )


def _axis_name(plain_name: str, labels: Mapping[str, Any], name: str) -> str:
    if name not in labels:
        return plain_name
    owner = next(key for key, entry in labels.items() if entry == labels[name])
    return plain_name if owner == next(iter(labels)) else f"{owner}_{plain_name}"


def _has_stimulus_axis(entry: StrfMapConfig | WaveformMapConfig) -> bool:
    return isinstance(entry, WaveformMapConfig) or entry.baseline == "stimuli"


def _lay_out(
    config: RunConfig,
    name: str,
    entry: StrfMapConfig | WaveformMapConfig,
    stimuli: _Stimuli,
    usable: Sequence[Checkpoint],
    sizes: _Sizes,
    axes: _AxisNames,
) -> MapPlan:
    window = None
    extent: dict[str, int] = {"checkpoint": sizes.checkpoints}
    if _has_stimulus_axis(entry):
        extent[axes.stimulus] = len(stimuli.names)
    if entry.neurons == "each":
        extent["neuron"] = sizes.neurons
    if isinstance(entry, WaveformMapConfig):
        window = shards.waveform_window(entry.window_ms, stimuli.lengths[0], stimuli.sample_rate or 1.0)
        extent[axes.waveform_lag] = window
    else:
        if entry.space == "prefiltered":
            extent["channel"] = max((checkpoint.n_channels for checkpoint in usable), default=1)
        extent |= {"frequency": sizes.bands, "lag": sizes.lags}
    dims, shape = tuple(extent), tuple(extent.values())
    chunks = object_shape(dims, shape, config.storage.object_mib)
    return MapPlan(
        name=name,
        kind=entry.kind,
        objective=entry.engine_objective(),
        baseline=entry.baseline if isinstance(entry, StrfMapConfig) else "stimuli",
        space=entry.space if isinstance(entry, StrfMapConfig) else "waveform",
        over_neurons=entry.neurons,
        route=entry.route,
        dims=dims,
        shape=shape,
        chunks=chunks,
        inner_chunks=inner_chunk_shape(dims, chunks, config.storage.chunks_per_object),
        stimuli=stimuli.names,
        stimuli_files=stimuli.files,
        stimuli_digests=stimuli.digests,
        silence_level=(entry.silence_level or 0.0) if isinstance(entry, StrfMapConfig) else 0.0,
        window=window,
        sample_rate=stimuli.sample_rate,
        precision=config.engine.precision,
        settings=plain(entry),
    )
