"""A map over the audio samples, back through the front-end."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.plan.axes import Axis, samples_in, waveform_lag_ms
from pipeline.plan.front_ends import check_sounds, front_end_of
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import CohortFacts, GradientConfig, Stimuli, Variable, check_named_frames
from pipeline.plan.urls import ConfigError
from pipeline.text import counted
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

    stimuli_are: ClassVar[Hears] = "sounds"

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
        return self.objective_words(), counted(len(stimuli.names), "sound")

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        """Refuse checkpoints without a front-end, sounds that it does not take, and windows that have no length."""
        for checkpoint in cohort.usable:
            check_sounds(where, cohort, checkpoint, stimuli)
            front_end = front_end_of(where, checkpoint)
            frames = tuple(samples // front_end.hop for samples in stimuli.lengths)
            check_named_frames(where, self.objective, stimuli.names, frames)
        if self.window_ms is None and len(set(stimuli.lengths)) > 1:
            raise ConfigError(
                f"{where}: the sounds have different lengths, so their maps share no lag axis; set window_ms"
            )
        if self.window_ms is not None and samples_in(self.window_ms, stimuli.sample_rate or 1.0) < 1:
            raise ConfigError(f"{where}: window_ms = {self.window_ms:g} is shorter than one sample; give a longer one")

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Stimulus, neuron, waveform lag: the window asked for, or the whole stimulus."""
        rate = stimuli.sample_rate or 1.0
        samples = stimuli.lengths[0] if self.window_ms is None else max(1, samples_in(self.window_ms, rate))
        window = Axis("waveform_lag", tuple(waveform_lag_ms(samples, rate).tolist()))
        return (stimuli.axis(), *self.neuron_axes(cohort), window)

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The gradient."""
        return self.gradient(axes, "waveform")
