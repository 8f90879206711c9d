"""One shard of a map over the spectrogram."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.gradients.gradmaps import compute_strf_gradmaps
from pipeline.gradients.health import assess
from pipeline.plan.kinds.strf import StrfMapConfig
from pipeline.run.contract import contract_of
from pipeline.run.gradients import batch_of, engine_neurons, joined
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE


@COMPUTE.register("strf")
def compute(job: Job) -> Computed:
    """Gradients and health of the shard's neurons, around each of its stimuli."""
    asked = job.map.settings
    assert isinstance(asked, StrfMapConfig)
    lags, sample = job.cohort.lags, job.engine.finite_difference_neurons
    about: dict[str, Any] = {
        "neurons": engine_neurons(job),
        "objective": asked.engine_objective(),
        "level": asked.silence_level or 0.0,
        "space": asked.space,
    }
    model, batches = job.model, []
    for stimuli in _around(job, asked):
        kept = contract_of(model, job, stimuli, level=about["level"])
        maps = compute_strf_gradmaps(
            model, stimuli, lags, route=asked.route, dtype=job.dtype, memory_bytes=job.memory_bytes, **about
        )
        health = assess(model, maps, stimuli, lags, sample=sample, finite_difference=sample > 0, contract=kept, **about)
        batches.append(batch_of(maps, health, job.cohort.frame_ms))
    return joined(job, batches)


def _around(job: Job, asked: StrfMapConfig) -> Iterator[Tensor | None]:
    """What the gradient is taken around, stimuli of one length stacked; None for the null or silent spectrogram."""
    if asked.baseline in ("null", "silence"):
        yield None
    elif asked.baseline == "mean":
        everything = np.concatenate(job.spectrograms(), axis=1)
        # The mean of each band, held for the whole window.
        yield from job.stacks([np.repeat(everything.mean(axis=1, keepdims=True), job.cohort.lags, axis=1)])
    else:
        yield from job.stacks(job.spectrograms())
