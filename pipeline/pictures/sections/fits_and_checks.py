"""What maps are worth: how well they predict responses, and what checks of them have found."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from pipeline.pictures.choosing import grouping
from pipeline.pictures.cube_reading import TRUSTED, group_labels
from pipeline.pictures.page import Markup, element, joined, picture, table
from pipeline.pictures.plots.populations import plot_distribution
from pipeline.pictures.sections.numbers_behind import values_behind
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.style import new_figure, three_figures
from pipeline.words import variable_name

#: A map whose prediction correlates less than this with the response says little about what the neuron does.
LITTLE = 0.8

#: Groups of checkpoints, and maps, that are named.
MOST_GROUPS, MOST_NAMED = 12, 10

#: Numbers of each neuron that checks have found, by the ending of their variable.
CORRELATIONS = {
    "filter_r": "the model's own responses, predicted by the map as a linear filter",
    "fitted_r": "what the map and the STRF fitted to the model make of the sounds",
    "recorded_r": "recorded responses, predicted by the map as a linear filter",
}


def worth_section(entry: Outcome) -> Markup:
    """How much of the responses each map tells, and which maps predict little; nothing where no check was asked for."""
    found = {suffix: values for suffix in CORRELATIONS if (values := _trusted(entry, suffix)) is not None}
    parts = [_distributions(entry, found)] if found else []
    if "filter_r" in found:
        parts.append(_little(entry, found["filter_r"]))
    parts += [part for part in (_untold(entry), _shuffled(entry)) if part]
    if not parts:
        return Markup("")
    return joined([element("h3", f"{entry.name}: what the maps are worth"), *parts])


def _trusted(entry: Outcome, suffix: str) -> xr.DataArray | None:
    """A number over (checkpoint, neuron, ...), NaN where the map is not to be trusted; None where there is none."""
    name = variable_name(entry.name, suffix)
    if name not in entry.cube:
        return None
    values = entry.cube[name].where(entry.best.isin(TRUSTED)).transpose("checkpoint", "neuron", ...).load()
    return values if np.isfinite(values.values).any() else None


def _distributions(entry: Outcome, found: dict[str, xr.DataArray]) -> Markup:
    by = grouping(entry.cube)
    figure = new_figure(max(3.9 * len(found), 4.4), 2.7)
    panels = figure.subplots(1, len(found), squeeze=False).ravel()
    for ax, (suffix, values) in zip(panels, found.items(), strict=True):
        plot_distribution(values, ax, by=by, label=f"{variable_name(entry.name, suffix)} (correlation)")
    words = "; ".join(f"{variable_name(entry.name, suffix)}: {CORRELATIONS[suffix]}" for suffix in found)
    drawn = picture(figure, f"correlations of {entry.name} over the population", f"{words}.")
    named = {variable_name(entry.name, suffix): values for suffix, values in found.items()}
    return joined([drawn, values_behind(entry, "worth", named)])


def _little(entry: Outcome, r: xr.DataArray) -> Markup:
    """Medians by architecture, and the maps that predict least."""
    groups = group_labels(r, "architecture")
    rows = []
    for group in dict.fromkeys(groups):
        own = r.values[[at for at, label in enumerate(groups) if label == group]]
        own = own[np.isfinite(own)]
        if own.size:
            low, middle = (three_figures(float(value)) for value in np.quantile(own, [0.05, 0.5]))
            rows.append((group or "all", middle, low, three_figures(float(own.min())), int((own < LITTLE).sum())))
    header = ("checkpoints", "median r", "5 % below", "lowest", f"maps below {LITTLE:g}")
    parts = [table(header, rows[:MOST_GROUPS])]
    worst = _lowest(r)
    if worst:
        names = "; ".join(f"{neuron} of {checkpoint}: {value}" for checkpoint, neuron, value in worst)
        words = f"These maps predict little of what their neurons do, and should be read with the fitted STRF: {names}."
    else:
        words = f"No map predicts its neuron's responses with a correlation below {LITTLE:g}."
    return joined([*parts, element("p", words)])


def _lowest(r: xr.DataArray) -> Sequence[tuple[str, str, str]]:
    values = np.where(np.isfinite(r.values), r.values, np.inf)
    order = np.argsort(values, axis=None, kind="stable")[:MOST_NAMED]
    places = [np.unravel_index(at, values.shape) for at in order]
    return [
        (str(r["checkpoint"].values[row]), str(r["neuron"].values[column]), three_figures(float(values[row, column])))
        for row, column in places
        if values[row, column] < LITTLE
    ]


def _untold(entry: Outcome) -> Markup:
    values = _trusted(entry, "infidelity")
    if values is None:
        return Markup("")
    middle, most = three_figures(float(np.nanmedian(values.values))), three_figures(float(np.nanmax(values.values)))
    return element(
        "p",
        f"Infidelity: of what small random changes of the sound do to the response, the median map leaves {middle}"
        f" untold, and the worst {most} (0: all is told, 1: no more than a map of zeros tells).",
    )


def _shuffled(entry: Outcome) -> Markup:
    values = _trusted(entry, "randomised_r")
    if values is None:
        return Markup("")
    rows = []
    for part in values["part"].values:
        own = values.sel(part=part).values
        own = own[np.isfinite(own)]
        if own.size:
            middle, most = three_figures(float(np.median(own))), three_figures(float(np.abs(own).max()))
            rows.append((str(part), middle, most))
    words = (
        "Weights shuffled from the output down: a map that shows what the model has learnt falls apart, one that stays"
        " (a correlation near 1 once all parts are shuffled) shows the architecture."
    )
    header = ("shuffled down to", "median correlation with the trained map", "largest, without sign")
    return joined([element("p", words), table(header, rows)])
