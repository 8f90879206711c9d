"""Whether the backward pass of a model is the slope of its response, for numbers that are made of many such passes."""

import numpy as np
import torch

from pipeline.gradients.gradmaps import gradmaps_around_sounds, gradmaps_around_spectrograms
from pipeline.gradients.health.assessment import slope_flags
from pipeline.gradients.objectives import Objective
from pipeline.gradients.question import Question
from pipeline.run.job import Job


def backward_flags(job: Job, heard: np.ndarray | torch.Tensor, objective: Objective = "last") -> np.ndarray:
    """Health flags (neuron,) by central differences around one stimulus: every way to the numbers trusts that pass.

    ``heard``: A spectrogram (frequency, time), or a waveform (sample,) where the model hears those. Nothing is checked
    where the config asks for no finite differences.
    """
    flags = np.zeros(len(job.neurons), dtype=np.uint16)
    sample = job.engine.finite_difference_neurons
    stimulus = torch.as_tensor(heard, dtype=job.dtype, device=job.device)[None]
    around = gradmaps_around_sounds if stimulus.ndim == 2 else gradmaps_around_spectrograms
    for model, neurons in job.members() if sample else ():
        question = Question(
            neurons=list(neurons), objective=objective, dtype=job.dtype, memory_bytes=job.memory_bytes, check=False
        )
        told = slope_flags(model, around(model, stimulus, question), stimulus, question, sample=sample)
        flags |= told[0].cpu().numpy().astype(np.uint16)
    return flags
