"""Backward recursions of torch's own recurrent layers, written out for many cotangents at once.

Autograd takes dozens of small steps per frame. Around a given stimulus a layer is linear, state_t = A_t state_(t-1) +
B_t input_t, so that all rows of a Jacobian go back one frame with a single matrix product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

# The layer written out here must give what the module gave, up to rounding.
SAME = 1e-5

# How often the way back looks whether the gradient has underflown to zero.
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
        busy = cotangents.flatten(1).ne(0).any(dim=1).nonzero().flatten().tolist()
        given = cotangents.new_zeros((*cotangents.shape[:-1], self.feed.shape[-1]))
        busy = [frame for frame in busy if frame >= first]
        if not busy:
            return given
        last, occupied = busy[-1], set(busy)
        states = cotangents.new_zeros((last + 1 - first, *cotangents.shape[1:-1], self.carry.shape[-2]))
        n_hidden = cotangents.shape[-1]
        reached = first
        cell: Tensor | None = None
        for frame in range(last, first - 1, -1):
            state = states[frame - first]
            hidden = state[..., -n_hidden:]
            if frame in occupied:
                hidden += cotangents[frame]
            if self.keep is not None and self.leak is not None:
                leaked = hidden * self.leak[frame]
                state[..., :n_hidden] = leaked if cell is None else cell + leaked
            if (last - frame) % FRAMES_BETWEEN_LOOKS == FRAMES_BETWEEN_LOOKS - 1:
                _drop_underflow(state)
                if busy[0] >= frame and not bool(state.any()):
                    reached = frame
                    break
            if frame == first:
                continue
            before = states[frame - first - 1]
            if self.keep is None:
                torch.matmul(state, self.carry[frame], out=before)
            else:
                cell = state[..., :n_hidden] * self.keep[frame]
                before[..., n_hidden:] = torch.matmul(state, self.carry[frame])
        given[reached : last + 1] = states[reached - first :] @ self.feed[reached : last + 1]
        return given


def _drop_underflow(state: Tensor) -> None:
    """Set to 0 what is about to underflow, a unit of gradient being 1: arithmetic on subnormal numbers is far slower.

    The margin of one mantissa keeps products with weights out of the subnormal range, too.
    """
    limits = torch.finfo(state.dtype)
    state.masked_fill_(state.abs() < limits.tiny / limits.eps, 0.0)


def linearised(module: nn.Module, given: Tensor, gave: Tensor) -> list[Linearised] | None:
    """The layers of a recurrent module around what it was given, the last first; None if they are not these.

    Only layers that run forward in time from a zero state are written out here; whether ``module`` is made of them
    is told by whether they give what it ``gave``.
    """
    kind = _KINDS.get(type(module))
    if kind is None or not isinstance(module, nn.RNNBase) or module.bidirectional or module.proj_size:
        return None
    if given.dim() != 3 or gave.dim() != 3:
        return None
    with torch.no_grad():
        frames = given.detach().transpose(0, 1) if module.batch_first else given.detach()
        layers = []
        for layer in range(module.num_layers):
            weights = _Weights.of(module, layer)
            last = layer == module.num_layers - 1
            known = (gave.detach().transpose(0, 1) if module.batch_first else gave.detach()) if last else None
            linear, frames = kind(module, weights, frames, known)
            layers.append(linear)
        expected = gave.detach().transpose(0, 1) if module.batch_first else gave.detach()
        if not torch.allclose(frames, expected, rtol=SAME, atol=SAME * float(expected.abs().amax()) + 1e-30):
            return None
    return layers[::-1]


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


def _earlier(states: Float[Tensor, "frame stimulus hidden"]) -> Float[Tensor, "frame stimulus hidden"]:
    """Each frame's previous state; zero before the first."""
    return nn.functional.pad(states, (0, 0, 0, 0, 1, 0))[:-1]


def _run(
    weights: _Weights, frames: Tensor, step: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "frame stimulus hidden"]:
    hidden = frames.new_zeros(frames.shape[1], weights.hidden.shape[1])
    states = []
    for given in weights.of_input(frames):
        hidden = step(given, hidden)
        states.append(hidden)
    return torch.stack(states)


def _gru(module: nn.RNNBase, weights: _Weights, frames: Tensor, known: Tensor | None) -> tuple[Linearised, Tensor]:
    def gates(given: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from_input, from_hidden = given.chunk(3, dim=-1), weights.of_hidden(hidden).chunk(3, dim=-1)
        reset = torch.sigmoid(from_input[0] + from_hidden[0])
        update = torch.sigmoid(from_input[1] + from_hidden[1])
        return reset, update, torch.tanh(from_input[2] + reset * from_hidden[2]), from_hidden[2]

    def step(given: Tensor, hidden: Tensor) -> Tensor:
        _, update, new, _ = gates(given, hidden)
        return (1 - update) * new + update * hidden

    states = known if known is not None else _run(weights, frames, step)
    before = _earlier(states)
    reset, update, new, recalled = gates(weights.of_input(frames), before)
    to_new = (1 - update) * (1 - new * new)
    to_update = (before - new) * update * (1 - update)
    to_reset = to_new * recalled * reset * (1 - reset)
    by_hidden, by_input = weights.hidden.chunk(3), weights.input.chunk(3)
    carry = (
        to_reset.unsqueeze(-1) * by_hidden[0]
        + to_update.unsqueeze(-1) * by_hidden[1]
        + (to_new * reset).unsqueeze(-1) * by_hidden[2]
        + torch.diag_embed(update)
    )
    feed = (
        to_reset.unsqueeze(-1) * by_input[0]
        + to_update.unsqueeze(-1) * by_input[1]
        + to_new.unsqueeze(-1) * by_input[2]
    )
    return Linearised(carry, feed), (1 - update) * new + update * before


def _lstm(module: nn.RNNBase, weights: _Weights, frames: Tensor, known: Tensor | None) -> tuple[Linearised, Tensor]:
    from_input = weights.of_input(frames)
    if known is None:
        cell = hidden = frames.new_zeros(frames.shape[1], weights.hidden.shape[1])
        states = []
        for given in from_input:
            enter, forget, new, out = (given + weights.of_hidden(hidden)).chunk(4, dim=-1)
            cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
            hidden = torch.sigmoid(out) * torch.tanh(cell)
            states.append(hidden)
        known = torch.stack(states)
    enter, forget, new, out = (from_input + weights.of_hidden(_earlier(known))).chunk(4, dim=-1)
    enter, forget, new, out = torch.sigmoid(enter), torch.sigmoid(forget), torch.tanh(new), torch.sigmoid(out)
    cell = torch.zeros_like(enter[0])
    cells = []
    for kept, entered in zip(forget, enter * new, strict=True):
        cell = kept * cell + entered
        cells.append(cell)
    after = torch.stack(cells)
    seen = torch.tanh(after)
    by_hidden, by_input = weights.hidden.chunk(4), weights.input.chunk(4)
    slopes = (
        new * enter * (1 - enter),
        _earlier(after) * forget * (1 - forget),
        enter * (1 - new * new),
        seen * out * (1 - out),
    )

    def spread(by: tuple[Tensor, ...]) -> Tensor:
        to_cell = sum((slope.unsqueeze(-1) * gate for slope, gate in zip(slopes[:3], by[:3], strict=True)))
        return torch.cat([to_cell, slopes[3].unsqueeze(-1) * by[3]], dim=-2)  # type: ignore[list-item]

    leak = out * (1 - seen * seen)
    return Linearised(spread(by_hidden), spread(by_input), forget.unsqueeze(2), leak.unsqueeze(2)), out * seen


def _rnn(module: nn.RNNBase, weights: _Weights, frames: Tensor, known: Tensor | None) -> tuple[Linearised, Tensor]:
    rectified = module.mode == "RNN_RELU"

    def step(given: Tensor, hidden: Tensor) -> Tensor:
        drive = given + weights.of_hidden(hidden)
        return torch.relu(drive) if rectified else torch.tanh(drive)

    states = known if known is not None else _run(weights, frames, step)
    out = step(weights.of_input(frames), _earlier(states))
    slope = (out > 0).to(out) if rectified else 1 - out * out
    return Linearised(slope.unsqueeze(-1) * weights.hidden, slope.unsqueeze(-1) * weights.input), out


_KINDS = {nn.GRU: _gru, nn.LSTM: _lstm, nn.RNN: _rnn}
