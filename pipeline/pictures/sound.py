"""Waveform maps as sounds to listen to."""

from os import PathLike
from pathlib import Path

import numpy as np
import xarray as xr

from pipeline.words import axis_of

#: Largest magnitude in the file, of full scale: room for players that resample.
PEAK = 0.9


def write_sound(gradmap: xr.DataArray, path: str | PathLike[str], sample_rate: float | None = None) -> Path:
    """The path of a WAV file with a waveform map as a sound, in the sound's own order of time.

    The oldest sample comes first and lag 0 last. The largest magnitude is set to 0.9 of full scale, whatever it was,
    and a map of zeros becomes silence: loudness tells nothing about the map. 16-bit PCM, one channel.

    Parameters
    ----------
    gradmap
        One map over ``waveform_lag`` in ms, for example ``cube["waveform"].isel(checkpoint=0, neuron=0, stimulus=0)``.
    path
        Where to write. A folder that is missing is made.
    sample_rate
        In Hz; from the spacing of the lags by default, rounded to whole Hz.

    Raises
    ------
    ValueError
        If the array has other dimensions, holds numbers that are not finite, or the rate is not known.

    Examples
    --------
    >>> from pipeline import open_cube, write_sound
    >>> heard = open_cube("cube.zarr")["waveform"].isel(checkpoint=0, stimulus=0, neuron=0)
    >>> write_sound(heard, "n0.wav").name
    'n0.wav'
    """
    import soundfile  # loads a shared library, which pictures do not need

    dim = str(gradmap.dims[0]) if gradmap.ndim == 1 else ""
    if axis_of(dim) != "waveform_lag":
        raise ValueError(
            f"a sound has one dimension, waveform_lag, and this array has {tuple(gradmap.dims)}; several maps cannot be"
            " heard in one file; select one with .sel(checkpoint=..., neuron=..., stimulus=...)"
        )
    if not gradmap.size:
        raise ValueError("the map has no samples, so there is nothing to hear; select a map that was computed")
    samples = np.asarray(gradmap.sortby(dim, ascending=False).values, dtype=np.float64)
    if not np.isfinite(samples).all():
        raise ValueError(
            f"{int((~np.isfinite(samples)).sum())} of {samples.size} samples of the map are not finite, so it was not"
            " computed or failed; its status in the cube says which; choose one that is done"
        )
    rate = round(_rate(gradmap[dim].values.astype(float)) if sample_rate is None else sample_rate)
    if rate < 1:
        raise ValueError(
            f"a sample rate of {sample_rate} Hz plays nothing; give the rate of the front-end's sounds in Hz"
        )
    peak = np.abs(samples).max()
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, samples * (PEAK / peak) if peak > 0 else samples, rate, subtype="PCM_16", format="WAV")
    return target


def _rate(lag: np.ndarray) -> float:
    if lag.size < 2:
        raise ValueError("a map of one sample does not tell its sample rate; give it with sample_rate= in Hz")
    steps = np.diff(np.sort(lag))
    if steps.min() <= 0 or np.ptp(steps) > 0.01 * steps.mean():
        raise ValueError(
            f"the lags lie {steps.min():g} to {steps.max():g} ms apart, and a sound has one sample rate; resample the"
            " map first, for example with gradmap.interp"
        )
    return 1000.0 * (lag.size - 1) / float(np.ptp(lag))
