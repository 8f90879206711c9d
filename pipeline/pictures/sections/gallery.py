"""What the maps look like: a grid of some, one neuron over seeds, and those that are not to be trusted."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from pipeline.pictures.choosing import Choice, in_turn
from pipeline.pictures.cube_reading import (
    TRUSTED,
    UNTRUSTED,
    at_labels,
    flags,
    flags_at,
    group_labels,
    own_dims,
    placed,
)
from pipeline.pictures.page import Markup, element, joined, picture
from pipeline.pictures.plots.grids import Panel, draw_panels, plot_grid, plot_seeds
from pipeline.pictures.sections.measured import most_trusted
from pipeline.pictures.sections.numbers_behind import maps_behind
from pipeline.pictures.sections.outcome import Outcome

MOST_UNTRUSTED, UNTRUSTED_PER_ROW = 12, 6
MOST_ROWS_OF_SEEDS, MOST_SEEDS = 6, 5


def gallery_section(
    entry: Outcome, drawn: Choice, words: str, alone: Callable[[Outcome, Choice], Markup] | None
) -> Markup:
    """Grid of the chosen maps with ``words`` on how one is read, one neuron over seeds, and some not to be trusted."""
    if not drawn.checkpoints.size or not drawn.neurons.size:
        return element("p", f"{entry.name}: there is no map to show yet.")
    parts = [element("h3", f"{entry.name}: maps")]
    for at in _layers(entry):
        axes = plot_grid(
            entry.cube,
            entry.shown,
            checkpoints=_labels(entry, drawn, "checkpoint"),
            neurons=_labels(entry, drawn, "neuron"),
            at=at,
        )
        where = ", ".join(f"{dim} {label}" for dim, label in at.items())
        chosen = f"{drawn.how[:1].upper()}{drawn.how[1:]}{'; ' + where if where else ''}. "
        parts.append(picture(axes, f"grid of maps {entry.name}", chosen + words))
        of = {dim: _labels(entry, drawn, dim) for dim in ("checkpoint", "neuron")}
        parts.append(maps_behind(entry, "-".join(["maps", *map(str, at.values())]), _selected(entry, {**of, **at})))
    parts += [_seeds(entry, drawn), alone(entry, drawn) if alone is not None else Markup(""), _untrusted(entry)]
    return joined(parts)


def _seeds(entry: Outcome, drawn: Choice) -> Markup:
    groups = group_labels(entry.cube, "architecture")
    # A checkpoint whose metadata could not be read has no architecture, which is none of its own.
    known = [group for group in dict.fromkeys(groups) if group] or [""]
    kept = known[:MOST_ROWS_OF_SEEDS]
    several = any(groups.count(group) > 1 for group in kept)
    if "neuron" not in entry.gradmap.dims or "checkpoint" not in entry.gradmap.dims or not several:
        return Markup("")
    members = [at for group in kept for at in [k for k, own in enumerate(groups) if own == group][:MOST_SEEDS]]
    neuron = entry.best["neuron"].values[drawn.neurons[drawn.neurons.size // 2]]
    axes = plot_seeds(entry.cube.isel(checkpoint=members), neuron, entry.shown, most=MOST_SEEDS)
    words = (
        f"Neuron {neuron}, from the middle of the grid above, over the checkpoints of each architecture (up to"
        f" {MOST_SEEDS}), and the mean of their shapes."
    )
    if len(known) > len(kept):
        words += f" The first {len(kept)} of {len(known)} architectures."
    drawn_maps = _selected(entry, {"checkpoint": entry.best["checkpoint"].values[members], "neuron": neuron})
    return joined(
        [picture(axes, f"maps of neuron {neuron} over seeds", words), maps_behind(entry, "seeds", drawn_maps)]
    )


def _untrusted(entry: Outcome) -> Markup:
    codes = entry.standing
    worst_first = codes.isin(UNTRUSTED).values
    by_flag = [
        [tuple(place) for place in np.argwhere(placed(raised).transpose(*codes.dims).values & worst_first).tolist()]
        for raised in flags(entry.cube, entry.shown).values()
    ]
    panels = [_flagged_panel(entry, place) for place in in_turn(by_flag, MOST_UNTRUSTED)]
    if not panels:
        return Markup("")
    rows = [panels[start : start + UNTRUSTED_PER_ROW] for start in range(0, len(panels), UNTRUSTED_PER_ROW)]
    axes = draw_panels(rows, None, "each")
    count = entry.count(*UNTRUSTED)
    words = f"{len(panels)} of the {count} maps that are done and not to be trusted, taken in turn from each flag."
    if len(panels) == count:
        words = "The maps that are done and not to be trusted."
    maps = xr.concat([panel.gradmap.reset_coords(drop=True) for panel in panels], "map")
    maps = maps.assign_coords(map=[panel.title.replace("\n", " ") for panel in panels])
    return joined(
        [picture(axes, f"maps of {entry.name} not to be trusted", words), maps_behind(entry, "untrusted", maps)]
    )


def _selected(entry: Outcome, labels: Mapping[str, Any]) -> xr.DataArray:
    """The maps of a picture: those at ``labels``, and the first of any other axis but their own."""
    gradmap = entry.gradmap
    others = [dim for dim in gradmap.dims if dim not in labels and dim not in own_dims(gradmap)]
    chosen = gradmap.isel(dict.fromkeys(others, 0))
    for dim, given in labels.items():
        if dim in chosen.dims:  # one by one: the oldest dask that is allowed takes no list beside a number
            chosen = chosen.sel({dim: given})
    return chosen.load()


def _flagged_panel(entry: Outcome, place: tuple[int, ...]) -> Panel:
    labels = {str(dim): entry.standing[dim].values[at] for dim, at in zip(entry.standing.dims, place, strict=True)}
    title = "\n".join(str(label) for label in labels.values())
    gradmap = at_labels(entry.gradmap, labels).load()
    return Panel(gradmap, title, "", flags=flags_at(entry.cube, entry.shown, labels))


def _layers(entry: Outcome) -> list[dict[str, Any]]:
    """Where on the remaining axes to look: the sound with most maps to be trusted, and the first two channels."""
    gradmap = entry.gradmap
    at = most_trusted(entry.standing.isin(TRUSTED))
    if "channel" not in gradmap.dims:
        return [at]
    return [{**at, "channel": gradmap["channel"].values[k]} for k in range(min(2, gradmap.sizes["channel"]))]


def _labels(entry: Outcome, drawn: Choice, dim: str) -> list[Any]:
    return list(entry.best[dim].values[getattr(drawn, f"{dim}s")])
