"""Dynamic STRFs: the gradmap at every frame of every sound, streamed through the numbers that are kept of it."""

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field, field_validator, model_validator

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import CohortFacts, Cost, MapConfig, Stimuli, Variable, check_spectrograms
from pipeline.plan.urls import ConfigError
from pipeline.text import counted
from pipeline.words import DynamicRoute, Hears

#: Numbers that can be asked for beside mean and deviation.
Measure = Literal["gain", "complexity", "temporal_hold", "components", "local_linearity", "shape_change", "population"]

#: Those that are computed unless the config says which.
DEFAULT_MEASURES: tuple[Measure, ...] = ("gain", "complexity", "temporal_hold", "components", "local_linearity")

#: Those that follow a map from one frame to the very next.
EVERY_FRAME: tuple[Measure, ...] = ("temporal_hold", "shape_change")

#: Seconds on one core for a thousand frames: of the sweep, which every block of neurons repeats, and of each neuron.
SWEEP_SECONDS, NEURON_SECONDS = 2.0, 0.3

#: Copies of its maps that a block of neurons holds, about: the maps, and those of a member or of one neuron at work.
COPIES = 2


@KINDS.register("dynamic")
class DynamicConfig(MapConfig):
    """Dynamic STRFs of every neuron along every sound, and what they come to."""

    kind: Literal["dynamic"]
    stimuli: str | tuple[str, ...]
    """File or files of spectrograms: named arrays (frequency, time) in an .npz."""
    every: int = Field(default=1, ge=1, le=10**6)
    """A map at every so many frames."""
    skip_ms: float | None = Field(default=None, ge=0, le=1e9)
    """What is left out at the start of each sound, in ms; a window by default."""
    measures: tuple[Measure, ...] | None = None
    """Numbers that are computed along the sound, beside mean and deviation."""
    components: int = Field(default=15, ge=1, le=1000)
    """Components of the maps that are kept."""
    first_component: Literal["principal", "mean"] = "principal"
    """Whether the first component is the principal one, or the mean map."""
    keep: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Frames at which the map is kept in full, by the name of the sound."""
    ensemble: str | None = None
    """Label of the checkpoints whose maps are averaged frame by frame before any number is taken, such as seed."""
    consistency: float | None = Field(default=None, gt=0, lt=0.5)
    """A quantile q of an ensemble's members: entries are 0 where those at q and at 1 - q differ in sign."""
    route: DynamicRoute = "auto"
    """Way to the maps; it changes no number beyond rounding."""

    stimuli_are: ClassVar[Hears] = "spectrograms"
    companions: ClassVar[tuple[str, ...]] = ("health", "memory_90", "memory_99", "oldest_share")

    @field_validator("keep", mode="before")
    @classmethod
    def _frames_are_lists(cls, keep: Any) -> Any:
        if isinstance(keep, Mapping):
            return {name: (frames,) if isinstance(frames, int) else frames for name, frames in keep.items()}
        return keep

    @model_validator(mode="after")
    def _frames_follow_each_other(self) -> "DynamicConfig":
        following = [measure for measure in self.measures or () if measure in EVERY_FRAME]
        if self.every > 1 and following:
            raise ValueError(
                f"every = {self.every} leaves out frames, but {' and '.join(following)} compare each map with the one a"
                " frame later; set every = 1 or take them out of measures"
            )
        if self.consistency is not None and self.ensemble is None:
            raise ValueError(
                "consistency compares the signs of an ensemble's members, and there is no ensemble; name the label that"
                ' tells members apart, for instance ensemble = "seed"'
            )
        negative = [frame for frames in self.keep.values() for frame in frames if frame < 0]
        if negative:
            raise ValueError(f"keep names the frames {negative}, but frames are counted from 0; give numbers from 0 on")
        return self

    @property
    def asked(self) -> tuple[Measure, ...]:
        """The numbers to compute, in a fixed order."""
        chosen = self.measures
        if chosen is None:
            chosen = tuple(one for one in DEFAULT_MEASURES if self.every == 1 or one not in EVERY_FRAME)
        return tuple(one for one in get_args(Measure) if one in chosen)

    def skipped(self, lags: int, frame_ms: float) -> int:
        """Frames left out at the start of each sound: a window, so that no map reaches to before it, by default."""
        return lags if self.skip_ms is None else round(self.skip_ms / frame_ms)

    @property
    def cut_along(self) -> tuple[str, ...]:  # type: ignore[override]
        """Neurons; none where a number is that of all of them together."""
        return () if "population" in self.asked else ("neuron",)

    def facts(self) -> dict[str, Any]:
        """Frames, measures and conventions."""
        told: dict[str, Any] = {
            "objective": "each frame",
            "baseline": "stimuli",
            "space": "spectrogram",
            "neurons": "each",
            "every": self.every,
            "measures": " ".join(self.asked),
            "first_component": self.first_component,
        }
        if self.ensemble:
            told |= {"ensemble": self.ensemble, "consistency": self.consistency or 0.0}
        return told

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """Which frames, and how many sounds."""
        frames = "every frame" if self.every == 1 else f"every {self.every} frames"
        return frames, counted(len(stimuli.names), "sound")

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        """Refuse spectrograms of other bands, sounds that nothing is left of, and frames to keep that do not exist."""
        check_spectrograms(where, cohort, stimuli)
        frames_of = dict(zip(stimuli.names, stimuli.lengths, strict=True))
        for name, frames in self.keep.items():
            if name not in frames_of:
                raise ConfigError(
                    f"{where}: keep names the sound {name!r}, but the sounds are {', '.join(stimuli.names)}; name one"
                )
            late = [frame for frame in frames if frame >= frames_of[name]]
            if late:
                raise ConfigError(
                    f"{where}: keep asks for the frames {late} of {name!r}, which has frames 0 to"
                    f" {frames_of[name] - 1}; give frames that it has"
                )

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Stimulus, neuron, component, kept frame, frequency, lag; those that are asked for."""
        asked = self.asked
        own: list[Axis] = []
        if "components" in asked:
            own.append(Axis("component", tuple(range(1, self.components + 1)), "component of the dynamic STRF"))
        if "population" in asked:
            numbers = tuple(range(1, self.components + 1))
            own.append(Axis("population_component", numbers, "component that the neurons of a checkpoint share"))
        if self.keep:
            sounds, frames = self._kept()
            positions = tuple(range(len(frames)))
            own.append(Axis("kept", positions, "map kept in full", labels={"stimulus": sounds, "frame": frames}))
        heard = replace(stimuli.axis(), extents=self._counts(cohort, stimuli))
        return (heard, cohort.neuron_axis(), *own, cohort.frequency_axis(), cohort.lag_axis())

    def _counts(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[int, ...]:
        """Frames of each sound that have a map."""
        skip = self.skipped(cohort.lags, cohort.frame_ms)
        counts = tuple(len(range(skip, length, self.every)) for length in stimuli.lengths)
        if sum(counts) < 2:
            raise ConfigError(
                f"cohort {cohort.name!r}: of sounds of {', '.join(map(str, stimuli.lengths))} frames, of which {skip}"
                " are skipped, fewer than two frames are left, so nothing changes along them; give longer sounds, fewer"
                " lags, or skip_ms = 0"
            )
        return counts

    def _kept(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Sound and frame of every map that is kept in full, in the config's order."""
        pairs = [(name, frame) for name, frames in self.keep.items() for frame in frames]
        return tuple(name for name, _ in pairs), tuple(frame for _, frame in pairs)

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """Mean and deviation, and what the measures and ``keep`` ask for."""
        of_map = ("checkpoint", "neuron", "frequency", "lag")
        per_unit = "response per unit of the spectrogram"
        return (
            Variable("mean", of_map, "dynamic STRF, mean over the frames of all sounds", per_unit),
            Variable("sd", of_map, "dynamic STRF, standard deviation over frames", per_unit, role="measure"),
            *(one for measure in self.asked for one in _WRITTEN.get(measure, ())),
            *((_KEPT,) if self.keep else ()),
            self._frames_variable(axes),
        )

    def _frames_variable(self, axes: Mapping[str, Axis]) -> Variable:
        counts = tuple(float(count) for count in axes["stimulus"].extents)
        return Variable(
            "frames", ("stimulus",), "frames whose maps were taken", dtype="int64", role="measure", values=counts
        )

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        """Seconds and bytes of a block of neurons along all sounds."""
        neurons = block.get("neuron", len(axes["neuron"]))
        frames = sum(axes["stimulus"].extents)
        entries = len(axes["frequency"]) * len(axes["lag"])
        members = 1 if self.consistency is None else 4
        thousands = frames / 1000
        written = sum(
            np.dtype(one.dtype).itemsize
            * prod(neurons if dim == "neuron" else len(axes[dim]) for dim in one.dims if dim != "checkpoint")
            for one in self.variables(axes)
        )
        held = COPIES * members * neurons * frames * entries * np.dtype("float32").itemsize
        return Cost(seconds=thousands * (SWEEP_SECONDS + NEURON_SECONDS * neurons), bytes=held + written)


def _per_neuron(suffix: str, long_name: str, units: str = "1") -> Variable:
    return Variable(suffix, ("checkpoint", "neuron"), long_name, units, role="measure")


def _per_sound(suffix: str, long_name: str, units: str = "1") -> Variable:
    return Variable(suffix, ("checkpoint", "stimulus", "neuron"), long_name, units, role="measure")


_OVER_FRAMES = " (grows with the number of frames)"

#: What each measure writes.
_WRITTEN: dict[Measure, tuple[Variable, ...]] = {
    "gain": (
        _per_sound("gain", "norm of the map, mean over frames", "response per unit of the spectrogram"),
        _per_sound("gain_change", "standard deviation over frames of the norm", "response per unit of the spectrogram"),
    ),
    "complexity": (_per_sound("complexity", f"sum of the maps' singular values over the largest{_OVER_FRAMES}"),),
    "temporal_hold": (
        _per_sound("temporal_hold", "delays up to which maps travel with the sound (a statistic)", "ms"),
    ),
    "shape_change": (_per_sound("shape_change", "complexity of the maps once they are aligned along the lags"),),
    "local_linearity": (
        _per_sound("local_linearity", "correlation of the response with what each frame's map predicts"),
    ),
    "components": (
        Variable(
            "component",
            ("checkpoint", "neuron", "component", "frequency", "lag"),
            "principal component of the maps over frames, of norm 1 and positive sum",
            role="measure",
        ),
        Variable(
            "component_sd",
            ("checkpoint", "neuron", "component"),
            "standard deviation over frames along each component",
            "response per unit of the spectrogram",
            role="measure",
        ),
        _per_neuron("noise_floor", "variance that a component reaches when entries are shuffled over frames"),
        _per_neuron("components_above_floor", "components whose variance lies above the noise floor"),
        _per_neuron("size_90", "components that hold 90 % of the variance over frames"),
        _per_neuron("size_95", "components that hold 95 % of the variance over frames"),
    ),
    "population": (
        Variable(
            "population_component",
            ("checkpoint", "population_component", "frequency", "lag"),
            "principal component of the maps over frames and neurons, of norm 1 and positive sum",
            role="measure",
        ),
        Variable(
            "population_component_sd",
            ("checkpoint", "population_component"),
            "standard deviation along each component, averaged over neurons",
            "response per unit of the spectrogram",
            role="measure",
        ),
        _per_neuron("population_share", "share of the neuron's variance over frames that these components hold"),
    ),
}

_KEPT = Variable(
    "kept",
    ("checkpoint", "neuron", "kept", "frequency", "lag"),
    "dynamic STRF at single frames",
    "response per unit of the spectrogram",
    role="measure",
)
