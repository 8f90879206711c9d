"""Integrated gradients averaged over noisy copies of a sound, so that what hangs on its last detail is gone."""

from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.arguments import chosen_rows
from pipeline.gradients.attribution.integrated import Integrated, integrated_gradients
from pipeline.gradients.attribution.listening import listening
from pipeline.gradients.objectives import weigh
from pipeline.gradients.question import Question


def smoothed_gradients(
    model: nn.Module,
    stimulus: Float[Tensor, "frequency time"],
    question: Question | int,
    *,
    samples: int,
    noise: float,
    seed: int = 0,
    **path: Any,
) -> Integrated:
    """Mean of the integrated gradients of noisy copies of a sound (SmoothGrad, Smilkov et al. 2017).

    ``difference``, ``scale`` and ``beyond`` are means over the copies, ``outside`` is the mean of what lies before the
    window over that scale. ``completeness`` is that of the worst copy, ``nodes`` those of the copy that needed most.
    The frame of ``"peak"`` is that of the sound itself for every copy.

    Parameters
    ----------
    samples
        Number of copies.
    noise
        Standard deviation of the white noise that is added to each, in the units of the spectrogram.
    seed
        Seed of the noise.
    path
        The baseline and the quadrature, as for `integrated_gradients`.

    Raises
    ------
    ValueError
        As `integrated_gradients` does.
    """
    sound, question = torch.as_tensor(stimulus), Question.of(question)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(samples, *sound.shape, generator=generator, dtype=torch.float64)
    copies = [_at_frames(model, sound + noise * one.to(sound), sound, question, path) for one in drawn]
    scale = _mean([one.scale for one in copies])
    return Integrated(
        values=_mean([one.values for one in copies]),
        difference=_mean([one.difference for one in copies]),
        scale=scale,
        completeness=torch.stack([one.completeness for one in copies]).amax(dim=0),
        outside=_mean([one.outside * one.scale for one in copies]) / scale,
        beyond=_mean([one.beyond for one in copies]),
        nodes=torch.stack([one.nodes for one in copies]).amax(dim=0),
        frames=copies[0].frames,
    )


def _at_frames(model: nn.Module, copy: Tensor, sound: Tensor, question: Question, path: dict[str, Any]) -> Integrated:
    """Integrated gradients of a copy; of the peak, at the frame where each neuron's response to the sound has it."""
    if question.objective != "peak":
        return integrated_gradients(model, copy, question, **path)
    with listening(model, question.dtype) as listener, torch.no_grad():
        frames = weigh("peak", listener.response(listener.placed(sound)[None])).frames[0]
    rows = chosen_rows(question.neurons, len(frames), frames.device)
    assert rows is not None
    own = frames[rows]
    parts: list[tuple[Tensor, Integrated]] = []
    for frame in own.unique().tolist():
        at = torch.nonzero(own == frame)[:, 0]
        there = replace(question, neurons=rows[at].tolist(), objective={"frame": frame})
        parts.append((at, integrated_gradients(model, copy, there, **path)))
    order = torch.cat([at for at, _ in parts]).argsort()
    names = [entry.name for entry in fields(Integrated)]
    return Integrated(**{name: torch.cat([getattr(part, name) for _, part in parts])[order] for name in names})


def _mean(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).mean(dim=0)
