"""How much of what small changes of the sound do is not told by the map."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_checks import ComputedAgain
from pipeline.plan.map_config import CohortFacts, Stimuli, Variable


@KINDS.register("infidelity")
class InfidelityConfig(ComputedAgain):
    """Share of the response's change under random changes of the sound that the map does not tell."""

    kind: Literal["infidelity"]
    scale: float = Field(default=0.1, gt=0, le=1e30)
    """Standard deviation of the changes, relative to that of the sound, or absolute where the sound does not change."""
    samples: int = Field(default=64, ge=1, le=10**6)
    """Number of changes."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the changes."""

    times: ClassVar[int] = 4

    def facts(self) -> dict[str, Any]:
        """Of which map, and the changes."""
        return {"of": self.of, "scale": self.scale, "samples": self.samples, "seed": self.seed}

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """Of which map."""
        return f"what {self.of} does not tell", ""

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Neuron, frequency, lag."""
        return (cohort.neuron_axis(), cohort.frequency_axis(), cohort.lag_axis())

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The share."""
        what = f"share of the response's change that {self.of} does not tell: 0 all is told, 1 as a map of zeros"
        return (Variable("", ("checkpoint", "neuron"), what, role="measure"),)
