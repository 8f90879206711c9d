"""STRFs fitted to responses, of the model itself or recorded."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import Variable
from pipeline.plan.predictions import PredictingConfig


@KINDS.register("fitted")
class FittedConfig(PredictingConfig):
    """The STRF that predicts each neuron's responses best, by ridge regression."""

    kind: Literal["fitted"] = "fitted"
    method: Literal["ridge"] = "ridge"
    """How it is fitted; the penalty of each neuron is chosen by cross-validation over sounds."""

    companions: ClassVar[tuple[str, ...]] = ("health", "memory_90", "memory_99", "oldest_share")

    def facts(self) -> dict[str, Any]:
        """What is predicted, and how the fit is made."""
        return {**super().facts(), "objective": "each frame", "baseline": "stimuli", "method": self.method}

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The fitted STRF, how well it predicts sounds that it was not fitted to, and its penalty."""
        each = ("checkpoint", "neuron")
        told = "each sound predicted by the fit without it"
        found = (
            Variable(
                "",
                (*each, "frequency", "lag"),
                f"STRF fitted to the responses of the {self.target}",
                "response per unit of the spectrogram",
                attributes={"sign": "a positive entry: more energy there goes with a higher response"},
            ),
            Variable("r", each, f"correlation of prediction and response, {told}", role="measure"),
            Variable(
                "lambda", each, "penalty on the sum of squares of the STRF", "spectrogram units squared", role="measure"
            ),
        )
        if self.responses is None:
            return found
        return (
            *found,
            Variable("ceiling", each, "correlation that a noise-free prediction would reach", role="measure"),
            Variable("model_r", each, "correlation of the model's own response with the recording", role="measure"),
        )
