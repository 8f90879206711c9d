"""Rows that look at frames of their own, by a recurrence resumed where each row's window begins.

By backward passes through the whole sound every row goes back over all its frames. A recurrence hears what came before
a window by its state alone, so the window run once more from the state that the whole past left there gives the same
response and, inside the window, the same gradient: one forward and one backward pass over as many frames as are kept.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.gradients.passes.forward_pass import ForwardPass, frames_of
from pipeline.gradients.passes.layout import Layout, acts_on_each_frame
from pipeline.gradients.passes.rows import Rows
from pipeline.gradients.passes.trace import Call, first_tensor
from pipeline.gradients.routes.autograd import LIVE_TENSORS
from pipeline.gradients.routes.backward import recurrent_call
from pipeline.gradients.routes.recurrent import Layer, recurrent_layers
from pipeline.gradients.torch_state.memory import in_blocks, room, rows_that_fit

#: Rows, and frames of the sound per frame of the window, from which on resuming is cheaper than the whole way back.
MANY_ROWS = 256
LONGER = 2

#: Windows in one pass: their activations stay in the processor's cache, and a GPU's launches are few.
TOGETHER = {"cpu": 256, "cuda": 4096}

#: Relative difference up to which a resumed recurrence gives what the whole pass gave.
SAME = 1e-4


class NotResumableError(RuntimeError):
    """The model is not one recurrence between parts that act frame by frame, or rows need more than a frame."""


@dataclass(frozen=True)
class _Recurrence:
    """The recurrence, what it went through along each stimulus, and the axis of the frames in what it gives."""

    call: Call
    layers: list[Layer]
    frame_axis: int

    def state(self, stimuli: Int[Tensor, "row"], starts: Int[Tensor, "row"]) -> Any:
        """The state that was there before the frames ``starts``, as the layer takes it; 0 before a sound's first."""
        begun = (starts > 0).view(1, -1, 1)
        before = (starts - 1).clamp_min(0)
        hidden = torch.stack([layer.hidden[before, stimuli] for layer in self.layers]) * begun
        cells = [layer.cells[before, stimuli] for layer in self.layers if layer.cells is not None]
        return (hidden, torch.stack(cells) * begun) if cells else hidden


def pays(forward_pass: ForwardPass, rows: Rows) -> bool:
    """Whether the rows look at many frames, each at one of its own, of sounds much longer than the window."""
    if forward_pass.source is not None or rows.coupled is not None or rows.neurons is None:
        return False
    many = len(rows) * forward_pass.n_stimuli >= MANY_ROWS
    long = forward_pass.response.shape[-1] > LONGER * rows.lags
    return many and long and rows.only_frame is None and _at_own_frames(rows) is not None


def resumed(forward_pass: ForwardPass, rows: Rows) -> tuple[Tensor, int]:
    """Forward and backward passes over the windows alone, as many windows at a time as the memory allows."""
    weights = _at_own_frames(rows)
    if weights is None or forward_pass.source is not None or rows.neurons is None:
        raise NotResumableError("the rows are not of one frame each, which is what a window ends with")
    recurrence = _recurrence(forward_pass)
    values = room((forward_pass.n_stimuli, len(rows), *forward_pass.given_shape, rows.lags), forward_pass.leaf)
    flat = values.view(-1, *values.shape[2:])
    ends, weights = rows.ends.flatten(), weights.flatten()
    stimuli = torch.arange(forward_pass.n_stimuli, device=ends.device).repeat_interleave(len(rows))
    neurons = rows.neurons.repeat(forward_pass.n_stimuli)
    per_frame = forward_pass.trace.total // (forward_pass.n_stimuli * forward_pass.response.shape[-1]) + 1
    n_bytes = forward_pass.leaf.element_size() * LIVE_TENSORS * per_frame * rows.lags
    most = min(rows_that_fit(len(ends), n_bytes, forward_pass.memory), TOGETHER.get(ends.device.type, 256))
    block = most
    # Windows that reach back to before the sound begin with it, with no state, and are shorter.
    for reach in torch.unique((ends + 1).clamp_max(rows.lags)).tolist():
        mine = ((ends + 1).clamp_max(rows.lags) == reach).nonzero().flatten()

        def run(start: int, stop: int, mine: Tensor = mine, reach: int = reach) -> None:
            chosen = mine[start:stop]
            one = _Windows(stimuli[chosen], ends[chosen], neurons[chosen], reach)
            gradient = _run(forward_pass, recurrence, one) * _beside(weights[chosen], flat)
            flat[chosen] = nn.functional.pad(gradient.flip(-1), (0, rows.lags - reach))

        block = min(block, in_blocks(len(mine), most, run))
    return values, block


@dataclass(frozen=True)
class _Windows:
    """Windows of one length: where each ends, in which stimulus, and whose response at its end is asked for."""

    stimuli: Int[Tensor, "row"]
    ends: Int[Tensor, "row"]
    neurons: Int[Tensor, "row"]
    reach: int


def _run(forward_pass: ForwardPass, recurrence: _Recurrence, windows: _Windows) -> Float[Tensor, "row ... time"]:
    """Gradients of the responses at the windows' ends."""
    starts = windows.ends + 1 - windows.reach
    frames = starts.unsqueeze(1) + torch.arange(windows.reach, device=starts.device)
    heard = forward_pass.leaf.detach().movedim(-1, 1)[windows.stimuli.unsqueeze(1), frames].movedim(1, -1)
    heard = heard.contiguous().requires_grad_(True)
    with _Resuming(recurrence, windows.stimuli, starts):
        response = frames_of(forward_pass.model(heard.view_as(heard)), len(heard), forward_pass.model)
    answer = response[torch.arange(len(heard), device=starts.device), windows.neurons, -1]
    expected = forward_pass.response.detach()[windows.stimuli, windows.neurons, windows.ends]
    size = float(forward_pass.response.detach().abs().amax())
    if not torch.allclose(answer.detach(), expected, rtol=SAME, atol=SAME * size + 1e-30):
        raise NotResumableError("the model answers otherwise to a window from its state than to the whole sound")
    (gradient,) = torch.autograd.grad(answer.sum(), heard)
    return gradient


class _Resuming:
    """While it is entered, the recurrence starts from the states given, and gives its last frame alone."""

    def __init__(self, recurrence: _Recurrence, stimuli: Tensor, starts: Tensor) -> None:
        self._state, self._recurrence = recurrence.state(stimuli, starts), recurrence
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        module = self._recurrence.call.module
        self._handles = [module.register_forward_pre_hook(self._resume), module.register_forward_hook(self._last)]

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _resume(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        return (given[0], self._state)

    def _last(self, _: nn.Module, __: object, gave: tuple[Any, ...]) -> tuple[Any, ...]:
        axis = self._recurrence.frame_axis
        return (gave[0].narrow(axis, gave[0].shape[axis] - 1, 1), *gave[1:])


def _recurrence(forward_pass: ForwardPass) -> _Recurrence:
    """The recurrence between parts that act on each frame alone, on the numbers of this very run."""
    response, source = forward_pass.response, forward_pass.trace.stimulus
    n_stimuli, n_frames = forward_pass.n_stimuli, response.shape[-1]
    call = recurrent_call(forward_pass, response)
    layers = None if call is None else recurrent_layers(call.module, call.given, call.gave)
    if call is None or layers is None or not call.alone or first_tensor(call.gave) is None:
        raise NotResumableError(f"{type(forward_pass.model).__name__} has no recurrent layer of torch's own alone")
    order, axis = ("stimulus", 1) if getattr(call.module, "batch_first", False) else ("frame", 0)
    given, gave = (Layout(order, axis, tuple(one.shape), n_stimuli, n_frames) for one in (call.given, call.gave))
    fits = call.given.shape[axis] == n_frames and call.given.shape[1 - axis] == n_stimuli
    whole = Layout("stimulus", 2, tuple(response.shape), n_stimuli, n_frames)
    if not fits or not acts_on_each_frame(response, whole, call.gave, gave):
        raise NotResumableError("frames mix after the recurrence")
    sound = Layout("stimulus", source.dim() - 1, tuple(source.shape), n_stimuli, n_frames)
    if source.shape[-1] != n_frames or not acts_on_each_frame(call.given, given, source, sound):
        raise NotResumableError("frames mix before the recurrence")
    return _Recurrence(call, layers, axis)


def _at_own_frames(rows: Rows) -> Float[Tensor, "stimulus neuron"] | None:
    """How each row weighs the frame at which its window ends; None where it weighs another one too."""
    if rows.coupled is not None or rows.neurons is None or int(rows.ends.max()) >= rows.weights.shape[-1]:
        return None
    weights = rows.weights[:, rows.neurons]
    own = weights.gather(-1, rows.ends.unsqueeze(-1)).squeeze(-1)
    return own if bool((weights.ne(0).sum(dim=-1) == own.ne(0)).all()) else None


def _beside(weights: Tensor, values: Tensor) -> Tensor:
    return weights.view(-1, *([1] * (values.dim() - 1)))
