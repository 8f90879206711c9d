"""Gradient receptive fields of trained auditory models, for whole populations and hundreds of checkpoints."""

from typing import TYPE_CHECKING

from pipeline.lazy_names import names_of

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
    from pipeline.run.driver import run_locally
    from pipeline.run.in_memory import gradmaps
    from pipeline.run.prepare import plan_shards
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

__getattr__ = names_of(
    __name__,
    {
        "gradients.dynamic.strfs": ("dynamic_strfs",),
        "gradients.encoding_model": ("AudioEncodingModel",),
        "gradients.gradmaps": ("strf_gradmaps", "waveform_gradmaps"),
        "gradients.window": ("find_window",),
        "inputs.adapters": ("adapt",),
        "inputs.checkpoints": ("load_checkpoint",),
        "numbers.agreement": ("reliability",),
        "numbers.catalogue": ("measure",),
        "numbers.strf": ("strf_summaries",),
        "numbers.tables": ("population_table", "summarise", "summary_table", "write_table"),
        "numbers.waveform": ("waveform_summaries",),
        "pictures.plots": ("plot_grid", "plot_map"),
        "pictures.report": ("write_report",),
        "pictures.sound": ("write_sound",),
        "plan.config": ("ConfigError", "RunConfig", "load_config"),
        "run.driver": ("run_locally",),
        "run.in_memory": ("gradmaps",),
        "run.prepare": ("plan_shards",),
        "store.reader": ("open_cube", "open_cubes"),
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
