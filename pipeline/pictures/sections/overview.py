"""Many cohorts side by side: a line for each, with what is done of it and where its neurons lie."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pipeline.pictures.cube_reading import COMPUTED, TRUSTED, UNTRUSTED, placed
from pipeline.pictures.page import Markup, cell, element, joined, numbers, picture, table
from pipeline.pictures.sections.neurons import HEADS
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.style import three_figures
from pipeline.words import FAILED, variable_name

#: Cohorts up to which the page shows everything of each; more are folded below an overview.
FEW = 6

#: Numbers per cohort in the table, and of these in the picture.
MOST_NUMBERS = 6
MOST_DRAWN = 4


def overview_section(results: Sequence[Outcome], places: Mapping[str, str]) -> Markup:
    """For each map, a table with one row per cohort, and a picture of medians and quartiles over its neurons.

    ``places``: Where on the page each cohort is, by its name.
    """
    maps = dict.fromkeys(entry.name for entry in results)
    return joined(_of_map(name, [entry for entry in results if entry.name == name], places) for name in maps)


def _of_map(name: str, entries: Sequence[Outcome], places: Mapping[str, str]) -> Markup:
    found = [_quartiles(entry) for entry in entries]
    measures = [measure for measure in HEADS if any(measure in one for one in found)][:MOST_NUMBERS]
    rows = [
        [
            element("td", element("a", entry.cohort, href=places[entry.cohort])),
            entry.standing.sizes["checkpoint"],
            entry.standing.sizes["neuron"],
            f"{entry.count(*COMPUTED)} / {entry.size}",
            cell(entry.count(*UNTRUSTED), "warn" if entry.count(*UNTRUSTED) else ""),
            cell(entry.count(FAILED), "bad" if entry.count(FAILED) else ""),
            *(three_figures(float(numbers[measure][1])) if measure in numbers else "-" for measure in measures),
        ]
        for entry, numbers in zip(entries, found, strict=True)
    ]
    header = ["cohort", "checkpoints", "neurons", "maps done", "not to be trusted", "failed"]
    parts = [element("h3", f"{name}: cohorts"), table([*header, *(HEADS[measure] for measure in measures)], rows)]
    if measures:
        words = "Medians over the maps of a cohort that are to be trusted, from the cube's own summaries."
        drawn = _drawn(found, measures[:MOST_DRAWN])
        bars = f"{words} A dot is the median of one cohort, its bar reaches from the first to the third quartile."
        parts.append(picture(drawn, f"{name}: medians of {len(entries)} cohorts", bars))
        parts.append(_in_numbers(name, entries, found, measures))
    else:
        words = "gradmap summarise adds medians of best frequency, latency and width to this table."
        parts.append(element("p", words, class_="note"))
    return joined(parts)


def _in_numbers(
    name: str, entries: Sequence[Outcome], found: Sequence[Mapping[str, np.ndarray]], measures: Sequence[str]
) -> Markup:
    columns: dict[str, object] = {"cohort": [entry.cohort for entry in entries]}
    for measure in measures:
        rows = np.array([one.get(measure, np.full(3, np.nan)) for one in found])
        words = ("lower quartile", "median", "upper quartile")
        columns |= {f"{measure} {word}": rows[:, at] for at, word in enumerate(words)}
    return numbers(f"cohorts-{name}", columns)


def _quartiles(entry: Outcome) -> dict[str, np.ndarray]:
    """First quartile, median and third quartile of each measure that the cube holds of a map."""
    trusted = placed(entry.standing).isin(TRUSTED)
    found = {}
    for measure in HEADS:
        variable = variable_name(entry.shown, measure)
        if variable not in entry.cube or not {"checkpoint", "neuron"} <= set(entry.cube[variable].dims):
            continue
        values = entry.cube[variable]
        numbers = values.where(trusted).values if set(trusted.dims) <= set(values.dims) else values.values
        known = numbers[np.isfinite(numbers)]
        if known.size:
            found[measure] = np.quantile(known, [0.25, 0.5, 0.75])
    return found


def _drawn(found: Sequence[Mapping[str, np.ndarray]], measures: Sequence[str]) -> Figure:
    figure = Figure(figsize=(2.7 * len(measures), 2.6), layout="constrained")
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures, strict=True):
        rows = np.array([one.get(measure, np.full(3, np.nan)) for one in found])
        rows = rows[np.argsort(rows[:, 1])]
        at = np.arange(len(rows))
        axes.hlines(at, rows[:, 0], rows[:, 2], color="0.7", linewidth=1)
        axes.plot(rows[:, 1], at, "o", color="#3c8dbc", markersize=3)
        axes.set_xscale("log" if measure.endswith("_frequency") else "linear")
        axes.set(xlabel=HEADS[measure], yticks=[])
    figure.axes[0].set_ylabel("cohorts")
    return figure
