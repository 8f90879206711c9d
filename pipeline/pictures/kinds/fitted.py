"""What the page shows of fitted STRFs: how well they predict sounds that they were not fitted to, and the maps."""

import numpy as np

from pipeline.pictures.choosing import grouping
from pipeline.pictures.kinds import SECTIONS
from pipeline.pictures.kinds.strf import TOLD
from pipeline.pictures.page import Markup, element, joined, picture, table
from pipeline.pictures.plots.populations import plot_distribution
from pipeline.pictures.sections.numbers_behind import values_behind
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.sections.static_maps import standard_section
from pipeline.pictures.style import new_figure, three_figures
from pipeline.words import variable_name

WORDS = (
    "The STRF that predicts the responses best; frequency in Hz against lag in ms, lag 0, the response, at the left."
    " Red: more energy there goes with a higher response. The corner gives the end of the colour scale."
)

#: Numbers of each neuron, by the ending of their variable.
NUMBERS = {
    "r": "correlation of response and prediction, each sound predicted by the fit without it",
    "ceiling": "correlation that a noise-free prediction would reach with the mean of the repeats",
    "model_r": "correlation of the model's own response with the recording",
}


@SECTIONS.register("fitted")
def section(entry: Outcome) -> Markup:
    """How well the fits predict, then maps, population, agreement and neurons."""
    return joined([_predictions(entry), standard_section(entry, TOLD, WORDS)])


def _predictions(entry: Outcome) -> Markup:
    rows, shown = [], None
    for suffix, words in NUMBERS.items():
        name = variable_name(entry.name, suffix)
        values = entry.cube[name].load() if name in entry.cube else None
        if values is None or not np.isfinite(values.values).any():
            continue
        shown = values if suffix == "r" else shown
        low, middle, high = (three_figures(float(q)) for q in np.nanquantile(values.values, [0.05, 0.5, 0.95]))
        rows.append((suffix.replace("_", " "), middle, f"{low} to {high}", words))
    if shown is None:
        return element("p", f"{entry.name}: nothing is fitted yet.")
    target = entry.gradmap.attrs.get("predicted", "model")
    figure = new_figure(4.4, 2.7)
    by = grouping(entry.cube)
    plot_distribution(shown, figure.subplots(), by=by, label="correlation of prediction and response")
    return joined(
        [
            element("h3", f"{entry.name}: how well a linear filter predicts the {target}"),
            table(("number", "median", "5 to 95 %", "what it is"), rows),
            picture(figure, f"prediction by {entry.name} over the population"),
            values_behind(entry, "prediction", {str(shown.name): shown}),
        ]
    )
