"""What the page shows of maps over the samples of a sound."""

from pipeline.numbers.waveform import waveform_summaries
from pipeline.pictures.choosing import Choice
from pipeline.pictures.cube_reading import TRUSTED, at_labels
from pipeline.pictures.kinds import SECTIONS
from pipeline.pictures.page import Markup, joined, picture
from pipeline.pictures.plots.waveforms import plot_waveform
from pipeline.pictures.sections.measured import Told, most_trusted
from pipeline.pictures.sections.numbers_behind import maps_behind
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.sections.static_maps import standard_section
from pipeline.pictures.style import axes_or_new

#: What the page says of the kind's maps.
TOLD = Told(
    {
        "centroid_frequency": "centroid frequency (Hz)",
        "latency_envelope": "latency of the envelope (ms before the response)",
        "duration": "duration of the envelope (ms)",
    },
    waveform_summaries,
)


#: How a map is read.
WORDS = "Gradient against lag in ms; lag 0, the response, is at the left. The corner gives the end of the scale."


@SECTIONS.register("waveform")
def section(entry: Outcome) -> Markup:
    """Maps, one of them with its spectrogram, population, agreement and neurons."""
    return standard_section(entry, TOLD, WORDS, _one_with_its_spectrogram)


def _one_with_its_spectrogram(entry: Outcome, drawn: Choice) -> Markup:
    labels = {"checkpoint": entry.best["checkpoint"].values[drawn.checkpoints[0]]}
    labels["neuron"] = entry.best["neuron"].values[drawn.neurons[drawn.neurons.size // 2]]
    labels |= most_trusted(entry.standing.isin(TRUSTED))
    gradmap = at_labels(entry.gradmap, labels)
    axes = plot_waveform(gradmap, axes_or_new(None, 6.0, 3.6))
    words = f"{labels['checkpoint']}, neuron {labels['neuron']}: the map as a sound, and its spectrogram."
    link = maps_behind(entry, "one", gradmap.load())
    return joined([picture(axes, "one waveform map with its spectrogram", words), link])
