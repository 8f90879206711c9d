"""One map over frequency and lag, or over modulation rate and scale."""

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.ticker import MaxNLocator

from pipeline.pictures.style import (
    COLOUR_MAP,
    SMALL,
    STANDING_COLOURS,
    axes_or_new,
    colour_ends,
    empty_panel,
    frequency_axis,
    plain,
)
from pipeline.words import DONE, FAILED, PENDING

#: Letters that stand beside a colour bar of the height of one panel.
BAR_LETTERS = 34

#: Magnitudes of a ripple transfer function under this share of the largest are left outside its axes.
RIPPLE_SHARE = 0.02
#: So are those of the noise of a map, which lie under this many times the median; its largest of thousands does not.
#: Nothing above the second number, as a share of the largest magnitude, is taken for noise.
RIPPLE_NOISE, RIPPLE_SIGNAL = 4.0, 0.2


def plot_map(
    gradmap: xr.DataArray,
    ax: Axes | None = None,
    *,
    limit: float | None = None,
    colorbar: bool = True,
    standing: int = DONE,
    flags: Sequence[str] = (),
    ticks: int = 8,
) -> Axes:
    """Picture of one spectro-temporal map: frequency in Hz upwards, lag in ms to the right.

    Lag 0, the frame of the response, is at the left, so the sound's own time runs from right to left. Red is
    excitatory: more energy there raises the response. White is zero and the scale is symmetrical about it. A map
    that is not there is a hatched panel that says so; one that is not to be trusted has an orange frame and reasons.

    Parameters
    ----------
    gradmap
        Map over (frequency, lag), for example ``cube["strf"].sel(checkpoint=..., neuron=...)``.
    ax
        Where to draw; the axes of a new figure by default.
    limit
        Value of the deepest red; the largest magnitude of the map by default, or the 99th percentile where one bin is
        so large that all others would look white, which the corner then says.
    colorbar
        Whether to write the scale as a colour bar. Without it the scale stands in the corner of the panel.
    standing
        0 not computed, 1 done, 2 failed, as in ``<map>_status``.
    flags
        Why the map is not to be trusted, in words.
    ticks
        Number of frequencies to write at most.

    Raises
    ------
    ValueError
        If the array has other dimensions than frequency and lag, or ``limit`` is not a positive number.

    Examples
    --------
    >>> from pipeline import open_cube, plot_map
    >>> ax = plot_map(open_cube("cube.zarr")["strf"].isel(checkpoint=0, neuron=0))
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('lag (ms before the response)', 'frequency (Hz)')
    """
    if set(gradmap.dims) != {"frequency", "lag"}:
        raise ValueError(
            f"plot_map draws one map over (frequency, lag) and was given {tuple(gradmap.dims)}, which would lay several"
            " maps on one another; select one with .sel(checkpoint=..., neuron=...), or draw a grid with plot_grid"
        )
    if limit is not None and not (np.isfinite(limit) and limit > 0):
        raise ValueError(
            f"limit is {limit}, and a colour scale needs a positive end; leave it out for the map's largest magnitude"
        )
    ax = axes_or_new(ax)
    gradmap = gradmap.transpose("frequency", "lag").sortby("frequency").sortby("lag")
    values = np.ma.masked_invalid(np.asarray(gradmap.values, dtype=float))
    if empty(values, standing, ax):
        return ax
    peak = float(abs(values).max())
    end = float(colour_ends(values.filled(0.0)[None])[0])
    top = limit if limit is not None else end or 1.0
    low, high = band_edges(gradmap["frequency"].values.astype(float))
    mesh = ax.pcolormesh(
        step_edges(gradmap["lag"].values.astype(float)),
        np.append(low, high[-1]),
        values,
        cmap=COLOUR_MAP,
        vmin=-top,
        vmax=top,
        rasterized=True,
    )
    ax.set_facecolor("#d0d0d0")
    frequency_axis(ax.yaxis, low[0], high[-1], most=ticks)
    ax.set_ylim(low[0], high[-1])
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 4, 5, 10]))
    ax.set_xlabel("lag (ms before the response)")
    if colorbar and ax.figure is not None:
        _colour_bar(ax, mesh, top, scale_label(gradmap), all_inside=top >= peak)
    if not colorbar or top < peak:
        corner(ax, f"±{top:.2g}" + (f", largest {peak:.2g}" if top < peak else ""))
    if peak == 0:
        corner(ax, "zero everywhere", at=(0.5, 0.5))
    mark_untrusted(ax, flags)
    return ax


def _colour_bar(ax: Axes, mesh: QuadMesh, top: float, label: str, *, all_inside: bool) -> None:
    """Write the scale beside a map, with pointed ends where some of its entries lie beyond it."""
    bar = ax.figure.colorbar(
        mesh, ax=ax, ticks=[-top, -top / 2, 0, top / 2, top], format="%.2g", extend="neither" if all_inside else "both"
    )
    bar.set_label(label, size=SMALL + 1)


def plot_ripple_transfer(transfer: xr.DataArray, ax: Axes | None = None) -> Axes:
    """A ripple transfer function drawn: magnitude over temporal rate in Hz and spectral scale in cycles per octave.

    The axes end where magnitudes fall under 2 % of the largest, and where those of noise in the map begin: under four
    times the median of all, but nothing over a fifth of the largest is left out. Rates of both signs are kept, and the
    sign that the data's own attribute calls upward is written on the axis.

    Parameters
    ----------
    transfer
        Magnitudes over two dimensions, one of them ``scale``, the other ``rate``, of one map or averaged over several.

    Raises
    ------
    ValueError
        If there are other dimensions than these two.

    Examples
    --------
    >>> from pipeline import measure, open_cube
    >>> from pipeline.pictures.plots import plot_ripple_transfer
    >>> transfer = measure(open_cube("cube.zarr")["strf"], "ripple_transfer_function")
    >>> ax = plot_ripple_transfer(transfer.isel(checkpoint=0, neuron=0))
    >>> ax.get_xlabel()
    'temporal modulation, positive = upward (Hz)'
    """
    dims = {"rate", "scale"}
    if set(transfer.dims) != dims:
        raise ValueError(
            f"a ripple transfer function has the dimensions rate and scale, and this one has {tuple(transfer.dims)};"
            " several on one another could not be read; select one or take the mean over the others"
        )
    ax = axes_or_new(ax)
    transfer = transfer.transpose("scale", "rate").sortby("rate").sortby("scale")
    values = np.ma.masked_invalid(np.asarray(transfer.values, dtype=float))
    if empty(values, DONE, ax):
        return ax
    rate, scale = (transfer[dim].values.astype(float) for dim in ("rate", "scale"))
    mesh = ax.pcolormesh(
        step_edges(rate),
        step_edges(scale),
        values,
        cmap="viridis",
        vmin=0,
        vmax=float(values.max()) or 1.0,
        rasterized=True,
    )
    ax.axvline(0, color="white", linewidth=0.8, linestyle=":")
    ax.set_xlabel(axis_label(transfer["rate"], "temporal modulation", "Hz"))
    ax.set_ylabel(axis_label(transfer["scale"], "spectral modulation", "cycles/octave"))
    noise = min(RIPPLE_NOISE * float(np.ma.median(values)), RIPPLE_SIGNAL * float(values.max()))
    seen = values.filled(0.0) >= max(RIPPLE_SHARE * float(values.max()), noise)
    if seen.any():
        furthest = float(np.abs(rate[seen.any(axis=0)]).max())
        inside = np.abs(rate) <= furthest * (1 + 1e-9)
        ax.set_xlim(step_edges(rate)[:-1][inside].min(), step_edges(rate)[1:][inside].max())
        ax.set_ylim(top=float(step_edges(scale)[1:][seen.any(axis=1)].max()))
    ax.set_ylim(bottom=max(0.0, ax.get_ylim()[0]))
    if ax.figure is not None:
        ax.figure.colorbar(mesh, ax=ax, format="%.2g").set_label("magnitude", size=SMALL + 1)
    return ax


def empty(values: np.ma.MaskedArray, standing: int, ax: Axes) -> bool:
    """Whether a map has no numbers, in which case its hatched panel was drawn."""
    if standing == FAILED:
        empty_panel(ax, "failed", STANDING_COLOURS[FAILED], size=SMALL + 1)
    elif standing == PENDING or values.count() == 0:
        empty_panel(ax, "not computed", size=SMALL + 1)
    else:
        return False
    return True


def mark_untrusted(ax: Axes, flags: Sequence[str]) -> None:
    """Frame a panel in orange and write why its map is not to be trusted."""
    if not flags:
        return
    for spine in ax.spines.values():
        spine.set(edgecolor="#e69f00", linewidth=2.5)
    corner(ax, "\n".join(plain(flag, 28) for flag in flags[:3]), at=(0.04, 0.96), colour="#9a5f00")


def corner(ax: Axes, text: str, at: tuple[float, float] = (0.96, 0.04), colour: str = "#333333") -> None:
    """Write small words into a corner of a panel; ``at`` in fractions of the panel."""
    ax.text(
        *at,
        text,
        transform=ax.transAxes,
        ha="left" if at[0] < 0.5 else "center" if at[0] == 0.5 else "right",
        va="top" if at[1] > 0.5 else "center" if at[1] == 0.5 else "bottom",
        size=SMALL - 1,
        color=colour,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1.0},
    )


def scale_label(gradmap: xr.DataArray) -> str:
    """What a colour of a map stands for, with its units where the cube states them."""
    units = gradmap.attrs.get("units", "")
    words = f"gradient ({units}), red = excitatory" if units else "gradient, red = excitatory"
    return "\n".join(map(plain, wrap(words, BAR_LETTERS)[:3]))


def axis_label(coordinate: xr.DataArray, name: str, units: str) -> str:
    """The label of an axis from the coordinate's own attributes, or the given words."""
    stated = coordinate.attrs
    return plain(f"{stated.get('long_name', name)} ({stated.get('units', units)})", 70)


def band_edges(frequency: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper edges of bands, half-way between centres (in octaves above 0 Hz)."""
    log = bool(frequency.size and frequency[0] > 0)
    places = np.log2(frequency) if log else frequency
    edges = step_edges(places, single=0.25 if log else 0.5)
    edges = 2.0**edges if log else edges
    return edges[:-1], edges[1:]


def step_edges(places: np.ndarray, single: float = 0.5) -> np.ndarray:
    """The edges of cells around ascending places; ``single`` is the half-width where there is only one."""
    if places.size == 1:
        return np.array([places[0] - single, places[0] + single])
    middle = (places[:-1] + places[1:]) / 2
    return np.concatenate([[2 * places[0] - middle[0]], middle, [2 * places[-1] - middle[-1]]])
