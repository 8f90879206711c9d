"""How alike maps stay when the weights of the model are shuffled."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_checks import ComputedAgain
from pipeline.plan.map_config import CohortFacts, Stimuli, Variable

#: The parts whose weights are shuffled, in that order: those of the contract, then whatever else has weights.
PARTS = ("readout", "core", "prefiltering", "rest")


@KINDS.register("randomised")
class RandomisedConfig(ComputedAgain):
    """Correlation of each neuron's map with its map once weights are shuffled, part by part from the output down."""

    kind: Literal["randomised"]
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the shuffles."""

    times: ClassVar[int] = len(PARTS) + 1  # once for each part and once for the trained model

    def facts(self) -> dict[str, Any]:
        """Of which map, and the seed."""
        return {"of": self.of, "seed": self.seed}

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """Of which map."""
        return f"weights shuffled under {self.of}", ""

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Neuron, part, frequency, lag."""
        parts = Axis("part", PARTS, "part of the model whose weights were shuffled last")
        return (cohort.neuron_axis(), parts, cohort.frequency_axis(), cohort.lag_axis())

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The correlations."""
        what = f"correlation of {self.of} with its map once this part and those above it are shuffled"
        return (Variable("r", ("checkpoint", "neuron", "part"), what, role="measure"),)
