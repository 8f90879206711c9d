"""A lab that is quick to compute and slow enough to be killed, and what its finished cube must hold."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.store.backend import keys_below, open_store, read_many
from pipeline.store.reader import open_cube
from pipeline.words import DONE
from tests.run.lab import BANDS, KERNEL, LabModel, entry, kernel_of, write_checkpoint, write_config

LAGS = 6

#: Objects of one map each, so that each checkpoint has a shard per neuron.
ONE_MAP = f"[storage]\nobject_mib = {BANDS * LAGS * 4 / 2**20}\n"


class Slow(LabModel):
    """A linear model that takes its time, without using the processor."""

    def __init__(self, pause_ms: float = 10.0, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pause_ms = pause_ms

    def forward(self, x):
        time.sleep(self.pause_ms / 1000.0)
        return super().forward(x)


class Cramped(LabModel):
    """A linear model on a device that has room for one row at a time."""

    def forward(self, x):
        if len(x) > 1:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {4 * x.numel()} bytes")
        return super().forward(x)


def write_lab(folder: Path, checkpoints: int = 4, *, pause_ms: float = 0.0, more: str = ONE_MAP, **config: Any) -> Path:
    """Checkpoints ``c00``, ``c01``, ... and the config over them."""
    for seed in range(checkpoints):
        write_checkpoint(folder / f"checkpoints/c{seed:02d}", seed)
    if pause_ms:
        for path in folder.glob("checkpoints/*/config.json"):
            path.write_text(path.read_text().replace("LabModel", "Slow"))
        slow = entry(model_class="tests.faults.lab.Slow", more=f"arguments = {{pause_ms = {pause_ms}}}")
        config.setdefault("entries", slow)
    return write_config(folder, more=more, lags=str(LAGS), **config)


def truth(folder: Path) -> np.ndarray:
    """The gradmaps of a checkpoint of the lab, in closed form."""
    kernel = kernel_of(folder)
    return np.pad(kernel, ((0, 0), (0, 0), (0, LAGS - KERNEL)))


def contents(store: str | Path) -> dict[str, Any]:
    """Every object of a store but the lease, by key: bytes, and JSON as values whose entries have no order."""
    opened = open_store(store)
    keys = sorted(key for key in keys_below(opened, "") if not key.startswith("_"))
    return {
        key: _unordered(data.decode()) if key.endswith(".json") else data
        for key, data in zip(keys, read_many(opened, keys), strict=True)
    }


def _unordered(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        return _unordered(json.loads(value))
    if isinstance(value, dict):
        return {key: _unordered(part) for key, part in value.items()}
    return value


def written(store: Path, name: str = "strf") -> dict[str, int]:
    """The objects of a map, with the time at which each was written."""
    folder = store / "lab" / name / "c"
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name.isdigit()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def assert_done_is_true(store: Path, checkpoints: Path) -> int:
    """Compare every done map with its closed form, and see that all others are hidden; the number of done ones."""
    cube = open_cube(store).load()
    for name in cube.checkpoint.values:
        done = cube.strf_status.sel(checkpoint=name).values == DONE
        maps = cube.strf.sel(checkpoint=name).values
        if done.any():
            np.testing.assert_allclose(maps[done], truth(checkpoints / str(name))[done], atol=1e-6)
        assert np.isnan(maps[~done]).all()
    return int((cube.strf_status == DONE).sum())
