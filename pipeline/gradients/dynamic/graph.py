"""Where autograd's graph of one forward pass narrows to one tensor, through which all that is later hears the sound."""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from pipeline.gradients.passes.layout import Layout, layouts
from pipeline.gradients.torch_state.memory import is_out_of_memory
from pipeline.gradients.torch_state.process_flags import slow_batching

Node = torch.autograd.graph.Node


class NoWayError(RuntimeError):
    """No rule gives how a part of the model passes tangents on."""


class NotConnectedError(RuntimeError):
    """One place of the model does not follow another at all, so that a gradient of 0 says nothing."""


@dataclass(frozen=True)
class Place:
    """A tensor of the graph that holds one vector per frame."""

    edge: GradientEdge
    layout: Layout

    @property
    def width(self) -> int:
        return self.layout.width


def edge_of(tensor: Tensor) -> GradientEdge:
    """The edge of autograd's graph that stands for a tensor."""
    return get_gradient_edge(tensor)


def same_edge(left: GradientEdge, right: GradientEdge) -> bool:
    """Whether both stand for one tensor."""
    return left.node is right.node and left.output_nr == right.output_nr


def places_of(edge: GradientEdge, n_frames: int) -> Iterator[Place]:
    """Every way in which the tensor of an edge, for one stimulus, could hold one vector per frame."""
    made = edge.node._input_metadata[edge.output_nr]
    if made.dtype.is_floating_point:
        for layout in layouts(torch.empty(tuple(made.shape), device="meta"), 1, n_frames):
            yield Place(edge, layout)


def narrows(
    later: GradientEdge, earlier: GradientEdge, jumps: Mapping[Node, Sequence[GradientEdge]] | None = None
) -> list[GradientEdge]:
    """Edges that every way from ``later`` back to ``earlier`` passes, both ends included, the earliest first.

    ``jumps`` are ways on from nodes at which the graph was cut. The list is empty where ``later`` does not follow
    ``earlier`` at all.
    """
    order = _on_the_way(later.node, earlier.node, jumps or {})
    if not order:
        return []
    position = {node: index for index, (node, _) in enumerate(order)}
    entered: dict[int, set[int]] = {0: {later.output_nr}}
    found: list[GradientEdge] = []
    furthest = 0
    for index, (node, onward) in enumerate(order):
        # No way that began before this node leads past it.
        if furthest <= index and len(entered[index]) == 1:
            found.append(GradientEdge(node, next(iter(entered[index]))))
        for following, output in onward:
            reached = position[following]
            furthest = max(furthest, reached)
            entered.setdefault(reached, set()).add(output)
    if not found or not same_edge(found[-1], earlier):
        return []
    return found[::-1]


def _on_the_way(
    start: Node, goal: Node, jumps: Mapping[Node, Sequence[GradientEdge]]
) -> list[tuple[Node, list[tuple[Node, int]]]]:
    """Nodes from ``start`` to ``goal`` that lie on a way between them, in topological order, with their ways on."""
    following: dict[Node, list[tuple[Node, int]]] = {}
    leads: dict[Node, bool] = {goal: True}
    finished: list[Node] = []
    stack: list[tuple[Node, bool]] = [(start, False)]
    while stack:
        node, left = stack.pop()
        if left:
            onward = following[node]
            leads[node] = any(leads.get(child, False) for child, _ in onward)
            finished.append(node)
            continue
        if node in following or node is goal:
            continue
        onward = [(child, output) for child, output in node.next_functions if child is not None]
        onward += [(edge.node, edge.output_nr) for edge in jumps.get(node, ())]
        following[node] = onward
        stack.append((node, True))
        stack.extend((child, False) for child, _ in onward if child not in following)
    if start is goal:
        return [(goal, [])]
    if not leads.get(start, False):
        return []
    ordered = [node for node in reversed(finished) if leads[node]]
    return [
        *(
            (node, [(child, output) for child, output in following[node] if leads.get(child, False)])
            for node in ordered
        ),
        (goal, []),
    ]


def nearest(target: GradientEdge, stops: Sequence[GradientEdge]) -> list[int]:
    """Which of these edges a tensor depends on by a way that passes none of the others."""
    of = {(stop.node, stop.output_nr): number for number, stop in enumerate(stops)}
    if (target.node, target.output_nr) in of:
        return [of[target.node, target.output_nr]]
    found: set[int] = set()
    seen = {target.node}
    waiting = [target.node]
    while waiting:
        for child, output in waiting.pop().next_functions:
            if child is None:
                continue
            if (child, output) in of:
                found.add(of[child, output])
            elif child not in seen:
                seen.add(child)
                waiting.append(child)
    return sorted(found)


def nodes_from(ends: Sequence[GradientEdge], passed_over: Set[Node]) -> list[Node]:
    """Every node on the way back from these edges, in an order that only the structure of the graph decides.

    Nodes that are ``passed_over`` stand for the first one that they lead to.
    """

    def shown(node: Node | None) -> Node | None:
        while node is not None and node in passed_over:
            node = node.next_functions[0][0]
        return node

    found: dict[Node, None] = {}
    for end in ends:
        waiting = [shown(end.node)]
        while waiting:
            node = waiting.pop()
            if node is None or node in found:
                continue
            found[node] = None
            waiting.extend(shown(child) for child, _ in reversed(node.next_functions))
    return list(found)


def typical_size(later: GradientEdge, earlier: GradientEdge) -> int:
    """How many numbers a tensor between two places holds, on average."""
    sizes = [
        math.prod(made.shape) for node, _ in _on_the_way(later.node, earlier.node, {}) for made in node._input_metadata
    ]
    return sum(sizes) // max(1, len(sizes))


def pulled(
    later: Place, earlier: Place, cotangents: Float[Tensor, "row frame later"], together: int, limits: set[str]
) -> Float[Tensor, "row frame earlier"]:
    """Backward passes from one place to an earlier one, so many rows at a time."""
    if same_edge(later.edge, earlier.edge):
        return cotangents
    parts = [_pulled(later, earlier, part, limits) for part in cotangents.split(together)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _pulled(later: Place, earlier: Place, cotangents: Tensor, limits: set[str]) -> Tensor:
    def one(cotangent: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(
            later.edge, earlier.edge, later.layout.join(cotangent.unsqueeze(0)), retain_graph=True, allow_unused=True
        )
        if gradient is None:
            raise NotConnectedError("the later place does not follow the earlier one")
        return earlier.layout.split(gradient).squeeze(0)

    if len(cotangents) > 1 and "vmap" not in limits:
        try:
            with slow_batching:
                return torch.func.vmap(one)(cotangents)
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error) or isinstance(error, NotConnectedError):
                raise
        # What fails one row at a time as well is no fault of vmap's.
        rows = torch.stack([one(cotangent) for cotangent in cotangents])
        limits.add("vmap")
        return rows
    return torch.stack([one(cotangent) for cotangent in cotangents])
