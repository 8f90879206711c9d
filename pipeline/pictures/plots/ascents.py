"""How the response rises while the best sound of a neuron is looked for."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.pictures.style import SMALL, axes_or_new, plain


def plot_trace(trace: xr.DataArray, ax: Axes | None = None) -> Axes:
    """Axes with each neuron's response over the steps of the ascent, as a share of its own rise.

    0 is the first step, 1 the last. Where the lines are flat at the end, more steps find nothing better; a line that
    still rises asks for more.

    Parameters
    ----------
    trace
        ``cube["<map>_trace"]`` of some neurons, over (neuron, step).
    ax
        Where to draw; a figure of its own by default.

    Examples
    --------
    >>> import xarray as xr
    >>> from pipeline.pictures.plots import plot_trace
    >>> rising = xr.DataArray([[1.0, 2.0, 2.5]], dims=("neuron", "step"), coords={"step": [1, 2, 3]})
    >>> plot_trace(rising).get_xlabel()
    'step'
    """
    ax = axes_or_new(ax, 4.6, 2.8)
    (steps,) = (dim for dim in trace.dims if dim != "neuron")
    values = np.asarray(trace.transpose("neuron", steps).values, dtype=float)
    first, rise = values[:, :1], values[:, -1:] - values[:, :1]
    shares = np.divide(values - first, rise, out=np.full_like(values, np.nan), where=rise > 0)
    ax.plot(trace[steps].values, shares.T, color="#333333", alpha=0.4, linewidth=0.8)
    ax.set(xlabel="step", ylabel="share of the rise", ylim=(-0.05, 1.05))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    still = int(np.isnan(shares[:, 0]).sum())
    if still:
        ax.set_title(plain(f"{still} of {len(values)} neurons did not rise", 70), size=SMALL, loc="left")
    return ax
