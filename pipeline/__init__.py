"""Gradient receptive fields of trained auditory models, for whole populations and hundreds of checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.gradients.dynamic.strfs import dynamic_strfs
    from pipeline.gradients.encoding_model import AudioEncodingModel
    from pipeline.gradients.gradmaps import strf_gradmaps, waveform_gradmaps
    from pipeline.gradients.window import find_window
    from pipeline.inputs.adapters import adapt
    from pipeline.inputs.checkpoints import load_checkpoint
    from pipeline.numbers.agreement import reliability
    from pipeline.numbers.catalogue import measure
    from pipeline.numbers.strf import strf_summaries
    from pipeline.numbers.tables import population_table, summarise, summary_table, write_table
    from pipeline.numbers.waveform import waveform_summaries
    from pipeline.pictures.plots import plot_grid, plot_map
    from pipeline.pictures.report import write_report
    from pipeline.pictures.sound import write_sound
    from pipeline.plan.config import ConfigError, RunConfig, load_config
    from pipeline.run import plan_shards, run_locally
    from pipeline.run.in_memory import gradmaps
    from pipeline.store.reader import open_cube, open_cubes

__all__ = [
    "AudioEncodingModel",
    "ConfigError",
    "RunConfig",
    "adapt",
    "dynamic_strfs",
    "find_window",
    "gradmaps",
    "load_checkpoint",
    "load_config",
    "measure",
    "open_cube",
    "open_cubes",
    "plan_shards",
    "plot_grid",
    "plot_map",
    "population_table",
    "reliability",
    "run_locally",
    "strf_gradmaps",
    "strf_summaries",
    "summarise",
    "summary_table",
    "waveform_gradmaps",
    "waveform_summaries",
    "write_report",
    "write_sound",
    "write_table",
]

_HOMES = {
    "AudioEncodingModel": "pipeline.gradients.encoding_model",
    "ConfigError": "pipeline.plan.config",
    "RunConfig": "pipeline.plan.config",
    "adapt": "pipeline.inputs.adapters",
    "dynamic_strfs": "pipeline.gradients.dynamic.strfs",
    "find_window": "pipeline.gradients.window",
    "gradmaps": "pipeline.run.in_memory",
    "load_checkpoint": "pipeline.inputs.checkpoints",
    "load_config": "pipeline.plan.config",
    "measure": "pipeline.numbers.catalogue",
    "open_cube": "pipeline.store.reader",
    "open_cubes": "pipeline.store.reader",
    "plan_shards": "pipeline.run",
    "plot_grid": "pipeline.pictures.plots",
    "plot_map": "pipeline.pictures.plots",
    "population_table": "pipeline.numbers.tables",
    "reliability": "pipeline.numbers.agreement",
    "run_locally": "pipeline.run",
    "strf_gradmaps": "pipeline.gradients.gradmaps",
    "strf_summaries": "pipeline.numbers.strf",
    "summarise": "pipeline.numbers.tables",
    "summary_table": "pipeline.numbers.tables",
    "waveform_gradmaps": "pipeline.gradients.gradmaps",
    "waveform_summaries": "pipeline.numbers.waveform",
    "write_report": "pipeline.pictures.report",
    "write_sound": "pipeline.pictures.sound",
    "write_table": "pipeline.numbers.tables",
}


def __getattr__(name: str) -> Any:
    # A name is imported when it is asked for: `gradmap status` should not wait for torch.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
