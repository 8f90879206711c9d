"""Integrated gradients of a block of neurons from a baseline to some sounds."""

import zlib
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from pipeline.gradients.attribution.integrated import Integrated, integrated_gradients
from pipeline.gradients.attribution.smoothed import smoothed_gradients
from pipeline.gradients.health.flags import TRUNCATED_SHARE
from pipeline.gradients.health.raising import raised
from pipeline.numbers.map_reach import reach
from pipeline.plan.kinds.integrated import IntegratedConfig
from pipeline.run.contract_checks import contract_flags
from pipeline.run.engine_maps import question_of
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE


@COMPUTE.register("integrated")
def compute(job: Job) -> Computed:
    """Contributions, their completeness and what lies before the window, sound by sound."""
    asked = job.map.settings
    assert isinstance(asked, IntegratedConfig)
    told = contract_flags(job)
    level = _level(job, asked)
    heard = zip(job.stimulus_names(), job.spectrograms(), strict=True)
    found = [_of_sound(job, asked, name, spectrogram, level) for name, spectrogram in heard]
    stacked = {
        entry.name: torch.stack([getattr(one, entry.name) for one in found]).cpu().numpy()
        for entry in fields(Integrated)
    }
    values = stacked["values"].astype(np.float32)
    measures = {name: stacked[name].astype(np.float32) for name in ("completeness", "outside", "difference")}
    accompanying = {
        "health": _health(asked, stacked, job.cohort.lags) | told,
        **reach(values, job.cohort.frame_ms),
        "frame": stacked["frames"].astype(np.int32),
    }
    return Computed(
        arrays={"": values, **measures, "nodes": stacked["nodes"].astype(np.int32)},
        companions={name: numbers.T for name, numbers in accompanying.items()},
        route="path",
    )


def _level(job: Job, asked: IntegratedConfig) -> float | np.ndarray:
    """The level at which the way to a sound begins: one for all entries, or one for each band."""
    if asked.baseline == "mean":
        return np.concatenate(job.all_spectrograms(), axis=1).mean(axis=1, keepdims=True)
    return asked.silence_level or 0.0


def _of_sound(job: Job, asked: IntegratedConfig, name: str, heard: np.ndarray, level: float | np.ndarray) -> Integrated:
    sound = torch.as_tensor(heard, dtype=job.dtype, device=job.device)
    baseline: float | Tensor = (
        level if isinstance(level, float) else torch.as_tensor(level).to(sound).expand_as(sound).contiguous()
    )
    question = question_of(job, asked)
    path = {"baseline": baseline} | {key: getattr(asked, key) for key in ("nodes", "completeness", "most_nodes")}
    if asked.noise is None:
        return integrated_gradients(job.model, sound, question, **path)
    # A sound's own seed, so that its noise does not depend on which other sounds a shard holds.
    seed = zlib.crc32(f"{asked.seed} {name}".encode())
    return smoothed_gradients(job.model, sound, question, samples=asked.samples, noise=asked.noise, seed=seed, **path)


def _health(asked: IntegratedConfig, found: dict[str, np.ndarray], lags: int) -> np.ndarray:
    """Flags (stimulus, neuron)."""
    where = {
        "all_zero_map": (found["values"] == 0).all(axis=(2, 3)),
        "truncated_window": found["beyond"] > TRUNCATED_SHARE,
        "window_before_stimulus": found["frames"] < lags - 1,
        "incomplete_path": ~(found["completeness"] <= asked.completeness),
    }
    flags = sum(raised(name, torch.from_numpy(holds)).numpy() for name, holds in where.items())
    return np.asarray(flags).astype(np.uint16)
