"""What the page shows of dynamic STRFs: how far each neuron's tuning moves, and what it moves between."""

import numpy as np
import xarray as xr

from pipeline.pictures.choosing import Choice
from pipeline.pictures.cube_reading import TRUSTED, group_labels
from pipeline.pictures.kinds import SECTIONS
from pipeline.pictures.kinds.strf import TOLD
from pipeline.pictures.page import Markup, element, joined, picture, table
from pipeline.pictures.plots.dynamic_maps import (
    MOST_PANELS,
    plot_components,
    plot_dynamic_mean,
    plot_film,
    plot_nonlinearity,
)
from pipeline.pictures.sections.numbers_behind import maps_behind, values_behind
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.sections.static_maps import standard_section
from pipeline.pictures.style import three_figures
from pipeline.words import owner_of, variable_name

#: Words for what is shown.
WORDS = (
    "The mean over the frames of all sounds; frequency in Hz against lag in ms, lag 0, the response, at the left."
    " Red: more energy there raises the response. The corner gives the end of the colour scale."
)

#: Numbers of each neuron that are told, with what they mean and do not mean.
NUMBERS = {
    "gain": "norm of the map, mean over frames",
    "gain_change": "how much that norm changes from frame to frame (standard deviation)",
    "complexity": "shapes that the map takes: 1 for a linear model; it grows with the number of frames",
    "temporal_hold": "ms for which the map travels with the sound; a test's outcome, not a duration",
    "shape_change": "complexity after moves along the lags are undone; it can be larger than the complexity",
    "local_linearity": "correlation of the response with what each frame's map predicts",
    "size_90": "components that hold 90 % of the map's variance over frames",
    "components_above_floor": "components above the variance that shuffled entries reach",
    "population_share": "share of the neuron's variance in the components of the whole population",
}


@SECTIONS.register("dynamic")
def section(entry: Outcome) -> Markup:
    """Numbers over the population, the mean maps, and one neuron's deviation, components and kept maps."""
    return joined([_numbers(entry), standard_section(entry, TOLD, WORDS, _alone)])


def _variable(entry: Outcome, suffix: str) -> xr.DataArray | None:
    """A number of the map where it is to be trusted; None where it was not asked for."""
    name = variable_name(owner_of(entry.cube, entry.shown), suffix)
    return entry.cube.get(name)


def _numbers(entry: Outcome) -> Markup:
    """Median and range of each number over what is to be trusted, and complexity against gain change."""
    rows = []
    for suffix, words in NUMBERS.items():
        values = _trusted(entry, suffix)
        if values is not None and np.isfinite(values.values).any():
            low, middle, high = (three_figures(float(q)) for q in np.nanquantile(values.values, [0.05, 0.5, 0.95]))
            rows.append((suffix.replace("_", " "), middle, f"{low} to {high}", words))
    if not rows:
        return element("p", f"{entry.name}: there are no numbers of dynamic STRFs yet.")
    frames = _variable(entry, "frames")
    counted = "" if frames is None else f" over {int(frames.sum())} frames of {frames.size} sounds"
    parts = [
        element("h3", f"{entry.name}: how far maps move along the sounds"),
        element("p", f"Each neuron's numbers{counted}, of maps that are to be trusted; sounds are averaged."),
        table(("number", "median", "5 to 95 %", "what it is"), rows),
    ]
    across, up = _trusted(entry, "complexity"), _trusted(entry, "gain_change")
    if across is not None and up is not None:
        groups = group_labels(entry.cube, "architecture")
        labels = [group for group in groups for _ in range(across.sizes["neuron"])] if any(groups) else None
        words = (
            "Each point is a neuron of a checkpoint. Linear models lie at complexity 1 and gain change 0; a neuron that"
            " changes its strength moves up, one that changes its tuning to the right."
        )
        axes = plot_nonlinearity(across, up, groups=labels)
        parts.append(picture(axes, f"complexity against gain change of {entry.name}", words))
        parts.append(values_behind(entry, "moves", {"complexity": across, "gain_change": up}))
    return joined(parts)


def _trusted(entry: Outcome, suffix: str) -> xr.DataArray | None:
    """A number over (checkpoint, neuron), averaged over sounds, NaN where the map is not to be trusted."""
    values = _variable(entry, suffix)
    if values is None:
        return None
    others = [dim for dim in values.dims if dim not in ("checkpoint", "neuron")]
    return values.where(entry.best.isin(TRUSTED)).mean(others).transpose("checkpoint", "neuron").load()


def _alone(entry: Outcome, drawn: Choice) -> Markup:
    """The neuron of those in the grid that moves most: deviation, components, and maps at single frames."""
    place = _most_moving(entry, drawn)
    if place is None:
        return Markup("")
    at = dict(zip(("checkpoint", "neuron"), place, strict=True))
    who = f"neuron {entry.best['neuron'].values[place[1]]} of {entry.best['checkpoint'].values[place[0]]}"
    mean, sd = _variable(entry, "mean"), _variable(entry, "sd")
    parts = []
    if mean is not None and sd is not None:
        figure = plot_dynamic_mean(mean.isel(at).load(), sd.isel(at).load())
        parts.append(picture(figure, f"mean and deviation of {who}", f"The most complex in the grid above, {who}."))
        both = xr.concat([mean.isel(at), sd.isel(at)], "number", coords="minimal", compat="override")
        parts.append(maps_behind(entry, "one", both.assign_coords(number=["mean", "standard deviation"]).load()))
    component, component_sd, floor = (
        _variable(entry, suffix) for suffix in ("component", "component_sd", "noise_floor")
    )
    if component is not None and component_sd is not None and floor is not None:
        along = str(component_sd.dims[-1])
        figure = plot_components(
            component.isel(at).rename({along: "component"} if along != "component" else {}).load(),
            component_sd.isel(at).load(),
            float(floor.isel(at)),
        )
        words = f"What the map of {who} moves along: its components over frames, by their standard deviation."
        parts.append(picture(figure, f"components of {who}", words))
        parts.append(maps_behind(entry, "components", component.isel(at).load()))
    kept = _variable(entry, "kept")
    if kept is not None:
        along = next(str(dim) for dim in kept.dims if dim not in ("checkpoint", "neuron", "frequency", "lag"))
        film = plot_film(kept.isel(at).isel({along: slice(MOST_PANELS)}).load(), along=along)
        parts.append(picture(film, f"maps of {who} at single frames", f"Maps of {who} at single frames, on one scale."))
        parts.append(maps_behind(entry, "frames", kept.isel(at).isel({along: slice(MOST_PANELS)}).load()))
    return joined(parts)


def _most_moving(entry: Outcome, drawn: Choice) -> tuple[int, int] | None:
    """Position (checkpoint, neuron) of the trusted map with the largest complexity in the grid; the first without."""
    usable = entry.best.isin(TRUSTED).transpose("checkpoint", "neuron").values[np.ix_(drawn.checkpoints, drawn.neurons)]
    if not usable.any():
        return None
    values = _trusted(entry, "complexity")
    moves = np.zeros(usable.shape) if values is None else values.values[np.ix_(drawn.checkpoints, drawn.neurons)]
    moves = np.where(usable, np.nan_to_num(moves, nan=0.0), -1.0)
    row, column = np.unravel_index(int(moves.argmax()), moves.shape)
    return int(drawn.checkpoints[row]), int(drawn.neurons[column])
