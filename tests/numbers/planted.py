"""Spectro-temporal maps with known parameters, in closed form."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

FREQUENCY = np.geomspace(200.0, 200.0 * 2**5.5, 34)
LAG = np.arange(40) * 5.0


@dataclass(frozen=True)
class Gabor:
    """A Gaussian in octaves x and lag times a ripple of phase scale * (x - x0) + rate * (lag - latency).

    On the time axis, which runs against the lags, a positive rate at a positive scale is a frequency that rises.
    """

    best_frequency: float = 1000.0
    latency_ms: float = 60.0
    sigma_octaves: float = 0.5
    sigma_ms: float = 20.0
    scale: float = 0.0
    rate: float = 0.0
    polarity: float = 1.0
    phase: float = 0.0

    def at(self, frequency, lag):
        x = np.log2(np.asarray(frequency) / self.best_frequency)[..., :, None]
        t = (np.asarray(lag) - self.latency_ms)[..., None, :]
        window = np.exp(-0.5 * (x / self.sigma_octaves) ** 2 - 0.5 * (t / self.sigma_ms) ** 2)
        return self.polarity * window * np.cos(2 * np.pi * (self.scale * x + self.rate * t / 1000) + self.phase)


def labelled(values, frequency=FREQUENCY, lag=LAG):
    """Maps (..., frequency, lag) with coordinates; leading dimensions are called checkpoint and neuron, or neuron."""
    values = np.asarray(values)
    leading = {2: (), 3: ("neuron",), 4: ("checkpoint", "neuron"), 5: ("checkpoint", "stimulus", "neuron")}[values.ndim]
    coords = {"frequency": ("frequency", frequency, {"units": "Hz"}), "lag": ("lag", lag, {"units": "ms"})}
    for dim, size in zip(leading, values.shape, strict=False):
        coords[dim] = [f"{dim[0]}{index}" for index in range(size)]
    return xr.DataArray(values, dims=(*leading, "frequency", "lag"), coords=coords, name="strf")


def planted(gabors, noise=0.0, seed=0, frequency=FREQUENCY, lag=LAG):
    """One map per Gabor, with white noise of sd ``noise`` times the peak."""
    values = np.stack([gabor.at(frequency, lag) for gabor in gabors])
    rng = np.random.default_rng(seed)
    peak = np.abs(values).max(axis=(1, 2), keepdims=True)
    return labelled(values + noise * peak * rng.standard_normal(values.shape), frequency, lag)
