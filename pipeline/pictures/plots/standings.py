"""Which maps of a cube are done, failed, missing, or not to be trusted, at one glance."""

from collections.abc import Hashable

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from pipeline.pictures.cube_reading import STANDINGS, placed, standing
from pipeline.pictures.style import SMALL, STANDING_COLOURS, axes_or_new, plain

#: Labels along an axis, at most.
MOST_LABELS = 40

#: Neurons that are named at most: as many as have room upright.
MOST_NEURONS = 60

#: Letters that fit side by side under the picture.
LETTERS_ACROSS = 80


def plot_standing(cube: xr.Dataset, name: str, ax: Axes | None = None) -> Axes:
    """Picture with one small field per map, coloured by its standing: a row per checkpoint, a column per neuron.

    A map around several sounds has a row for each of them.

    Parameters
    ----------
    cube
        One cohort.
    name
        Name of the map.

    Examples
    --------
    >>> from pipeline import open_cube
    >>> from pipeline.pictures.plots import plot_standing
    >>> ax = plot_standing(open_cube("cube.zarr"), "strf")
    >>> ax.get_title() or ax.get_xlabel()
    'neuron'
    """
    codes, labels = _rows(placed(standing(cube, name)))
    rows = [plain(label, 32) for label in labels]
    ax = axes_or_new(ax, 7.0, min(9.0, 1.2 + 0.16 * max(4, len(rows))))
    colours = [STANDING_COLOURS[code] for code in sorted(STANDINGS)]
    ax.imshow(
        codes.values,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
    )
    if len(rows) <= MOST_LABELS:
        ax.set_yticks(range(len(rows)), labels=rows, size=SMALL)
    else:
        shown = np.unique(np.linspace(0, len(rows) - 1, MOST_LABELS // 2).round().astype(int))
        ax.set_yticks(shown, labels=[rows[row] for row in shown], size=SMALL)
    neurons = codes["neuron"].values
    shown = np.arange(0, len(neurons), -(-max(1, len(neurons)) // MOST_NEURONS))
    names = [plain(neurons[column], 12) for column in shown]
    # names that would touch each other are turned round
    upright = len(names) * max(map(len, names), default=0) > LETTERS_ACROSS
    ax.set_xticks(shown, labels=names, size=SMALL, rotation=90 if upright else 0)
    ax.set_xlabel("neuron")
    present = [code for code in STANDINGS if (codes.values == code).any()]
    ax.legend(
        handles=[Patch(color=STANDING_COLOURS[code], label=STANDINGS[code]) for code in present],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=SMALL + 1,
    )
    return ax


def _rows(codes: xr.DataArray) -> tuple[xr.DataArray, list[str]]:
    """The standings as rows over neurons, and the label of each row: its checkpoint, and its sound if there are any."""
    others: list[Hashable] = [dim for dim in codes.dims if dim not in ("checkpoint", "neuron")]
    if not others:
        return codes.transpose("checkpoint", "neuron"), [str(label) for label in codes["checkpoint"].values]
    labels = [
        f"{checkpoint}, {sound}" for checkpoint in codes["checkpoint"].values for sound in codes[others[0]].values
    ]
    values = codes.transpose("checkpoint", *others, "neuron").values.reshape(len(labels), codes.sizes["neuron"])
    return xr.DataArray(values, dims=("row", "neuron"), coords={"neuron": codes["neuron"].values}), labels
