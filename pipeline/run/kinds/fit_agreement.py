"""How alike the maps of a block of neurons and their fitted STRFs are in what they make of sounds."""

import numpy as np

from pipeline.numbers.prediction import fit_strf, stimulus_weighted_r
from pipeline.run.checked_maps import health_of_check, judged
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE
from pipeline.run.predictors import basis, responses, windows


@COMPUTE.register("fit_agreement")
def compute(job: Job) -> Computed:
    """Correlation of what each neuron's map and its fitted STRF make of the sounds."""
    maps = judged(job).maps(job.model)
    fitted = fit_strf(basis(job), responses(job)).maps
    r = stimulus_weighted_r(maps.cpu().numpy(), fitted, windows(job))
    return Computed({"r": r.astype(np.float32)}, {"health": health_of_check(maps)})
