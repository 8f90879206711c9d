"""Models that hear sound, posed as a model of a spectrogram and a front-end that made it."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.routes.memory import is_out_of_memory
from pipeline.gradients.routes.problem import Problem, frames_of, pose
from pipeline.gradients.routes.trace import traced
from pipeline.gradients.routes.waveform import Sound

SAME = 1e-5


def pose_after_front_end(
    whole: nn.Module,
    silent: nn.Module,
    sounds: Float[Tensor, "stimulus 1 sample"],
    memory: int,
    limits: set[str],
) -> Problem | None:
    """The problem around the spectrogram that the front-end makes; None where the model does more with the sound.

    ``silent`` is the model without its front-end, which must answer to the spectrogram as the ``whole`` model does to
    the sound.
    """
    leaf = sounds.detach().clone().requires_grad_(True)
    answer, trace = traced(whole, leaf)
    response = frames_of(answer, leaf.shape[0], whole)
    calls = [call for call in trace.calls if call.name == "wav2spec"]
    n_samples, n_frames = leaf.shape[-1], response.shape[-1]
    if len(calls) != 1 or n_samples % n_frames:
        return None
    spectrogram, front_end = calls[0].gave, calls[0].module
    if spectrogram.dim() != 4 or spectrogram.shape[-1] != n_frames or not spectrogram.requires_grad:
        return None
    try:
        problem = pose(silent, spectrogram, memory, limits)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return None
    size = float(response.detach().abs().amax())
    if problem.response.shape != response.shape or not torch.allclose(
        problem.response, response, rtol=SAME, atol=SAME * size
    ):
        return None
    return replace(problem, source=Sound(front_end, leaf, spectrogram, memory, limits), whole=response)
