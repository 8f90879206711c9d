"""What the page shows of best sounds: whether the ascent has come to its end, and the sounds as maps."""

import numpy as np

from pipeline.pictures.choosing import choose_drawn
from pipeline.pictures.kinds import SECTIONS
from pipeline.pictures.kinds.strf import TOLD as OF_SPECTROGRAMS
from pipeline.pictures.kinds.waveform import TOLD as OF_WAVEFORMS
from pipeline.pictures.page import Markup, element, joined, picture
from pipeline.pictures.plots.ascents import plot_trace
from pipeline.pictures.sections.numbers_behind import maps_behind
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.sections.static_maps import standard_section
from pipeline.pictures.style import three_figures
from pipeline.words import axis_named, variable_name

#: Words for what is shown.
WORDS = (
    "What the best sound adds to the start; lag 0, the end of the sound, at the left. Red: more than at the start. The"
    " corner gives the end of the colour scale."
)

#: A trace that rises by more than this share of its rise in its last tenth has not come to its end.
STILL_RISING = 0.01


@SECTIONS.register("synthesis")
def section(entry: Outcome) -> Markup:
    """How the responses rose, then sounds, population, agreement and neurons."""
    told = OF_WAVEFORMS if axis_named("waveform_lag", entry.gradmap.dims) else OF_SPECTROGRAMS
    return joined([_ascents(entry), standard_section(entry, told, WORDS)])


def _ascents(entry: Outcome) -> Markup:
    name = variable_name(entry.name, "trace")
    drawn = choose_drawn(entry.best, entry.cube)
    if name not in entry.cube or not drawn.checkpoints.size:
        return element("p", f"{entry.name}: there are no best sounds yet.")
    attributes = entry.gradmap.attrs
    row = int(drawn.checkpoints[0])
    trace = entry.cube[name].isel(checkpoint=row).load()
    values = trace.values.astype(float)
    rise = values[:, -1] - values[:, 0]
    late = values[:, -1] - values[:, int(0.9 * (values.shape[1] - 1))]
    rising = int(np.sum(late > STILL_RISING * np.where(rise > 0, rise, np.inf)))
    start = entry.cube[variable_name(entry.name, "start_response")].isel(checkpoint=row).values.astype(float)
    gained = values[:, -1] - start
    gain = three_figures(float(np.nanmedian(gained))) if np.isfinite(gained).any() else "none"
    who = str(trace["checkpoint"].values)
    return joined(
        [
            element("h3", f"{entry.name}: how the responses rose"),
            element(
                "p",
                f"Ascent from {attributes.get('baseline', 'the start')}, at most {attributes.get('norm', 1.0):g} away"
                f" from it. In {who} the median rise is {gain}; {rising} of {len(values)} neurons rose by more than"
                f" {STILL_RISING:.0%} in the last tenth of the steps, and may rise further.",
            ),
            picture(plot_trace(trace), f"responses over the steps of {entry.name}", f"The neurons of {who}."),
            maps_behind(entry, "steps", trace),
        ]
    )
