"""How well the checkpoints agree on what each neuron listens to."""

import numpy as np
import xarray as xr

from pipeline.numbers.stats import benjamini_hochberg
from pipeline.pictures.choosing import grouping
from pipeline.pictures.page import Markup, element, joined, numbers, picture, sentence, table
from pipeline.pictures.plots.populations import plot_distribution, plot_similarity
from pipeline.pictures.sections.measured import Measured, between_checkpoints
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.style import new_figure, three_figures


def agreement_section(entry: Outcome, found: Measured, agreement: xr.Dataset | None) -> Markup:
    """How alike the maps of a neuron are over seeds and between checkpoints.

    ``agreement``: What `over_seeds` found.
    """
    pairs = between_checkpoints(found)
    head = element("h3", f"{entry.name}: agreement between checkpoints")
    if agreement is None and pairs is None:
        return joined([head, element("p", "No two checkpoints hold maps of the same neuron, so nothing can agree.")])
    figure = new_figure(10.0, 3.9)
    left, right = figure.subplots(1, 2)
    parts = [head]
    if agreement is None:
        left.remove()
    else:
        values = agreement["reliability"]
        # one line per architecture, as for checkpoints
        stacked = values.rename(architecture="checkpoint") if "architecture" in values.dims else values
        if "checkpoint" in stacked.dims:
            stacked = stacked.assign_coords(architecture=("checkpoint", stacked["checkpoint"].values))
        by = grouping(stacked)
        plot_distribution(stacked, left, by=by, label="mean correlation of a neuron's maps over seeds")
        left.set_ylabel("share of neurons")
        parts.append(_table(agreement))
    if pairs is None:
        right.remove()
    else:
        plot_similarity(pairs, right)
    words = (
        "Left: for each neuron the mean correlation of its maps over the checkpoints of one architecture. Right: the"
        f" mean over neurons of the correlation between two checkpoints' maps. {sentence(found.how)}"
    )
    links = _in_numbers(entry, agreement, pairs)
    return joined([*parts, picture(figure, f"agreement between checkpoints on {entry.name}", words), *links])


def _in_numbers(entry: Outcome, agreement: xr.Dataset | None, pairs: xr.DataArray | None) -> list[Markup]:
    links = []
    if agreement is not None:
        table = agreement["reliability"].reset_coords(drop=True).to_dataframe().reset_index()
        links.append(numbers(f"{entry.cohort}-{entry.name}-reliability", {str(name): table[name] for name in table}))
    if pairs is not None:
        square = {"checkpoint": pairs["checkpoint"].values}
        square |= {str(label): pairs.values[:, at] for at, label in enumerate(pairs["checkpoint_other"].values)}
        links.append(numbers(f"{entry.cohort}-{entry.name}-similarity", square))
    return links


def _table(agreement: xr.Dataset) -> Markup:
    values, p_values, counts = (agreement[name] for name in ("reliability", "p_value", "n_maps"))
    groups = values["architecture"].values if "architecture" in values.dims else [""]
    rows = []
    for at, group in enumerate(groups):
        one = {"architecture": at} if "architecture" in values.dims else {}
        own, p = values.isel(one).values, benjamini_hochberg(p_values.isel(one).values)
        known = np.isfinite(own)
        if not known.any():
            rows.append([str(group), 0, "", "", "", "fewer than two maps to be trusted"])
            continue
        low, centre, high = np.quantile(own[known], [0.25, 0.5, 0.75])
        rows.append(
            [
                str(group),
                int(known.sum()),
                int(np.nanmax(counts.isel(one).values)),
                three_figures(centre),
                f"{three_figures(low)}\u00a0to\u00a0{three_figures(high)}",
                f"{int((p[known] < 0.05).sum())} of {int(known.sum())}",
            ]
        )
    header = [
        "architecture",
        "neurons",
        "checkpoints",
        "correlation over seeds (median)",
        "quartiles",
        "neurons above chance",
    ]
    words = "Above chance: more alike than maps of different neurons, at a false discovery rate of 5 %."
    return joined([table(header, rows), element("p", words, class_="note")])
