"""What a kind of map says of itself: its keys in the config, its axes, its variables, its checks, its cost."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from pipeline.plan.axes import Axis, lag_ms
from pipeline.plan.urls import ConfigError
from pipeline.words import COMPANIONS, Hears, ObjectiveName, Role, Route

if TYPE_CHECKING:
    from pipeline.plan.run_plan import Checkpoint

#: Keys of a map's entry that change no number, or that a cube holds by content instead.
NOT_IDENTITY = frozenset(("route", "cohorts", "stimuli", "responses"))

#: Copies of its maps that a backward pass holds, about.
BACKWARD_COPIES = 8


class Frozen(BaseModel):
    """A table of the config: every key known, nothing changed after it was read."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _numbers_were_numbers(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        made = handler(given)
        for name in cls.model_fields if isinstance(given, Mapping) else ():
            wrong = _bent(given.get(name), getattr(made, name))
            if wrong is not None:
                word = str(wrong).lower() if isinstance(wrong, bool) else f'"{wrong}"'
                raise ValueError(f"{name} = {word} is no number, and {name} needs one; write it as a number")
        return made


def _bent(given: Any, made: Any) -> bool | str | None:
    """A truth value or a text that was taken for a number, None where there is none."""
    if isinstance(given, list | tuple) and isinstance(made, list | tuple):
        return next((one for pair in zip(given, made, strict=False) if (one := _bent(*pair)) is not None), None)
    if isinstance(given, bool | str) and isinstance(made, int | float) and not isinstance(made, bool):
        return given
    return None


@dataclass(frozen=True)
class Stimuli:
    """The stimuli of one map: names, files, digests of their samples, lengths, levels, and what their numbers mean.

    Lengths are frames of spectrograms and samples of sounds; levels the least and the greatest number of each.
    Where responses to them were recorded, there are the file, digests of the numbers, and the shapes (neuron, time) or
    (neuron, repeat, time), sound by sound.
    """

    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    bands: tuple[int, ...] = ()
    sample_rate: float | None = None
    recording: str = ""
    recording_digests: tuple[str, ...] = ()
    recording_shapes: tuple[tuple[int, ...], ...] = ()
    levels: tuple[tuple[float, float], ...] = ()

    def axis(self) -> Axis:
        """The axis of these stimuli."""
        return Axis("stimulus", self.names, extents=self.lengths)


@dataclass(frozen=True)
class CohortFacts:
    """What is known of a cohort when its maps are laid out; ``lags`` is 0 while the window is still to be found."""

    name: str
    frame_ms: float
    lags: int
    neurons: tuple[str, ...]
    frequencies_hz: tuple[float, ...]
    checkpoints: "tuple[Checkpoint, ...]"

    @property
    def usable(self) -> "tuple[Checkpoint, ...]":
        """The checkpoints that load."""
        return tuple(checkpoint for checkpoint in self.checkpoints if checkpoint.usable)

    def neuron_axis(self) -> Axis:
        """The axis of the neurons."""
        return Axis("neuron", self.neurons)

    def frequency_axis(self) -> Axis:
        """The axis of the bands."""
        return Axis("frequency", self.frequencies_hz)

    def lag_axis(self) -> Axis:
        """The axis of the frames before the response."""
        return Axis("lag", tuple(lag_ms(self.lags, self.frame_ms).tolist()))


@dataclass(frozen=True)
class Variable:
    """One array that a map writes."""

    #: What follows the map's name in that of the array: ``mean`` for ``dstrf_mean``; empty for the map's own name.
    suffix: str
    #: Names of its axes as the kind has them, ``checkpoint`` first.
    dims: tuple[str, ...]
    long_name: str
    units: str = "1"
    dtype: str = "float32"
    #: ``map`` for gradients, which hold no NaN where they are done; ``measure`` for numbers, which may.
    role: Role = "map"
    attributes: Mapping[str, Any] = field(default_factory=dict)
    #: Numbers that are known before any compute; such a variable has no axis ``checkpoint``.
    values: tuple[float, ...] | None = None

    @property
    def computed(self) -> bool:
        """Whether shards write it."""
        return self.values is None


@dataclass(frozen=True)
class Cost:
    """What one shard takes: time, about, and memory."""

    seconds: float = 0.0
    bytes: int = 0


class MapConfig(Frozen):
    """One entry of ``[maps]``; each kind adds its keys, and says here what it computes and writes."""

    kind: str
    """Which kind of map."""
    cohorts: tuple[str, ...] | None = None
    """Cohorts that the map is computed for; all by default."""

    #: Axes along which shards cut the map; everything else lies whole in one shard.
    cut_along: ClassVar[tuple[str, ...]] = ("neuron", "stimulus")

    #: Endings of the numbers that accompany the map.
    companions: ClassVar[tuple[str, ...]] = tuple(COMPANIONS)

    #: What one shard may cost at most; it is cut as small as this and the size of an object ask for.
    most: ClassVar[Cost] = Cost(seconds=600.0, bytes=16 * 2**30)

    #: What `stimulus_paths` name, where there are any.
    stimuli_are: ClassVar[Hears] = "nothing"

    @property
    def hears(self) -> Hears:
        """What is read for the map."""
        return self.stimuli_are if self.stimulus_paths else "nothing"

    @property
    def stimulus_paths(self) -> tuple[str, ...]:
        """Files and patterns of the stimuli, as the config writes them."""
        given = getattr(self, "stimuli", None)
        return () if given is None else (given,) if isinstance(given, str) else tuple(given)

    @property
    def recording_path(self) -> str | None:
        """File of recorded responses to the stimuli, as the config writes it."""
        return getattr(self, "responses", None)

    @property
    def judgeable(self) -> bool:
        """Whether fits and checks can be asked of the map: over (frequency, lag) of the spectrogram, one a neuron."""
        return False

    def identity(self) -> dict[str, Any]:
        """The keys that every number of the map shares, as JSON holds them."""
        settings = self.model_dump(mode="json", by_alias=True)
        return {key: value for key, value in settings.items() if key not in NOT_IDENTITY}

    def facts(self) -> dict[str, Any]:
        """What a reader of the cube is told of the map, beside its kind."""
        return {}

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """What the map is of and around what, in a word or two each, for a table."""
        return "", f"{len(stimuli.names)} stimuli" if stimuli.names else ""

    @property
    def ensemble_over(self) -> str:
        """The label over which the map is that of ensembles; empty for a map of single checkpoints."""
        return getattr(self, "ensemble", None) or ""

    def computed_for(self, checkpoint: "Checkpoint") -> bool:
        """Whether the map is computed for a row of the axis ``checkpoint``."""
        return checkpoint.ensemble == self.ensemble_over

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        """Refuse what cannot be computed for a cohort.

        ``where``: The map and the cohort, for messages. Raises `ConfigError`, saying what does not fit and what to do.
        """

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """The axes of the map beside ``checkpoint``, in the order in which its variables have them."""
        raise NotImplementedError(f"the kind {self.kind!r} does not say which axes it has")

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The arrays that the map writes, over ``checkpoint`` and these axes by name."""
        raise NotImplementedError(f"the kind {self.kind!r} does not say what it writes")

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        """Cost of a shard that holds so many positions of each axis along which the map is cut."""
        sizes = {name: block.get(name, len(axis.values)) for name, axis in axes.items()}
        held = sum(
            np.dtype(entry.dtype).itemsize * prod(sizes[dim] for dim in entry.dims if dim != "checkpoint")
            for entry in self.variables(axes)
        )
        return Cost(bytes=BACKWARD_COPIES * held)


# What several kinds have in common


class FrameObjective(Frozen):
    """The response at one frame of the stimulus, counted from 0."""

    frame: int = Field(ge=0, lt=2**31)
    """Frame of the stimulus, counted from 0."""


class MeanObjective(Frozen):
    """The mean response over the frames ``start`` to ``stop - 1``."""

    mean_over: tuple[int, int]
    """First frame, and one past the last."""

    @model_validator(mode="after")
    def _ordered(self) -> "MeanObjective":
        start, stop = self.mean_over
        if not 0 <= start < stop:
            raise ValueError(f"mean_over = [{start}, {stop}] holds no frame; give [first, one past the last]")
        return self


ObjectiveConfig = ObjectiveName | FrameObjective | MeanObjective


class ObjectiveConfigured(MapConfig):
    """A map that is about an objective of each neuron's response."""

    objective: ObjectiveConfig = "last"
    """What the gradient is taken of: the response at the last frame, at its peak, at a frame, or a mean or sum."""

    def engine_objective(self) -> str | dict[str, Any]:
        """The objective in the words of the engine: a name, ``{"frame": k}`` or ``{"mean_over": [a, b]}``."""
        return self.objective if isinstance(self.objective, str) else self.objective.model_dump(mode="json")

    def objective_words(self) -> str:
        """The objective as text."""
        return self.objective if isinstance(self.objective, str) else json.dumps(self.engine_objective())


class GradientConfig(ObjectiveConfigured):
    """A map that is the gradient of an objective, of each neuron or of their sum."""

    neurons: Literal["each", "sum"] = "each"
    """One map for each neuron, or one for the sum of all."""
    route: Route = "auto"
    """Way to the gradient; it changes no number beyond rounding."""

    def neuron_axes(self, cohort: CohortFacts) -> tuple[Axis, ...]:
        """The axis of the neurons; none for the gradient of their sum."""
        return (cohort.neuron_axis(),) if self.neurons == "each" else ()

    def gradient(self, axes: Mapping[str, Axis], over: str) -> tuple[Variable, ...]:
        """The one variable of the map, with respect to something in words."""
        what = f"gradient of the {self.objective_words()} response with respect to the {over}"
        return (Variable("", ("checkpoint", *axes), what, f"response per unit of the {over}"),)


def check_silence(key: str, chosen: str, level: float | None) -> None:
    """Refuse silence without a level, and a level without silence; ``key`` is the setting that was ``chosen``."""
    if (chosen == "silence") != (level is not None):
        raise ValueError(
            f'{key} = "silence" and silence_level = x go together: the level is what silence is in the units that the'
            " models were trained on"
        )


def check_named_frames(where: str, objective: ObjectiveConfig, names: Sequence[str], frames: Sequence[int]) -> None:
    """Refuse an objective at frames that a stimulus does not have."""
    if isinstance(objective, str):
        return
    last = objective.frame if isinstance(objective, FrameObjective) else objective.mean_over[1] - 1
    for name, count in zip(names, frames, strict=True):
        if last >= count:
            raise ConfigError(
                f"{where}: the objective needs frame {last}, but the stimulus {name!r} has {count} frames"
                f" (0 to {count - 1}); choose frames that every stimulus has"
            )


def check_spectrograms(where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
    """Refuse spectrograms that do not have the bands of the cohort."""
    bands = len(cohort.frequencies_hz)
    for name, count in zip(stimuli.names, stimuli.bands, strict=True):
        if count != bands:
            raise ConfigError(
                f"{where}: the spectrogram {name!r} has {count} bands, but the cohort has {bands};"
                " give spectrograms of shape (frequency, time) as the models were trained on"
            )
