"""Maps along a sound in one pass: tangents of the features block by block, then the readout's slopes."""

import torch
from torch import Tensor

from pipeline.gradients.dynamic.attention import attention_rule
from pipeline.gradients.dynamic.cells import cell_rule
from pipeline.gradients.dynamic.excerpts import Answers, Excerpts
from pipeline.gradients.dynamic.graph import NoWayError
from pipeline.gradients.dynamic.mixers import RuleMaker, cut_open, rules_for
from pipeline.gradients.dynamic.moments import Moments
from pipeline.gradients.dynamic.readout import Pages, Readout, maps_of, readout_of, slopes_at, windows_at
from pipeline.gradients.dynamic.recurrences import recurrent_rule
from pipeline.gradients.dynamic.scans import scan_rule
from pipeline.gradients.dynamic.search import Search
from pipeline.gradients.dynamic.sound_question import Asked
from pipeline.gradients.dynamic.stages import Builder, Way
from pipeline.gradients.dynamic.steps import Constant, Filter, Framewise
from pipeline.gradients.passes.forward_pass import frames_of
from pipeline.gradients.routes.cheapest import limits_of

#: Bytes of maps in one block: a block this small is still in the processor's cache when its numbers are taken.
BLOCK_OF_MAPS = 16 * 2**20
#: Rules for parts that mix frames, in the order in which they are tried.
KNOWN: tuple[RuleMaker, ...] = (recurrent_rule, attention_rule, scan_rule, cell_rule)

#: Frames whose maps are computed together, at most, by device.
MOST_FRAMES = {"cpu": 64, "cuda": 512}


class Along:
    """One pass along the sound, a block of frames at a time."""

    def __init__(self, asked: Asked, way: Way, readout: Readout, route: str) -> None:
        self._asked, self._readout = asked, readout
        self._frames = torch.tensor(asked.frames, device=asked.leaf.device)
        self._features = way.stream(asked.lags, asked.leaf)
        direct = isinstance(readout.steps[-1], (Constant, Framewise))
        self._steps = [step.stream(asked.lags) for step in (readout.steps[:-1] if direct else readout.steps)]
        self.route, self.parts = route, way.kinds
        n_bytes = asked.lags * way.n_bands * asked.leaf.element_size()
        self._maps_together = _maps_together(asked)
        fitting = max(1, asked.memory // (2 * n_bytes * way.numbers_per_frame))
        self._together = min(fitting, _most_frames(asked))
        if not direct:
            self._together = min(self._together, self._maps_together)
        self.first_block = min(self._maps_together, _first_frames(asked, self._together))
        self._windows: Tensor | None = None
        self._start = self._stop = 0
        self._pages = Pages()

    def block(self, done: int, most: int | None = None) -> tuple[tuple[int, ...], Tensor]:
        """The frames after those that are done, ``most`` of them at most, and their maps (frame, neuron, lag, band)."""
        asked = self._asked
        last = self._last_of(done, self._maps_together if most is None else most)
        chosen = self._frames[done:last] - self._start
        maps = maps_of(self._readout, self._known_windows, self._start, chosen, self._pages, asked.lags)
        return asked.frames[done:last], maps

    def add_to(self, moments: Moments, done: int) -> tuple[int, ...]:
        """The frames after those that are done, whose maps ``moments`` has taken in."""
        last = self._last_of(done, self._asked.n_frames)
        frames, chosen = self._asked.frames[done:last], self._frames[done:last] - self._start
        slopes = slopes_at(self._readout, self._frames[done:last])
        given = windows_at(self._known_windows, chosen)
        if slopes is None or given.shape[2] < self._asked.lags:
            frames, maps = self.block(done)
            moments.add_maps(maps)
        else:
            moments.add(slopes, given.flatten(2))
        return frames

    def _last_of(self, done: int, most: int) -> int:
        """The position after the last frame of a block that begins with frame number ``done`` of those asked for."""
        frames = self._asked.frames
        while frames[done] >= self._stop:
            self._advance()
        last = done
        while last < len(frames) and last < done + most and frames[last] < self._stop:
            last += 1
        return last

    @property
    def _known_windows(self) -> Tensor:
        assert self._windows is not None
        return self._windows

    def _advance(self) -> None:
        """The tangents of the next block of frames."""
        self._start, self._stop = self._stop, min(self._stop + self._together, self._asked.n_frames)
        self._windows = None
        windows = self._features(self._start, self._stop)
        for step in self._steps:
            windows = step(windows, self._start, self._stop)
        self._windows = windows


def usual_first_block(asked: Asked) -> int:
    """How many of the frames asked for come in the first block, where memory is not short."""
    return min(_maps_together(asked), _first_frames(asked, _most_frames(asked)))


def _most_frames(asked: Asked) -> int:
    return MOST_FRAMES.get(asked.leaf.device.type, MOST_FRAMES["cpu"])


def _maps_together(asked: Asked) -> int:
    n_rows = asked.n_neurons if asked.neurons is None else len(asked.neurons)
    n_bytes = asked.lags * asked.leaf.shape[2] * asked.leaf.element_size()
    return max(1, BLOCK_OF_MAPS // (n_rows * n_bytes))


def _first_frames(asked: Asked, together: int) -> int:
    """Frames asked for that come with the first one, where so many are gone through together."""
    stop = (asked.frames[0] // together + 1) * together
    return sum(frame < stop for frame in asked.frames)


def along_the_sound(asked: Asked, route: str) -> Along:
    """The pass along the sound by a route asked for by name, or by whatever the model's parts allow.

    Raises `NoWayError` if the model has a part for which no rule holds, or does not allow the route asked for.
    """
    leaf = asked.leaf
    by_lag = route == "windows" or (route == "auto" and leaf.device.type != "cpu")
    rules = [] if route == "comb" else rules_for(asked.calls, asked.n_frames, by_lag, KNOWN)
    answers = Answers(asked.twin, asked.n_frames)
    with answers.noted():
        opened = cut_open(asked.twin, rules, leaf)
    response = frames_of(opened.response, 1, asked.model)[0]
    _check_same(asked, response)
    if opened.hears_besides:
        raise NoWayError(f"{type(asked.model).__name__} hears more of a part than its output at each frame")
    limits = limits_of(asked.model)
    excerpts = None if "excerpts" in limits else Excerpts(asked.twin, rules, leaf, answers, opened)
    search = Search(
        asked.n_frames, asked.lags, asked.memory, asked.dtype, leaf.device, limits,
        filters=route != "comb", excerpts=excerpts,
    )  # fmt: skip
    builder = Builder(search, opened)
    features, readout = readout_of(search, builder, opened.response, asked.neurons)
    way = builder.way_to(features)
    if excerpts is not None:
        excerpts.close()
    found = _name(way, readout)
    if route not in ("auto", found) and not (route == "windows" and found == "sweep"):
        raise NoWayError(
            f"{type(asked.model).__name__} goes by the route {found!r}, not by {route!r}, since its parts are"
            f' {", ".join(_parts(way, readout)) or "frame by frame"}; use route="auto" or route="{found}"'
        )
    way = Way(way.stages, way.n_bands, _parts(way, readout))
    return Along(asked.without_calls(), way, readout, found if route == "auto" else route)


def _parts(way: Way, readout: Readout) -> tuple[str, ...]:
    last = [type(step).__name__.lower() for step in readout.steps]
    return (*way.kinds, *(name for name in last if name in ("filter", "band")))


def _name(way: Way, readout: Readout) -> str:
    """What the route is called, by the parts on it."""
    parts = set(_parts(way, readout))
    if "band" in parts:
        return "comb"
    steps = [step for stage in way.stages for steps in stage.steps for step in steps]
    if all(isinstance(step, (Constant, Filter)) for step in (*steps, *readout.steps)):
        return "slope"
    return "sweep" if "recurrence" in parts and parts <= {"filter", "recurrence"} else "windows"


def _check_same(asked: Asked, response: Tensor) -> None:
    """Refuse a model that answers otherwise when it is cut open."""
    expected = asked.response.detach()
    size = float(expected.abs().amax())
    if not torch.allclose(response.detach(), expected, rtol=1e-4, atol=1e-5 * size + 1e-30):
        raise NoWayError(
            f"{type(asked.model).__name__} answers otherwise when parts of it are replaced by their outputs"
        )
