"""The sound that a neuron responds to most, by gradient ascent under a bound."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.arguments import check_count, check_question, chosen_rows
from pipeline.gradients.attribution.listening import Listener, listening
from pipeline.gradients.objectives import Objective, evaluate
from pipeline.gradients.question import Question

#: Size of the first step, of a step that was too long, and of one that was good, relative to the bound.
FIRST_STEP, SHORTER, LONGER, LONGEST = 0.1, 0.5, 1.5, 1e3

#: Size of the random start, relative to the bound: where the gradient at the start is zero, it shows a way.
JITTER = 1e-3

#: Entries of the stimuli of the neurons that climb side by side.
BLOCK_ENTRIES = 4 * 2**20


@dataclass(frozen=True)
class Synthesised:
    """The best sounds that were found.

    Attributes
    ----------
    sounds
        One spectrogram (neuron, frequency, time) or one waveform (neuron, sample) for each neuron.
    trace
        Each neuron's objective after every step; it never falls by more than rounding.
    at_start
        Each neuron's objective around the start.
    """

    sounds: Float[Tensor, "neuron ..."]
    trace: Float[Tensor, "neuron step"]
    at_start: Float[Tensor, "neuron"]


def synthesise(
    model: nn.Module,
    start: Float[Tensor, "frequency time"] | Float[Tensor, "sample"],
    question: Question | None = None,
    *,
    norm: float = 1.0,
    lowest: float | None = None,
    highest: float | None = None,
    steps: int = 500,
    seed: int = 0,
) -> Synthesised:
    """The sounds near ``start`` at which each neuron's objective is largest, as far as ascent finds them.

    All neurons climb side by side, each with a step of its own: a step along the gradient that raises the objective is
    taken and the next one is longer, any other is undone and the next one is shorter. After every step the sound is
    brought back within its bounds. Long steps from a sound at the bound are those of the power method, so that for a
    linear (or LN) neuron the result is its kernel, scaled to the bound, and for an energy model the strongest of its
    filters.

    Parameters
    ----------
    model
        As for :func:`~pipeline.gradients.gradmaps.strf_gradmaps`. It hears waveforms if ``start`` is one.
    start
        Where ascent begins: a spectrogram, or a waveform for a model with a front-end.
    question
        Which neurons, one by one, and which objective is raised; the window is the whole sound.
    norm
        Largest distance from the start: the root of the sum of squares over all entries.
    lowest, highest
        Levels that no entry passes.
    seed
        Seed of the small random step at the beginning; a neuron's own does not depend on which others there are.

    Raises
    ------
    ValueError
        As `strf_gradmaps` does, and if a bound is out of range.
    """
    question = Question.of(question)
    check_count(steps, "steps", "steps")
    check_question(model, question)
    start = torch.as_tensor(start)
    _check_bounds(start, norm, lowest, highest)
    if isinstance(question.neurons, str):
        raise ValueError('the sum over neurons has no best sound of each; leave out neurons = "sum"')
    with listening(model, question.dtype, front_end=start.dim() == 1) as listener:
        start = listener.placed(start)
        with torch.no_grad():
            at_start = evaluate(question.objective, listener.response(start.unsqueeze(0)))[0]
        chosen = chosen_rows(question.neurons, len(at_start), listener.device)
        assert chosen is not None
        bounds = _Bounds(start, norm, lowest, highest)
        together = max(1, BLOCK_ENTRIES // start.numel())
        parts = [_climb(listener, bounds, block, question.objective, steps, seed) for block in chosen.split(together)]
    sounds, traces = zip(*parts, strict=True)
    return Synthesised(torch.cat(sounds), torch.cat(traces), at_start[chosen])


@dataclass(frozen=True)
class _Bounds:
    """A ball around the start, cut by the lowest and highest level."""

    start: Tensor
    norm: float
    lowest: float | None
    highest: float | None

    def within(self, sounds: Tensor) -> Tensor:
        """The sounds brought back within the bounds.

        Levels first; shrinking towards the start, which keeps the levels itself, then breaks none of them.
        """
        if self.lowest is not None or self.highest is not None:
            sounds = sounds.clamp(self.lowest, self.highest)
        away = sounds - self.start
        return self.start + away * (self.norm / _size(away).clamp_min(self.norm))


def _climb(
    listener: Listener, bounds: _Bounds, neurons: Tensor, objective: Objective, steps: int, seed: int
) -> tuple[Tensor, Float[Tensor, "neuron step"]]:
    """Sounds and traces of neurons that climb side by side."""
    sounds = bounds.within(bounds.start + JITTER * bounds.norm * _random(bounds.start, neurons, seed))
    step = sounds.new_full((len(neurons),), FIRST_STEP)
    value, gradient = _uphill(listener, sounds, neurons, objective)
    trace = []
    for _ in range(steps):
        direction = gradient / _size(gradient).clamp_min(torch.finfo(gradient.dtype).tiny)
        tried = bounds.within(sounds + bounds.norm * _beside(step, sounds) * direction)
        new_value, new_gradient = _uphill(listener, tried, neurons, objective)
        # Close to the top the objective is flat, and only its rounding would tell better from worse.
        better = new_value >= value - 4 * torch.finfo(value.dtype).eps * value.abs()
        sounds = torch.where(_beside(better, sounds), tried, sounds)
        gradient = torch.where(_beside(better, sounds), new_gradient, gradient)
        value = torch.where(better, new_value, value)
        step = torch.where(better, (step * LONGER).clamp_max(LONGEST), step * SHORTER)
        trace.append(value)
    return sounds, torch.stack(trace, dim=1)


def _uphill(
    listener: Listener, sounds: Tensor, neurons: Tensor, objective: Objective
) -> tuple[Float[Tensor, "neuron"], Tensor]:
    """Each neuron's objective around its own sound, and its gradient: one pass, since the rows do not mix."""
    free = sounds.detach().requires_grad_(True)
    own = evaluate(objective, listener.response(free))[torch.arange(len(neurons)), neurons]
    (gradient,) = torch.autograd.grad(own.sum(), free, allow_unused=True)
    return own.detach(), torch.zeros_like(free) if gradient is None else gradient


def _random(start: Tensor, neurons: Tensor, seed: int) -> Tensor:
    """A random direction of norm 1 for each neuron, from the seed and the neuron's own number."""
    drawn = []
    for neuron in neurons.tolist():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + neuron)
        drawn.append(torch.randn(start.shape, generator=generator, dtype=torch.float64))
    directions = torch.stack(drawn)
    return (directions / _size(directions)).to(start)


def _size(sounds: Tensor) -> Tensor:
    """Norm of each row, so that it multiplies the rows."""
    return _beside(sounds.flatten(1).norm(dim=1), sounds)


def _beside(numbers: Tensor, sounds: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (sounds.dim() - 1))


def _check_bounds(start: Tensor, norm: float, lowest: float | None, highest: float | None) -> None:
    if start.dim() not in (1, 2) or not torch.isfinite(start).all():
        raise ValueError(
            f"the start has the shape {tuple(start.shape)} or entries that are not finite; give one spectrogram"
            " (frequency, time) or one waveform (sample,) of finite numbers"
        )
    if not norm > 0:
        raise ValueError(f"norm = {norm} leaves no sound but the start; give a distance above 0")
    if lowest is not None and highest is not None and not lowest < highest:
        raise ValueError(f"lowest = {lowest} is not below highest = {highest}, so no level is allowed; change one")
    for level, outside in ((lowest, "below"), (highest, "above")):
        if level is not None and bool((start < level if outside == "below" else start > level).any()):
            raise ValueError(
                f"the start has entries {outside} the bound {level}, so ascent would begin outside its bounds; move the"
                " bound or the start"
            )
