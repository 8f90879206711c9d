"""The whole way from the sound to the features that the responses follow frame by frame, as stages of steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.gradients.dynamic.graph import NoWayError, Place, edge_of, narrows, nearest, places_of, same_edge
from pipeline.gradients.dynamic.mixers import Opened
from pipeline.gradients.dynamic.search import Search
from pipeline.gradients.dynamic.step_search import acts_frame_by_frame, linked
from pipeline.gradients.dynamic.steps import Advance, Step, Windows, added
from pipeline.gradients.passes.layout import Layout


@dataclass(frozen=True)
class Stage:
    """One stage: tangents of the stages before it, each taken through its own steps, and added."""

    inputs: tuple[int, ...]
    steps: tuple[tuple[Step, ...], ...]
    width: int


@dataclass(frozen=True)
class Way:
    """Stages in order; stage 0 is the sound itself, the last one the features. ``kinds`` names the rules taken."""

    stages: tuple[Stage, ...]
    n_bands: int
    kinds: tuple[str, ...]

    def stream(self, lags: int, like: Tensor) -> Callable[[int, int], Windows]:
        """What gives the tangents of the features at one block of frames after another."""
        advances: list[list[list[Advance]]] = [
            [[step.stream(lags) for step in steps] for steps in stage.steps] for stage in self.stages
        ]
        identity = torch.eye(self.n_bands, dtype=like.dtype, device=like.device).view(1, self.n_bands, 1, self.n_bands)

        def block(start: int, stop: int) -> Tensor:
            done: list[Tensor] = [identity.expand(stop - start, -1, -1, -1)]
            for stage, ways in zip(self.stages[1:], advances[1:], strict=True):
                parts = []
                for source, steps in zip(stage.inputs, ways, strict=True):
                    windows = done[source]
                    for advance in steps:
                        windows = advance(windows, start, stop)
                    parts.append(windows)
                done.append(added(parts))
            return done[-1]

        return block

    @property
    def numbers_per_frame(self) -> int:
        """Numbers that all stages together hold per frame, lag and frequency band."""
        return sum(stage.width for stage in self.stages)


class Builder:
    """The stages that lead to a place, each found once."""

    def __init__(self, search: Search, opened: Opened) -> None:
        self._search, self._opened = search, opened
        self._stages: list[Stage] = [Stage((), (), opened.stimulus[0, ..., 0].numel())]
        (sound,) = [place for place in places_of(edge_of(opened.stimulus), search.n_frames) if _last_axis(place)][:1]
        self._known: list[tuple[Place, int]] = [(sound, 0)]
        self._leaves = {mixer.gave.edge.node: mixer for mixer in opened.mixers}
        self._jumps = {mixer.gave.edge.node: [mixer.given.edge] for mixer in opened.mixers}
        self._narrows = narrows(edge_of(opened.response), sound.edge, self._jumps)
        self._entries = [entry for mixer in opened.mixers if (entry := self._entry(mixer.given)) is not None]
        self.kinds: list[str] = []

    @property
    def narrows_after_mixers(self) -> list[list[Place]]:
        """Tensors after all mixers that everything the responses hear of the sound passes, the earliest first.

        Each with every way in which it could hold one vector per frame: of as many numbers as frames, either axis.
        """
        cut = [self._known[0][0].edge, *(mixer.gave.edge for mixer in self._opened.mixers)]
        edges = []
        for edge in reversed(self._narrows):
            stops = [edge, *(other for other in cut if not same_edge(other, edge))]
            # Before the last mixer, what it gives is another way from the sound to the response.
            if nearest(self._narrows[-1], stops) not in ([0], []):
                break
            edges.append(edge)
        places = [list(places_of(edge, self._search.n_frames)) for edge in reversed(edges)]
        return [ways for ways in places if ways]

    def _entry(self, given: Place) -> Place | None:
        """The last narrow place before a mixer, where what passes it by has not yet parted from what it hears."""
        before = narrows(given.edge, self._known[0][0].edge, self._jumps)
        for edge in reversed(before):
            if any(same_edge(edge, narrow) for narrow in self._narrows):
                if same_edge(edge, given.edge):
                    return given
                return self._likeliest(list(places_of(edge, self._search.n_frames)), given)
        return None

    def _likeliest(self, ways: list[Place], given: Place) -> Place | None:
        """Of several ways in which a tensor could hold frames, one that frames pass one by one to or from here."""
        if len(ways) < 2:
            return next(iter(ways), None)
        sound = self._known[0][0]
        onward = (place for place in ways if acts_frame_by_frame(self._search, given, place))
        along = (place for place in ways if acts_frame_by_frame(self._search, place, sound))
        return next(onward, None) or next(along, None) or ways[0]

    def stage_of(self, target: Place) -> int:
        """The number of the stage that gives tangents of this place, which is looked for where it is not known yet."""
        for place, number in self._known:
            if same_edge(place.edge, target.edge) and place.layout == target.layout:
                return number
        mixer = self._leaves.get(target.edge.node)
        if mixer is not None:
            return self._add(target, [self.stage_of(mixer.given)], [list(mixer.rule.steps)], mixer.rule.name)
        stops = [self._known[0][0], *(mixer.gave for mixer in self._opened.mixers)]
        stops += [entry for entry in self._entries if not same_edge(entry.edge, target.edge)]
        direct = [stops[number] for number in nearest(target.edge, [stop.edge for stop in stops])]
        if not direct:
            raise NoWayError("a part of the model does not hear the sound at all")
        inputs = [self.stage_of(place) for place in direct]
        return self._add(target, inputs, [linked(self._search, place, target) for place in direct], None)

    def _add(self, target: Place, inputs: Sequence[int], steps: Sequence[Sequence[Step]], kind: str | None) -> int:
        if kind is not None:
            self.kinds.append(kind)
        for step in (step for way in steps for step in way):
            name = type(step).__name__.lower()
            if name in ("filter", "band"):
                self.kinds.append(name)
        self._stages.append(Stage(tuple(inputs), tuple(map(tuple, steps)), target.width))
        self._known.append((target, len(self._stages) - 1))
        return len(self._stages) - 1

    def way_to(self, target: Place) -> Way:
        """The stages that lead to a place, as far as it needs them."""
        goal = self.stage_of(target)
        needed = {goal}
        for number in range(goal, -1, -1):
            if number in needed:
                needed.update(self._stages[number].inputs)
        renumbered = {number: index for index, number in enumerate(sorted(needed | {0}))}
        stages = tuple(
            Stage(tuple(renumbered[source] for source in self._stages[number].inputs), *_rest(self._stages[number]))
            for number in renumbered
        )
        return Way(stages, self._known[0][0].width, tuple(self.kinds))


def _rest(stage: Stage) -> tuple[tuple[tuple[Step, ...], ...], int]:
    return stage.steps, stage.width


def _last_axis(place: Place) -> bool:
    layout: Layout = place.layout
    return layout.order == "stimulus" and layout.axis == len(layout.shape) - 1
