"""The model cut open and run again on a few frames of the sound, for what differs from frame to frame.

Parts of the model that were cut out answer with their frames of what they gave to the whole sound. A part that answers
an excerpt otherwise than the whole sound, as a filter that misses the past or one that counts frames, is put right to
what it gave then, and its gradient is its own.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.gradients.dynamic.graph import Node, NoWayError, Place, edge_of, nodes_from
from pipeline.gradients.dynamic.mixers import Opened, Rule, cut_open
from pipeline.gradients.passes.layout import Layout
from pipeline.gradients.torch_state.copies import parts_of
from pipeline.gradients.torch_state.memory import is_out_of_memory

#: Frames of an excerpt: enough that running the model anew costs little beside what is computed.
FRAMES = 512

#: Bytes that what is computed of an excerpt for one part may take, but for excerpts of the fewest frames.
MOST_BYTES, FEWEST_FRAMES = 2**24, 64

#: Frames of the past that an excerpt brings along, in windows, the first that is enough.
PAST = (0, 1, 4)

#: Units in the last place of the largest by which outputs of a part may differ by rounding.
ROUNDINGS = 16

Key = tuple[str, int]
"""A part's name, and which of its calls."""


@dataclass(frozen=True)
class Address:
    """Where a place stands in the graph of any excerpt."""

    node: int
    output: int
    layout: Layout


@dataclass(frozen=True)
class Excerpt:
    """The graph of one run on frames ``start`` to ``start + n_frames - 1``, its nodes in the order of the whole's."""

    start: int
    n_frames: int
    nodes: tuple[Node, ...]

    def place(self, address: Address) -> Place:
        """The place that stands there.

        Raises `NoWayError` if it does not hold one vector per frame in the same way.
        """
        node, layout = self.nodes[address.node], address.layout.of_frames(self.n_frames)
        if tuple(node._input_metadata[address.output].shape) != layout.shape:
            raise NoWayError("a tensor has another shape in an excerpt of the sound")
        return Place(torch.autograd.graph.GradientEdge(node, address.output), layout)


class Answers:
    """What parts of a model gave to the whole sound, by name and call."""

    def __init__(self, model: nn.Module, n_frames: int) -> None:
        self._model, self._n_frames = model, n_frames
        self._given: dict[Key, tuple[Tensor, int]] = {}
        self.used: set[Key] = set()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """While the model runs on the whole sound, what its parts give is noted."""

        def note(key: Key, gave: Tensor) -> None:
            if self._n_frames in gave.shape:
                self._given[key] = gave.detach(), gave._version

        with _heard(self._model, note):
            yield
        # What was written over after the part gave it is not what the part gave.
        self._given = {key: (gave, version) for key, (gave, version) in self._given.items() if gave._version == version}

    @contextmanager
    def restored(self, start: int, n_frames: int) -> Iterator[set[Node]]:
        """While the model runs on an excerpt, its parts give what they gave to the whole sound; the nodes of that."""
        nodes: set[Node] = set()

        def restore(key: Key, gave: Tensor) -> Tensor | None:
            expected = self._excerpt(key, gave, start, n_frames)
            if expected is None or gave.grad_fn is None:
                return None
            rounding = ROUNDINGS * torch.finfo(gave.dtype).eps * expected.abs().amax()
            if bool((expected - gave.detach()).abs().amax() <= rounding):
                return None
            self.used.add(key)
            # Nothing is added to what is expected, so that it is not rounded by what the part gave instead.
            nothing = gave - gave.detach()
            put_right = nothing + expected
            nodes.update(node for node in (nothing.grad_fn, put_right.grad_fn) if node is not None)
            return put_right

        with _heard(self._model, restore):
            yield nodes

    def _excerpt(self, key: Key, gave: Tensor, start: int, n_frames: int) -> Tensor | None:
        whole = self._given.get(key, (None, 0))[0]
        if whole is None or whole.dim() != gave.dim() or whole.dtype != gave.dtype or not gave.numel():
            return None
        other = [axis for axis in range(gave.dim()) if whole.shape[axis] != gave.shape[axis]]
        if len(other) != 1 or (whole.shape[other[0]], gave.shape[other[0]]) != (self._n_frames, n_frames):
            return None
        return whole.narrow(other[0], start, n_frames)

    def forget_unused(self) -> None:
        """Keep what parts gave that answered an excerpt otherwise."""
        self._given = {key: self._given[key] for key in self.used}


@contextmanager
def _heard(model: nn.Module, listener: Any) -> Iterator[None]:
    """``listener(key, gave)`` is told every tensor that a part gives, and may give another one in its place."""
    calls: Counter[str] = Counter()
    handles = []
    for name, module in parts_of(model):

        def told(module: nn.Module, given: Any, gave: Any, name: str = name) -> Tensor | None:
            calls[name] += 1
            answer: Tensor | None = None
            if isinstance(gave, Tensor) and gave.is_floating_point():
                answer = listener((name, calls[name]), gave)
            return answer

        handles.append(module.register_forward_hook(told))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Excerpts:
    """The model cut open, to be run on excerpts of one sound, of which the last one is kept."""

    def __init__(self, model: nn.Module, rules: Sequence[Rule], leaf: Tensor, answers: Answers, opened: Opened) -> None:
        self._model, self._rules, self._leaf, self._answers = model, rules, leaf.detach(), answers
        nodes = _nodes(opened, set())
        self._names = [node.name() for node in nodes]
        self._numbers = {node: number for number, node in enumerate(nodes)}
        self._last: Excerpt | None = None
        self.together = FRAMES

    def address(self, place: Place) -> Address:
        """Where a place of the whole sound's graph stands in those of excerpts."""
        return Address(self._numbers[place.edge.node], place.edge.output_nr, place.layout)

    def fit(self, bytes_per_frame: int) -> None:
        """Let excerpts be no longer than that what is computed of one fits."""
        self.together = min(self.together, max(FEWEST_FRAMES, MOST_BYTES // bytes_per_frame))

    def close(self) -> None:
        """Let go of the whole sound's graph, and of all that no excerpt needed."""
        self._numbers, self._last = {}, None
        self._answers.forget_unused()

    def run(self, start: int, stop: int) -> Excerpt:
        """The model run on these frames.

        Raises `NoWayError` if it goes another way than on the whole sound.
        """
        last = self._last
        if last is None or (last.start, last.n_frames) != (start, stop - start):
            self._last = None
            self._last = self._run(start, stop)
        assert self._last is not None
        return self._last

    def _run(self, start: int, stop: int) -> Excerpt:
        leaf = self._leaf[..., start:stop].clone().requires_grad_(True)
        rules = [_of_frames(rule, start, stop) for rule in self._rules]
        try:
            with torch.enable_grad(), self._answers.restored(start, stop - start) as passed_over:
                opened = cut_open(self._model, rules, leaf)
        # A model's own code may raise anything on a sound so short.
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise NoWayError(f"the model does not run on an excerpt of the sound: {error}") from error
        nodes = _nodes(opened, passed_over)
        if [node.name() for node in nodes] != self._names:
            raise NoWayError("the model goes another way on an excerpt of the sound")
        return Excerpt(start, stop - start, tuple(nodes))


def _nodes(opened: Opened, passed_over: set[Node]) -> list[Node]:
    ends = [edge_of(opened.response), *(mixer.given.edge for mixer in opened.mixers)]
    return nodes_from(ends, passed_over)


def _of_frames(rule: Rule, start: int, stop: int) -> Rule:
    """The rule with some frames of what its part gave."""
    before, after = rule.layout_in.of_frames(stop - start), rule.layout_out.of_frames(stop - start)
    value = after.join(rule.layout_out.split(rule.value)[:, start:stop]).contiguous()
    return replace(rule, value=value, layout_in=before, layout_out=after)
