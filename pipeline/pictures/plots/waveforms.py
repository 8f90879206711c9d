"""One map over the samples of a sound, as a trace above its spectrogram."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib import mlab
from matplotlib.axes import Axes

from pipeline.pictures.plots.maps import corner, empty, mark_untrusted
from pipeline.pictures.style import SMALL, axes_or_new, plain
from pipeline.words import DONE, axis_of

#: Level below the loudest point at which the colours of the spectrogram end.
FLOOR_DB = -40.0


def plot_waveform(
    gradmap: xr.DataArray,
    ax: Axes | None = None,
    *,
    spectrogram: bool = True,
    standing: int = DONE,
    flags: Sequence[str] = (),
    window_ms: float | None = None,
) -> Axes:
    """Picture of a waveform map against lag in ms, with, below it, the spectrogram of the map itself.

    Lag 0, the last sample of the response's frame, is at the left, as in `plot_map`, so the sound's own time runs from
    right to left. A value is the change of the response per unit of the audio sample; its sign follows the phase of the
    sound that would drive the neuron, so the shape matters, not whether one peak is up or down.

    Parameters
    ----------
    gradmap
        Map over ``waveform_lag`` in ms, for example ``cube["waveform"].sel(checkpoint=..., neuron=..., stimulus=...)``.
    ax
        Where to draw; the axes of a new figure by default. With a spectrogram it is divided into two panels,
        which are its ``child_axes``.
    spectrogram
        Whether to draw the spectrogram.
    standing, flags
        As in `plot_map`.
    window_ms
        Length of the spectrogram's window; a sixteenth of the map, but at least 16 samples, by default.

    Raises
    ------
    ValueError
        If the array has other dimensions than its lag in samples.

    Examples
    --------
    >>> from pipeline import open_cube
    >>> from pipeline.pictures.plots import plot_waveform
    >>> gradmap = open_cube("cube.zarr")["waveform"].isel(checkpoint=0, stimulus=0, neuron=0)
    >>> ax = plot_waveform(gradmap, spectrogram=False)
    >>> ax.get_xlabel()
    'lag (ms before the response)'
    """
    dim = str(gradmap.dims[0]) if gradmap.ndim == 1 else ""
    if axis_of(dim) != "waveform_lag":
        raise ValueError(
            f"plot_waveform draws one map over waveform_lag and was given {tuple(gradmap.dims)}, which would lay"
            " several maps on one another; select one with .sel(checkpoint=..., neuron=..., stimulus=...)"
        )
    ax = axes_or_new(ax)
    gradmap = gradmap.sortby(dim)
    values = np.ma.masked_invalid(np.asarray(gradmap.values, dtype=float))
    if empty(values, standing, ax):
        return ax
    lag = gradmap[dim].values.astype(float)
    if not spectrogram:
        _trace(ax, lag, values, gradmap)
        ax.set_xlabel("lag (ms before the response)")
        mark_untrusted(ax, flags)
        return ax
    ax.set_axis_off()
    upper = ax.inset_axes((0.0, 0.56, 1.0, 0.44))
    lower = ax.inset_axes((0.0, 0.0, 1.0, 0.48), sharex=upper)
    _trace(upper, lag, values, gradmap)
    upper.tick_params(labelbottom=False)
    mark_untrusted(upper, flags)
    _spectrogram(lower, lag, values.filled(0.0), window_ms)
    lower.set_xlabel("lag (ms before the response)")
    return ax


def _trace(ax: Axes, lag: np.ndarray, values: np.ma.MaskedArray, gradmap: xr.DataArray) -> None:
    ax.axhline(0, color="#999999", linewidth=0.6)
    ax.plot(lag, values, color="#222222", linewidth=0.7)
    top = float(abs(values).max()) or 1.0
    ax.set_ylim(-1.1 * top, 1.1 * top)
    ax.set_yticks([-top, 0, top], labels=[f"{-top:.2g}", "0", f"{top:.2g}"])
    if lag.size > 1:
        ax.set_xlim(lag[0], lag[-1])
    ax.set_ylabel("gradient", size=SMALL + 1)
    if gradmap.attrs.get("units"):
        ax.set_title(plain(gradmap.attrs["units"], 70), size=SMALL, loc="left", pad=3)


def _spectrogram(ax: Axes, lag: np.ndarray, values: np.ndarray, window_ms: float | None) -> None:
    rate = 1000.0 * (lag.size - 1) / (lag[-1] - lag[0]) if lag.size > 1 else 0.0
    asked = values.size // 16 if window_ms is None else round(window_ms * rate / 1000.0)
    window = min(values.size, max(16, asked))
    if values.size < 16 or not values.any():
        empty_words = "no spectrogram: zero everywhere" if values.size >= 16 else "no spectrogram: under 16 samples"
        ax.set(xticks=[], yticks=[])
        corner(ax, empty_words, at=(0.5, 0.5))
        return
    overlap, pad = window - max(1, window // 8), max(256, window)
    power, frequency, place = map(
        np.asarray, mlab.specgram(values, NFFT=window, Fs=rate, noverlap=overlap, pad_to=pad, detrend="none")
    )
    level = 10 * np.log10(np.maximum(power / power.max(), 10 ** (FLOOR_DB / 10)))
    ax.pcolormesh(
        lag[0] + 1000.0 * place,
        frequency / 1000.0,
        level,
        cmap="magma_r",
        vmin=FLOOR_DB,
        vmax=0,
        shading="nearest",
        rasterized=True,
    )
    ax.set_ylabel("frequency (kHz)", size=SMALL + 1)
    corner(ax, f"0 to {FLOOR_DB:.0f} dB re peak", at=(0.98, 0.96))
