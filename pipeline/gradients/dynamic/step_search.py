"""The way from one place of a model to a later one as a few steps, each found by sending random cotangents back."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.gradients.dynamic.graph import Node, Place, narrows, places_of, pulled, same_edge, typical_size
from pipeline.gradients.dynamic.sharing import shared_passes
from pipeline.gradients.dynamic.steps import Band, Constant, Diagonal, Filter, Framewise, Step
from pipeline.gradients.torch_state.memory import rows_that_fit

#: Frames at which a filter must hear the past as at the last one, as shares of the sound's length.
LOOKS = (0.93, 0.61, 0.34, 0.12)

#: A band over more than this share of the sound saves little over one backward pass per frame.
WIDEST_BAND = 0.25

#: Units in the last place by which sums within one frame may differ by rounding.
ROUNDINGS = 16

#: Bytes of one tensor of all rows that go back together on a CPU: larger ones leave its cache, and are written to fresh
#: pages.
IN_CACHE = 2**20


class NoWayError(RuntimeError):
    """No rule gives how a part of the model passes tangents on."""


@dataclass
class Search:
    """What a search for steps goes by: how much memory it may take, and what the model was found not to allow."""

    n_frames: int
    lags: int
    memory: int
    dtype: torch.dtype
    device: torch.device
    limits: set[str] = field(default_factory=set)
    filters: bool = True
    sizes: dict[tuple[Node, Node], int] = field(default_factory=dict)
    drawn: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    weights: dict[Node, Tensor] = field(default_factory=dict)

    @property
    def same(self) -> float:
        """Numbers that differ by no more than this, relative to the largest, differ by rounding."""
        return 1e-5 if self.dtype == torch.float32 else 1e-11

    def random(self, *shape: int) -> Tensor:
        """Fixed random numbers, none near 0."""
        if shape not in self.drawn:
            generator = torch.Generator().manual_seed(7)
            size = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
            sign = torch.rand(shape, generator=generator, dtype=torch.float64).sub(0.5).sign()
            self.drawn[shape] = (size * sign).to(dtype=self.dtype, device=self.device)
        return self.drawn[shape]

    def weigh(self, place: Place, factors: Float[Tensor, "number"]) -> None:
        """Let the numbers of a place count for ``factors``, up to powers of two, in what is sent back from there.

        What one of them does counts then as much as what any other does, however small it is.
        """
        known = (factors > 0) & torch.isfinite(factors)
        exponents = torch.where(known, factors, 1.0).log2().round().clamp(-60, 60)
        self.weights[place.edge.node] = torch.exp2(exponents).to(dtype=self.dtype, device=self.device)

    def weights_of(self, place: Place) -> Tensor:
        """What each number of a place counts for."""
        return self.weights.get(place.edge.node, torch.ones(place.width, dtype=self.dtype, device=self.device))

    def pull(self, later: Place, earlier: Place, cotangents: Float[Tensor, "row frame later"]) -> Tensor:
        """Backward passes from one place to an earlier one, as many rows at a time as pay and fit."""
        return pulled(later, earlier, cotangents, self._together(later, earlier, len(cotangents)), self.limits)

    def _together(self, later: Place, earlier: Place, n_rows: int) -> int:
        ends = later.edge.node, earlier.edge.node
        if ends not in self.sizes:
            self.sizes[ends] = typical_size(later.edge, earlier.edge)
        item, between = torch.finfo(self.dtype).bits // 8, self.sizes[ends]
        n_bytes = 4 * item * max(between, self.n_frames * (later.width + earlier.width))
        fitting = rows_that_fit(n_rows, n_bytes, self.memory)
        return min(fitting, max(1, IN_CACHE // (item * between))) if self.device.type == "cpu" else fitting

    def agree(self, got: Tensor, expected: Tensor) -> bool:
        """Whether two tensors differ by rounding only."""
        if not expected.numel():
            return True
        size = expected.abs().amax()
        return bool(torch.isfinite(size)) and bool((got - expected).abs().amax() <= self.same * size)

    def agree_at_each(self, got: Float[Tensor, "frame number"], expected: Float[Tensor, "frame number"]) -> bool:
        """The same for what stays within frames: relative to the largest number of the frame, and of that number."""
        size, limits = expected.abs(), torch.finfo(self.dtype)
        if not expected.numel() or not bool(torch.isfinite(size).all()):
            return not expected.numel()
        of_frame, of_number = size.amax(dim=1, keepdim=True), size.amax(dim=0, keepdim=True)
        # Terms that cancel at one frame round as they do at others.
        terms = torch.maximum(of_frame, of_frame.median())
        rounding = ROUNDINGS * limits.eps * terms + limits.tiny / limits.eps
        return bool(((got - expected).abs() <= self.same * torch.minimum(of_frame, of_number) + rounding).all())


def linked(search: Search, earlier: Place, later: Place) -> list[Step]:
    """Steps that take tangents of ``earlier`` to tangents of ``later``.

    Raises `NoWayError` if a part in between is neither frame by frame, nor a filter, nor hears a few frames only.
    """
    if same_edge(later.edge, earlier.edge):
        return []
    if acts_frame_by_frame(search, later, earlier):
        step = slopes_between(search, later, earlier)
        return [] if _changes_nothing(step) else [step]
    between = [places_of(edge, search.n_frames) for edge in narrows(later.edge, earlier.edge)[1:-1]]
    stops = [*([place] for place in [earlier]), *(list(places) for places in between), [later]]
    stops = [places for places in stops if places]
    steps: list[Step] = []
    here, position = earlier, 0
    while position < len(stops) - 1:
        here, position, found = _next_step(search, stops, here, position)
        if not _changes_nothing(found):
            steps.append(found)
    return steps


def _changes_nothing(step: Step) -> bool:
    """Whether a step only lays its numbers out anew."""
    if not isinstance(step, Constant) or step.slopes.shape[0] != step.slopes.shape[1]:
        return False
    return bool((step.slopes == torch.eye(len(step.slopes)).to(step.slopes)).all())


def _next_step(search: Search, stops: list[list[Place]], here: Place, position: int) -> tuple[Place, int, Step]:
    """The furthest place that follows this one frame by frame, or the nearest that a filter or a band leads to."""
    reached: tuple[Place, int] | None = None
    for number in range(position + 1, len(stops)):
        fitting = [place for place in stops[number] if acts_frame_by_frame(search, place, here)]
        if not fitting:
            break
        reached = fitting[0], number
    if reached is not None:
        return *reached, slopes_between(search, reached[0], here)
    if search.filters:
        for number in range(position + 1, len(stops)):
            for place in stops[number]:
                step = _filter(search, place, here)
                if step is not None:
                    return place, number, step
    banded = _narrowest_band(search, stops, here, position)
    if banded is not None:
        return banded
    raise NoWayError("frames mix in a way that is neither a filter nor over in a few frames")


def acts_frame_by_frame(search: Search, later: Place, earlier: Place) -> bool:
    """Whether ``later`` at each frame depends on ``earlier`` at that frame alone, on the numbers of this very run.

    A cotangent is sent back twice, the second time with every frame scaled by a number of its own.
    """
    vector = (search.random(1, 1, later.width) * search.weights_of(later)).expand(1, search.n_frames, -1)
    scale = search.random(1, search.n_frames, 1)
    try:
        plain, scaled = search.pull(later, earlier, torch.cat([vector, vector * scale]))
    except RuntimeError:
        return False
    return search.agree_at_each(plain * scale[0], scaled)


def slopes_between(
    search: Search, later: Place, earlier: Place, *, rows: Int[Tensor, "row"] | None = None
) -> Diagonal | Constant | Framewise:
    """The Jacobian of a part that acts on each frame alone; of some of its rows, where not of all."""
    diagonal = own_slopes(search, later, earlier) if rows is None else None
    if diagonal is not None:
        alike = bool((diagonal.slopes == diagonal.slopes[:1]).all())
        return Constant(torch.diag(diagonal.slopes[0])) if alike else diagonal
    constant = _constant(search, later, earlier)
    if constant is not None:
        return constant if rows is None else Constant(constant.slopes[rows])
    shared = shared_passes(search, later, earlier) if rows is None or len(rows) == later.width else None
    if shared is not None:
        return Framewise(shared if rows is None else shared[:, rows])
    units = torch.eye(later.width, dtype=search.dtype, device=search.device)
    units = (units if rows is None else units[rows]).unsqueeze(1).expand(-1, search.n_frames, -1)
    return Framewise(search.pull(later, earlier, units).transpose(0, 1).contiguous())


def own_slopes(search: Search, later: Place, earlier: Place) -> Diagonal | None:
    """The slopes of a part in which each number follows one number of its frame alone; None where that is not so.

    A cotangent is sent back twice, the second time with every number of every frame scaled by a number of its own.
    """
    if later.width != earlier.width:
        return None
    vector, weights = search.random(1, search.n_frames, later.width), search.weights_of(later)
    plain, scaled = search.pull(later, earlier, torch.cat([torch.ones_like(vector), vector]) * weights)
    return Diagonal(plain / weights) if search.agree_at_each(plain * vector[0], scaled) else None


def _constant(search: Search, later: Place, earlier: Place) -> Constant | None:
    """The same where it is one for all frames: then every frame of a backward pass gives another of its rows."""
    vectors = (search.random(2, 1, later.width) * search.weights_of(later)).expand(2, search.n_frames, -1)
    rows = search.pull(later, earlier, vectors)
    if not search.agree(rows, rows[:, :1].expand_as(rows)):
        return None
    return Constant(_rows_at_frames(search, later, earlier, list(range(search.n_frames)), 1)[:, 0])


def _rows_at_frames(
    search: Search, later: Place, earlier: Place, frames: list[int], field: int
) -> Float[Tensor, "later lag earlier"]:
    """Rows of a Jacobian that is the same at all ``frames``, as many in one backward pass as there are frames.

    The frames lie at least ``field`` apart, which is how far back any of them hears.
    """
    passes = math.ceil(later.width / len(frames))
    rows = []
    for number in range(passes):
        units = range(number * len(frames), min((number + 1) * len(frames), later.width))
        cotangent = torch.zeros(1, search.n_frames, later.width, dtype=search.dtype, device=search.device)
        mine = frames[: len(units)]
        cotangent[0, mine, list(units)] = 1.0
        gradient = search.pull(later, earlier, cotangent)[0]
        heard = torch.tensor(mine, device=search.device).unsqueeze(1) - torch.arange(field, device=search.device)
        rows.append(gradient[heard.clamp_min(0)] * (heard >= 0).unsqueeze(-1))
    return torch.cat(rows)


def _one_frame(search: Search, later: Place, frame: int) -> Float[Tensor, "1 frame later"]:
    cotangent = torch.zeros(1, search.n_frames, later.width, dtype=search.dtype, device=search.device)
    cotangent[0, frame] = search.random(later.width)
    return cotangent


def _filter(search: Search, later: Place, earlier: Place) -> Filter | None:
    """The step where every frame hears the past alike; the very first frame may count for what lies before it."""
    last = search.n_frames - 1
    looks = sorted({int(share * last) for share in LOOKS} - {last}, reverse=True)
    if last < 2 * len(LOOKS) or len(looks) < len(LOOKS):
        return None
    # Most parts that are no filter are told from one by the first look alone.
    try:
        whole = search.pull(later, earlier, _one_frame(search, later, last))[0]
        alike = bool(torch.isfinite(whole).all()) and all(
            _hears_alike(search, whole, search.pull(later, earlier, _one_frame(search, later, frame))[0], frame)
            for frame in looks
        )
    except RuntimeError:
        return None
    if not alike:
        return None
    kernel = _kernel(search, later, earlier, whole)
    step = _as_narrow(kernel[:, : search.lags].transpose(0, 1))
    return _with_first(search, later, earlier, kernel, step)


def _hears_alike(
    search: Search, whole: Float[Tensor, "frame earlier"], other: Float[Tensor, "frame earlier"], frame: int
) -> bool:
    """Whether a frame hears the past as the last one does, and nothing after it."""
    tolerance = search.same * whole.abs().amax()
    late = other[frame + 1 :].abs().amax() <= tolerance
    return bool(late and (other[1 : frame + 1].flip(0) - whole.flip(0)[:frame]).abs().amax() <= tolerance)


def _kernel(
    search: Search, later: Place, earlier: Place, whole: Float[Tensor, "frame earlier"]
) -> Float[Tensor, "later lag earlier"]:
    """How the last frame follows all before it."""
    last = search.n_frames - 1
    heard = whole.abs().amax(dim=1).nonzero().flatten()
    field = last + 1 - int(heard[0]) if len(heard) else 1
    if 2 * field < search.n_frames:
        rows = _rows_at_frames(search, later, earlier, list(range(last, field, -field)), field)
        return torch.nn.functional.pad(rows, (0, 0, 0, max(0, min(search.lags, search.n_frames) - field)))
    units = torch.zeros(later.width, search.n_frames, later.width, dtype=search.dtype, device=search.device)
    units[:, last] = torch.eye(later.width, dtype=search.dtype, device=search.device)
    return search.pull(later, earlier, units).flip(1)


def _as_narrow(kernel: Float[Tensor, "lag later earlier"]) -> Tensor:
    """The kernel without the lags at its end that are exactly 0; one number per lag where each number is by itself."""
    heard = kernel.flatten(1).abs().amax(dim=1).nonzero().flatten()
    kernel = kernel[: int(heard[-1]) + 1 if len(heard) else 1]
    if kernel.shape[1] == kernel.shape[2]:
        alone = kernel.diagonal(dim1=1, dim2=2)
        if bool((torch.diag_embed(alone) == kernel).all()):
            return alone.contiguous()
    return kernel.contiguous()


def _with_first(
    search: Search, later: Place, earlier: Place, kernel: Float[Tensor, "later lag earlier"], narrow: Tensor
) -> Filter | None:
    """The filter with how the first frames follow the very first: as any other, or that frame repeated before it.

    A few frames told the kernel. Cotangents at all frames, each scaled by a number of its own, tell whether it holds at
    all: if it does, frame s is sent sum_u scale_(s + u) (v K_u), and frame 0 as it counts for the frames in the window.
    """
    n_frames = min(search.lags, search.n_frames)
    vector, scale = search.random(later.width), search.random(search.n_frames)
    early = scale * (torch.arange(search.n_frames, device=search.device) < n_frames)
    everywhere, begun = search.pull(later, earlier, torch.stack([scale, early]).unsqueeze(-1) * vector)
    heard = torch.einsum("h,hlk->lk", vector, kernel)
    ahead = torch.nn.functional.pad(scale, (0, len(heard) - 1)).unfold(0, len(heard), 1)
    if not search.agree(everywhere[1:], (ahead @ heard)[1:]):
        return None
    repeated = kernel.flip(1).cumsum(1).flip(1)
    for first in (kernel, repeated):
        expected = scale[:n_frames] @ torch.einsum("h,hlk->lk", vector, first[:, :n_frames])
        if search.agree(begun[0], expected):
            if first is kernel:
                return Filter(narrow)
            early = first[:, : min(n_frames, len(narrow))].transpose(0, 1).contiguous()
            return Filter(narrow, early.diagonal(dim1=1, dim2=2).contiguous() if narrow.dim() == 2 else early)
    return None


def _narrowest_band(
    search: Search, stops: list[list[Place]], here: Place, position: int
) -> tuple[Place, int, Band] | None:
    """The narrowest place that hears no further back than the nearest one does, and the band that leads there."""
    best: tuple[Place, int] | None = None
    nearest: int | None = None
    for number in range(position + 1, len(stops)):
        for place in stops[number]:
            if best is not None and place.width >= best[0].width:
                continue
            field = _field(search, place, here)
            if field is None or field > WIDEST_BAND * search.n_frames or (nearest is not None and field > nearest):
                continue
            nearest = field if nearest is None else nearest
            best = place, number
    if best is None or nearest is None:
        return None
    band = _band(search, best[0], here, nearest)
    return None if band is None else (*best, band)


def _band(search: Search, later: Place, earlier: Place, field: int) -> Band | None:
    """The step where no frame hears further back than a few, exactly: frames one field apart share a backward pass."""
    units = torch.eye(later.width, dtype=search.dtype, device=search.device)
    slopes = torch.zeros(field, search.n_frames, later.width, earlier.width, dtype=search.dtype, device=search.device)
    for offset in range(field):
        frames = torch.arange(offset, search.n_frames, field, device=search.device)
        cotangents = torch.zeros(later.width, search.n_frames, later.width, dtype=search.dtype, device=search.device)
        cotangents[:, frames] = units.unsqueeze(1)
        gradient = search.pull(later, earlier, cotangents)
        for lag in range(field):
            inside = frames[frames >= lag]
            slopes[lag, inside] = gradient[:, inside - lag].transpose(0, 1)
    # What a frame hears beyond the field went to another frame of its comb: cotangents at all frames at once tell.
    vector = search.random(1, search.n_frames, later.width)
    (got,) = search.pull(later, earlier, vector)
    expected = torch.zeros_like(got)
    for lag in range(field):
        expected[: search.n_frames - lag] += torch.matmul(vector[0, lag:].unsqueeze(1), slopes[lag, lag:]).squeeze(1)
    return Band(slopes) if search.agree(got, expected) else None


def _field(search: Search, later: Place, earlier: Place) -> int | None:
    """How many frames a frame hears, itself included; None where a frame hears what comes after it.

    Found at a few frames, then checked at all: cotangents at frames two fields apart leave every other field empty.
    """
    last = search.n_frames - 1
    field = 1
    for frame in {last, *(int(share * last) for share in LOOKS)}:
        try:
            heard = search.pull(later, earlier, _one_frame(search, later, frame))[0].abs().amax(dim=1).nonzero()
        except RuntimeError:
            return None
        if len(heard):
            if int(heard.max()) > frame:
                return None
            field = max(field, frame + 1 - int(heard.min()))
    if field > WIDEST_BAND * search.n_frames:
        return field
    for offset in (0, field):
        frames = torch.arange(offset, search.n_frames, 2 * field, device=search.device)
        cotangent = torch.zeros(1, search.n_frames, later.width, dtype=search.dtype, device=search.device)
        cotangent[0, frames] = search.random(len(frames), later.width)
        gradient = search.pull(later, earlier, cotangent)[0]
        inside = torch.zeros(search.n_frames + field, dtype=torch.bool, device=search.device)
        for lag in range(field):
            inside[(frames - lag).clamp_min(0)] = True
        if bool(gradient[~inside[: search.n_frames]].any()):
            return None
    return field
