"""Models of an imaginary lab, small checkpoints of them, and configs that name them."""

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.inputs.checkpoints import describe_checkpoints
from pipeline.plan.config import CheckpointsConfig, RunConfig
from pipeline.plan.run_plan import Checkpoint, CheckpointSource

#: Names of the classes and functions below, as a config gives them.
HERE = __name__


class Cells(nn.Module):
    """A linear model with the attributes of the contract, and a slot for a module."""

    def __init__(self, n_bands: int = 4, n_cells: int = 3, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.F, self.O, self.C_in, self.T = n_bands, n_cells, 1, 1
        self.wav2spec = nn.Identity()
        self.readout = nn.Linear(n_bands, n_cells)
        self.activation = activation if activation is not None else nn.Identity()

    def forward(self, x):
        y = self.activation(self.readout(self.wav2spec(x)[:, 0].transpose(1, 2)))
        return y.transpose(1, 2).unsqueeze(2)


class cells_again:  # noqa: N801
    """The same class under a second name."""

    Cells = Cells


class TiedCells(Cells):
    """Cells whose readout has a second name."""

    def __init__(self, n_bands: int = 4, n_cells: int = 3) -> None:
        super().__init__(n_bands, n_cells)
        self.decoder = self.readout


class Scaled(nn.Module):
    """An activation with a gain per cell, which it takes as a tensor alone."""

    def __init__(self, gains: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("gains", gains.clone(), persistent=False)

    def forward(self, x):
        return self.gains * x


class Framing(nn.Module):
    """A front-end that cuts a waveform into frames."""

    def __init__(self, audio_fs: int = 8000, hop: int = 4) -> None:
        super().__init__()
        self.audio_fs, self.hop, self.out_channels = audio_fs, hop, hop

    def forward(self, waveform):
        return waveform.unflatten(-1, (-1, self.hop)).transpose(-1, -2)


class DeafFraming(nn.Module):
    """A front-end that does not say what it expects."""

    def forward(self, waveform):
        return waveform


class HearingCells(Cells):
    """Cells behind a front-end."""

    def __init__(self, wav2spec: nn.Module, n_cells: int = 3) -> None:
        super().__init__(getattr(wav2spec, "hop", 4), n_cells)
        self.wav2spec = wav2spec


class Wrapper(nn.Module):
    """A module around a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


class Nameless(nn.Module):
    """A model without the attributes of the contract."""

    def __init__(self) -> None:
        super().__init__()
        self.readout = nn.Linear(4, 3)


def build(path: str) -> nn.Module:
    """Cells with the weights of a path that may be a folder."""
    file = Path(path, "best.pt") if Path(path).is_dir() else Path(path)
    model = Cells()
    model.load_state_dict(torch.load(file, weights_only=True))
    return model


def build_without_weights(path: str) -> nn.Module:
    """Cells as they are initialised."""
    return Cells()


def build_wrapped(path: str) -> nn.Module:
    """Cells out of a training snapshot."""
    model = Cells()
    model.load_state_dict(torch.load(path, weights_only=True)["model"])
    return model


@cache
def _only_one() -> nn.Module:
    return Cells()


def build_into_one(path: str) -> nn.Module:
    """The one module of this process, with the weights of this checkpoint."""
    _only_one().load_state_dict(torch.load(Path(path) / "best.pt", weights_only=True))
    return _only_one()


def build_number(path: str) -> int:
    """No module at all."""
    return 3


def build_badly(path: str) -> nn.Module:
    """An error."""
    raise RuntimeError("the lab's disk is not mounted")


def build_and_leave(path: str) -> nn.Module:
    """The end of the process, as a script that was never meant to be imported."""
    sys.exit(0)


def build_and_interrupt(path: str) -> nn.Module:
    """What Ctrl-C raises, and nobody pressed it."""
    raise KeyboardInterrupt


def build_seeded(path: str) -> nn.Module:
    """Cells of a seed of their own, whatever the file holds."""
    return cells(seed=77)


def build_seeded_without_bias(path: str) -> nn.Module:
    """The same with fresh biases, which are zero in many a trained file as well."""
    model = cells(seed=77)
    nn.init.zeros_(model.readout.bias)
    return model


def build_unseeded(path: str) -> nn.Module:
    """Cells, their readout from the file, with an activation that no file holds."""
    model = Cells(activation=nn.PReLU(3))
    nn.init.normal_(model.activation.weight)
    model.load_state_dict(_held(path), strict=False)
    return model


def build_leniently(path: str) -> nn.Module:
    """Cells that take whatever fits by name and keep their own numbers elsewhere."""
    model = cells(seed=77)
    model.load_state_dict(_held(path), strict=False)
    return model


def build_filtered(path: str) -> nn.Module:
    """Cells that take whatever fits by name and shape."""
    model = cells(seed=77)
    own = model.state_dict()
    model.load_state_dict({**own, **{k: v for k, v in _held(path).items() if k in own and v.shape == own[k].shape}})
    return model


def build_transposed(path: str) -> nn.Module:
    """Cells out of a file of another framework, which keeps its matrices the other way round."""
    held = _held(path)
    model = Cells()
    model.load_state_dict({"readout.weight": held["kernel"].T, "readout.bias": held["bias"]})
    return model


def build_halved(path: str, gain: float = 0.5) -> nn.Module:
    """Cells whose readout is turned down on purpose."""
    model = Cells()
    model.load_state_dict(_held(path))
    with torch.no_grad():
        model.readout.weight *= gain
    return model


def build_sized(path: str) -> nn.Module:
    """Cells, as many as the file has."""
    held = _held(path)
    model = Cells(n_cells=len(held["readout.bias"]))
    model.load_state_dict(held)
    return model


def build_lightning(path: str, n_cells: int = 3) -> nn.Module:
    """Cells out of a training framework's file, which only its own code may open whole."""
    file = Path(path) if Path(path).is_file() else Path(path, "last.ckpt")
    state = torch.load(file, weights_only=False)["state_dict"]
    model = Cells(n_cells=n_cells)
    model.load_state_dict({name.removeprefix("net."): value for name, value in state.items()})
    return model


def _held(path: str) -> dict[str, torch.Tensor]:
    file = Path(path, "best.pt") if Path(path).is_dir() else Path(path)
    return torch.load(file, weights_only=True)


def cells(seed: int = 0, **arguments: Any) -> Cells:
    """Cells with weights from a seed."""
    return seeded(lambda: Cells(**arguments), seed)


def seeded(make: Any, seed: int = 0) -> Any:
    """What a function makes with random numbers of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def save_folder(folder: Path, model: nn.Module, config: dict[str, Any] | None, metadata: Any = None) -> Path:
    """A checkpoint folder as `save_pretrained` lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    if metadata is not None:
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def save_best(folder: Path, model: nn.Module) -> Path:
    """A checkpoint as `fit_multi_seed` writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "best.pt")
    return folder


def save_deepstrf(folder: Path, class_name: str, metadata: Any = None, seed: int = 0, **arguments: Any) -> nn.Module:
    """One of deepSTRF's models, saved by itself."""
    from pipeline.inputs.torchaudio_standin import ensure_torchaudio

    ensure_torchaudio()
    import deepSTRF.models.audio as zoo

    model = seeded(lambda: getattr(zoo, class_name)(**arguments), seed).eval()
    model.save_pretrained(folder, metadata=metadata)
    return model


def source(location: Path | str, where: str = "checkpoints[0]", **entry: Any) -> CheckpointSource:
    """A checkpoint as `discover` would hand it on."""
    settings = CheckpointsConfig.model_validate({"path": str(location), **entry})
    return CheckpointSource(Path(str(location)).name, str(location), settings, where)


def run_config(folder: Path, *entries: dict[str, Any]) -> RunConfig:
    """A run over these entries of checkpoints."""
    return RunConfig.model_validate(
        {
            "store": "cube.zarr",
            "cohort": [
                {
                    "name": "cells",
                    "frame_ms": 10.0,
                    "lags": 3,
                    "frequencies_hz": [100.0, 200.0, 300.0, 400.0],
                    "checkpoints": list(entries),
                }
            ],
            "maps": {"strf": {"kind": "strf"}},
            "folder": str(folder),
        }
    )


def refused(checkpoint: Checkpoint) -> str:
    """The message of a checkpoint that fails alone: in three parts, and about itself."""
    assert checkpoint.error is not None, "the checkpoint was taken"
    assert not checkpoint.usable
    return checkpoint.error


def describe_checkpoint(found: CheckpointSource) -> Checkpoint:
    """What the cube needs to know of one checkpoint alone."""
    (described,) = describe_checkpoints([found])
    return described
