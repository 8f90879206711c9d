"""How a neuron's map moves along a sound: its mean, its components, its gain, and maps at chosen frames."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.pictures.cube_reading import as_text
from pipeline.pictures.plots.maps import band_edges, corner, plot_map, step_edges
from pipeline.pictures.style import GROUP_COLOURS, SMALL, axes_or_new, frequency_axis, new_figure, plain, three_figures

#: Panels side by side that can still be read.
MOST_PANELS = 12


def plot_dynamic_mean(mean: xr.DataArray, sd: xr.DataArray) -> Figure:
    """Figure of one neuron's mean dynamic STRF beside its standard deviation over time, on one scale.

    Where the deviation is as large as the mean, the map moves with the sound as much as it stays.

    Parameters
    ----------
    mean, sd
        ``cube["<map>_mean"]`` and ``cube["<map>_sd"]`` of one checkpoint and neuron, over (frequency, lag).

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pipeline.pictures.plots import plot_dynamic_mean
    >>> axes = {"frequency": [200.0, 400.0], "lag": [0.0, 10.0, 20.0]}
    >>> mean = xr.DataArray(np.eye(2, 3), dims=("frequency", "lag"), coords=axes)
    >>> [ax.get_title() for ax in plot_dynamic_mean(mean, mean / 2).axes[:2]]
    ['mean over time', 'standard deviation']
    """
    figure = new_figure(7.6, 3.0)
    left, right = figure.subplots(1, 2)
    limit = float(max(np.nanmax(np.abs(mean.values)), np.nanmax(sd.values))) or 1.0
    plot_map(mean, left, limit=limit)
    plot_map(sd, right, limit=limit, colorbar=False)  # a deviation has no sign that the bar could name
    left.set_title("mean over time", size=SMALL + 2)
    right.set_title("standard deviation", size=SMALL + 2)
    right.set_ylabel("")
    return figure


def plot_components(
    component: xr.DataArray, component_sd: xr.DataArray, noise_floor: float | None = None, *, most: int = 5
) -> Figure:
    """Figure of one neuron's leading components as maps, under their standard deviations against the noise floor.

    Parameters
    ----------
    component
        ``cube["<map>_component"]`` of one checkpoint and neuron, over (component, frequency, lag).
    component_sd
        ``cube["<map>_component_sd"]`` of the same, over component.
    noise_floor
        ``cube["<map>_noise_floor"]``: the *variance* that a component reaches when every entry is shuffled over time.
        Drawn as a standard deviation; none where it is left out.
    most
        Maps to draw at most.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pipeline.pictures.plots import plot_components
    >>> axes = {"component": [0, 1], "frequency": [200.0, 400.0], "lag": [0.0, 10.0, 20.0]}
    >>> component = xr.DataArray(np.ones((2, 2, 3)), dims=tuple(axes), coords=axes)
    >>> figure = plot_components(component, xr.DataArray([2.0, 0.5], dims="component"), noise_floor=0.04)
    >>> len(figure.axes) > 2
    True
    """
    shown = min(most, MOST_PANELS, component.sizes["component"])
    figure = new_figure(1.9 * shown + 0.6, 4.0)
    grid = figure.add_gridspec(2, shown, height_ratios=[1.0, 1.3])
    above = figure.add_subplot(grid[0, :])
    sd = np.asarray(component_sd.values, dtype=float)
    places = np.arange(1, len(sd) + 1)
    above.plot(places, sd, "o-", color=GROUP_COLOURS[0], markersize=3.5)
    if noise_floor is not None and np.isfinite(noise_floor):
        floor = float(np.sqrt(noise_floor))
        above.axhline(floor, color=GROUP_COLOURS[1], linestyle="--")
        below = floor > 0.7 * float(np.nanmax(sd, initial=0.0))  # over the line there may be no room left
        above.annotate(
            "noise floor",
            (places[-1], floor),
            xytext=(0, -3 if below else 3),
            textcoords="offset points",
            ha="right",
            va="top" if below else "bottom",
            size=SMALL,
            color=GROUP_COLOURS[1],
        )
    above.set(xlabel="component", ylabel="standard deviation", ylim=(0, None), xticks=places)
    limit = float(np.nanmax(np.abs(component.values[:shown]))) or 1.0
    for number in range(shown):
        ax = figure.add_subplot(grid[1, number])
        plot_map(component.isel(component=number), ax, limit=limit, colorbar=False, ticks=4)
        ax.set_title(f"component {number + 1}", size=SMALL + 1)
        ax.set_xlabel("lag (ms)", size=SMALL + 1)
        if number:
            ax.set_ylabel("")
    return figure


def plot_gain(gain: xr.DataArray, spectrogram: xr.DataArray | None = None, ax: Axes | None = None) -> Axes:
    """Axes with a neuron's gain along a sound, under the sound's spectrogram where it is given.

    Parameters
    ----------
    gain
        Norm of each frame's map over one dimension whose coordinate is the time in ms, as `dynamic_strfs` and
        `pipeline.numbers.dynamic.gain` give it.
    spectrogram
        What was heard, over (frequency, time), the time in ms.
    ax
        Where to draw; it is divided if there is a spectrogram.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pipeline.pictures.plots import plot_gain
    >>> gain = xr.DataArray(np.linspace(0.5, 1.5, 40), dims="frame", coords={"frame": np.arange(40.0)})
    >>> plot_gain(gain).get_ylabel()
    'gain'
    """
    ax = axes_or_new(ax, 6.0, 3.0)
    (along,) = gain.dims
    time = gain[along].values.astype(float)
    below = ax
    if spectrogram is not None:
        ax.set_axis_off()
        upper = ax.inset_axes((0.0, 0.48, 1.0, 0.52))
        below = ax.inset_axes((0.0, 0.0, 1.0, 0.42), sharex=upper)
        heard = spectrogram.transpose("frequency", ...).sortby("frequency")
        low, high = band_edges(heard["frequency"].values.astype(float))
        at = heard[heard.dims[1]].values.astype(float)
        upper.pcolormesh(step_edges(at), np.append(low, high[-1]), heard.values, cmap="Greys", rasterized=True)
        frequency_axis(upper.yaxis, low[0], high[-1], most=5)
        upper.set_ylim(low[0], high[-1])
        upper.tick_params(labelbottom=False)
    below.plot(time, np.asarray(gain.values, dtype=float), color=GROUP_COLOURS[0], linewidth=1.0)
    below.set(xlabel="time in the sound (ms)", ylabel="gain", ylim=(0, None), xlim=(time[0], time[-1]))
    return ax


def plot_film(maps: xr.DataArray, *, along: str = "kept", titles: Sequence[str] | None = None) -> Figure:
    """Figure of maps at several frames side by side, on one scale.

    Parameters
    ----------
    maps
        Maps of one neuron over (``along``, frequency, lag), for instance ``cube["<map>_kept"]`` of one checkpoint and
        neuron.
    along
        The dimension of the frames.
    titles
        Words over each panel; the labels of the frames by default.

    Raises
    ------
    ValueError
        If there are more frames than can be read side by side.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from pipeline.pictures.plots import plot_film
    >>> axes = {"kept": [10, 20], "frequency": [200.0, 400.0], "lag": [0.0, 10.0, 20.0]}
    >>> maps = xr.DataArray(np.ones((2, 2, 3)), dims=tuple(axes), coords=axes)
    >>> len(plot_film(maps).axes) >= 2
    True
    """
    count = maps.sizes[along]
    if count > MOST_PANELS:
        raise ValueError(
            f"{count} maps side by side could not be read ({MOST_PANELS} can); select frames with .isel({along}=...)"
        )
    figure = new_figure(1.7 * count + 0.8, 2.4)
    limit = float(np.nanmax(np.abs(maps.values))) if maps.size else 1.0
    for number, ax in enumerate(np.atleast_1d(figure.subplots(1, count, sharey=True))):
        one = maps.isel({along: number})
        plot_map(one, ax, limit=limit or 1.0, colorbar=False, ticks=5)
        ax.set_title(plain(titles[number] if titles is not None else _frame_label(one, along), 24), size=SMALL + 1)
        ax.set_xlabel("lag (ms)", size=SMALL + 1)
        if number:
            ax.set_ylabel("")
    return figure


def _frame_label(one: xr.DataArray, along: str) -> str:
    stimulus, frame = one.coords.get(f"{along}_stimulus"), one.coords.get(f"{along}_frame")
    if stimulus is None or frame is None:
        if along not in one.coords:
            return ""
        return f"{as_text(one[along].values[()])} {one[along].attrs.get('units', '')}".strip()
    return f"{stimulus.item()}, frame {int(frame)}"


def plot_nonlinearity(
    complexity: xr.DataArray, gain_change: xr.DataArray, ax: Axes | None = None, *, groups: Sequence[Any] | None = None
) -> Axes:
    """Axes with each neuron's complexity against its gain change.

    A linear model lies at complexity 1 and gain change 0; a neuron that only changes its strength moves up, one that
    changes its tuning moves to the right. Both grow with the number of frames they were taken over (complexity) and
    with the scale of the responses (gain change), so compare neurons of one cohort.

    Parameters
    ----------
    complexity, gain_change
        One number per neuron (any further dimensions are laid flat), over the same dimensions.
    groups
        One label per neuron, for colours and a legend.

    Examples
    --------
    >>> import xarray as xr
    >>> from pipeline.pictures.plots import plot_nonlinearity
    >>> ax = plot_nonlinearity(xr.DataArray([1.0, 6.0], dims="neuron"), xr.DataArray([0.1, 0.4], dims="neuron"))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('complexity', 'gain change')
    """
    ax = axes_or_new(ax, 3.8, 3.4)
    across, up = np.ravel(complexity.values).astype(float), np.ravel(gain_change.values).astype(float)
    labels = np.asarray(["" if groups is None else str(group) for group in (groups or across)])
    finite = np.isfinite(across) & np.isfinite(up)
    for number, label in enumerate(dict.fromkeys(labels[finite].tolist())):
        at = finite & (labels == label)
        colour = GROUP_COLOURS[number % len(GROUP_COLOURS)]
        ax.plot(across[at], up[at], "o", color=colour, markersize=4, alpha=0.8, label=plain(label))
    if groups is not None:
        ax.legend(fontsize=SMALL + 1, frameon=False)
    left_out = int((~finite).sum())
    if left_out:
        corner(ax, f"{left_out} without a number")
    ax.axvline(1.0, color="#888888", linewidth=0.8, linestyle=":")
    ax.set(xlabel="complexity", ylabel="gain change", ylim=(0, None))
    ax.set_xlim(left=min(0.95, ax.get_xlim()[0]))
    if finite.any():
        ax.set_title(f"median complexity {three_figures(float(np.median(across[finite])))}", size=SMALL + 2)
    return ax
