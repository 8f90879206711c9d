"""What the page shows of integrated gradients: how complete they are, and the contributions as maps."""

import numpy as np

from pipeline.pictures.kinds import SECTIONS
from pipeline.pictures.kinds.strf import TOLD
from pipeline.pictures.page import Markup, element, joined, table
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.sections.static_maps import standard_section
from pipeline.pictures.style import three_figures
from pipeline.words import variable_name

#: Words for what is shown.
WORDS = (
    "Contribution of each entry of the sound to the response, from the baseline on; frequency in Hz against lag in ms,"
    " lag 0, the response, at the left. Red: it raised the response. The corner gives the end of the colour scale."
)

#: What is told of each sum, by the ending of its variable.
SUMS = {
    "completeness": "gap between the sum of all contributions and the difference of the responses, relative to it",
    "outside": "contributions that lie before the window and are not in the map, relative to the same",
    "nodes": "points on the way from the baseline to the sound at which the gradient was taken",
}


@SECTIONS.register("integrated")
def section(entry: Outcome) -> Markup:
    """How complete the contributions are, then maps, population, agreement and neurons."""
    return joined([_sums(entry), standard_section(entry, TOLD, WORDS)])


def _sums(entry: Outcome) -> Markup:
    rows = []
    for suffix, words in SUMS.items():
        name = variable_name(entry.name, suffix)
        values = entry.cube[name].values.astype(float) if name in entry.cube else np.empty(0)
        values = np.abs(values[np.isfinite(values) & (values != -1)])
        if values.size:
            middle, most = three_figures(float(np.median(values))), three_figures(float(values.max()))
            rows.append((suffix, middle, most, words))
    if not rows:
        return element("p", f"{entry.name}: there are no contributions yet.")
    asked = entry.gradmap.attrs.get("completeness")
    aim = (
        f" A gap of {asked:g} was asked for; maps that do not reach it carry the flag incomplete_path." if asked else ""
    )
    return joined(
        [
            element("h3", f"{entry.name}: do the contributions add up?"),
            element("p", f"Over all neurons and sounds that are done; sizes without their sign.{aim}"),
            table(("number", "median", "largest", "what it is"), rows),
        ]
    )
