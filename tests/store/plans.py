"""Small runs as plain data, and numbers that tell where they belong."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.plan.config import CheckpointsConfig, RunConfig
from pipeline.plan.reports import ShardReport
from pipeline.plan.shards import Checkpoint, CheckpointSource, CohortPlan, MapPlan, RunPlan, Shard

HEALTH = {"all_zero": 1, "truncated": 2}


def checkpoint(name: str, *, fingerprint: str | None = None, error: str | None = None, **scalars: Any) -> Checkpoint:
    """A checkpoint of that id."""
    source = CheckpointSource(name, f"/checkpoints/{name}", CheckpointsConfig(path="checkpoints/*"), "here")
    return Checkpoint(source, fingerprint or f"print of {name}", scalars=scalars, error=error)


def strf(
    n_checkpoints: int, n_neurons: int, bands: int, lags: int, *, block: int | None = None, **settings: Any
) -> MapPlan:
    """A map around null."""
    shape = (n_checkpoints, n_neurons, bands, lags)
    block = block or n_neurons
    given = {
        "name": "strf",
        "kind": "strf",
        "objective": "last",
        "baseline": "null",
        "space": "spectrogram",
        "over_neurons": "each",
        "route": "auto",
        "dims": ("checkpoint", "neuron", "frequency", "lag"),
        "shape": shape,
        "chunks": (1, block, bands, lags),
    }
    return MapPlan(**{**given, **settings})


def waveform(n_checkpoints: int, stimuli: Sequence[str], n_neurons: int, samples: int, **settings: Any) -> MapPlan:
    """A map around sounds."""
    given = {
        "name": "waveform",
        "kind": "waveform",
        "objective": "peak",
        "baseline": "stimuli",
        "space": "waveform",
        "over_neurons": "each",
        "route": "auto",
        "dims": ("checkpoint", "stimulus", "neuron", "waveform_lag"),
        "shape": (n_checkpoints, len(stimuli), n_neurons, samples),
        "chunks": (1, 1, n_neurons, samples),
        "stimuli": tuple(stimuli),
        "window": samples,
        "sample_rate": 8000.0,
    }
    return MapPlan(**{**given, **settings})


def cohort(
    names: Sequence[str] = ("a", "b", "c"),
    *,
    n_neurons: int = 5,
    bands: int = 4,
    lags: int = 3,
    block: int | None = 2,
    stimuli: Sequence[str] = ("hiss", "word"),
    checkpoints: Sequence[Checkpoint] | None = None,
    maps: Sequence[MapPlan] | None = None,
    **given: Any,
) -> CohortPlan:
    """A cohort with a map around null and one around two sounds."""
    entries = tuple(checkpoints if checkpoints is not None else [checkpoint(name) for name in names])
    if maps is None:
        maps = [strf(len(entries), n_neurons, bands, lags, block=block)]
        if stimuli:
            maps.append(waveform(len(entries), stimuli, n_neurons, 6))
    return CohortPlan(
        name=given.pop("name", "speech"),
        frame_ms=10.0,
        lags=lags,
        neurons=tuple(f"n{i:03d}" for i in range(n_neurons)),
        frequencies_hz=tuple(100.0 * 2.0**i for i in range(bands)),
        checkpoints=entries,
        maps=tuple(replace(entry, shape=(len(entries), *entry.shape[1:])) for entry in maps),
        **given,
    )


def run_plan(store: str | Path, *cohorts: CohortPlan, text: str = "store = 'x'\n") -> RunPlan:
    """A run that writes these cohorts."""
    cohorts = cohorts or (cohort(),)
    config = RunConfig(
        store=str(store),
        cohort=tuple(
            {"name": c.name, "frame_ms": c.frame_ms, "lags": c.lags, "frequencies_hz": c.frequencies_hz,
             "checkpoints": [{"path": "checkpoints/*"}]}
            for c in cohorts
        ),
        maps={"strf": {"kind": "strf"}},
        text=text,
    )  # fmt: skip
    return RunPlan(str(store), tuple(cohorts), config)


def numbers(plan: RunPlan, shard: Shard) -> np.ndarray:
    """Numbers that depend on the checkpoint's id, the map and the position, and on nothing else."""
    entry = plan.cohort(shard.cohort).map_plan(shard.map)
    identity = plan.cohort(shard.cohort).checkpoints[shard.checkpoint].id
    seed = abs(sum(ord(letter) * 31**i for i, letter in enumerate(identity + shard.map))) % 2**32
    rows = np.random.default_rng(seed).standard_normal(entry.shape[1:], dtype=np.float32)
    region = shard.region(entry)
    return rows[tuple(region[dim] for dim in entry.dims[1:])]


def companions(plan: RunPlan, shard: Shard) -> dict[str, np.ndarray]:
    """Companions of a shard, of the right shapes."""
    entry = plan.cohort(shard.cohort).map_plan(shard.map)
    region = shard.region(entry)
    shape = tuple(region[dim].stop - region[dim].start for dim in entry.status_dims[1:])
    return {
        "health": np.full(shape, 2, np.uint16),
        "memory_90": np.full(shape, 40.0, np.float32),
        "memory_99": np.full(shape, 80.0, np.float32),
        "oldest_share": np.full(shape, 0.01, np.float32),
        "frame": np.full(shape, 7, np.int32),
    }


def probe(plan: RunPlan, shard: Shard) -> np.ndarray:
    """The probe of a shard's checkpoint."""
    return np.linspace(0.5, 1.0, len(plan.cohort(shard.cohort).neurons)) + shard.checkpoint


def done(plan: RunPlan, shard: Shard) -> ShardReport:
    """The report of a shard that was written."""
    return ShardReport(
        shard, route="factored", companions=companions(plan, shard), probe=probe(plan, shard).astype(np.float32)
    )
