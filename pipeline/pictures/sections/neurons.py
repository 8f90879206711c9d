"""One row per neuron, of a few dozen."""

import numpy as np
import xarray as xr

from pipeline.pictures.choosing import evenly
from pipeline.pictures.cube_reading import COMPUTED, UNTRUSTED, as_text, metadata_names
from pipeline.pictures.page import Markup, element, joined, table
from pipeline.pictures.sections.measured import Measured, middle
from pipeline.pictures.sections.outcome import Outcome
from pipeline.pictures.style import three_figures

#: Rows on the page, at most.
MOST_ROWS = 40
#: Metadata on the page, at most.
MOST_METADATA = 6
#: Heads of the columns.
HEADS = {
    "best_frequency": "best frequency (Hz)",
    "centroid_frequency": "centroid frequency (Hz)",
    "latency": "latency (ms)",
    "latency_envelope": "latency (ms)",
    "bandwidth_envelope": "width (octaves)",
    "duration": "duration (ms)",
    "excitation_balance": "excitation -1 to 1",
    "direction_selectivity": "direction -1 to 1",
}


def neuron_table(entry: Outcome, found: Measured | None, agreement: xr.Dataset | None) -> Markup:
    """How many maps are done, medians over the checkpoints that were measured, and metadata, for each neuron."""
    codes = entry.standing
    labels = codes["neuron"].values
    metadata = metadata_names(codes, "neuron")
    medians = {}
    if found is not None:
        present = {name: HEADS.get(name, name) for name in found.told.labels if name in found.numbers}
        medians = {words: middle(found.numbers[name], labels) for name, words in present.items()}
    if agreement is not None:
        medians["r over seeds"] = middle(agreement["reliability"], labels)
    per_neuron = codes.transpose("neuron", ...).values.reshape(labels.size, codes.sizes["checkpoint"] * entry.sounds)
    done, untrusted = (np.isin(per_neuron, chosen).sum(axis=1) for chosen in (COMPUTED, UNTRUSTED))
    shown = evenly(labels.size, MOST_ROWS)
    rows = [
        [
            str(labels[at]),
            f"{done[at]} / {per_neuron.shape[1]}",
            int(untrusted[at]),
            *(three_figures(float(values[at])) for values in medians.values()),
            *(as_text(codes[name].values[at]) for name in metadata[:MOST_METADATA]),
        ]
        for at in shown
    ]
    header = ["neuron", "maps done", "not to be trusted", *medians, *metadata[:MOST_METADATA]]
    words = "Medians over the checkpoints that were measured; r is the mean correlation of a neuron's maps over seeds."
    if shown.size < labels.size:
        words += f" {shown.size} of {labels.size} neurons, evenly spaced; gradmap summarise --table writes all of them."
    return joined([element("h3", f"{entry.name}: neurons"), table(header, rows), element("p", words, class_="note")])


def frequency_order(entry: Outcome, found: Measured | None) -> np.ndarray | None:
    """Where each neuron of the cube lies in frequency (median, Hz), NaN where it was not measured."""
    if found is None or found.frequencies is None:
        return None
    return middle(found.frequencies, entry.best["neuron"].values)
