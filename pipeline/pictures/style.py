"""Figures, colours, ticks and labels that all pictures share."""

import unicodedata

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from pipeline.pictures.cube_reading import EMPTY, INCOMPLETE, NOTICE, WRONG
from pipeline.words import DONE, FAILED, PENDING

#: Red = excitatory (more energy there raises the response), blue = suppressive, white = zero.
COLOUR_MAP = "RdBu_r"

#: Told apart in grey and by people with red-green blindness.
STANDING_COLOURS = {
    DONE: "#7fb8d6",
    NOTICE: "#2c7fa8",
    INCOMPLETE: "#f5d76e",
    WRONG: "#e69f00",
    EMPTY: "#4d4d4d",
    FAILED: "#b2182b",
    PENDING: "#e4e4e4",
}

#: Colours of groups: any two differ by more than 20 units of CIELAB, also for readers without red or green cones.
GROUP_COLOURS = ("#0072b2", "#d55e00", "#56b4e9", "#000000", "#009e73", "#332288", "#555555", "#1b4f72")

#: Font size of what stands inside a panel of a grid, in points.
SMALL = 7.0


#: A scale ends at this percentile of the magnitudes where the largest is so many times larger.
HIDING, PERCENTILE = 4.0, 99.0


def colour_ends(maps: np.ndarray) -> np.ndarray:
    """The end of the colour scale of each map (map, row, column): its largest magnitude.

    Where one bin is more than four times as large as the 99th percentile, the other bins would all look white, and the
    scale ends at that percentile. Maps of zeros have 0.
    """
    magnitudes = np.abs(maps).reshape(len(maps), -1)
    peaks = magnitudes.max(axis=1, initial=0.0)
    if not magnitudes.size:
        return peaks
    high = np.percentile(magnitudes, PERCENTILE, axis=1)
    return np.where((high > 0) & (peaks > HIDING * high), high, peaks).astype(magnitudes.dtype)


def axes_or_new(ax: Axes | None, width: float = 4.2, height: float = 3.2) -> Axes:
    """``ax``, or the axes of a new figure of that size in inches that no window system knows of."""
    return ax if ax is not None else new_figure(width, height).add_subplot()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure outside pyplot's list of open ones, so that it goes when its last reference goes."""
    return Figure(figsize=(width, height), layout="constrained")


def plain(text: object, longest: int = 40) -> str:
    """A label that can be drawn as it reads: one line, no markup, no glyph that the font lacks, bounded length.

    Ids come from file names and tables, and a dollar sign would switch matplotlib into its formula language.
    """
    letters = [letter if unicodedata.category(letter)[0] != "C" else " " for letter in str(text)]
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    shown = "".join(letter if font.get_char_index(ord(letter)) else "\ufffd" for letter in letters)
    if len(shown) > longest:
        half = (longest - 1) // 2
        shown = f"{shown[: longest - 1 - half]}…{shown[-half:]}"
    return shown.replace("$", r"\$")


def empty_panel(ax: Axes, words: str, colour: str = STANDING_COLOURS[PENDING], size: float = 9.0) -> None:
    """Draw a hatched panel that says why it shows no numbers."""
    ax.set_facecolor("white")
    ax.patch.set(hatch="///", edgecolor=colour)
    ax.text(
        0.5,
        0.5,
        words,
        transform=ax.transAxes,
        ha="center",
        va="center",
        size=size,
        bbox={"facecolor": "white", "edgecolor": colour, "boxstyle": "round,pad=0.3"},
    )
    ax.set(xticks=[], yticks=[])


def three_figures(value: float) -> str:
    """A number with three significant figures, without an exponent up to a million; empty for NaN."""
    if not np.isfinite(value):
        return ""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def short_hertz(frequency: float) -> str:
    """A frequency for a tick: 200, 1k, 2.5k."""
    return f"{frequency / 1000:.3g}k" if frequency >= 1000 else f"{frequency:.3g}"


def frequency_axis(axis: Axis, low: float, high: float, most: int = 8, label: str = "frequency (Hz)") -> None:
    """Make ``axis`` logarithmic with at most ``most`` round ticks between ``low`` and ``high`` Hz; linear from 0 Hz.

    Set the limits afterwards.
    """
    if low > 0:
        _set_scale(axis, "log")
        ticks = frequency_ticks(low, high, most)
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FixedFormatter([short_hertz(tick) for tick in ticks]))
        axis.set_minor_locator(NullLocator())
    axis.set_label_text(label)


def frequency_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round frequencies from ``low`` to ``high`` Hz for a logarithmic axis, at most ``most`` of them."""
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 4.0), (1.0,)):
        ticks = [float(d * s) for d in decades for s in steps if low * 0.999 <= d * s <= high * 1.001]
        if len(ticks) <= most and (len(ticks) > 2 or steps == (1.0,) or len(ticks) == most):
            break
    if len(ticks) < 2:
        ticks = sorted({float(f"{low:.2g}"), float(f"{high:.2g}")})
    return ticks


def _set_scale(axis: Axis, scale: str) -> None:
    if isinstance(axis, XAxis):
        axis.axes.set_xscale(scale)
    else:
        axis.axes.set_yscale(scale)


def group_colour(position: int) -> str:
    """The colour of the group at that position; colours repeat after eight."""
    return GROUP_COLOURS[position % len(GROUP_COLOURS)]
