"""A forward pass of a model that hears sound, taken apart at the spectrogram that its front-end makes."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.front_end.samples import Sound
from pipeline.gradients.passes.forward_pass import ForwardPass, frames_of, pass_through
from pipeline.gradients.passes.trace import traced
from pipeline.gradients.torch_state.memory import is_out_of_memory

#: Relative difference up to which a model answers to its spectrogram as to the sound.
SAME = 1e-5


def pass_after_front_end(
    whole: nn.Module, silent: nn.Module, sounds: Float[Tensor, "stimulus 1 sample"], memory: int, limits: set[str]
) -> ForwardPass | None:
    """The pass around the spectrogram that the front-end makes; None where the model does more with the sound.

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
        forward_pass = pass_through(silent, spectrogram, memory, limits)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return None
    size = float(response.detach().abs().amax())
    if forward_pass.response.shape != response.shape or not torch.allclose(
        forward_pass.response, response, rtol=SAME, atol=SAME * size
    ):
        return None
    return replace(forward_pass, source=Sound(front_end, leaf, spectrogram, memory, limits), whole=response)
