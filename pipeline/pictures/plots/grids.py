"""Many maps side by side: neurons against checkpoints, or one neuron over seeds."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.numbers.agreement import mean_map
from pipeline.pictures.cube_reading import (
    COMPUTED,
    as_text,
    at_labels,
    flags_at,
    group_labels,
    known_label,
    map_named,
    own_dims,
    standing_at,
)
from pipeline.pictures.plots.maps import corner, plot_map
from pipeline.pictures.plots.waveforms import plot_waveform
from pipeline.pictures.style import SMALL, axes_or_new, plain
from pipeline.words import DONE, FAILED, PENDING, health_name, owner_of, status_name

#: Maps in one figure, at most.
MOST_PANELS = 200
#: Width and height of one of its panels.
PANEL_INCHES = 1.25
#: Stands for a panel without a map.
NO_PANEL = -1


@dataclass(frozen=True)
class Panel:
    """One map with all that its picture says."""

    gradmap: xr.DataArray
    title: str
    row: str
    standing: int = DONE
    flags: tuple[str, ...] = ()


def plot_grid(
    cube: xr.Dataset,
    name: str = "strf",
    ax: Axes | None = None,
    *,
    checkpoints: Sequence[Hashable] | None = None,
    neurons: Sequence[Hashable] | None = None,
    at: Mapping[str, Any] | None = None,
    scale: Literal["each", "shared"] = "each",
) -> Axes:
    """Figure of the maps of some neurons (rows) for some checkpoints (columns).

    Failed, missing and untrusted maps are marked as in `plot_map`. Only the maps that are drawn are read. The grid
    divides ``ax``; its panels are the ``child_axes``, row by row.

    Parameters
    ----------
    cube
        One cohort.
    name
        Name of the map.
    checkpoints, neurons
        Labels of what to draw; all by default.
    at
        Label on any other dimension, such as ``{"stimulus": "s01", "channel": 0}``; the first by default.
    scale
        ``"each"`` gives every map its own end of the colour scale, written in its corner, because amplitudes of
        different checkpoints depend on the slopes of their output. ``"shared"`` gives all of them that of the largest.

    Raises
    ------
    ValueError
        If a label is unknown, or there are more panels than can be told apart.

    Examples
    --------
    >>> from pipeline import open_cube, plot_grid
    >>> ax = plot_grid(open_cube("cube.zarr"), checkpoints=["seed0", "seed1"], neurons=["n0"])
    >>> ax.figure.savefig("grid.png")
    """
    gradmap = map_named(cube, name)
    rows = _chosen(gradmap, "neuron", neurons)
    columns = _chosen(gradmap, "checkpoint", checkpoints)
    if len(rows) * len(columns) > MOST_PANELS:
        raise ValueError(
            f"{len(columns)} checkpoints x {len(rows)} neurons are {len(rows) * len(columns)} panels, too small to be"
            f" read ({MOST_PANELS} at most); name some of them with checkpoints= and neurons="
        )
    part = _part(cube, name, {**(at or {}), "neuron": rows, "checkpoint": columns})
    panels = [
        [
            _panel(part, name, {"neuron": neuron, "checkpoint": checkpoint}, str(checkpoint), str(neuron))
            for checkpoint in columns
        ]
        for neuron in rows
    ]
    return draw_panels(panels, ax, scale)


def plot_seeds(
    cube: xr.Dataset,
    neuron: Hashable,
    name: str = "strf",
    ax: Axes | None = None,
    *,
    by: str = "architecture",
    at: Mapping[str, Any] | None = None,
    most: int = 8,
) -> Axes:
    """Figure of one neuron's maps over seeds: a row per value of ``by``, its checkpoints side by side, then their mean.

    Each map has its own colour scale. The mean is that of the maps divided by their norms, so that a checkpoint with a
    steep output does not outweigh the others. It is over the maps that are done, those not to be trusted included.

    Parameters
    ----------
    by
        Metadata of the checkpoints that says what belongs together; without it all stand in one row.
    at
        Label on any other dimension; the first by default.
    most
        Number of checkpoints to draw per row at most, the first ones. The mean is over those drawn.

    Examples
    --------
    >>> from pipeline import open_cube
    >>> from pipeline.pictures.plots import plot_seeds
    >>> ax = plot_seeds(open_cube("cube.zarr"), "n0")
    >>> ax.figure.savefig("seeds.png")
    """
    map_named(cube, name)
    groups = group_labels(cube, by)
    members = {
        group: [label for label, own in zip(cube["checkpoint"].values, groups, strict=True) if own == group][:most]
        for group in dict.fromkeys(groups)
    }
    drawn = [label for labels in members.values() for label in labels]
    part = _part(cube, name, {**(at or {}), "neuron": [neuron], "checkpoint": drawn})
    rows: list[list[Panel]] = []
    for group, labels in members.items():
        words = [_seed_words(cube, label) for label in labels]
        titles = words if len(set(words)) == len(words) else [str(label) for label in labels]
        panels = [
            _panel(part, name, {"neuron": neuron, "checkpoint": label}, title, group)
            for label, title in zip(labels, titles, strict=True)
        ]
        rows.append(panels)
    widest = max((len(panels) for panels in rows), default=0)
    for panels in rows:
        mean = mean_shape([panel.gradmap for panel in panels if panel.standing not in (PENDING, FAILED)])
        blank = [panels[0].gradmap.copy(data=np.full(panels[0].gradmap.shape, np.nan))] * (widest - len(panels))
        panels += [Panel(gap, "", panels[0].row, standing=NO_PANEL) for gap in blank]
        if mean is not None and widest > 1:
            panels.append(Panel(mean, "mean shape", panels[0].row))
        elif widest > 1:
            panels.append(Panel(panels[0].gradmap * np.nan, "mean shape", panels[0].row, standing=PENDING))
    return draw_panels(rows, ax, "each")


def mean_shape(maps: Sequence[xr.DataArray]) -> xr.DataArray | None:
    """The mean of maps that are divided by their norms first; None where no map has a norm."""
    if not maps:
        return None
    stacked = xr.concat([gradmap.reset_coords(drop=True) for gradmap in maps], "checkpoint")
    found = mean_map(stacked, normalise=True)
    return found["mean"].assign_attrs(units="1") if int(found["n"]) else None


def draw_panels(panels: Sequence[Sequence[Panel]], ax: Axes | None, scale: str) -> Axes:
    """Divide ``ax`` into rows of panels that share their axes' labels."""
    if scale not in ("each", "shared"):
        raise ValueError(
            f"scale is {scale!r}, so no panel's colours have a meaning; use 'each' (one scale per map) or 'shared'"
        )
    n_rows, n_columns = len(panels), max((len(row) for row in panels), default=0)
    if not n_rows or not n_columns:
        raise ValueError(
            "there is no checkpoint or no neuron to draw, so the grid has no panel; name at least one of each"
        )
    repeat = _titles_repeat(panels)
    ax = axes_or_new(ax, 1.2 + PANEL_INCHES * 1.15 * n_columns, 0.8 + PANEL_INCHES * n_rows * (1.0 if repeat else 1.35))
    ax.set_axis_off()
    limit = _largest(panels) if scale == "shared" else None
    wide, high = 1.0 / n_columns, 1.0 / n_rows
    for r, row in enumerate(panels):
        for c, panel in enumerate(row):
            if panel.standing == NO_PANEL:
                continue
            inset = ax.inset_axes((c * wide, 1 - (r + 0.9) * high, 0.9 * wide, (0.82 if repeat else 0.6) * high))
            _draw(inset, panel, limit)
            _label(inset, panel, r, c, last=r == n_rows - 1, same_titles=repeat)
            inset.set_in_layout(c == 0 or r in (0, n_rows - 1))  # the others have nothing outside their frames
    return ax


def _draw(ax: Axes, panel: Panel, limit: float | None) -> None:
    words = panel.flags
    if own_dims(panel.gradmap) == ("frequency", "lag"):
        plot_map(panel.gradmap, ax, limit=limit, colorbar=False, standing=panel.standing, flags=words, ticks=4)
    else:
        plot_waveform(panel.gradmap, ax, spectrogram=False, standing=panel.standing, flags=words)
        ax.set_yticks([])
        ax.set_title("", loc="left")
        _scale_wave(ax, panel, limit)
    ax.tick_params(labelsize=SMALL, length=2)
    if ax.get_xticks().size:
        ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))


def _scale_wave(ax: Axes, panel: Panel, limit: float | None) -> None:
    """Give a waveform the scale of the grid, or its own, and write its end into the corner as for other maps."""
    magnitudes = np.abs(np.asarray(panel.gradmap.values, dtype=float))
    if panel.standing != DONE or not np.isfinite(magnitudes).any():
        return
    top = limit or float(np.nanmax(magnitudes)) or 1.0
    ax.set_ylim(-1.1 * top, 1.1 * top)
    corner(ax, f"±{top:.2g}")


def _label(ax: Axes, panel: Panel, row: int, column: int, *, last: bool, same_titles: bool) -> None:
    if row == 0 or not same_titles:
        ax.set_title("\n".join(plain(line, 24) for line in panel.title.split("\n")), size=SMALL, pad=3)
    ax.set_ylabel(
        f"{plain(panel.row, 16)}\n{'(Hz)' if ax.get_ylabel().startswith('freq') else ''}" if column == 0 else ""
    )
    ax.yaxis.label.set_fontsize(SMALL + 1)
    ax.tick_params(labelleft=column == 0, labelbottom=last)
    ax.set_xlabel("lag (ms)" if last else "")
    ax.xaxis.label.set_fontsize(SMALL + 1)


def _titles_repeat(panels: Sequence[Sequence[Panel]]) -> bool:
    return all([panel.title for panel in row] == [panel.title for panel in panels[0]] for row in panels)


def _largest(panels: Sequence[Sequence[Panel]]) -> float | None:
    magnitudes = [np.abs(np.asarray(panel.gradmap.values, dtype=float)) for row in panels for panel in row]
    finite = [float(values[np.isfinite(values)].max()) for values in magnitudes if np.isfinite(values).any()]
    return max(finite, default=0.0) or None


def _part(cube: xr.Dataset, name: str, labels: Mapping[str, Any]) -> xr.Dataset:
    """The maps at ``labels`` and what is said of them, read in one go; dimensions without a label at position 0."""
    gradmap = map_named(cube, name)
    wanted = {dim: labels[str(dim)] for dim in gradmap.dims if str(dim) in labels}
    wanted = {dim: given if isinstance(given, list) else [given] for dim, given in wanted.items()}
    for dim, given in wanted.items():
        for label in given:
            known_label(gradmap, dim, label)
    others = [dim for dim in gradmap.dims if dim not in (*wanted, *own_dims(gradmap))]
    owner = owner_of(cube, name)
    about = [entry for entry in (name, status_name(owner), health_name(owner)) if entry in cube]
    return cube[about].sel(wanted).isel({dim: slice(0, 1) for dim in others}).load()


def _panel(cube: xr.Dataset, name: str, labels: Mapping[str, Any], title: str, row: str) -> Panel:
    code = standing_at(cube, name, labels)
    gradmap = at_labels(cube[name], labels)
    done = code in COMPUTED
    return Panel(gradmap, title, row, DONE if done else code, flags_at(cube, name, labels) if done else ())


def _chosen(gradmap: xr.DataArray, dim: str, labels: Sequence[Hashable] | None) -> list[Hashable]:
    if dim not in gradmap.dims:
        return ["all neurons" if dim == "neuron" else str(gradmap.coords[dim].values) if dim in gradmap.coords else ""]
    return list(gradmap[dim].values) if labels is None else list(labels)


def _seed_words(cube: xr.Dataset, label: Hashable) -> str:
    words = [
        f"{key} {as_text(cube[key].sel(checkpoint=label).values[()])}"
        for key in ("seed", "fold")
        if key in cube.coords and cube.coords[key].dims == ("checkpoint",)
    ]
    return ", ".join(words) or str(label)
