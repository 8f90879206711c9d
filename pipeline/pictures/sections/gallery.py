"""What the maps look like: a grid of some, one neuron over seeds, and those that are not to be trusted."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.pictures.choosing import Choice, in_turn
from pipeline.pictures.page import Markup, element, joined, picture
from pipeline.pictures.plots.grids import Panel, draw_panels, plot_grid, plot_seeds
from pipeline.pictures.plots.waveforms import plot_waveform
from pipeline.pictures.reading import UNTRUSTED, at_labels, flags, flags_at, group_labels, own_dims, standing
from pipeline.pictures.sections.outcome import Outcome, over_stimuli
from pipeline.pictures.style import axes_or_new
from pipeline.words import axis_of

MOST_UNTRUSTED, UNTRUSTED_PER_ROW = 12, 6
MOST_ROWS_OF_SEEDS, MOST_SEEDS = 6, 5

SIGN = (
    "Frequency in Hz against lag in ms; lag 0, the response, is at the left."
    " Red: more energy there raises the response. The corner gives the end of the colour scale."
)


def gallery_section(entry: Outcome, drawn: Choice) -> Markup:
    """Return the grid of the chosen maps, a comparison over seeds, and some of the maps that are not to be trusted."""
    if not drawn.checkpoints.size or not drawn.neurons.size:
        return element("p", f"{entry.name}: there is no map to show yet.")
    parts = [element("h3", f"{entry.name}: maps")]
    for at in _layers(entry):
        axes = plot_grid(
            entry.cube,
            entry.name,
            checkpoints=_labels(entry, drawn, "checkpoint"),
            neurons=_labels(entry, drawn, "neuron"),
            at=at,
        )
        where = ", ".join(f"{dim} {label}" for dim, label in at.items())
        words = f"{drawn.how[:1].upper()}{drawn.how[1:]}{'; ' + where if where else ''}. " + (
            SIGN if _is_strf(entry) else "Lag 0, the response, is at the left."
        )
        parts.append(picture(axes, f"grid of maps {entry.name}", words))
    parts += [_seeds(entry, drawn), _one_waveform(entry, drawn), _untrusted(entry)]
    return joined(parts)


def _seeds(entry: Outcome, drawn: Choice) -> Markup:
    groups = group_labels(entry.cube, "architecture")
    kept = list(dict.fromkeys(groups))[:MOST_ROWS_OF_SEEDS]
    several = any(groups.count(group) > 1 for group in kept)
    if "neuron" not in entry.cube[entry.name].dims or "checkpoint" not in entry.cube[entry.name].dims or not several:
        return Markup("")
    members = [at for group in kept for at in [k for k, own in enumerate(groups) if own == group][:MOST_SEEDS]]
    neuron = entry.worst["neuron"].values[drawn.neurons[drawn.neurons.size // 2]]
    axes = plot_seeds(entry.cube.isel(checkpoint=members), neuron, entry.name, most=MOST_SEEDS)
    words = (
        f"Neuron {neuron}, from the middle of the grid above, over the checkpoints of each architecture (up to"
        f" {MOST_SEEDS}), and the mean of their shapes."
    )
    if len(set(groups)) > len(kept):
        words += f" The first {len(kept)} of {len(set(groups))} architectures."
    return picture(axes, f"maps of neuron {neuron} over seeds", words)


def _one_waveform(entry: Outcome, drawn: Choice) -> Markup:
    if _is_strf(entry):
        return Markup("")
    labels = {"checkpoint": entry.worst["checkpoint"].values[drawn.checkpoints[0]]}
    labels["neuron"] = entry.worst["neuron"].values[drawn.neurons[drawn.neurons.size // 2]]
    gradmap = at_labels(entry.cube[entry.name], labels)
    axes = plot_waveform(gradmap, axes_or_new(None, 6.0, 3.6))
    words = f"{labels['checkpoint']}, neuron {labels['neuron']}: the map as a sound, and its spectrogram."
    return picture(axes, "one waveform map with its spectrogram", words)


def _untrusted(entry: Outcome) -> Markup:
    by_flag = [np.argwhere(over_stimuli(raised).values.T).tolist() for raised in flags(entry.cube, entry.name).values()]
    places = in_turn([[(int(c), int(n)) for n, c in places] for places in by_flag], MOST_UNTRUSTED)
    panels = [panel for place in places for panel in _first_untrusted(entry, *place)]
    if not panels:
        return Markup("")
    rows = [panels[start : start + UNTRUSTED_PER_ROW] for start in range(0, len(panels), UNTRUSTED_PER_ROW)]
    axes = draw_panels(rows, None, "each")
    count = entry.count(UNTRUSTED)
    words = f"{len(panels)} of the {count} maps that are done and not to be trusted, taken in turn from each flag."
    if len(panels) == count:
        words = "The maps that are done and not to be trusted."
    return picture(axes, f"maps of {entry.name} not to be trusted", words)


def _first_untrusted(entry: Outcome, checkpoint: int, neuron: int) -> Iterator[Panel]:
    """Yield the map at that place; of several stimuli, the first that carries a flag."""
    labels: dict[Any, Any] = {
        dim: entry.worst[dim].values[at] for dim, at in (("checkpoint", checkpoint), ("neuron", neuron))
    }
    code = standing(entry.cube, entry.name)
    code = code.sel({dim: label for dim, label in labels.items() if dim in code.dims})
    for dim in code.dims:
        labels[dim] = code[dim].values[int(np.argmax(code.values == UNTRUSTED))]
    words = flags_at(entry.cube, entry.name, labels)
    if words:
        title = f"{labels['checkpoint']}\n{labels['neuron']}"
        yield Panel(at_labels(entry.cube[entry.name], labels).load(), title, "", flags=words)


def _layers(entry: Outcome) -> list[dict[str, Any]]:
    """Where on the remaining axes to look: the first stimulus, and the first two channels."""
    gradmap = entry.cube[entry.name]
    at = {str(dim): gradmap[dim].values[0] for dim in gradmap.dims if axis_of(dim) == "stimulus" and gradmap.sizes[dim]}
    if "channel" not in gradmap.dims:
        return [at]
    return [{**at, "channel": gradmap["channel"].values[k]} for k in range(min(2, gradmap.sizes["channel"]))]


def _labels(entry: Outcome, drawn: Choice, dim: str) -> list[Any]:
    return list(entry.worst[dim].values[getattr(drawn, f"{dim}s")])


def _is_strf(entry: Outcome) -> bool:
    return own_dims(entry.cube[entry.name]) == ("frequency", "lag")
