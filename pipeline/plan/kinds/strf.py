"""A map over the spectrogram, or over what the prefilter makes of it."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import (
    CohortFacts,
    GradientConfig,
    Stimuli,
    Variable,
    check_named_frames,
    check_silence,
    check_spectrograms,
)
from pipeline.plan.urls import ConfigError
from pipeline.text import counted
from pipeline.words import Baseline, Hears


@KINDS.register("strf")
class StrfMapConfig(GradientConfig):
    """A map over the spectrogram."""

    kind: Literal["strf"]
    """A map over the spectrogram."""
    baseline: Baseline = "null"
    """What the gradient is taken around: no sound, silence, the mean of each band over all stimuli, or each of them."""
    silence_level: float | None = Field(default=None, ge=-1e30, le=1e30)
    """What silence is, in the units that the models were trained on."""
    stimuli: str | tuple[str, ...] | None = None
    """File or files of spectrograms: named arrays (frequency, time) in an .npz."""
    space: Literal["spectrogram", "prefiltered"] = "spectrogram"
    """Before the prefilter, or after it: one map per channel."""

    stimuli_are: ClassVar[Hears] = "spectrograms"

    @model_validator(mode="after")
    def _baseline_has_what_it_needs(self) -> "StrfMapConfig":
        needs_stimuli = self.baseline in ("mean", "stimuli")
        if needs_stimuli and not self.stimuli:
            raise ValueError(f'baseline = "{self.baseline}" needs stimuli = "spectrograms.npz"')
        if self.stimuli and not needs_stimuli:
            raise ValueError(
                f'stimuli are given, but baseline = "{self.baseline}" would not use them;'
                ' set baseline = "stimuli" or "mean", or take them out'
            )
        check_silence("baseline", self.baseline, self.silence_level)
        if self.baseline in ("null", "silence", "mean") and not isinstance(self.objective, str):
            raise ValueError(
                f'a named frame has no meaning around baseline = "{self.baseline}", which is the same at every frame;'
                ' use objective = "last", or baseline = "stimuli"'
            )
        return self

    @property
    def judgeable(self) -> bool:
        """Where it is over the spectrogram itself and each neuron has its own."""
        return self.space == "spectrogram" and self.neurons == "each"

    def facts(self) -> dict[str, Any]:
        """Objective, baseline, space and neurons."""
        level = {"silence_level": self.silence_level} if self.silence_level is not None else {}
        return {
            "objective": self.objective_words(),
            "baseline": self.baseline,
            "space": self.space,
            "neurons": self.neurons,
        } | level

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """The objective and the baseline."""
        return self.objective_words(), counted(
            len(stimuli.names), "sound"
        ) if self.baseline == "stimuli" else self.baseline

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        """Refuse spectrograms of other bands, frames that they lack, and prefilters of different widths."""
        check_spectrograms(where, cohort, stimuli)
        if self.baseline == "stimuli":
            check_named_frames(where, self.objective, stimuli.names, stimuli.lengths)
        channels = sorted({checkpoint.n_channels for checkpoint in cohort.usable})
        if self.space == "prefiltered" and len(channels) > 1:
            raise ConfigError(
                f'{where}: space = "prefiltered" needs one number of channels, but the checkpoints have'
                f" {channels}; put them into cohorts by prefilter"
            )

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """(stimulus), neuron, (channel), frequency, lag."""
        around = (stimuli.axis(),) if self.baseline == "stimuli" else ()
        channels = max((checkpoint.n_channels for checkpoint in cohort.usable), default=1)
        layers = (Axis("channel", tuple(range(channels))),) if self.space == "prefiltered" else ()
        return (*around, *self.neuron_axes(cohort), *layers, cohort.frequency_axis(), cohort.lag_axis())

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The gradient."""
        return self.gradient(axes, f"spectrogram{' after the prefilter' if self.space == 'prefiltered' else ''}")
