"""What the page shows of maps over the spectrogram."""

from pipeline.numbers.strf import strf_summaries
from pipeline.pictures.kinds import SECTIONS
from pipeline.pictures.page import Markup, joined
from pipeline.pictures.sections.fits_and_checks import worth_section
from pipeline.pictures.sections.measured import Told
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.sections.static_maps import standard_section

#: What the page says of the kind's maps.
TOLD = Told(
    {
        "best_frequency": "best frequency (Hz)",
        "latency": "peak latency (ms before the response)",
        "bandwidth_envelope": "bandwidth of the energy (octaves)",
        "duration": "duration of the energy (ms)",
        "excitation_balance": "inhibition -1 ... excitation +1",
        "direction_selectivity": "direction: falling -1 ... rising +1",
    },
    strf_summaries,
)

#: Words for what is shown.
WORDS = (
    "Frequency in Hz against lag in ms; lag 0, the response, is at the left."
    " Red: more energy there raises the response. The corner gives the end of the colour scale."
)


@SECTIONS.register("strf")
def section(entry: Outcome) -> Markup:
    """Maps, population, agreement and neurons, and what the maps are worth where that was checked."""
    return joined([standard_section(entry, TOLD, WORDS), worth_section(entry)])
