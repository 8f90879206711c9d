"""Which maps of a cube are done, failed, missing, or not to be trusted, at one glance."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from pipeline.pictures.reading import STANDINGS, standing
from pipeline.pictures.style import SMALL, STANDING_COLOURS, axes_or_new, plain

MOST_LABELS = 40


def plot_standing(cube: xr.Dataset, name: str, ax: Axes | None = None) -> Axes:
    """Draw one small field per checkpoint (row) and neuron (column), coloured by the standing of its map.

    With several stimuli, a field takes the worst: failed, then not computed, then not to be trusted, then done.

    Parameters
    ----------
    cube
        One cohort.
    name
        Name of the map.
    """
    worst = worst_standing(standing(cube, name))
    checkpoints = [plain(label, 32) for label in worst["checkpoint"].values]
    ax = axes_or_new(ax, 7.0, min(9.0, 1.2 + 0.16 * max(4, len(checkpoints))))
    colours = [STANDING_COLOURS[code] for code in sorted(STANDINGS)]
    ax.imshow(
        worst.values,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
    )
    if len(checkpoints) <= MOST_LABELS:
        ax.set_yticks(range(len(checkpoints)), labels=checkpoints, size=SMALL)
    else:
        shown = np.unique(np.linspace(0, len(checkpoints) - 1, MOST_LABELS // 2).round().astype(int))
        ax.set_yticks(shown, labels=[checkpoints[row] for row in shown], size=SMALL)
    neurons = worst["neuron"].values
    shown = np.arange(0, len(neurons), -(-max(1, len(neurons)) // 10))
    ax.set_xticks(shown, labels=[plain(neurons[column], 12) for column in shown], size=SMALL)
    ax.set_xlabel("neuron")
    present = [code for code in STANDINGS if (worst.values == code).any()]
    ax.legend(
        handles=[Patch(color=STANDING_COLOURS[code], label=STANDINGS[code]) for code in present],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=SMALL + 1,
    )
    return ax


def worst_standing(code: xr.DataArray) -> xr.DataArray:
    """Return the standing per (checkpoint, neuron), the worst over other dimensions; a population map is one neuron."""
    for dim, label in (("checkpoint", "this checkpoint"), ("neuron", "all neurons")):
        if dim not in code.dims:
            code = code.drop_vars(dim, errors="ignore").expand_dims({dim: [label]})
    severity = np.array([2, 0, 3, 1])  # of pending, done, failed, untrusted
    by_severity = np.argsort(severity)
    others = [dim for dim in code.dims if dim not in ("checkpoint", "neuron")]
    ranked = code.copy(data=severity[code.values])
    ranked = ranked.max(others) if others else ranked
    return ranked.copy(data=by_severity[ranked.values]).transpose("checkpoint", "neuron")
