"""A small cube with the names and attributes of a real one, planted receptive fields, failures and health flags."""

import json

import numpy as np
import xarray as xr

FLAGS = ("all_zero_map", "truncated_window", "clamped_or_silent_stimulus", "near_eps_normalisation", "routes_disagree")


def gabor(frequency: np.ndarray, lag: np.ndarray, best: float, latency: float, polarity: float = 1.0) -> np.ndarray:
    """Log-frequency Gabor (frequency, lag) with its peak at ``best`` Hz and ``latency`` ms."""
    octaves = np.log2(frequency / best)[:, None]
    late = (lag - latency)[None, :]
    envelope = np.exp(-0.5 * (octaves / 0.4) ** 2 - 0.5 * (late / 25.0) ** 2)
    return polarity * envelope * np.cos(2 * np.pi * (late / 120.0 + 0.6 * octaves))


def planted_cube(
    *,
    architectures: tuple[str, ...] = ("linear", "gru"),
    seeds: int = 3,
    n_neurons: int = 6,
    n_bands: int = 24,
    n_lags: int = 20,
    waveform: bool = True,
    seed: int = 0,
) -> xr.Dataset:
    """Return a cube in which the last checkpoint failed at load, the one before has pending and untrusted maps."""
    random = np.random.default_rng(seed)
    checkpoints = [f"{name}-seed{k}" for name in architectures for k in range(seeds)]
    frequency = np.geomspace(100.0, 8000.0, n_bands).round(1)
    lag = np.arange(n_lags) * 10.0
    best = np.geomspace(300.0, 5000.0, n_neurons)
    strf = np.empty((len(checkpoints), n_neurons, n_bands, n_lags), dtype=np.float32)
    for neuron in range(n_neurons):
        field = gabor(frequency, lag, best[neuron], 20.0 + 10.0 * (neuron % 5), 1.0 if neuron % 3 else -1.0)
        noise = random.normal(0, 0.05, (len(checkpoints), n_bands, n_lags))
        strf[:, neuron] = (field + noise) * random.uniform(0.5, 2.0, (len(checkpoints), 1, 1))
    status = np.ones((len(checkpoints), n_neurons), dtype=np.uint8)
    health = np.zeros((len(checkpoints), n_neurons), dtype=np.uint16)
    status[-1] = 2
    if len(checkpoints) > 1:
        status[-2, n_neurons // 2 :] = 0
        health[-2, 0] = 0b10
        health[0, 1 % n_neurons] = 0b10001
    strf[status != 1] = np.nan

    cube = xr.Dataset(
        {
            "strf": (
                ("checkpoint", "neuron", "frequency", "lag"),
                strf,
                _map_attributes("strf", "spectrogram", "null"),
            ),
            "strf_status": (("checkpoint", "neuron"), status, _status_attributes()),
            "strf_health": (("checkpoint", "neuron"), health, _health_attributes()),
            "strf_memory_90": (
                ("checkpoint", "neuron"),
                np.full(status.shape, 80.0, np.float32),
                {"role": "companion", "units": "ms"},
            ),
            "strf_oldest_share": (
                ("checkpoint", "neuron"),
                np.full(status.shape, 0.01, np.float32),
                {"role": "companion"},
            ),
            "cc_test": (("checkpoint", "neuron"), random.uniform(0.3, 0.9, status.shape), {"role": "metadata"}),
        },
        coords={
            "checkpoint": ("checkpoint", np.array(checkpoints, dtype=object)),
            "neuron": ("neuron", np.array([f"n{k:03d}" for k in range(n_neurons)], dtype=object)),
            "frequency": ("frequency", frequency, {"units": "Hz", "long_name": "centre frequency of the band"}),
            "lag": ("lag", lag, {"units": "ms", "long_name": "time before the frame of the objective"}),
            "architecture": ("checkpoint", np.repeat(np.array(architectures, dtype=object), seeds)),
            "seed": ("checkpoint", np.tile(np.arange(seeds), len(architectures))),
            "area": ("neuron", np.array(["core" if k % 2 else "belt" for k in range(n_neurons)], dtype=object)),
            "site": ("neuron", np.array([f"site{k // 3}" for k in range(n_neurons)], dtype=object)),
            "depth_um": ("neuron", 100.0 + 50.0 * np.arange(n_neurons), {"units": "um", "long_name": "depth"}),
        },
        attrs={
            "failures": failed(checkpoints[-1], "load", "model.safetensors is truncated; copy the file again"),
            "routes": json.dumps({"strf": dict.fromkeys(checkpoints[:-1], "factored")}),
            "maps": json.dumps({"strf": {"kind": "strf"}, "waveform": {"kind": "waveform"}}),
            "frame_ms": 10.0,
            "fingerprints": json.dumps({checkpoint: f"{k:064x}" for k, checkpoint in enumerate(checkpoints)}),
            "config": 'store = "gradmaps.zarr"\n\n[[cohort]]\nname = "planted"\n',
            "versions": json.dumps({"gradmap-pipeline": "0.1.0", "torch": "2.13.0"}),
            "sign": "positive = more energy there raises the response",
        },
    )
    return _with_waveform(cube, random) if waveform else cube


def failed(checkpoint: str, cause: str, message: str, maps: tuple[str, ...] = ("strf", "waveform")) -> str:
    """Return the attribute ``failures`` with one checkpoint in it."""
    entry = {"checkpoint": checkpoint, "cause": cause, "shards": 1, "message": message}
    return json.dumps({"entries": [entry | {"map": name} for name in maps], "counts": {cause: len(maps)}})


def _with_waveform(cube: xr.Dataset, random: np.random.Generator) -> xr.Dataset:
    rate, window_ms, stimuli = 8000.0, 50.0, ["bark", "rain"]
    lag = np.arange(round(rate * window_ms / 1000)) * 1000.0 / rate
    shape = (cube.sizes["checkpoint"], len(stimuli), cube.sizes["neuron"], lag.size)
    tone = np.geomspace(400.0, 2000.0, cube.sizes["neuron"])[:, None]
    pip = np.exp(-0.5 * ((lag - 15.0) / 4.0) ** 2) * np.sin(2 * np.pi * tone * lag / 1000.0)
    maps = (pip + random.normal(0, 0.02, shape)).astype(np.float32)
    status = np.ones(shape[:3], dtype=np.uint8)
    status[-1] = 2
    maps[status != 1] = np.nan
    dims = ("checkpoint", "stimulus", "neuron")
    return cube.assign(
        waveform=((*dims, "waveform_lag"), maps, _map_attributes("waveform", "waveform", "stimuli")),
        waveform_status=(dims, status, _status_attributes()),
        waveform_health=(dims, np.zeros(shape[:3], dtype=np.uint16), _health_attributes()),
    ).assign_coords(
        stimulus=("stimulus", np.array(stimuli, dtype=object)),
        waveform_lag=("waveform_lag", lag, {"units": "ms", "long_name": "time before the last sample"}),
    )


def _map_attributes(kind: str, over: str, baseline: str) -> dict[str, object]:
    return {
        "role": "map",
        "kind": kind,
        "objective": "last",
        "baseline": baseline,
        "space": "spectrogram",
        "neurons": "each",
        "long_name": f"gradient of the last response with respect to the {over}",
        "units": f"response per unit of the {over}",
    }


def _status_attributes() -> dict[str, object]:
    return {"role": "status", "flag_values": [0, 1, 2], "flag_meanings": "pending done failed"}


def _health_attributes() -> dict[str, object]:
    return {
        "long_name": "reasons not to trust the map",
        "role": "companion",
        "flag_masks": [1 << k for k in range(len(FLAGS))],
        "flag_meanings": " ".join(FLAGS),
    }
