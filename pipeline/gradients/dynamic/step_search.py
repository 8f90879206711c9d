"""The way from one place of a model to a later one as a few steps, each found by sending random cotangents back."""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.gradients.dynamic.graph import NoWayError, Place, narrows, places_of, same_edge
from pipeline.gradients.dynamic.search import Search
from pipeline.gradients.dynamic.slopes import LOOKS, narrowest_band, one_frame, rows_at_frames, slopes_between
from pipeline.gradients.dynamic.steps import Constant, Filter, Step


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
    banded = narrowest_band(search, stops, here, position)
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


def _filter(search: Search, later: Place, earlier: Place) -> Filter | None:
    """The step where every frame hears the past alike; the very first frame may count for what lies before it."""
    last = search.n_frames - 1
    looks = sorted({int(share * last) for share in LOOKS} - {last}, reverse=True)
    if last < 2 * len(LOOKS) or len(looks) < len(LOOKS):
        return None
    # Most parts that are no filter are told from one by the first look alone.
    try:
        whole = search.pull(later, earlier, one_frame(search, later, last))[0]
        alike = bool(torch.isfinite(whole).all()) and all(
            _hears_alike(search, whole, search.pull(later, earlier, one_frame(search, later, frame))[0], frame)
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
        rows = rows_at_frames(search, later, earlier, list(range(last, field, -field)), field)
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
