"""Maps and numbers without a truth in common, and with one."""

from collections.abc import Callable
from functools import partial

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter

BANDS, LAGS = GRID = 16, 20

Maps = Callable[..., np.ndarray]


def white(rng: np.random.Generator, checkpoints: int, neurons: int, grid: tuple[int, int] = GRID) -> np.ndarray:
    """Entries that know nothing of each other."""
    return rng.standard_normal((checkpoints, neurons, *grid))


def smooth(rng: np.random.Generator, checkpoints: int, neurons: int, grid: tuple[int, int] = GRID) -> np.ndarray:
    """Neighbouring entries alike, as of the same spread everywhere."""
    return gaussian_filter(white(rng, checkpoints, neurons, grid), (0, 0, 1.5, 1.5), mode="wrap")


def decaying(rng: np.random.Generator, checkpoints: int, neurons: int, grid: tuple[int, int] = GRID) -> np.ndarray:
    """White noise whose spread falls with the lag."""
    return white(rng, checkpoints, neurons, grid) * np.exp(-np.arange(grid[1]) / 4.0)


def mirrored(rng: np.random.Generator, checkpoints: int, neurons: int, grid: tuple[int, int] = GRID) -> np.ndarray:
    """Neighbouring entries alike, larger at the edges, where the noise was mirrored before it was smoothed."""
    return gaussian_filter(white(rng, checkpoints, neurons, grid), (0, 0, 1.5, 1.5))


def smooth_decaying(
    rng: np.random.Generator, checkpoints: int, neurons: int, grid: tuple[int, int] = GRID
) -> np.ndarray:
    """Neighbouring entries alike, of a spread that falls with the lag."""
    return mirrored(rng, checkpoints, neurons, grid) * np.exp(-np.arange(grid[1]) / 4.0)


def blobs(rng: np.random.Generator, checkpoints: int, neurons: int) -> np.ndarray:
    """One excitatory field each, anywhere among the early lags."""
    band, lag = (rng.uniform(0, top, (checkpoints, neurons, 1, 1)) for top in (BANDS, LAGS / 2))
    return np.exp(-0.5 * ((np.arange(BANDS)[:, None] - band) / 2) ** 2 - 0.5 * ((np.arange(LAGS) - lag) / 2) ** 2)


#: Single maps without a field.
UNSTRUCTURED: dict[str, Maps] = {
    "white": white,
    "smooth": smooth,
    "smooth, mirrored edges": mirrored,
    "decaying": decaying,
    "smooth, decaying": smooth_decaying,
}

NOISE: dict[str, Maps] = {"white": white, "smooth": smooth, "decaying": decaying, "blobs": blobs}


def untrained(name: str) -> Maps:
    """Null-stimulus gradmaps of untrained seeds of one of deepSTRF's architectures."""
    from pipeline import strf_gradmaps
    from tests.zoo import ZOO

    def build(rng: np.random.Generator, checkpoints: int, neurons: int) -> np.ndarray:
        seeds = rng.integers(1_000_000, size=checkpoints)
        models = [ZOO[name](n_neurons=neurons, seed=int(seed)) for seed in seeds]
        return np.stack([strf_gradmaps(model, LAGS).detach().numpy() for model in models])

    return build


def architectures() -> dict[str, Maps]:
    """Untrained seeds of every architecture that hears a spectrogram."""
    from tests.zoo import ZOO

    return {f"untrained {name}": partial(untrained(name)) for name in ZOO if name != "ICNet"}


def labelled(values: np.ndarray) -> xr.DataArray:
    """Maps (checkpoint, neuron, frequency, lag) with their axes."""
    frequency, lag = np.geomspace(200.0, 6400.0, values.shape[-2]), np.arange(values.shape[-1]) * 10.0
    coords = {"frequency": ("frequency", frequency, {"units": "Hz"}), "lag": ("lag", lag, {"units": "ms"})}
    return xr.DataArray(values, dims=("checkpoint", "neuron", "frequency", "lag"), coords=coords)


def with_truth(rng: np.random.Generator, checkpoints: int, neurons: int) -> np.ndarray:
    """A smooth field of each neuron's own under white noise of the same energy."""
    truth = gaussian_filter(rng.standard_normal((neurons, BANDS, LAGS)), (0, 1, 1))
    return truth / truth.std(axis=(1, 2), keepdims=True) + white(rng, checkpoints, neurons)


def crossed(
    rng: np.random.Generator,
    sites: int,
    seeds: tuple[int, int],
    *,
    between_seeds: float = 1.0,
    between_sites: float = 1.0,
    effect: float = 0.0,
    balanced: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A number per checkpoint and neuron, which checkpoints are the second group, and the neurons' sites.

    Seeds shift all neurons of a checkpoint; sites differ in what the second group adds; neurons differ, and noise.
    """
    counts = np.full(sites, 5) if balanced else rng.integers(1, 10, sites)
    site, second = np.repeat(np.arange(sites), counts), np.arange(sum(seeds)) >= seeds[0]
    values = between_seeds * rng.standard_normal((len(second), 1)) + 2 * rng.standard_normal(len(site))
    values = values + second[:, None] * (effect + between_sites * rng.standard_normal(sites)[site])
    return values + rng.standard_normal(values.shape), second, site
