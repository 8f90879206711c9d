"""How well maps predict responses as linear filters."""

from collections.abc import Mapping
from typing import Any, Literal

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_checks import Judging
from pipeline.plan.map_config import Variable
from pipeline.plan.predictions import PredictingConfig


@KINDS.register("filter_test")
class FilterTestConfig(Judging, PredictingConfig):
    """Correlation of each neuron's response with what its map, as a linear filter, makes of the sounds."""

    kind: Literal["filter_test"]

    def facts(self) -> dict[str, Any]:
        """Of which map, and what is predicted."""
        return {**super().facts(), "of": self.of}

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The correlation."""
        what = f"correlation of the {self.target}'s responses with {self.of} as a linear filter"
        return (Variable("r", ("checkpoint", "neuron"), what, role="measure"),)
