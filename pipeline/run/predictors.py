"""What predictions are made of: the windows of sounds, their decomposition, and responses to them."""

from functools import lru_cache

import numpy as np
import torch

from pipeline.gradients.attribution.listening import listening
from pipeline.numbers.prediction import HeardFrames, RidgeBasis, ridge_basis, windows_of
from pipeline.plan.map_config import Stimuli
from pipeline.run.contract_checks import contract_flags
from pipeline.run.job import Job, read_stimuli


def windows(job: Job) -> HeardFrames:
    """The sounds of a map, cut for its window."""
    return _windows(job.map.stimuli, job.cohort.lags)


def basis(job: Job) -> RidgeBasis:
    """Their decomposition, made once for all checkpoints that a worker computes."""
    return _basis(job.map.stimuli, job.cohort.lags)


def model_responses(job: Job) -> np.ndarray:
    """Responses (neuron, row) of the model at the rows of the windows; a front-end is left out."""
    contract_flags(job)
    found = []
    with listening(job.model, job.dtype) as listener, torch.no_grad():
        for spectrogram in job.all_spectrograms():
            heard = listener.placed(torch.as_tensor(spectrogram))
            found.append(listener.response(heard[None])[0, list(job.neurons)].double().cpu().numpy())
    return windows(job).of(found)


def recorded_responses(job: Job) -> np.ndarray:
    """Recorded responses (neuron, repeat, row) at the rows of the windows, as many repeats as every sound has."""
    found = job.recordings()
    repeats = min(one.shape[1] for one in found)
    rows = [windows(job).of([one[:, repeat] for one in found]) for repeat in range(repeats)]
    return np.stack(rows, axis=1)


def responses(job: Job) -> np.ndarray:
    """What is to be predicted (neuron, row): the model's own responses, or the mean of the recorded repeats."""
    return recorded_responses(job).mean(axis=1) if job.map.stimuli.recording else model_responses(job)


@lru_cache(maxsize=2)
def _windows(stimuli: Stimuli, lags: int) -> HeardFrames:
    read = read_stimuli(stimuli)
    return windows_of([read[name] for name in stimuli.names], lags)


@lru_cache(maxsize=2)
def _basis(stimuli: Stimuli, lags: int) -> RidgeBasis:
    return ridge_basis(_windows(stimuli, lags))
