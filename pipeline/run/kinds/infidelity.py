"""How much of what small changes of the sound do is not told by the maps of a block of neurons."""

import numpy as np
import torch
from torch import Tensor

from pipeline.gradients.attribution.perturbed import infidelity
from pipeline.gradients.gradmaps import Gradmaps
from pipeline.gradients.question import Question
from pipeline.plan.kinds.infidelity import InfidelityConfig
from pipeline.run.checked_maps import Judged, health_of_check, judged
from pipeline.run.job import Computed, Job
from pipeline.run.kinds import COMPUTE


@COMPUTE.register("infidelity")
def compute(job: Job) -> Computed:
    """The share for each neuron; around several sounds, the mean over them."""
    asked = job.map.settings
    assert isinstance(asked, InfidelityConfig)
    known = judged(job)
    shares, all_maps = [], []
    for stimuli, maps in known.around_each(job.model):
        heard = _heard(job, known, stimuli)
        for number, sound in enumerate(heard):
            shares.append(_of_sound(job, known, asked, maps, number, sound))
        all_maps.append(maps.values)
    share = np.mean(shares, axis=0).astype(np.float32)
    return Computed({"": share}, {"health": health_of_check(torch.cat(all_maps).mean(dim=0))})


def _heard(job: Job, known: Judged, stimuli: Tensor | None) -> Tensor:
    """The stimuli that maps were taken around (stimulus, frequency, time)."""
    if stimuli is not None:
        return stimuli
    shape = (1, len(job.cohort.frequencies_hz), job.cohort.lags)
    return torch.full(shape, known.level, dtype=job.dtype, device=job.device)


def _of_sound(
    job: Job, known: Judged, asked: InfidelityConfig, maps: Gradmaps, number: int, sound: Tensor
) -> np.ndarray:
    """The share for each neuron around one sound, which ends at the frame of lag 0."""
    objective = known.settings.engine_objective()
    spans = objective in ("sum", "mean") or (isinstance(objective, dict) and "mean_over" in objective)
    frames = maps.frames[number]
    found = np.full(len(job.neurons), np.nan)
    for frame in frames.unique().tolist():
        rows = torch.nonzero(frames == frame)[:, 0].tolist()
        neurons = [job.neurons[row] for row in rows]
        question = Question(neurons=neurons, objective=objective if spans else "last", dtype=job.dtype)
        share = infidelity(
            job.model,
            maps.values[number, rows],
            sound[:, : frame + 1],
            question,
            scale=asked.scale,
            samples=asked.samples,
            seed=asked.seed,
        )
        found[rows] = share.cpu().numpy()
    return found
