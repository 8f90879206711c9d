"""Gradient receptive fields of trained auditory models, for whole populations and hundreds of checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.gradients.gradmaps import strf_gradmaps, waveform_gradmaps
    from pipeline.gradients.models import AudioEncodingModel
    from pipeline.inputs.checkpoints import load_checkpoint
    from pipeline.numbers.tables import summarise
    from pipeline.plan.config import ConfigError, load_config
    from pipeline.run import plan_shards, run_locally
    from pipeline.store.reader import open_cube

__all__ = [
    "AudioEncodingModel",
    "ConfigError",
    "load_checkpoint",
    "load_config",
    "open_cube",
    "plan_shards",
    "run_locally",
    "strf_gradmaps",
    "summarise",
    "waveform_gradmaps",
]

_HOMES = {
    "AudioEncodingModel": "pipeline.gradients.models",
    "ConfigError": "pipeline.plan.config",
    "load_checkpoint": "pipeline.inputs.checkpoints",
    "load_config": "pipeline.plan.config",
    "open_cube": "pipeline.store.reader",
    "plan_shards": "pipeline.run",
    "run_locally": "pipeline.run",
    "strf_gradmaps": "pipeline.gradients.gradmaps",
    "summarise": "pipeline.numbers.tables",
    "waveform_gradmaps": "pipeline.gradients.gradmaps",
}


def __getattr__(name: str) -> Any:
    # A name is imported when it is asked for: `gradmap status` should not wait for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
