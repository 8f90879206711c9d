"""Sounds and the front-ends that are to hear them: what must fit before a map over the waveform can be computed."""

from pipeline.plan.map_config import CohortFacts, Stimuli
from pipeline.plan.run_plan import Checkpoint, FrontEnd
from pipeline.plan.urls import ConfigError


def front_end_of(where: str, checkpoint: Checkpoint) -> FrontEnd:
    """The front-end of a checkpoint.

    ``where``: The map and the cohort, for messages. Raises `ConfigError` if it has none.
    """
    if checkpoint.front_end is None:
        name = where.partition(" ")[0]
        raise ConfigError(
            f"{where}: checkpoint {checkpoint.id!r} has no front-end, so there is no waveform to differentiate;"
            f' name the cohorts with front-ends in {name}.cohorts, or add the "wav2spec" module to its entry'
        )
    return checkpoint.front_end


def check_sounds(where: str, cohort: CohortFacts, checkpoint: Checkpoint, stimuli: Stimuli) -> None:
    """Refuse sounds of another rate than the front-end's, and such as are no whole number of its frames."""
    front_end = front_end_of(where, checkpoint)
    if front_end.sample_rate != stimuli.sample_rate:
        raise ConfigError(
            f"{where}: the sounds have {stimuli.sample_rate:g} Hz, but the front-end of checkpoint"
            f" {checkpoint.id!r} expects {front_end.sample_rate:g} Hz; resample the sounds"
        )
    check_frame_width(where, cohort, checkpoint)
    for stimulus, samples in zip(stimuli.names, stimuli.lengths, strict=True):
        if samples % front_end.hop or samples == 0:
            whole = samples - samples % front_end.hop
            raise ConfigError(
                f"{where}: the sound {stimulus!r} has {samples} samples, which is no whole number of frames of"
                f" {front_end.hop} samples; {f'cut it to {whole} samples' if whole else 'leave it out'}"
            )


def check_frame_width(where: str, cohort: CohortFacts, checkpoint: Checkpoint) -> None:
    """Refuse a front-end whose frames are not as wide as the cohort's."""
    front_end = front_end_of(where, checkpoint)
    frame_ms = front_end.hop * 1000.0 / front_end.sample_rate
    if abs(frame_ms - cohort.frame_ms) > 1e-6 * cohort.frame_ms:
        raise ConfigError(
            f"{where}: the front-end of checkpoint {checkpoint.id!r} makes a frame every {frame_ms:g} ms, but"
            f" frame_ms = {cohort.frame_ms:g}; lags would be labelled wrongly, so set frame_ms to the front-end's"
        )
