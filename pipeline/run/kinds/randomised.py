"""How alike the maps of a block of neurons stay when the weights of the model are shuffled."""

import numpy as np

from pipeline.gradients.attribution.perturbed import randomised_maps
from pipeline.plan.kinds.randomised import PARTS, RandomisedConfig
from pipeline.run.checked_maps import health_of_check, judged
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE


@COMPUTE.register("randomised")
def compute(job: Job) -> Computed:
    """Correlations (neuron, part); NaN for a part that the model lacks."""
    asked = job.map.settings
    assert isinstance(asked, RandomisedConfig)
    known = judged(job)
    found = randomised_maps(job.model, known.maps, seed=asked.seed)
    steps = found.correlation.cpu().numpy()
    r = np.full((steps.shape[1], len(PARTS)), np.nan, dtype=np.float32)
    for name, row in zip(found.parts, steps, strict=True):
        if name != "wav2spec":  # maps over the spectrogram do not go through it
            r[:, PARTS.index(name if name in PARTS else "rest")] = row  # of several others the last: all are shuffled
    return Computed({"r": r}, {"health": health_of_check(known.maps(job.model))})
