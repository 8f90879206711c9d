"""How tangents pass a recurrence: each frame's are the frame before's, one lag older, with what is heard now added."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.gradients.dynamic.mixers import Called, Rule, heard_alone, with_first_tensor
from pipeline.gradients.dynamic.steps import Advance, Windows, through
from pipeline.gradients.passes.layout import Layout
from pipeline.gradients.passes.trace import first_tensor
from pipeline.gradients.routes.recurrent import Linearised, recurrent_layers
from pipeline.gradients.torch_state.memory import room
from pipeline.gradients.torch_state.products import product

#: Tangents that are about to underflow are set to 0 at every so many lags: arithmetic on subnormals is far slower.
#: Where frames come one after the other, each tangent grows older by one lag at each, and all are looked at together.
LAGS_BETWEEN_LOOKS = 8


class Stepped(Protocol):
    """A recurrence whose steps are written out for a block of frames."""

    def between(self, start: int, stop: int) -> Linearised:
        """The steps at frames ``start`` to ``stop - 1``, around one stimulus."""
        ...


@dataclass(frozen=True)
class Recurrence:
    """A recurrence around one sound.

    ``by_lag`` takes all frames of a block together, lag after lag, which is few large launches for a GPU; otherwise
    frames come one after the other, all lags together, which are the larger products for a CPU.
    """

    layer: Stepped
    by_lag: bool

    def stream(self, lags: int) -> Advance:
        rooms = _Rooms(lags)
        cells: list[Tensor] = []

        def advance(given: Tensor, start: int, stop: int) -> Tensor:
            steps = self.layer.between(start, stop)
            carry, feed = steps.carry[:, 0], steps.feed[:, 0]
            fed = through(feed, given)
            hidden = rooms.next("hidden", fed, carry.shape[2])
            if steps.keep is None or steps.leak is None:
                self._fill(hidden, carry, fed)
                return hidden[1:]
            keep, leak = steps.keep[:, 0, 0], steps.leak[:, 0, 0]
            if self.by_lag:
                self._fill_with_cells(hidden, rooms.next("cells", fed, carry.shape[2]), carry, fed, keep, leak)
            else:
                cells[:] = cells or [torch.zeros_like(hidden[0]), torch.zeros_like(hidden[0])]
                _fill_frames_with_cells(hidden, cells, carry, fed, keep, leak)
            return hidden[1:]

        return advance

    def _fill(self, hidden: Windows, carry: Float[Tensor, "frame hidden hidden"], fed: Windows) -> None:
        """S_t[0] = fed_t[0], S_t[l + 1] = A_t S_(t - 1)[l] + fed_t[l + 1]."""
        lags, reach = hidden.shape[2], fed.shape[2]
        if self.by_lag:
            hidden[1:, :, 0] = fed[:, :, 0]
            for lag in range(1, lags):
                torch.bmm(carry, hidden[:-1, :, lag - 1], out=hidden[1:, :, lag])
                if lag < reach:
                    hidden[1:, :, lag] += fed[:, :, lag]
                if lag % LAGS_BETWEEN_LOOKS == 0:
                    _drop_underflow(hidden[1:, :, lag])
            return
        n_bands = fed.shape[3]
        flat = hidden.flatten(2)
        hidden[1:, :, 0] = fed[:, :, 0]
        for frame in range(len(carry)):
            if lags > 1:
                flat[frame + 1, :, n_bands:] = product(carry[frame], flat[frame])[:, :-n_bands]
            if reach > 1:
                hidden[frame + 1, :, 1:reach] += fed[frame, :, 1:]
            if frame % LAGS_BETWEEN_LOOKS == 0:
                _drop_underflow(hidden[frame + 1])

    def _fill_with_cells(
        self, hidden: Windows, cells: Windows, carry: Tensor, fed: Windows, keep: Tensor, leak: Tensor
    ) -> None:
        """c_t[l] = keep_t c_(t - 1)[l - 1] + (A_t h_(t - 1)[l - 1] + fed_t[l])_c, h_t[l] = leak_t c_t[l] + (...)_h."""
        n_hidden, lags, reach = hidden.shape[1], hidden.shape[2], fed.shape[2]
        for lag in range(lags):
            cell, state = cells[1:, :, lag], hidden[1:, :, lag]
            cell.zero_()
            state.zero_()
            if lag:
                moved = torch.bmm(carry, hidden[:-1, :, lag - 1])
                cell.add_(moved[:, :n_hidden] + keep.unsqueeze(-1) * cells[:-1, :, lag - 1])
                state.add_(moved[:, n_hidden:])
            if lag < reach:
                cell += fed[:, :n_hidden, lag]
                state += fed[:, n_hidden:, lag]
            state += leak.unsqueeze(-1) * cell
            if lag % LAGS_BETWEEN_LOOKS == 0:
                _drop_underflow(cell)
                _drop_underflow(state)


def _fill_frames_with_cells(
    hidden: Windows, cells: list[Tensor], carry: Tensor, fed: Windows, keep: Tensor, leak: Tensor
) -> None:
    """The same frame after frame, all lags together, in as few passes over them as there are products and sums.

    Of the ``cells`` (hidden, lag, frequency) two frames' are held, the last one's first: few enough for the cache.
    """
    n_hidden, reach, n_bands = hidden.shape[1], fed.shape[2], fed.shape[3]
    states = hidden.flatten(2)
    keep, leak = keep.unsqueeze(-1), leak.unsqueeze(-1)
    heard = fed[:, :n_hidden]
    leaking = torch.addcmul(fed[:, n_hidden:], leak.unsqueeze(-1), heard)
    hidden[1:, :, 0] = leaking[:, :, 0]
    for frame in range(len(carry)):
        before, cell = cells
        state = hidden[frame + 1]
        if hidden.shape[2] > 1:
            older = cell.flatten(1)[:, n_bands:]
            # One product for both halves. All lags are taken, which lie in one piece; the oldest one then drops out.
            moved = product(carry[frame], states[frame])[:, :-n_bands]
            torch.addcmul(moved[:n_hidden], keep[frame], before.flatten(1)[:, :-n_bands], out=older)
            torch.addcmul(moved[n_hidden:], leak[frame], older, out=states[frame + 1, :, n_bands:])
        cell[:, 0] = heard[frame, :, 0]
        if reach > 1:
            cell[:, 1:reach] += heard[frame, :, 1:]
            state[:, 1:reach] += leaking[frame, :, 1:]
        if frame % LAGS_BETWEEN_LOOKS == 0:
            _drop_underflow(cell)
            _drop_underflow(state)
        cells.reverse()


class _Rooms:
    """Room for the states of a block, each after the state that the block before ended with.

    The same for all blocks: writing for the first time to fresh pages takes longer than the products.
    """

    def __init__(self, lags: int) -> None:
        self._lags = lags
        self._rooms: dict[str, Windows] = {}
        self._filled: dict[str, Windows] = {}

    def next(self, name: str, like: Windows, width: int) -> Windows:
        """Room for as many frames as ``like`` has and the one before them."""
        shape = (len(like) + 1, width, self._lags, like.shape[3])
        whole = self._rooms.get(name)
        if whole is None or len(whole) < len(like) + 1:
            whole = self._rooms[name] = room(shape, like)
        filled = self._filled.get(name)
        if filled is None:
            whole[0] = 0
        else:
            whole[0] = filled[-1]
        self._filled[name] = whole[: len(like) + 1]
        return self._filled[name]


def _drop_underflow(tangents: Tensor) -> None:
    limits = torch.finfo(tangents.dtype)
    tangents.copy_(torch.nn.functional.hardshrink(tangents, limits.tiny / limits.eps))


def recurrent_rule(calls: list[Called], n_frames: int, by_lag: bool) -> Rule | None:
    """torch's own recurrent layers."""
    call = calls[0]
    if len(calls) > 1 or not isinstance(call.module, nn.RNNBase) or not call.arguments or call.named:
        return None
    given, gave = call.arguments[0], first_tensor(call.gave)
    begun = [state for state in tree_leaves(call.arguments[1:]) if state is not None]
    if not isinstance(given, Tensor) or gave is None or not all(isinstance(s, Tensor) and s.dim() == 3 for s in begun):
        return None
    layers = recurrent_layers(call.module, given, gave, begun)
    order, axis = ("stimulus", 1) if call.module.batch_first else ("frame", 0)
    if layers is None or given.shape[axis] != n_frames or given.shape[1 - axis] != 1:
        return None
    return Rule(
        "recurrence",
        (call,),
        Layout(order, axis, tuple(given.shape), 1, n_frames),
        Layout(order, axis, tuple(gave.shape), 1, n_frames),
        tuple(Recurrence(layer, by_lag) for layer in layers),
        gave,
        heard_alone,
        lambda leaf, _: with_first_tensor(call.gave, leaf),
    )
