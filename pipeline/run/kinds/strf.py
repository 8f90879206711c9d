"""One shard of a map over the spectrogram."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from pipeline.gradients.gradmaps import gradmaps_around_spectrograms
from pipeline.gradients.passes.model_cache import kept_of
from pipeline.plan.kinds.strf import StrfMapConfig
from pipeline.run.engine_maps import gradients_of, question_of
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE


@COMPUTE.register("strf")
def compute(job: Job) -> Computed:
    """Gradients and health of the shard's neurons, around each of its stimuli."""
    asked = job.map.settings
    assert isinstance(asked, StrfMapConfig)
    level = asked.silence_level or 0.0
    question = question_of(job, asked, route=asked.route, space=asked.space, level=level, kept=kept_of(job.model))
    stimuli = around(job, asked)
    return gradients_of(job, question, stimuli, gradmaps_around_spectrograms, job.cohort.frame_ms, level=level)


def around(job: Job, asked: StrfMapConfig) -> Iterator[Tensor | None]:
    """What the gradient is taken around, stimuli of one length stacked; None for the null or silent spectrogram."""
    if asked.baseline in ("null", "silence"):
        yield None
    elif asked.baseline == "mean":
        everything = np.concatenate(job.spectrograms(), axis=1)
        # The mean of each band, held for the whole window.
        yield from job.stacks([np.repeat(everything.mean(axis=1, keepdims=True), job.cohort.lags, axis=1)])
    else:
        yield from job.stacks(job.spectrograms())
