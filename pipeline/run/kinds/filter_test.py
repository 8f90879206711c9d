"""How well the maps of a block of neurons predict responses as linear filters."""

import numpy as np

from pipeline.numbers.prediction import filter_r
from pipeline.run.checked_maps import health_of_check, judged
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE
from pipeline.run.predictors import responses, windows


@COMPUTE.register("filter_test")
def compute(job: Job) -> Computed:
    """Correlation of each neuron's response with what its map makes of the sounds."""
    maps = judged(job).maps(job.model)
    r = filter_r(maps.cpu().numpy(), windows(job), responses(job))
    return Computed({"r": r.astype(np.float32)}, {"health": health_of_check(maps)})
