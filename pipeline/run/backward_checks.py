"""Whether the backward pass of a model is the slope of its response, for numbers that are made of many such passes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pipeline.gradients.gradmaps import gradmaps_around_sounds, gradmaps_around_spectrograms
from pipeline.gradients.health.assessment import slope_flags
from pipeline.gradients.objectives import Objective
from pipeline.gradients.question import Question
from pipeline.run.job import Job


def backward_flags(job: Job, places: Sequence[np.ndarray | torch.Tensor], objective: Objective = "last") -> np.ndarray:
    """Health flags (neuron,) by central differences around stimuli: every way to the numbers trusts the backward pass.

    A neuron may stand at a kink or be saturated at one place, so only one that is off at all of them is flagged.

    ``places``: Spectrograms (frequency, time), or waveforms (sample,) where the model hears those. Nothing is checked
    where the config asks for no finite differences.
    """
    flags = np.zeros(len(job.neurons), dtype=np.uint16)
    for model, neurons in job.members() if job.engine.finite_difference_neurons else ():
        flags |= np.bitwise_and.reduce([_off(job, model, neurons, place, objective) for place in places])
    return flags


def _off(
    job: Job, model: nn.Module, neurons: Sequence[int], heard: np.ndarray | torch.Tensor, objective: Objective
) -> np.ndarray:
    stimulus = torch.as_tensor(heard, dtype=job.dtype, device=job.device)[None]
    question = Question(
        neurons=list(neurons), objective=objective, dtype=job.dtype, memory_bytes=job.memory_bytes, check=False
    )
    around = gradmaps_around_sounds if stimulus.ndim == 2 else gradmaps_around_spectrograms
    maps = around(model, stimulus, question)
    told = slope_flags(model, maps, stimulus, question, sample=job.engine.finite_difference_neurons)
    return told[0].cpu().numpy().astype(np.uint16)
