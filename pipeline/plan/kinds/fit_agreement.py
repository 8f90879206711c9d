"""How alike maps and fitted STRFs are in what they make of sounds."""

from collections.abc import Mapping
from typing import Literal

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.kinds.filter_test import FilterTestConfig
from pipeline.plan.map_config import Variable


@KINDS.register("fit_agreement")
class FitAgreementConfig(FilterTestConfig):
    """Correlation of what each neuron's map and its fitted STRF make of the sounds."""

    kind: Literal["fit_agreement"]  # type: ignore[assignment]

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The correlation in the stimulus-weighted product."""
        what = f"correlation of what {self.of} and the STRF fitted to the {self.target} make of the sounds"
        return (Variable("r", ("checkpoint", "neuron"), what, role="measure"),)
