"""Slopes of one part of the model: held for the whole sound where they are few, else computed excerpt by excerpt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.gradients.dynamic.excerpts import PAST, Address, Excerpts
from pipeline.gradients.dynamic.graph import NoWayError, Place
from pipeline.gradients.dynamic.search import Search, tolerance_at_each
from pipeline.gradients.dynamic.steps import Held, Slopes
from pipeline.gradients.torch_state.memory import is_out_of_memory

#: Bytes of slopes that are held for the whole sound; more are computed for an excerpt of it at a time.
FEW_BYTES = 2**22

#: Times that slopes computed around an excerpt may differ by more than those of one graph do: its numbers round anew.
ROUNDED_ANEW = 10

#: Frames of the excerpt that tells whether excerpts do at all.
TRIED_FRAMES = 32

Way = Callable[[Search, Place, Place], Float[Tensor, "lag frame later earlier"]]
"""A way to the Jacobians at all frames of a graph."""


@dataclass(frozen=True)
class Expected:
    """What a cotangent at all frames of the sound, each scaled by a number of its own, sends back.

    Slopes that went to another frame or to another number than theirs do not add up to that.
    """

    vector: Float[Tensor, "row"]
    scale: Float[Tensor, "frame"]
    gradient: Float[Tensor, "frame earlier"]
    same: float

    def holds(self, slopes: Float[Tensor, "lag frame row earlier"], start: int, *, times: int = 1) -> bool:
        """Whether slopes at frames from ``start`` on add up to it but for rounding, of which ``times`` is allowed.

        Asked at the frames that are heard by none after those of ``slopes``.
        """
        field, n_frames = slopes.shape[:2]
        stop, end = start + n_frames, len(self.gradient)
        weighed = self.scale[start:stop, None] * self.vector
        got = torch.zeros_like(self.gradient[start:stop])
        for lag in range(min(field, n_frames)):
            got[: n_frames - lag] += torch.matmul(weighed[lag:].unsqueeze(1), slopes[lag, lag:]).squeeze(1)
        known = n_frames if stop == end else n_frames - field + 1
        expected = self.gradient[start : start + known]
        whole, size = self.gradient.abs(), expected.abs()
        tolerance = self.same * whole.amax() if field > 1 else tolerance_at_each(size, whole, self.same)
        return bool(((got[:known] - expected).abs() <= times * tolerance).all())


@dataclass(frozen=True)
class Part:
    """A part of the model, from one place to a later one, some rows of whose Jacobians are wanted."""

    search: Search
    later: Place
    earlier: Place
    rows: Int[Tensor, "row"]
    field: int

    def slopes(self, ways: Sequence[Way]) -> Slopes | None:
        """The slopes by the first of these ways that gives what a plain backward pass does."""
        search, expected = self.search, self._expected()
        n_bytes = torch.finfo(search.dtype).bits // 8 * self.field * len(self.rows) * self.earlier.width
        if search.excerpts is not None and n_bytes * search.n_frames > FEW_BYTES:
            search.excerpts.fit(n_bytes)
            found = self._by_excerpts(search.excerpts, ways, expected)
            if found is not None:
                return found
        for way in ways:
            slopes = way(search, self.later, self.earlier)
            if expected.holds(slopes, 0):
                return Held(slopes)
        # One row at a time, nothing can go to another frame than its own where frames do not mix.
        return Held(slopes) if self.field == 1 else None

    def _expected(self) -> Expected:
        search, later = self.search, self.later
        vector = torch.zeros(later.width, dtype=search.dtype, device=search.device)
        vector[self.rows] = (search.random(later.width) * search.weights_of(later))[self.rows]
        scale = search.random(search.n_frames)
        (gradient,) = search.pull(later, self.earlier, (scale.unsqueeze(1) * vector).unsqueeze(0))
        return Expected(vector[self.rows], scale, gradient, search.same)

    def _by_excerpts(self, excerpts: Excerpts, ways: Sequence[Way], expected: Expected) -> Slopes | None:
        search = self.search
        tried = max(TRIED_FRAMES, 2 * self.field)
        start = (search.n_frames - tried) // 2
        ends = excerpts.address(self.later), excerpts.address(self.earlier)
        for windows in PAST if start > 0 else ():
            past = max(self.field - 1, windows * search.lags)
            slopes = ByExcerpt(search.along(search.n_frames), excerpts, *ends, tuple(ways), past, expected)
            try:
                slopes.computed(start, start + tried)
            except NoWayError:
                continue
            return slopes
        return None


@dataclass
class ByExcerpt:
    """Slopes that are computed for one excerpt of the sound at a time, and never held for the whole of it.

    ``past`` is how many frames before those wanted each excerpt brings along.
    """

    search: Search
    excerpts: Excerpts
    later: Address
    earlier: Address
    ways: tuple[Way, ...]
    past: int
    expected: Expected
    _known: Tensor | None = None
    _start: int = 0

    def between(self, start: int, stop: int) -> Float[Tensor, "lag frame row earlier"]:
        """Slopes at frames ``start`` to ``stop - 1``, and with them those of some frames after."""
        known = self._known
        if known is None or not self._start <= start <= stop <= self._start + known.shape[1]:
            self._known = None
            together = max(self.excerpts.together, 2 * (self.past + 1), stop - start)
            known = self._known = self.computed(start, min(start + together, self.search.n_frames))
            self._start = start
        return known[:, start - self._start : stop - self._start]

    def computed(self, start: int, stop: int) -> Float[Tensor, "lag frame row earlier"]:
        """Slopes at these frames, compared with a plain backward pass along the whole sound.

        Raises `NoWayError` if they differ from it.
        """
        excerpt = self.excerpts.run(max(0, start - self.past), stop)
        later, earlier = excerpt.place(self.later), excerpt.place(self.earlier)
        search = self.search.along(excerpt.n_frames)
        for number, way in enumerate(self.ways):
            try:
                slopes = way(search, later, earlier)[:, start - excerpt.start :]
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                continue
            if self.expected.holds(slopes, start, times=ROUNDED_ANEW):
                # What one excerpt did not allow is not tried at the next.
                self.ways = self.ways[number:]
                return slopes
        raise NoWayError("the model does not hear in an excerpt of the sound what it hears in the whole")
