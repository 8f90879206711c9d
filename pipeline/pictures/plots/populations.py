"""Numbers of many maps: how they are distributed, and where they lie."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.numbers.comparing import label_text
from pipeline.pictures.cube_reading import group_labels, metadata_names
from pipeline.pictures.plots.maps import axis_label
from pipeline.pictures.style import COLOUR_MAP, SMALL, axes_or_new, empty_panel, frequency_axis, group_colour, plain

#: Colour of words over a histogram, whose own may be too light to be read.
WORDS_COLOUR = "#333333"

#: Groups that are drawn in colours of their own, at most.
MOST_GROUPS = 8
#: Characters of a group's name in the legend, at most.
GROUP_LETTERS = 24

#: Checkpoints whose names have room for larger letters beside a similarity matrix.
FEW_CHECKPOINTS = 12

#: Letters of the names of columns that fit side by side.
LETTERS_ACROSS = 28


def plot_distribution(
    values: xr.DataArray,
    ax: Axes | None = None,
    *,
    by: str | None = None,
    bins: int | None = None,
    log: bool = False,
    label: str | None = None,
) -> Axes:
    """Picture of how a summary is distributed over maps, one row per group of checkpoints.

    A row is a histogram, as share of the group's maps; all rows have one scale. Maps without a value are left out and
    counted in words.

    Parameters
    ----------
    values
        One number per map, over (checkpoint, neuron) or any dimensions.
    by
        Metadata of the checkpoints that makes the groups; one group by default. The eight largest groups are drawn.
    bins
        Number of bins of equal width (in octaves with ``log``), about; from 8 to 24 by the number of maps by default.
    log
        Whether the axis is a frequency in Hz, drawn logarithmically; values that are not positive count as missing.
    label
        Name on the axis; from the attributes ``long_name`` and ``units`` by default.

    Examples
    --------
    >>> from pipeline import open_cube
    >>> from pipeline.pictures.plots import plot_distribution
    >>> ax = plot_distribution(open_cube("cube.zarr")["strf_memory_90"])
    >>> ax.get_ylabel()
    'share of maps'
    """
    ax = axes_or_new(ax)
    numbers = np.asarray(values.values, dtype=float)
    numbers = np.where(np.isfinite(numbers) & ((numbers > 0) | (not log)), numbers, np.nan)
    if not np.isfinite(numbers).any():
        empty_panel(ax, "no values")
        return ax
    edges = _edges(numbers, bins or int(np.clip(2 * np.sqrt(np.isfinite(numbers).sum()), 8, 24)), log)
    groups = _groups(values.copy(data=numbers), by)
    names = sorted({plain(label, GROUP_LETTERS) for label in group_labels(values, by)})
    present = [own[np.isfinite(own)] for _, own in groups]
    shares = [np.histogram(values, edges)[0] / max(1, values.size) for values in present]
    # rows of the same height, so that no group hides another
    row = 1.25 * max(float(share.max()) for share in shares) if len(groups) > 1 else 0.0
    for position, (group, own) in enumerate(groups):
        # the colour of a group is the same in every picture of a cohort
        colour = group_colour(names.index(group) if group in names and len(names) <= MOST_GROUPS else position)
        base = row * (len(groups) - 1 - position)
        ax.stairs(base + shares[position], edges, baseline=base, fill=True, alpha=0.35, color=colour)
        ax.stairs(base + shares[position], edges, baseline=base, linewidth=1.4, color=colour)
        words = f"{group + ': ' if group else ''}n = {present[position].size}"
        words += f", {own.size - present[position].size} without" if present[position].size < own.size else ""
        at = (0.98, base + 0.97 * row) if row else (0.98, 0.97)
        across = ax.get_yaxis_transform() if row else ax.transAxes
        ax.text(*at, words, transform=across, ha="right", va="top", size=SMALL, color=WORDS_COLOUR)
    if log:
        frequency_axis(ax.xaxis, float(edges[0]), float(edges[-1]), most=7)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.set_xlim(edges[0], edges[-1])
    ax.set_xlabel(plain(label, 70) if label else axis_label(values, str(values.name or "value"), "1"))
    ax.set_ylabel("share of maps")
    ax.set_ylim(0, row * len(groups) if row else None)
    if row:
        ax.set_ylabel(f"share of maps (a row is {100 * row:.2g} %)")
        ax.set_yticks([row * k for k in range(len(groups))], labels=[""] * len(groups))
    return ax


def plot_population(frequencies: xr.DataArray, ax: Axes | None = None, *, against: str = "depth_um") -> Axes:
    """Picture of the best frequency of each neuron against a metadatum of the neurons, such as its depth or its site.

    A point is the median over checkpoints, its bar reaches from the lower to the upper quartile. Numbers make a
    scale, words make columns in which the neurons stand side by side in the cube's order.

    Parameters
    ----------
    frequencies
        Best frequencies in Hz over neuron, and any other dimensions to take the median over.
    against
        Coordinate on ``neuron``.

    Raises
    ------
    ValueError
        If there is no such coordinate.

    Examples
    --------
    >>> from pipeline import measure, open_cube
    >>> from pipeline.pictures.plots import plot_population
    >>> best = measure(open_cube("cube.zarr")["strf"], "best_frequency")
    >>> ax = plot_population(best.assign_coords(depth_um=("neuron", [100.0, 200.0, 300.0])))
    >>> ax.get_xlabel()
    'depth_um'
    """
    if "neuron" not in frequencies.dims or frequencies.coords.get(against, xr.DataArray(0)).dims != ("neuron",):
        known = metadata_names(frequencies, "neuron")
        raise ValueError(
            f"there is no metadatum {against!r} of the neurons, so they have no place on the axis; there are:"
            f" {', '.join(known) or 'none'}; name one of them with against="
        )
    ax = axes_or_new(ax)
    others = [dim for dim in frequencies.dims if dim != "neuron"]
    per_neuron = frequencies.transpose("neuron", ...).values.astype(float).reshape(frequencies.sizes["neuron"], -1)
    per_neuron = np.where(np.isfinite(per_neuron) & (per_neuron > 0), per_neuron, np.nan)
    place = frequencies.coords[against].values
    known = np.isfinite(per_neuron).any(axis=1)
    numeric = np.issubdtype(place.dtype, np.number)
    if numeric:
        known &= np.isfinite(place.astype(float))
    if not known.any():
        empty_panel(ax, "no values")
        return ax
    low, middle, high = np.nanquantile(per_neuron[known], [0.25, 0.5, 0.75], axis=1)
    if numeric:
        along = place[known].astype(float)
        ax.set_xlabel(axis_label(frequencies.coords[against], against, "").replace(" ()", ""))
    else:
        along = _columns(ax, place[known])
        ax.set_xlabel(plain(against))
    ax.vlines(along, low, high, color="#999999", linewidth=1.0)
    ax.plot(along, middle, "o", color=group_colour(0), markersize=4 if known.sum() < 200 else 2, alpha=0.8)
    frequency_axis(ax.yaxis, float(low.min()) / 1.1, float(high.max()) * 1.1, label="best frequency (Hz)")
    ax.set_ylim(low.min() / 1.15, high.max() * 1.15)
    left_out = int((~known).sum())
    note = f"{int(known.sum())} neurons" + (f", {left_out} without" if left_out else "")
    note += ", quartiles over checkpoints" if others else ""
    ax.set_title(note, size=SMALL + 1, loc="right")
    return ax


def plot_similarity(matrix: xr.DataArray, ax: Axes | None = None) -> Axes:
    """Picture of how alike checkpoints are: a square of correlations between their maps, from -1 blue to 1 red.

    Parameters
    ----------
    matrix
        Correlations over two dimensions of equal length, both labelled with checkpoints.

    Examples
    --------
    >>> import xarray as xr
    >>> from pipeline.pictures.plots import plot_similarity
    >>> names = ["linear", "gru"]
    >>> axes = {"group": names, "other_group": names}
    >>> matrix = xr.DataArray([[1.0, 0.6], [0.6, 1.0]], dims=tuple(axes), coords=axes)
    >>> ax = plot_similarity(matrix)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['linear', 'gru']
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"a similarity matrix has two dimensions of equal length, and this one has the shape {matrix.shape};"
            " nothing could be read off it; take the mean over the other dimensions first"
        )
    ax = axes_or_new(ax, 4.8, 4.2)
    image = ax.imshow(matrix.values, cmap=COLOUR_MAP, vmin=-1, vmax=1, interpolation="nearest")
    ax.set_facecolor("#d0d0d0")
    labels = [plain(label, 22) for label in matrix[matrix.dims[0]].values]
    shown = np.unique(np.linspace(0, max(0, len(labels) - 1), min(len(labels), 30)).round().astype(int))
    size = SMALL - 1 if len(shown) > FEW_CHECKPOINTS else SMALL + 2
    ax.set_yticks(shown, labels=[labels[row] for row in shown], size=size)
    ax.set_xticks(shown, labels=[labels[row] for row in shown], size=size, rotation=90)
    if ax.figure is not None:
        ax.figure.colorbar(image, ax=ax, ticks=[-1, -0.5, 0, 0.5, 1]).set_label("correlation of maps", size=SMALL + 1)
    return ax


def _groups(values: xr.DataArray, by: str | None) -> list[tuple[str, np.ndarray]]:
    if by is None or "checkpoint" not in values.dims or by not in values.coords:
        return [("", values.values.ravel())]
    labels = np.array(group_labels(values, by))
    by_checkpoint = values.transpose("checkpoint", ...).values.reshape(labels.size, -1)
    groups = [(plain(group, GROUP_LETTERS), by_checkpoint[labels == group].ravel()) for group in dict.fromkeys(labels)]
    groups = [entry for entry in groups if np.isfinite(entry[1]).any()] or groups[:1]
    return sorted(groups, key=lambda entry: -entry[1].size)[:MOST_GROUPS]


def _edges(numbers: np.ndarray, bins: int, log: bool) -> np.ndarray:
    places = np.unique(numbers[np.isfinite(numbers)])
    places = np.log2(places) if log else places
    low, high = places[0], places[-1]
    step = (high - low) / bins if high > low else 0.1 if log else 0.1 * abs(low) or 1.0
    gap = np.diff(places).min(initial=np.inf)
    if gap < np.inf and (high - low) / gap < 4 * bins:
        # values on a grid (bands, frames): bins hold whole steps of it, else they would beat against it
        step = gap * max(1, round(step / gap))
        count = int(np.floor((high - low) / step + 0.51)) + 1
        edges = low - min(gap, step) / 2 + step * np.arange(count + 1)
    else:
        edges = (
            np.linspace(low - 1e-9 * step, high + 1e-9 * step, bins + 1)
            if high > low
            else low + step * np.array([-1, 1])
        )
    edges[-1] = max(edges[-1], high + 1e-9 * step)
    return 2.0**edges if log else edges


def _columns(ax: Axes, words: Sequence[object] | np.ndarray) -> np.ndarray:
    """Place neurons in columns named by ``words``, side by side within a column."""
    names = [label_text(word) or "not known" for word in words]
    columns = sorted(set(names))
    along = np.empty(len(names))
    for position, column in enumerate(columns):
        own = [index for index, name in enumerate(names) if name == column]
        along[own] = position + (np.linspace(-0.3, 0.3, len(own)) if len(own) > 1 else 0.0)
    labels = [plain(column, 14) for column in columns]
    upright = len(labels) > 8 or sum(map(len, labels)) > LETTERS_ACROSS
    ax.set_xticks(range(len(columns)), labels=labels, rotation=90 if upright else 0)
    for left, right in pairwise(range(len(columns))):
        ax.axvline((left + right) / 2, color="#dddddd", linewidth=0.8)
    return along
