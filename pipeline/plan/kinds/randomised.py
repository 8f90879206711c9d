"""How alike maps stay when the weights of the model are shuffled."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_checks import Judging, cost_of_maps
from pipeline.plan.map_config import CohortFacts, Cost, MapConfig, Stimuli, Variable

#: The parts whose weights are shuffled, in that order: those of the contract, then whatever else has weights.
PARTS = ("readout", "core", "prefiltering", "rest")


@KINDS.register("randomised")
class RandomisedConfig(Judging, MapConfig):
    """Correlation of each neuron's map with its map once weights are shuffled, part by part from the output down."""

    kind: Literal["randomised"]
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the shuffles."""

    cut_along: ClassVar[tuple[str, ...]] = ("neuron",)

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

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        """Seconds and bytes of a block of neurons, once for each part and once for the trained model."""
        neurons = block.get("neuron", len(axes["neuron"]))
        return cost_of_maps(neurons, len(axes["frequency"]) * len(axes["lag"]), len(PARTS) + 1)
