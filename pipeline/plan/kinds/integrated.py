"""Integrated gradients: what each part of each sound has contributed to the response, from a baseline on."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.plan.axes import Axis
from pipeline.plan.kinds import KINDS
from pipeline.plan.map_config import (
    CohortFacts,
    Cost,
    ObjectiveConfigured,
    Stimuli,
    Variable,
    check_named_frames,
    check_silence,
    check_spectrograms,
)
from pipeline.text import counted
from pipeline.words import Hears

#: Seconds on one core for one node, one frame of the sound and one neuron, and bytes that nodes hold at one time.
NODE_SECONDS = 2e-5
NODE_BYTES = 3 * 256 * 2**20


@KINDS.register("integrated")
class IntegratedConfig(ObjectiveConfigured):
    """Contributions of each entry of a sound to each neuron's response."""

    kind: Literal["integrated"]
    stimuli: str | tuple[str, ...]
    """File or files of spectrograms: named arrays (frequency, time) in an .npz."""
    baseline: Literal["null", "silence", "mean"] = "null"
    """Where the way to each sound begins: no sound, silence, or the mean of each band over all sounds."""
    silence_level: float | None = Field(default=None, ge=-1e30, le=1e30)
    """What silence is, in the units that the models were trained on."""
    nodes: int = Field(default=16, ge=1, le=4096)
    """Nodes of the quadrature, at least; more for the neurons that are not complete with them."""
    completeness: float = Field(default=1e-4, gt=0, le=1)
    """Largest gap to accept between the contributions' sum and the difference of the responses, relative to it."""
    most_nodes: int = Field(default=256, ge=1, le=4096)
    """Nodes of the quadrature, at most."""
    samples: int = Field(default=0, ge=0, le=10_000)
    """Noisy copies of each sound whose contributions are averaged (SmoothGrad); 0 for the sound itself."""
    noise: float | None = Field(default=None, gt=0, le=1e30)
    """Standard deviation of the noise, in the units of the spectrogram."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the noise."""

    stimuli_are: ClassVar[Hears] = "spectrograms"
    companions: ClassVar[tuple[str, ...]] = ("health", "memory_90", "memory_99", "oldest_share", "frame")

    @model_validator(mode="after")
    def _what_goes_together(self) -> "IntegratedConfig":
        check_silence("baseline", self.baseline, self.silence_level)
        if (self.samples > 0) != (self.noise is not None):
            raise ValueError(
                "samples and noise go together: so many copies of each sound, each with noise of that standard"
                " deviation; give both, or neither"
            )
        if self.most_nodes < self.nodes:
            raise ValueError(
                f"most_nodes = {self.most_nodes} is less than nodes = {self.nodes}, with which the quadrature begins;"
                " raise the one or lower the other"
            )
        return self

    def facts(self) -> dict[str, Any]:
        """Objective, baseline, and how complete the contributions are meant to be."""
        told: dict[str, Any] = {
            "objective": self.objective_words(),
            "baseline": self.baseline,
            "space": "spectrogram",
            "neurons": "each",
            "completeness": self.completeness,
        }
        if self.silence_level is not None:
            told["silence_level"] = self.silence_level
        if self.noise is not None:
            told |= {"samples": self.samples, "noise": self.noise, "seed": self.seed}
        return told

    def summary(self, stimuli: Stimuli) -> tuple[str, str]:
        """The objective, and from where to how many sounds."""
        return self.objective_words(), f"{self.baseline} to {counted(len(stimuli.names), 'sound')}"

    def check(self, where: str, cohort: CohortFacts, stimuli: Stimuli) -> None:
        """Refuse spectrograms of other bands, and frames that they lack."""
        check_spectrograms(where, cohort, stimuli)
        check_named_frames(where, self.objective, stimuli.names, stimuli.lengths)

    def axes(self, cohort: CohortFacts, stimuli: Stimuli) -> tuple[Axis, ...]:
        """Stimulus, neuron, frequency, lag."""
        return (stimuli.axis(), cohort.neuron_axis(), cohort.frequency_axis(), cohort.lag_axis())

    def variables(self, axes: Mapping[str, Axis]) -> tuple[Variable, ...]:
        """The contributions, what is wanting of their sum, what lies before the window, and the nodes taken."""
        each = ("checkpoint", "stimulus", "neuron")
        of_what = f"the {self.objective_words()} response"
        return (
            Variable(
                "",
                ("checkpoint", *axes),
                f"contribution to {of_what}, from the baseline on",
                "response",
                attributes={"sign": "a positive entry has raised the response above that to the baseline"},
            ),
            Variable("completeness", each, "gap of the quadrature, relative to the difference", role="measure"),
            Variable("outside", each, "contributions before the window, relative to the difference", role="measure"),
            Variable("difference", each, f"{of_what} less that to the baseline", "response", role="measure"),
            Variable("nodes", each, "nodes of the quadrature", dtype="int32", role="measure"),
        )

    def cost(self, axes: Mapping[str, Axis], block: Mapping[str, int]) -> Cost:
        """Seconds and bytes of a block of neurons and of stimuli, with as many nodes as it begins with."""
        sounds, neurons = (block.get(name, len(axes[name])) for name in ("stimulus", "neuron"))
        longest = max(axes["stimulus"].extents, default=1)
        passes = max(1, self.samples) * self.nodes
        whole = neurons * len(axes["frequency"]) * longest * 8
        written = sounds * neurons * len(axes["frequency"]) * len(axes["lag"]) * 4
        return Cost(NODE_SECONDS * passes * longest * sounds * neurons, NODE_BYTES + 4 * whole + 2 * written)
