"""Parts called once per frame, with a state that goes out of one call and into the next: recurrences of any kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from pipeline.gradients.dynamic.graph import NoWayError
from pipeline.gradients.dynamic.mixers import Called, Rule
from pipeline.gradients.dynamic.recurrences import Recurrence
from pipeline.gradients.passes.layout import Layout
from pipeline.gradients.routes.recurrent import SAME, Linearised
from pipeline.gradients.torch_state.memory import is_out_of_memory
from pipeline.gradients.torch_state.process_flags import slow_batching


@dataclass(frozen=True)
class _Sorted:
    """The tensors of a cell's calls: which is heard, and which came out of the call before, as which output."""

    spec: TreeSpec
    constants: tuple[Any, ...]
    heard: int
    states: dict[int, int]


@dataclass(frozen=True)
class Cell:
    """A cell around one sound, with the frames of all its calls as one batch.

    Its state is all that it gives, one after the other.
    """

    module: nn.Module
    sorted: _Sorted
    heard: Float[Tensor, "frame ..."]
    states: dict[int, Float[Tensor, "frame ..."]]
    sizes: tuple[int, ...]

    def run(self, heard: Tensor, states: dict[int, Tensor]) -> list[Tensor]:
        """What the cell gives to these frames and states, each alone."""
        leaves = list(self.sorted.constants)
        leaves[self.sorted.heard] = heard
        for position, state in states.items():
            leaves[position] = state
        arguments, named = tree_unflatten(leaves, self.sorted.spec)
        return [leaf for leaf in tree_flatten(self.module(*arguments, **named))[0] if isinstance(leaf, Tensor)]

    def between(self, start: int, stop: int) -> Linearised:
        """d (all that it gives) / d (all that it gave a frame before), and / d what it heard."""
        with torch.enable_grad():
            heard = self.heard[start:stop].detach().requires_grad_(True)
            states = {key: state[start:stop].detach().requires_grad_(True) for key, state in self.states.items()}
            gave = torch.cat([out.flatten(1) for out in self.run(heard, states)], dim=1)
        width, n_frames = gave.shape[1], stop - start
        units = torch.eye(width, dtype=gave.dtype, device=gave.device).unsqueeze(1).expand(-1, n_frames, -1)
        by_heard, *by_state = _rows(gave, [heard, *states.values()], units)
        carry = gave.new_zeros((n_frames, width, width))
        offsets = [sum(self.sizes[:number]) for number in range(len(self.sizes))]
        for rows, output in zip(by_state, (self.sorted.states[key] for key in states), strict=True):
            carry[:, :, offsets[output] : offsets[output] + self.sizes[output]] += rows.flatten(2).transpose(0, 1)
        return Linearised(carry.unsqueeze(1), by_heard.flatten(2).transpose(0, 1).unsqueeze(1))


def _rows(gave: Tensor, inputs: Sequence[Tensor], units: Tensor) -> list[Tensor]:
    def one(unit: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(gave, inputs, unit, retain_graph=True, materialize_grads=True)

    try:
        with slow_batching:
            return list(torch.func.vmap(one)(units))
    except (RuntimeError, NotImplementedError) as error:
        if is_out_of_memory(error):
            raise
        return [torch.stack(rows) for rows in zip(*map(one, units), strict=True)]


def cell_rule(calls: list[Called], n_frames: int, by_lag: bool) -> Rule | None:
    """A part called once per frame that gives what it was given before, when all calls are one batch."""
    if len(calls) != n_frames or n_frames < 3:
        return None
    given = [tree_flatten((call.arguments, call.named)) for call in calls]
    gave = [tree_flatten(call.gave) for call in calls]
    if any(spec != given[0][1] for _, spec in given) or any(spec != gave[0][1] for _, spec in gave):
        return None
    outputs = [[leaf for leaf in leaves if isinstance(leaf, Tensor)] for leaves, _ in gave]
    if any(not out.is_floating_point() or not _is_one(out) for out in outputs[0]):
        return None
    sorting = _sort([leaves for leaves, _ in given], given[0][1], outputs)
    if sorting is None:
        return None
    batch = {key: torch.cat([leaves[key] for leaves, _ in given]) for key in (sorting.heard, *sorting.states)}
    sizes = tuple(out.numel() for out in outputs[0])
    cell = Cell(calls[0].module, sorting, batch.pop(sorting.heard), batch, sizes)
    value = torch.stack([torch.cat([out.flatten() for out in each]) for each in outputs])
    if not _gives(cell, value):
        return None
    shapes = [tuple(out.shape) for out in outputs[0]]
    template, spec = gave[0]

    def gives(pieces: Any, number: int) -> Any:
        parts = iter(pieces[number].split(sizes))
        leaves = iter(shapes)
        filled = [next(parts).view(next(leaves)) if isinstance(leaf, Tensor) else leaf for leaf in template]
        return tree_unflatten(filled, spec)

    heard = cell.heard
    return Rule(
        "cell",
        (calls[0],),
        Layout("frame-stimulus", 0, tuple(heard.shape), 1, n_frames),
        Layout("frame-stimulus", 0, tuple(value.shape), 1, n_frames),
        (Recurrence(cell, by_lag),),
        value,
        lambda each: torch.cat([_heard_alone(sorting, one) for one in each]),
        gives,
        lambda leaf: leaf.unbind(0),
    )


def _heard_alone(sorting: _Sorted, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    """What a cell hears at one call, if nothing else but its states may follow the sound."""
    leaves = tree_flatten(call)[0]
    for position, leaf in enumerate(leaves):
        other = position != sorting.heard and position not in sorting.states
        if other and isinstance(leaf, Tensor) and leaf.requires_grad:
            raise NoWayError("a cell hears more than one tensor")
    heard: Tensor = leaves[sorting.heard]
    return heard


def _is_one(tensor: Tensor) -> bool:
    return tensor.dim() > 1 and tensor.shape[0] == 1


def _sort(given: list[list[Any]], spec: TreeSpec, outputs: list[list[Tensor]]) -> _Sorted | None:
    """Which tensor of the arguments is heard and which are states; None where that is not one of the former."""
    states: dict[int, int] = {}
    heard: list[int] = []
    for position, first in enumerate(given[0]):
        if not isinstance(first, Tensor):
            if any(leaves[position] is not first and leaves[position] != first for leaves in given):
                return None
            continue
        each = [leaves[position] for leaves in given]
        came = [
            number
            for number in range(len(outputs[0]))
            if all(_is_same(out[number], next_one) for out, next_one in zip(outputs[:-1], each[1:], strict=True))
        ]
        if came:
            states[position] = came[0]
        elif not all(_is_same(first, one) for one in each):
            heard.append(position)
        if (came or position in heard) and not _is_one(first):
            return None
    if len(heard) != 1 or not states:
        return None
    return _Sorted(spec, tuple(given[0]), heard[0], states)


def _is_same(one: Tensor, other: Tensor) -> bool:
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape


def _gives(cell: Cell, value: Float[Tensor, "frame width"]) -> bool:
    """Whether the cell gives to all frames at once what it gave to one after the other."""
    try:
        with torch.no_grad():
            got = cell.run(cell.heard, cell.states)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    if any(out.shape[0] != len(value) for out in got):
        return False
    flat = torch.cat([out.flatten(1) for out in got], dim=1)
    return flat.shape == value.shape and torch.allclose(
        flat, value, rtol=SAME, atol=SAME * float(value.abs().amax()) + 1e-30
    )
