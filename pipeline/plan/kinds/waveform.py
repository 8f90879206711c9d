"""A map over the audio samples, back through the front-end."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from pipeline.plan.axes import Axis, samples_in, waveform_lag_ms
from pipeline.plan.kinds import KINDS
from pipeline.plan.maps import CohortFacts, GradientConfig, Stimuli, Variable, check_frames, counted
from pipeline.plan.shards import Checkpoint, FrontEnd
from pipeline.plan.urls import ConfigError
from pipeline.words import Hears

#: Longest window over the audio, in ms.
LONGEST_WINDOW_MS = 600_000.0


@KINDS.register("waveform")
class WaveformMapConfig(GradientConfig):
    """A map over the audio samples."""

    kind: Literal["waveform"]
    """A map over the audio samples."""
    stimuli: str | tuple[str, ...]
    """Sound files; * matches anything."""
    window_ms: float | None = Field(default=None, gt=0, le=LONGEST_WINDOW_MS)
    """What is kept before the objective's frame, in ms; the whole sound by default, where all are of one length."""

    @property
    def hears(self) -> Hears:
        """Sounds."""
        return "sounds"

    def facts(self) -> dict[str, Any]:
        """Objective, baseline, space and neurons."""
        return {
            "objective": self.objective_words(),
            "baseline": "stimuli",
            "space": "waveform",
            "neurons": self.neurons,
        }

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """The objective and the sounds."""
        return self.objective_words(), counted(stimuli)

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        """Refuse checkpoints without a front-end, sounds that it does not take, and windows that have no length."""
        for checkpoint in cohort.usable:
            front_end = self._front_end(where, checkpoint)
            _check_rates(where, cohort, checkpoint, front_end, stimuli)
            for stimulus, samples in zip(stimuli.names, stimuli.lengths, strict=True):
                if samples % front_end.hop or samples == 0:
                    raise ConfigError(
                        f"{where}: the sound {stimulus!r} has {samples} samples, which is no whole number of frames of"
                        f" {front_end.hop} samples; cut it to {samples - samples % front_end.hop} samples"
                    )
            frames = tuple(samples // front_end.hop for samples in stimuli.lengths)
            check_frames(where, self.objective, stimuli.names, frames)
        if self.window_ms is None and len(set(stimuli.lengths)) > 1:
            raise ConfigError(
                f"{where}: the sounds have different lengths, so their maps share no lag axis; set window_ms"
            )
        if self.window_ms is not None and samples_in(self.window_ms, stimuli.sample_rate or 1.0) < 1:
            raise ConfigError(f"{where}: window_ms = {self.window_ms:g} is shorter than one sample; give a longer one")

    def _front_end(self, where: str, checkpoint: Checkpoint) -> FrontEnd:
        if checkpoint.front_end is None:
            name = where.partition(" ")[0]
            raise ConfigError(
                f"{where}: checkpoint {checkpoint.id!r} has no front-end, so there is no waveform to differentiate;"
                f' name the cohorts with front-ends in {name}.cohorts, or add the "wav2spec" module to its entry'
            )
        return checkpoint.front_end

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Stimulus, neuron, waveform lag: the window asked for, or the whole stimulus."""
        rate = stimuli.sample_rate or 1.0
        samples = stimuli.lengths[0] if self.window_ms is None else max(1, samples_in(self.window_ms, rate))
        window = Axis("waveform_lag", tuple(waveform_lag_ms(samples, rate).tolist()))
        return (stimuli.axis(), *self.neuron_axes(cohort), window)

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The gradient."""
        return (
            Variable(
                suffix="",
                dims=("checkpoint", *axes),
                long_name=f"gradient of the {self.objective_words()} response with respect to the waveform",
                units="response per unit of the waveform",
            ),
        )


def _check_rates(
    where: str, cohort: CohortFacts, checkpoint: Checkpoint, front_end: FrontEnd, stimuli: Stimuli
) -> None:
    if front_end.sample_rate != stimuli.sample_rate:
        raise ConfigError(
            f"{where}: the sounds have {stimuli.sample_rate:g} Hz, but the front-end of checkpoint"
            f" {checkpoint.id!r} expects {front_end.sample_rate:g} Hz; resample the sounds"
        )
    frame_ms = front_end.hop * 1000.0 / front_end.sample_rate
    if abs(frame_ms - cohort.frame_ms) > 1e-6 * cohort.frame_ms:
        raise ConfigError(
            f"{where}: the front-end of checkpoint {checkpoint.id!r} makes a frame every {frame_ms:g} ms, but"
            f" frame_ms = {cohort.frame_ms:g}; lags would be labelled wrongly, so set frame_ms to the front-end's"
        )
