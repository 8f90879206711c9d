"""What a model hears ahead of the frame that its map ends with."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.gradmaps import gradmaps_around_sounds, gradmaps_around_spectrograms
from pipeline.gradients.health.energy import energy_of
from pipeline.gradients.health.setting import EngineMaps
from pipeline.gradients.question import Question


def future_shares(
    model: nn.Module, gradmaps: EngineMaps, stimuli: Tensor | None, question: Question
) -> Float[Tensor, "stimulus neuron"]:
    """Share of each map's energy that lies after its lag 0, in a window over the whole stimulus; NaN where it is zero.

    Around a spectrogram of one level that the objective "last" looks at, the level goes on for as long again after
    that frame: what a model hears ahead of a frame would otherwise be cut off by the end.
    """
    objective = question.objective
    frames = gradmaps.frames.to("cpu")
    if stimuli is None or (stimuli.ndim == 3 and objective == "last" and bool((stimuli == stimuli[..., :1]).all())):
        bands = int(model.F) if stimuli is None else stimuli.shape[1]  # type: ignore[arg-type]
        frame = torch.full((1, bands, 1), question.level) if stimuli is None else stimuli[..., -1:]
        n_frames = question.window(1) if stimuli is None else stimuli.shape[-1]
        stimuli = frame.expand(-1, -1, 2 * n_frames).clone()
        objective = {"frame": n_frames - 1} if objective == "last" else objective
    everything = Question(None, question.neurons, objective, question.space, check=False, whole=True)
    if stimuli.ndim == 2:
        found = gradmaps_around_sounds(model, stimuli, everything)
    else:
        found = gradmaps_around_spectrograms(model, stimuli, everything)
    energy = energy_of(found.values).to("cpu")
    hop = energy.shape[-1] // found.n_frames
    # Newest first: what follows the frame at lag 0 stands before it.
    after = (found.n_frames - 1 - frames.to("cpu").expand(energy.shape[:2])) * hop
    held = energy.cumsum(dim=-1)
    total = held[..., -1]
    later = held.gather(-1, (after - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1) * (after > 0)
    return (later / total.where(total > 0, math.nan)).to(torch.float32)
