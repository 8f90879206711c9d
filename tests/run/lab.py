"""A small lab: models whose gradmaps are known in closed form, their checkpoints, and a config over them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from pipeline.gradients.encoding_model import AudioEncodingModel

BANDS, NEURONS, KERNEL, HOP, RATE = 4, 3, 5, 8, 800
FRAME_MS = 10.0


class CausalKernel(nn.Module):
    """Response of each neuron: its kernel over the last frames, plus a bias."""

    def __init__(self, n_bands: int, n_neurons: int, n_frames: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_neurons, 1, n_bands, n_frames))
        self.bias = nn.Parameter(torch.randn(n_neurons))

    def forward(self, x):
        return functional.conv2d(functional.pad(x, (self.weight.shape[-1] - 1, 0)), self.weight, self.bias)


class Framing(nn.Module):
    """A front-end whose bands are the samples of each frame, the newest first."""

    def __init__(self, audio_fs: int = RATE, hop: int = HOP, n_bands: int = BANDS) -> None:
        super().__init__()
        self.audio_fs, self.hop, self.out_channels = audio_fs, hop, n_bands

    def forward(self, waveform):
        frames = waveform.unflatten(-1, (-1, self.hop)).flip(-1)
        return frames[..., : self.out_channels].transpose(-1, -2)


class LabModel(AudioEncodingModel):
    """A linear model, deaf to waveforms unless told to hear them."""

    def __init__(self, n_bands: int = BANDS, n_neurons: int = NEURONS, hears: bool = False, hop: int = HOP) -> None:
        super().__init__(n_bands, KERNEL, n_neurons, wav2spec=Framing(hop=hop, n_bands=n_bands) if hears else None)
        self.readout = CausalKernel(n_bands, n_neurons, KERNEL)


def crashing_gradient(path: str) -> AudioEncodingModel:
    """A model that fails when it is called, not when it is loaded."""

    class Failing(LabModel):
        def forward(self, x):
            raise RuntimeError("this model always fails")

    return Failing()


def kernel_of(folder: Path) -> np.ndarray:
    """The planted kernel of a checkpoint as its gradmap: (neuron, frequency, lag), lag 0 first."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")["readout.weight"][:, 0, :, ::-1]


def kernels_of(folder: Path) -> np.ndarray:
    """The planted kernels of the checkpoints of `write_pair`: (checkpoint, neuron, frequency, lag)."""
    return np.stack([kernel_of(folder / f"checkpoints/lab-{seed}") for seed in range(2)])


def write_pair(folder: Path, frames: int) -> Path:
    """Two checkpoints, and the spectrograms ``sounds.npz`` of so many frames."""
    for seed in range(2):
        write_checkpoint(folder / f"checkpoints/lab-{seed}", seed)
    write_spectrograms(folder / "sounds.npz", frames=frames)
    return folder


def write_checkpoint(folder: Path, seed: int, metadata: dict[str, Any] | None = None, **arguments: Any) -> Path:
    """A checkpoint folder of a `LabModel` with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LabModel(**arguments)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"_model_class": "LabModel", "n_bands": BANDS, "n_neurons": NEURONS, "hears": False, "hop": HOP}
    (folder / "config.json").write_text(json.dumps({**config, **arguments}))
    neurons = [f"n{index}" for index in range(model.O)]
    standard = {"architecture": "lab", "seed": seed, "neurons": neurons, "cc_test": [0.5] * model.O}
    (folder / "metadata.json").write_text(json.dumps(standard | (metadata or {})))
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


def write_sound(path: Path, samples: int = 20 * HOP, rate: int = RATE, seed: int = 0) -> Path:
    """A noise of full scale 0.5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, samples)
    soundfile.write(path, noise.astype("float32"), rate, subtype="FLOAT")
    return path


def write_spectrograms(path: Path, frames: int = 12, bands: int = BANDS) -> Path:
    """Two noisy spectrograms."""
    generator = np.random.default_rng(1)
    np.savez(path, **{name: generator.normal(size=(bands, frames)).astype("float32") for name in ("one", "two")})
    return path


def write_config(
    folder: Path,
    *,
    entries: str | None = None,
    maps: str = '[maps.strf]\nkind = "strf"\n',
    lags: str = "6",
    frequencies: str = "[100.0, 200.0, 400.0, 800.0]",
    more: str = "",
    name: str = "run.toml",
) -> Path:
    """A config with one cohort over ``folder/checkpoints/*``."""
    entries = entries or entry()
    path = folder / name
    path.write_text(
        f'store = "cube.zarr"\n{more}\n[[cohort]]\nname = "lab"\nframe_ms = {FRAME_MS}\nlags = {lags}\n'
        f"frequencies_hz = {frequencies}\n\n{entries}\n{maps}"
    )
    return path


def entry(path: str = "checkpoints/*", model_class: str = "tests.run.lab.LabModel", more: str = "") -> str:
    """One ``[[cohort.checkpoints]]``."""
    return f'[[cohort.checkpoints]]\npath = "{path}"\nclass = "{model_class}"\n{more}\n'
