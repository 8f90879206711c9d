"""Checks of maps that are asked for all at once, and what each of them is a check of."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from pipeline.plan.axes import Axis
from pipeline.plan.map_config import Cost, Frozen, MapConfig

#: Seconds on one core for the maps of one neuron.
MAP_SECONDS = 2e-3


class ChecksConfig(Frozen):
    """Checks of every map of the kind "strf" over the spectrogram that has one map per neuron."""

    filter_test: str | tuple[str, ...] | None = None
    """Spectrograms: how well each map predicts the model's own responses to them, as a linear filter."""
    randomise: bool = False
    """How alike maps stay when the model's weights are shuffled, part by part from the output down."""
    infidelity: bool = False
    """How much of what small changes of the sound do is not told by the map."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the shuffles and of the changes."""
    cohorts: tuple[str, ...] | None = None
    """Cohorts whose maps are checked; all by default."""


class Judging(BaseModel):
    """Which map a check is of."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    of: str = Field(min_length=1)
    """Name of the map that is checked, of the kind "strf" over the spectrogram, one for each neuron."""
    judged: dict[str, Any] = Field(default_factory=dict)
    """Settings of that map; found out by itself."""

    companions: ClassVar[tuple[str, ...]] = ("health",)


class ComputedAgain(Judging, MapConfig):
    """A check for which the maps that it is of are computed again, some times over."""

    cut_along: ClassVar[tuple[str, ...]] = ("neuron",)
    #: How many times the maps are computed.
    times: ClassVar[int] = 1

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        """Seconds and bytes of a block of neurons."""
        neurons, entries = block.get("neuron", len(axes["neuron"])), len(axes["frequency"]) * len(axes["lag"])
        return Cost(seconds=MAP_SECONDS * neurons * self.times, bytes=16 * neurons * entries * 4)
