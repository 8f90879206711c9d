"""What kinds have in common that predict responses to given spectrograms: what they hear, and what must fit."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from pipeline.plan.axes import Axis
from pipeline.plan.map_config import CohortFacts, Cost, MapConfig, Stimuli, check_spectrograms
from pipeline.plan.urls import ConfigError
from pipeline.text import counted
from pipeline.words import Hears

#: Seconds on one core for one frame of the sounds: of the model's response, and of the fit of one neuron.
RESPONSE_SECONDS, FIT_SECONDS = 1e-4, 1e-6


class PredictingConfig(MapConfig):
    """Numbers about the prediction of responses to spectrograms."""

    stimuli: str | tuple[str, ...]
    """File or files of spectrograms: named arrays (frequency, time) in an .npz."""
    responses: str | None = Field(default=None, min_length=1)
    """Recorded responses, an .npz: (neuron, time) or (neuron, repeat, time) for each sound, by its name."""

    stimuli_are: ClassVar[Hears] = "spectrograms"
    cut_along: ClassVar[tuple[str, ...]] = ("neuron",)

    @property
    def target(self) -> str:
        """What is predicted."""
        return "model" if self.responses is None else "recording"

    def facts(self) -> dict[str, Any]:
        """What is predicted."""
        return {"predicted": self.target}

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """What is predicted, and over how many sounds."""
        return f"predicts the {self.target}", counted(len(stimuli.names), "sound")

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        """Refuse spectrograms of other bands, and responses of other neurons or lengths."""
        check_spectrograms(where, cohort, stimuli)
        for name, shape, frames in zip(stimuli.names, stimuli.recording_shapes, stimuli.lengths, strict=False):
            if shape[0] != len(cohort.neurons) or shape[-1] != frames:
                raise ConfigError(
                    f"{where}: the responses to {name!r} have the shape {shape}, but there are {len(cohort.neurons)}"
                    f" neurons and the spectrogram has {frames} frames; give (neuron, time) or (neuron, repeat, time),"
                    " neurons in the cohort's order"
                )

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Stimulus, neuron, frequency, lag, once every sound is known to be longer than the window."""
        for name, frames in zip(stimuli.names, stimuli.lengths, strict=True):
            if frames < cohort.lags:
                raise ConfigError(
                    f"cohort {cohort.name!r}: the spectrogram {name!r} has {frames} frames, fewer than the"
                    f" {cohort.lags} of the window, so no response to it can be predicted; give longer sounds or fewer"
                    " lags"
                )
        return (stimuli.axis(), cohort.neuron_axis(), cohort.frequency_axis(), cohort.lag_axis())

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        """Cost of predicting the responses of a block of neurons, in double precision.

        Held at one time: the windows of all frames, centred, and in the basis of their directions, of which there are
        no more than frames or entries; and the residuals under each of some two dozen penalties.
        """
        neurons = block.get("neuron", len(axes["neuron"]))
        frames = sum(axes["stimulus"].extents)
        entries = len(axes["frequency"]) * len(axes["lag"])
        directions = min(frames, entries)
        held = 3 * frames * entries + directions * (entries + directions) + frames * directions + 24 * neurons * frames
        seconds = RESPONSE_SECONDS * frames + FIT_SECONDS * frames * neurons + directions**3 * 2e-10
        return Cost(seconds=seconds, bytes=8 * held)
