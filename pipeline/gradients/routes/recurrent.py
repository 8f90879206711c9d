"""Backward recursions of torch's own recurrent layers, written out for many cotangents at once.

Autograd takes dozens of small steps per frame. Around a given stimulus a layer is linear, state_t = A_t state_(t-1) +
B_t input_t, so that all rows of a Jacobian go back one frame with a single matrix product.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

#: The layer written out here must give what the module gave, up to rounding.
SAME = 1e-5

#: How often the way back looks whether the gradient has underflown to zero.
FRAMES_BETWEEN_LOOKS = 4


@dataclass(frozen=True)
class Linearised:
    """A recurrent layer around one input: what a cotangent of its output becomes one frame earlier, and at its input.

    ``carry`` and ``feed`` are stacked over the layer's states (h; for an LSTM c, then h). ``keep`` and ``leak`` are
    set for an LSTM alone: d c_t / d c_(t-1), and d h_t / d c_t.
    """

    carry: Float[Tensor, "frame stimulus state hidden"]
    feed: Float[Tensor, "frame stimulus state input"]
    keep: Float[Tensor, "frame stimulus 1 hidden"] | None = None
    leak: Float[Tensor, "frame stimulus 1 hidden"] | None = None

    def feeding(self, onward: Float[Tensor, "frame stimulus input width"]) -> "Linearised":
        """The same layer with the linear map that leads to its input taken into it."""
        return Linearised(self.carry, self.feed @ onward, self.keep, self.leak)

    def pull_back(
        self, cotangents: Float[Tensor, "frame stimulus row hidden"], first: int
    ) -> Float[Tensor, "frame stimulus row input"]:
        """Cotangents of the output back to the input, at frames from ``first`` on; 0 at the frames before."""
        busy = [n for n in cotangents.flatten(1).ne(0).any(dim=1).nonzero().flatten().tolist() if n >= first]
        if not busy:
            return cotangents.new_zeros((*cotangents.shape[:-1], self.feed.shape[-1]))
        # Backwards in time, with g_t the cotangent of the state h_t and y_t that of the output:
        #     g_t = y_t + g_(t+1) carry_(t+1),     cotangent of the input x_t = g_t feed_t.
        # All rows at once: states (frame, stimulus, row, state), carry and feed one matrix per frame and stimulus.
        last, occupied = busy[-1], set(busy)
        states = cotangents.new_zeros((last + 1 - first, *cotangents.shape[1:-1], self.carry.shape[-2]))
        n_hidden, reached = cotangents.shape[-1], first
        cell: Tensor | None = None
        of_frames, of_steps, keep, leak = states, self.carry, self.keep, self.leak
        multiply: Callable[..., Tensor] = torch.matmul
        if states.shape[1] == 1:
            # Around one stimulus these are products of two matrices, which start sooner than batches of one.
            cotangents, of_frames, of_steps = cotangents.squeeze(1), states.squeeze(1), of_steps.squeeze(1)
            keep, leak = (None if one is None else one.squeeze(1) for one in (keep, leak))
            multiply = torch.mm
        each, carries = of_frames.unbind(), of_steps.unbind()
        for frame in range(last, first - 1, -1):
            state = each[frame - first]
            hidden = state if keep is None else state[..., -n_hidden:]
            if frame in occupied:
                hidden += cotangents[frame]
            # An LSTM's cell c_t besides: g^c_t = g^h_t leak_t + g^c_(t+1) keep_(t+1), entry by entry.
            if leak is not None:
                leaked = hidden * leak[frame]
                state[..., :n_hidden] = leaked if cell is None else cell + leaked
            # Once everything has died away and no output is left to come, the earlier frames have zeros.
            if (last - frame) % FRAMES_BETWEEN_LOOKS == FRAMES_BETWEEN_LOOKS - 1:
                _drop_underflow(state)
                if busy[0] >= frame and not bool(state.any()):
                    reached = frame
                    break
            if frame == first:
                continue
            before = each[frame - first - 1]
            if keep is None:
                multiply(state, carries[frame], out=before)
            else:
                cell = state[..., :n_hidden] * keep[frame]
                before[..., n_hidden:] = multiply(state, carries[frame])
        # All frames' inputs in one batched product: (stimulus, row, state) @ (stimulus, state, input) per frame.
        given = states[reached - first :] @ self.feed[reached : last + 1]
        if len(given) == len(cotangents):
            return given
        # Axes are padded from the last on; the first of four, the frames, comes last.
        return nn.functional.pad(given, (0, 0) * 3 + (reached, len(cotangents) - last - 1))


def _drop_underflow(state: Tensor) -> None:
    """Set to 0 what is about to underflow, a unit of gradient being 1: arithmetic on subnormal numbers is far slower.

    The margin of one mantissa keeps products with weights out of the subnormal range, too.
    """
    limits = torch.finfo(state.dtype)
    state.masked_fill_(state.abs() < limits.tiny / limits.eps, 0.0)


def linearised(module: nn.Module, given: Tensor, gave: Tensor) -> list[Linearised] | None:
    """The layers of a recurrent module around what it was given, the last first; None if they are not these."""
    layers = recurrent_layers(module, given, gave)
    return None if layers is None else [layer.between(0, len(layer.frames)) for layer in layers[::-1]]


@dataclass(frozen=True)
class Layer:
    """One layer of a recurrent module: what it heard, and the states that it went through."""

    kind: "_Kind"
    weights: "_Weights"
    frames: Float[Tensor, "frame stimulus input"]
    hidden: Float[Tensor, "frame stimulus hidden"]
    cells: Float[Tensor, "frame stimulus hidden"] | None = None
    initial: "_Initial" = ()

    def between(self, start: int, stop: int) -> Linearised:
        """The layer's steps at frames ``start`` to ``stop - 1``, written out."""
        with torch.no_grad():
            return self.kind.steps(self.weights, self.frames[start:stop], self.states(start, stop))

    def states(self, start: int, stop: int) -> "_States":
        """The states before these frames, and the cells after them."""
        before = _before(self.hidden, start, stop, self.initial[:1])
        if self.cells is None:
            return _States(before)
        return _States(before, _before(self.cells, start, stop, self.initial[1:]), self.cells[start:stop])


#: States that a layer begins with, (stimulus, hidden) each: none for zeros, for an LSTM h and c.
_Initial = tuple[Tensor, ...]


def recurrent_layers(
    module: nn.Module, given: Tensor, gave: Tensor, initial: Sequence[Float[Tensor, "layer stimulus hidden"]] = ()
) -> list[Layer] | None:
    """The layers of a recurrent module around what it was given, the first first; None if they are not these.

    Only layers that run forward in time, from zero or from the ``initial`` states that the module was given, are
    written out here; whether ``module`` is made of them is told by whether they give what it ``gave``.
    """
    kind = _kind_of(module)
    if kind is None or not isinstance(module, nn.RNNBase) or module.bidirectional or module.proj_size:
        return None
    if given.dim() != 3 or gave.dim() != 3:
        return None
    with torch.no_grad():
        frames, expected = given.detach(), gave.detach()
        if module.batch_first:
            frames, expected = frames.transpose(0, 1), expected.transpose(0, 1)
        layers = []
        for number in range(module.num_layers):
            weights = _Weights.of(module, number)
            known = expected if number == module.num_layers - 1 else None
            begun = tuple(states[number].detach() for states in initial)
            hidden, cells = kind.run(weights, frames, known, begun)
            layer = Layer(kind, weights, frames, hidden, cells, begun)
            layers.append(layer)
            frames = kind.gives(weights, frames, layer.states(0, len(frames)))
        if not torch.allclose(frames, expected, rtol=SAME, atol=SAME * float(expected.abs().amax()) + 1e-30):
            return None
    return layers


@dataclass(frozen=True)
class _Weights:
    input: Float[Tensor, "gates input"]
    hidden: Float[Tensor, "gates hidden"]
    input_bias: Float[Tensor, "gates"] | None
    hidden_bias: Float[Tensor, "gates"] | None

    @staticmethod
    def of(module: nn.RNNBase, layer: int) -> "_Weights":
        def get(name: str) -> Tensor:
            return getattr(module, f"{name}_l{layer}").detach()

        biases = (get("bias_ih"), get("bias_hh")) if module.bias else (None, None)
        return _Weights(get("weight_ih"), get("weight_hh"), *biases)

    def of_input(self, frames: Tensor) -> Tensor:
        return nn.functional.linear(frames, self.input, self.input_bias)

    def of_hidden(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.hidden, self.hidden_bias)


@dataclass(frozen=True)
class _States:
    """Each frame's previous state; for an LSTM also the cells before and after it."""

    before: Float[Tensor, "frame stimulus hidden"]
    cells_before: Float[Tensor, "frame stimulus hidden"] | None = None
    cells: Float[Tensor, "frame stimulus hidden"] | None = None


def _before(states: Float[Tensor, "frame stimulus hidden"], start: int, stop: int, initial: _Initial = ()) -> Tensor:
    """The state before each of these frames; before the first of all the initial one, or zero."""
    if start > 0:
        return states[start - 1 : stop - 1]
    if initial:
        return torch.cat([initial[0].unsqueeze(0), states[: max(0, stop - 1)]])
    return nn.functional.pad(states[: max(0, stop - 1)], (0, 0, 0, 0, 1, 0))


class _Kind(Protocol):
    """A kind of recurrent layer: its states, what it gives, and its steps written out."""

    def run(
        self, weights: _Weights, frames: Tensor, known: Tensor | None, initial: _Initial
    ) -> tuple[Tensor, Tensor | None]: ...

    def gives(self, weights: _Weights, frames: Tensor, states: _States) -> Tensor: ...

    def steps(self, weights: _Weights, frames: Tensor, states: _States) -> Linearised: ...


def _run(
    weights: _Weights, frames: Tensor, step: Callable[[Tensor, Tensor], Tensor], initial: _Initial
) -> Float[Tensor, "frame stimulus hidden"]:
    hidden = initial[0] if initial else frames.new_zeros(frames.shape[1], weights.hidden.shape[1])
    states = []
    for given in weights.of_input(frames):
        hidden = step(given, hidden)
        states.append(hidden)
    return torch.stack(states)


class _Stateful:
    """What layers share whose state is what they give."""

    def _step(self, weights: _Weights, given: Tensor, hidden: Tensor) -> Tensor:
        raise NotImplementedError

    def run(
        self, weights: _Weights, frames: Tensor, known: Tensor | None, initial: _Initial
    ) -> tuple[Tensor, Tensor | None]:
        if known is not None:
            return known, None
        return _run(weights, frames, lambda given, hidden: self._step(weights, given, hidden), initial), None

    def gives(self, weights: _Weights, frames: Tensor, states: _States) -> Tensor:
        return self._step(weights, weights.of_input(frames), states.before)


class _Gru(_Stateful):
    def _gates(self, weights: _Weights, given: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from_input, from_hidden = given.chunk(3, dim=-1), weights.of_hidden(hidden).chunk(3, dim=-1)
        reset = torch.sigmoid(from_input[0] + from_hidden[0])
        update = torch.sigmoid(from_input[1] + from_hidden[1])
        return reset, update, torch.tanh(from_input[2] + reset * from_hidden[2]), from_hidden[2]

    def _step(self, weights: _Weights, given: Tensor, hidden: Tensor) -> Tensor:
        _, update, new, _ = self._gates(weights, given, hidden)
        return (1 - update) * new + update * hidden

    def steps(self, weights: _Weights, frames: Tensor, states: _States) -> Linearised:
        # h_t = (1 - z) n + z h_(t-1), with z the update, n = tanh(W_n x + r q), q = U_n h_(t-1) and r the reset.
        before = states.before
        reset, update, new, recalled = self._gates(weights, weights.of_input(frames), before)
        to_new = (1 - update) * (1 - new * new)
        to_update = (before - new) * update * (1 - update)
        to_reset = to_new * recalled * reset * (1 - reset)
        carry = _spread((to_reset, to_update, to_new * reset), weights.hidden.chunk(3))
        carry.diagonal(dim1=-2, dim2=-1).add_(update)
        return Linearised(carry, _spread((to_reset, to_update, to_new), weights.input.chunk(3)))


class _Lstm:
    def _gates(self, weights: _Weights, frames: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        enter, forget, new, out = (weights.of_input(frames) + weights.of_hidden(before)).chunk(4, dim=-1)
        return torch.sigmoid(enter), torch.sigmoid(forget), torch.tanh(new), torch.sigmoid(out)

    def run(
        self, weights: _Weights, frames: Tensor, known: Tensor | None, initial: _Initial
    ) -> tuple[Tensor, Tensor | None]:
        if known is None:
            return self._run_all(weights, frames, initial)
        enter, forget, new, _ = self._gates(weights, frames, _before(known, 0, len(known), initial[:1]))
        cell = initial[1] if initial else torch.zeros_like(enter[0])
        cells = []
        for kept, entered in zip(forget, enter * new, strict=True):
            cell = kept * cell + entered
            cells.append(cell)
        return known, torch.stack(cells)

    def _run_all(self, weights: _Weights, frames: Tensor, initial: _Initial) -> tuple[Tensor, Tensor]:
        zeros = frames.new_zeros(frames.shape[1], weights.hidden.shape[1])
        hidden, cell = initial or (zeros, zeros)
        states, cells = [], []
        for given in weights.of_input(frames):
            enter, forget, new, out = (given + weights.of_hidden(hidden)).chunk(4, dim=-1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            hidden = torch.sigmoid(out) * torch.tanh(cell)
            states.append(hidden)
            cells.append(cell)
        return torch.stack(states), torch.stack(cells)

    def gives(self, weights: _Weights, frames: Tensor, states: _States) -> Tensor:
        assert states.cells is not None
        return self._gates(weights, frames, states.before)[3] * torch.tanh(states.cells)

    def steps(self, weights: _Weights, frames: Tensor, states: _States) -> Linearised:
        assert states.cells is not None
        assert states.cells_before is not None
        # c_t = f c_(t-1) + i g, h_t = o tanh(c_t): the slopes of c_t by i, f, g, and of h_t by o, through each gate.
        enter, forget, new, out = self._gates(weights, frames, states.before)
        seen = torch.tanh(states.cells)
        slopes = (
            new * enter * (1 - enter),
            states.cells_before * forget * (1 - forget),
            enter * (1 - new * new),
            seen * out * (1 - out),
        )

        def spread(by: tuple[Tensor, ...]) -> Tensor:
            return torch.cat([_spread(slopes[:3], by[:3]), slopes[3].unsqueeze(-1) * by[3]], dim=-2)

        leak = out * (1 - seen * seen)
        by_hidden, by_input = weights.hidden.chunk(4), weights.input.chunk(4)
        return Linearised(spread(by_hidden), spread(by_input), forget.unsqueeze(2), leak.unsqueeze(2))


def _spread(
    slopes: Sequence[Float[Tensor, "frame stimulus hidden"]], gates: Sequence[Float[Tensor, "hidden given"]]
) -> Float[Tensor, "frame stimulus hidden given"]:
    """Sum over gates of each one's weights, scaled row by row at every frame."""
    total = slopes[0].unsqueeze(-1) * gates[0]
    # Writing for the first time to fresh memory takes longer than the products.
    room = torch.empty_like(total)
    for slope, gate in zip(slopes[1:], gates[1:], strict=True):
        total += torch.mul(slope.unsqueeze(-1), gate, out=room)
    return total


@dataclass(frozen=True)
class _Rnn(_Stateful):
    rectified: bool

    def _step(self, weights: _Weights, given: Tensor, hidden: Tensor) -> Tensor:
        drive = given + weights.of_hidden(hidden)
        return torch.relu(drive) if self.rectified else torch.tanh(drive)

    def steps(self, weights: _Weights, frames: Tensor, states: _States) -> Linearised:
        out = self.gives(weights, frames, states)
        # h_t = phi(W x_t + U h_(t-1)): carry = diag(phi') U, feed = diag(phi') W.
        slope = (out > 0).to(out) if self.rectified else 1 - out * out
        return Linearised(slope.unsqueeze(-1) * weights.hidden, slope.unsqueeze(-1) * weights.input)


def _kind_of(module: nn.Module) -> _Kind | None:
    """The kind of a layer of torch's own, told by its class: a subclass may do something else.

    A layer with normalised weights is of a subclass that torch made for it, and does what its own class does.
    """
    kind = type_before_parametrizations(module)
    if kind is nn.GRU:
        return _Gru()
    if kind is nn.LSTM:
        return _Lstm()
    return _Rnn(str(module.mode) == "RNN_RELU") if kind is nn.RNN else None
