"""What a user says about a checkpoint beyond its files, and how it is written down."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.plan.config import AdaptConfig, CheckpointsConfig, ModuleSpec

if TYPE_CHECKING:
    from torch import nn

#: How a note ends that says that a wrapper's prefix is gone from the weights' names.
UNWRAPPED = "was taken off the names of the weights"

#: What a user most probably has to write for a slot of deepSTRF's models.
EXAMPLES = {
    "output_activation": ('class = "torch.nn.Identity"  # or whatever it was trained with',),
    "wav2spec": (
        'class = "deepSTRF.models.wav2spec.CausalMelSpectrogram"',
        "audio_fs = 8000",
        "n_mels = 32",
        "hop_ms = 10.0",
        "win_ms = 20.0",
    ),
    "prefiltering": ('class = "deepSTRF.models.prefiltering.AdapTrans"', "init_a_vals = [...]", "init_w_vals = [...]"),
}


@dataclass(frozen=True)
class Recipe:
    """What the user says about a checkpoint beyond its files, and where in the config it stands."""

    where: str
    class_name: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    modules: "Mapping[str, ModuleSpec | nn.Module]" = field(default_factory=dict)
    factory: str | None = None
    state_dict: str | None = None
    strip_prefix: str | None = None
    adapt: AdaptConfig | None = None

    @property
    def decides(self) -> bool:
        """Whether the user's words, not the checkpoint's files alone, decide what is built."""
        return bool(self.class_name or self.arguments or self.modules or self.factory)


def recipe_of(entry: CheckpointsConfig, where: str) -> Recipe:
    """The recipe in an entry of the config."""
    return Recipe(
        where,
        entry.class_name,
        entry.arguments,
        entry.modules,
        entry.factory,
        entry.state_dict,
        entry.strip_prefix,
        entry.adapt,
    )


def toml_example(names: Sequence[str]) -> str:
    """The tables of a config that would give the modules of these names."""
    lines = []
    for name in names:
        example = EXAMPLES.get(name, ('class = "my_lab.modules.TheClassItWasTrainedWith"',))
        lines += [f"[cohort.checkpoints.modules.{name}]", *example]
    return "\n".join(lines)
