"""How well maps predict responses as linear filters."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_checks import Judging
from pipeline.plan.map_config import CohortFacts, Cost, Stimuli, Variable
from pipeline.plan.predictions import PredictingConfig, cost_of_fits


@KINDS.register("filter_test")
class FilterTestConfig(Judging, PredictingConfig):
    """Correlation of each neuron's response with what its map, as a linear filter, makes of the sounds."""

    kind: Literal["filter_test"]

    def facts(self) -> dict[str, Any]:
        """Of which map, and what is predicted."""
        return {**super().facts(), "of": self.of}

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Stimulus, neuron, frequency, lag."""
        heard = replace(stimuli.axis(), extents=stimuli.lengths)
        return (heard, *self.rows(cohort, stimuli), cohort.frequency_axis(), cohort.lag_axis())

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The correlation."""
        what = f"correlation of the {self.target}'s responses with {self.of} as a linear filter"
        return (Variable("r", ("checkpoint", "neuron"), what, role="measure"),)

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        """Seconds and bytes of the sounds' windows and the maps of a block of neurons."""
        return cost_of_fits(axes, block)
