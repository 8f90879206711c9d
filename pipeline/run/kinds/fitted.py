"""STRFs of a block of neurons, fitted to responses."""

import numpy as np
import torch

from pipeline.numbers.correlation import correlation
from pipeline.numbers.map_reach import reach
from pipeline.numbers.prediction import ceiling, fit_strf
from pipeline.run.checked_maps import health_of_check
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE
from pipeline.run.predictors import basis, model_responses, recorded_responses


@COMPUTE.register("fitted")
def compute(job: Job) -> Computed:
    """The fit to the model's own responses, or to recorded ones with their ceiling."""
    recorded = recorded_responses(job) if job.map.stimuli.recording else None
    own = model_responses(job)
    target = own if recorded is None else recorded.mean(axis=1)
    found = fit_strf(basis(job), target)
    arrays = {"": found.maps, "r": found.r, "lambda": found.penalty}
    if recorded is not None:
        arrays |= {"ceiling": ceiling(recorded), "model_r": correlation(own, target)}
    values = found.maps.astype(np.float32)
    accompanying = reach(values[None], job.cohort.frame_ms)
    return Computed(
        arrays={suffix: np.asarray(numbers, dtype=np.float32) for suffix, numbers in arrays.items()},
        companions={
            "health": health_of_check(torch.from_numpy(values)),
            **{name: numbers[0] for name, numbers in accompanying.items()},
        },
        route="ridge",
    )
