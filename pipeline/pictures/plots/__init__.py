"""Pictures of maps and of populations: axes in, axes out."""

from pipeline.pictures.plots.ascents import plot_trace
from pipeline.pictures.plots.dynamic_maps import (
    plot_components,
    plot_dynamic_mean,
    plot_film,
    plot_gain,
    plot_nonlinearity,
)
from pipeline.pictures.plots.grids import plot_grid, plot_seeds
from pipeline.pictures.plots.maps import plot_map, plot_ripple_transfer
from pipeline.pictures.plots.populations import plot_distribution, plot_population, plot_similarity
from pipeline.pictures.plots.standings import plot_standing
from pipeline.pictures.plots.waveforms import plot_waveform

__all__ = [
    "plot_components",
    "plot_distribution",
    "plot_dynamic_mean",
    "plot_film",
    "plot_gain",
    "plot_grid",
    "plot_map",
    "plot_nonlinearity",
    "plot_population",
    "plot_ripple_transfer",
    "plot_seeds",
    "plot_similarity",
    "plot_standing",
    "plot_trace",
    "plot_waveform",
]
