"""The best sound of each neuron: gradient ascent from a start, under a norm and level bounds."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from pipeline.plan.axes import Axis, lag_ms, waveform_lag_ms
from pipeline.plan.front_ends import check_frame_width, check_sounds, front_end_of
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import (
    CohortFacts,
    Cost,
    ObjectiveConfigured,
    Stimuli,
    Variable,
    check_named_frames,
    check_silence,
    check_spectrograms,
)
from pipeline.plan.urls import ConfigError
from pipeline.words import Hears

#: Starts that are no sound's name.
WITHOUT_SOUND = ("null", "silence")

#: Seconds on one core for one step of one neuron over one entry of its stimulus, and copies of its stimulus that one
#: neuron holds while it climbs: activations, gradient, the sound before and after the step.
ENTRY_SECONDS = 2e-7
COPIES = 64


@KINDS.register("synthesis")
class SynthesisConfig(ObjectiveConfigured):
    """The sound that each neuron responds to most, as far as ascent finds it."""

    kind: Literal["synthesis"]
    start: str = Field(default="null", min_length=1)
    """Where ascent begins: "null", "silence", or the name of one of the stimuli."""
    stimuli: str | tuple[str, ...] | None = None
    """Spectrograms in an .npz, or sound files for the waveform: those of which one is the start."""
    silence_level: float | None = Field(default=None, ge=-1e30, le=1e30)
    """What silence is, in the units that the models were trained on."""
    space: Literal["spectrogram", "waveform"] = "spectrogram"
    """Whether the spectrogram climbs, or the waveform of models with a front-end."""
    frames: int | None = Field(default=None, ge=1, le=2**20)
    """Frames of the sound, from null or silence; as many as the window has by default."""
    norm: float = Field(default=1.0, gt=0, le=1e30)
    """Largest distance from the start: the root of the sum of squares over all entries."""
    lowest: float | None = Field(default=None, ge=-1e30, le=1e30)
    """Level that no entry falls below."""
    highest: float | None = Field(default=None, ge=-1e30, le=1e30)
    """Level that no entry rises above."""
    steps: int = Field(default=500, ge=1, le=10**6)
    """Steps of the ascent."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the small random step at the beginning."""

    cut_along: ClassVar[tuple[str, ...]] = ("neuron",)
    companions: ClassVar[tuple[str, ...]] = ("health", "memory_90", "memory_99", "oldest_share")

    @model_validator(mode="after")
    def _what_goes_together(self) -> "SynthesisConfig":
        check_silence("start", self.start, self.silence_level)
        if (self.start in WITHOUT_SOUND) != (self.stimuli is None):
            raise ValueError(
                f'start = "{self.start}" and stimuli do not fit: stimuli are needed where the start is the name of one'
                ' of them, and not used from "null" or "silence"; change one of the two'
            )
        if self.start not in WITHOUT_SOUND and self.frames is not None:
            raise ValueError(
                f"frames = {self.frames} is how long a sound from null or silence is, but the start"
                f" {self.start!r} has a length of its own; take frames out"
            )
        if self.space == "waveform" and self.start == "silence":
            raise ValueError('the silence of a waveform is its null; set start = "null" and take silence_level out')
        low, high = self.lowest, self.highest
        if low is not None and high is not None and low >= high:
            raise ValueError(f"lowest = {low:g} is not below highest = {high:g}, so no level is allowed; change one")
        self._start_within_bounds()
        return self

    def _start_within_bounds(self) -> None:
        if self.start not in WITHOUT_SOUND:
            return
        level = self.silence_level or 0.0
        if (self.lowest is not None and level < self.lowest) or (self.highest is not None and level > self.highest):
            raise ValueError(
                f"the start is at the level {level:g}, outside lowest and highest, so ascent would begin outside its"
                " bounds; move the bound or the start"
            )

    @property
    def hears(self) -> Hears:
        """What the start is chosen from."""
        if self.stimuli is None:
            return "nothing"
        return "sounds" if self.space == "waveform" else "spectrograms"

    @property
    def is_change(self) -> bool:
        """Whether the change from the start differs from the sound, and is kept beside it."""
        return self.start != "null"

    def facts(self) -> dict[str, Any]:
        """What is raised, from where, and within which bounds."""
        told: dict[str, Any] = {
            "objective": self.objective_words(),
            "baseline": self.start,
            "space": self.space,
            "neurons": "each",
            "norm": self.norm,
            "steps": self.steps,
            "seed": self.seed,
        }
        bounds = {"lowest": self.lowest, "highest": self.highest, "silence_level": self.silence_level}
        return told | {name: level for name, level in bounds.items() if level is not None}

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """The objective, and the start."""
        return self.objective_words(), f"from {self.start}"

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        """Refuse a start that is none of the stimuli, and other bands, rates or frame widths."""
        if stimuli.names and self.start not in stimuli.names:
            raise ConfigError(
                f"{where}: start = {self.start!r} is none of the stimuli {', '.join(stimuli.names[:8])}; name one of"
                ' them, or "null" or "silence"'
            )
        if stimuli.names:
            self._check_levels(where, *stimuli.levels[stimuli.names.index(self.start)])
        if self.space == "spectrogram":
            check_spectrograms(where, cohort, stimuli)
        else:
            self._check_front_ends(where, cohort, stimuli)

    def _check_levels(self, where: str, least: float, greatest: float) -> None:
        """Refuse a sound that begins outside the bounds, in the single precision that it is read in."""
        for bound, outside in ((self.lowest, "below lowest"), (self.highest, "above highest")):
            if bound is None:
                continue
            single = float(np.float32(bound))
            if least < single if outside == "below lowest" else greatest > single:
                raise ConfigError(
                    f"{where}: the start {self.start!r} has levels from {least:g} to {greatest:g}, {outside} ="
                    f" {bound:g}, so ascent would begin outside its bounds; move the bound, or take another start"
                )

    def _check_front_ends(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        for checkpoint in cohort.usable:
            if stimuli.names:
                check_sounds(where, cohort, checkpoint, stimuli)
            check_frame_width(where, cohort, checkpoint)
        kinds = {front_end_of(where, checkpoint) for checkpoint in cohort.usable}
        if len(kinds) > 1:
            told = " and ".join(sorted(f"{one.sample_rate:g} Hz with {one.hop} samples a frame" for one in kinds))
            raise ConfigError(
                f"{where}: the front-ends expect {told}, so their sounds share no axis; put the checkpoints into"
                " cohorts by front-end"
            )

    def _hop(self, cohort: CohortFacts) -> tuple[int, float]:
        """Samples of a frame, and of a second."""
        heard = next((one.front_end for one in cohort.usable if one.front_end is not None), None)
        return (1, 1000.0 / cohort.frame_ms) if heard is None else (heard.hop, heard.sample_rate)

    def _own_frames(self, cohort: CohortFacts, stimuli: Stimuli) -> int:
        """Frames of the start."""
        if not stimuli.names:
            return self.frames or cohort.lags
        length = stimuli.lengths[stimuli.names.index(self.start)]
        return length if self.space == "spectrogram" else length // self._hop(cohort)[0]

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Neuron, step, and frequency and lag or the samples of the sound."""
        frames = self._own_frames(cohort, stimuli)
        check_named_frames(f"a best sound over cohort {cohort.name!r}", self.objective, (self.start,), (frames,))
        steps = Axis("step", tuple(range(1, self.steps + 1)), "step of the ascent")
        if self.space == "spectrogram":
            lags = Axis("lag", tuple(lag_ms(frames, cohort.frame_ms).tolist()))
            return (cohort.neuron_axis(), steps, cohort.frequency_axis(), lags)
        hop, rate = self._hop(cohort)
        return (cohort.neuron_axis(), steps, Axis("waveform_lag", tuple(waveform_lag_ms(frames * hop, rate).tolist())))

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The sound, what it adds to the start where that is not null, and the response after every step."""
        extent = ("frequency", "lag") if self.space == "spectrogram" else ("waveform_lag",)
        dims = ("checkpoint", "neuron", *extent)
        units = f"as the {self.space}"
        best = f"sound with the largest {self.objective_words()} response that was found"
        above = {"sign": "a positive entry of the sound lies above null"}
        sounds: tuple[Variable, ...] = (Variable("", dims, best, units, attributes=above),)
        if self.is_change:
            added = {"sign": "a positive entry: more than at the start"}
            sounds = (
                Variable("added", dims, f"what the {best} adds to the start", units, attributes=added),
                Variable("", dims, best, units, role="measure"),
            )
        trace = ("checkpoint", "neuron", "step")
        return (
            *sounds,
            Variable("trace", trace, f"{self.objective_words()} response after each step", "response", role="measure"),
            Variable("start_response", trace[:2], "response to the start", "response", role="measure"),
        )

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        """Seconds and bytes of the neurons that climb side by side."""
        neurons = block.get("neuron", len(axes["neuron"]))
        entries = 1
        for name in ("frequency", "lag", "waveform_lag"):
            entries *= len(axes[name]) if name in axes else 1
        return Cost(ENTRY_SECONDS * self.steps * neurons * entries, neurons * (COPIES * entries + 2 * self.steps) * 4)
