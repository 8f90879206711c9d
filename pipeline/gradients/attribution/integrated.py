"""Integrated gradients: how much each part of a sound has contributed to the response, from a baseline on."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.arguments import check_count, check_question, chosen_rows, spectrograms
from pipeline.gradients.attribution.listening import listening
from pipeline.gradients.gradmaps import gradmaps_around_spectrograms
from pipeline.gradients.objectives import weigh
from pipeline.gradients.question import Question

#: Gradients held at one time: nodes x neurons x spectrogram.
BLOCK_BYTES = 256 * 2**20

#: Where a response hardly differs from the baseline's, the gap is told relative to this share of what cancelled out.
CANCELLED = 0.01


@dataclass(frozen=True)
class Integrated:
    """Contributions of one sound to each neuron's response, and what they leave unexplained.

    Attributes
    ----------
    values
        Contribution of band f, k frames before the objective's frame, in response units; lag 0 first.
    difference
        The objective around the sound less the objective around the baseline.
    scale
        What the next two are relative to: the size of the difference, or `CANCELLED` of the sum of the sizes of all
        contributions where that is larger.
    completeness
        How far the contributions of the *whole* past are from summing to the difference: the error of the quadrature.
    outside
        What lies before the window and is not in ``values``.
    beyond
        The share of the energy (sum of squares) of all contributions that lies before the window.
    nodes
        Nodes of the quadrature.
    frames
        The response frame at lag 0.
    """

    values: Float[Tensor, "neuron frequency lag"]
    difference: Float[Tensor, "neuron"]
    scale: Float[Tensor, "neuron"]
    completeness: Float[Tensor, "neuron"]
    outside: Float[Tensor, "neuron"]
    beyond: Float[Tensor, "neuron"]
    nodes: Tensor
    frames: Tensor


def integrated_gradients(
    model: nn.Module,
    stimulus: Float[Tensor, "frequency time"],
    question: Question | int,
    *,
    baseline: float | Float[Tensor, "frequency time"] = 0.0,
    nodes: int = 16,
    completeness: float = 1e-4,
    most_nodes: int = 256,
) -> Integrated:
    """Integrated gradients of each neuron's objective, from a baseline to a sound (Sundararajan et al. 2017).

    The contribution of an entry is (x - x0) times the mean of the gradient along the straight line from the baseline
    x0 to the sound x, by Gauss-Legendre quadrature. All contributions together are the difference of the objective
    between the two. The frame of ``"peak"`` is that of the sound, for the baseline too.

    Parameters
    ----------
    model
        As for :func:`~pipeline.gradients.gradmaps.strf_gradmaps`.
    stimulus
        The sound, in the units that the model was trained on.
    question
        Whose contributions to what, or the window alone. Its ``lags`` are the frames kept before the objective's frame;
        the quadrature runs over the whole past. Neurons are asked for one by one (their sum has the sum of their
        contributions), and the objective by name, ``{"frame": k}`` or ``{"mean_over": [a, b]}``.
    baseline
        A level, or a spectrogram as long as the sound.
    nodes
        Nodes of the quadrature to begin with; doubled for the neurons that are not complete yet.
    completeness
        Largest relative gap to accept; where ``most_nodes`` do not reach it, what was reached is told.

    Raises
    ------
    ValueError
        As `strf_gradmaps` does, and if the baseline does not fit the sound or ``nodes`` is out of range.
    """
    question = Question.of(question)
    check_count(question.lags, "lags", "frames")
    check_count(nodes, "nodes", "points")
    check_question(model, question)
    if callable(question.objective) or isinstance(question.neurons, str):
        raise ValueError(
            "integrated gradients need an objective by name and neurons one by one, so that contributions add up to"
            " each neuron's difference; name them"
        )
    sound = spectrograms(model, torch.as_tensor(stimulus).unsqueeze(0), question.lags or 0, 0.0)
    with listening(model, question.dtype) as listener:
        sound = listener.placed(sound)[0]
        start = _baseline(baseline, sound)
        with torch.no_grad():
            ends = listener.response(torch.stack([sound, start])).to(sound)
        chosen = chosen_rows(question.neurons, ends.shape[1], ends.device)
        assert chosen is not None
        weighing = weigh(question.objective, ends[:1])
        difference = (weighing.weights[0] * (ends[0] - ends[1])).sum(dim=-1)[chosen]
        frames = weighing.frames[0, chosen]
    path = _Path(model, sound, start, replace(question, dtype=listener.dtype))
    return _until_complete(path, chosen, frames, difference, nodes, completeness, most_nodes)


@dataclass(frozen=True)
class _Path:
    """The straight line from a baseline to a sound, and what is differentiated along it."""

    model: nn.Module
    sound: Float[Tensor, "frequency time"]
    start: Float[Tensor, "frequency time"]
    question: Question

    def contributions(self, neurons: list[int], frame: int, nodes: int) -> Float[Tensor, "neuron frequency lag"]:
        """Contributions to the response of neurons whose objective ends at one frame, of its whole past."""
        objective = {"frame": frame} if self.question.objective == "peak" else self.question.objective
        question = replace(self.question, lags=frame + 1, neurons=neurons, objective=objective)
        places, weights = np.polynomial.legendre.leggauss(nodes)
        step = self.sound - self.start
        size = len(neurons) * step[:, : frame + 1].numel() * step.element_size()
        together = max(1, min(nodes, BLOCK_BYTES // max(1, size)))
        total: Tensor | float = 0.0
        for first in range(0, nodes, together):
            # Legendre's nodes and weights lie on [-1, 1], the path on [0, 1].
            at = torch.as_tensor((places[first : first + together] + 1) / 2).to(step)
            share = torch.as_tensor(weights[first : first + together] / 2).to(step)
            between = self.start + at[:, None, None] * step
            gradients = gradmaps_around_spectrograms(self.model, between, replace(question, check=first == 0)).values
            total = total + torch.einsum("s,snfk->nfk", share, gradients)
        assert isinstance(total, Tensor)
        return total * step[:, : frame + 1].flip(-1)


def _until_complete(
    path: _Path, chosen: Tensor, frames: Tensor, difference: Tensor, nodes: int, completeness: float, most_nodes: int
) -> Integrated:
    """Contributions with as many nodes as each neuron needs."""
    n, bands, lags = len(chosen), path.sound.shape[0], path.question.window(path.sound.shape[1])
    values = path.sound.new_zeros(n, bands, lags)
    gap, outside, scales = difference.new_full((n,), math.inf), difference.new_zeros(n), difference.abs()
    beyond, used = difference.new_zeros(n), torch.zeros(n, dtype=torch.int32, device=chosen.device)
    open_rows = torch.arange(n, device=chosen.device)
    while len(open_rows):
        for frame in frames[open_rows].unique().tolist():
            rows = open_rows[frames[open_rows] == frame]
            whole = path.contributions(chosen[rows].tolist(), int(frame), nodes)
            scale = torch.maximum(difference[rows].abs(), CANCELLED * whole.abs().sum(dim=(1, 2)))
            scale = scale.clamp_min(torch.finfo(scale.dtype).tiny)
            reached = (whole.sum(dim=(1, 2)) - difference[rows]).abs() / scale
            better = reached < gap[rows]
            rows, whole = rows[better], whole[better]
            kept = whole[:, :, :lags]
            values[rows] = 0.0
            values[rows, :, : kept.shape[-1]] = kept
            gap[rows], used[rows] = reached[better], nodes
            scales[rows] = scale[better]
            outside[rows] = whole[:, :, lags:].sum(dim=(1, 2)) / scale[better]
            energy = whole.square().sum(dim=(1, 2))
            older = whole[:, :, lags:].square().sum(dim=(1, 2))
            beyond[rows] = older / energy.clamp_min(torch.finfo(energy.dtype).tiny)
        open_rows = open_rows[gap[open_rows] > completeness]
        nodes *= 2
        if nodes > most_nodes:
            break
    return Integrated(values, difference, scales, gap, outside, beyond, used, frames)


def _baseline(baseline: float | Tensor, sound: Float[Tensor, "frequency time"]) -> Float[Tensor, "frequency time"]:
    if isinstance(baseline, (int, float)):
        return torch.full_like(sound, float(baseline))
    start = torch.as_tensor(baseline).to(sound)
    if start.shape != sound.shape:
        raise ValueError(
            f"the baseline has the shape {tuple(start.shape)} and the sound {tuple(sound.shape)}, so there is no line"
            " from one to the other; give a level, or a spectrogram as long as the sound"
        )
    return start
