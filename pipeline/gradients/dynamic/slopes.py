"""Jacobians of parts that act on each frame alone, or hear a few frames back, found by sending cotangents back."""

import math
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pipeline.gradients.dynamic.excerpt_slopes import Part, Way
from pipeline.gradients.dynamic.graph import Place
from pipeline.gradients.dynamic.search import Search
from pipeline.gradients.dynamic.sharing import Sharing, sharing_of
from pipeline.gradients.dynamic.steps import Band, Constant, Diagonal, Framewise

#: Frames at which the past that is heard is looked at, beside the last one, as shares of the sound's length.
LOOKS = (0.93, 0.61, 0.34, 0.12)

#: A band over more than this share of the sound saves little over one backward pass per frame.
WIDEST_BAND = 0.25


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
    every = torch.arange(later.width, device=search.device)
    chosen = every if rows is None else rows
    ways: list[Way] = [partial(_row_by_row, rows=chosen)]
    sharing = sharing_of(search, later, earlier) if len(chosen) == later.width else None
    if sharing is not None:
        ways.insert(0, partial(_shared, sharing=sharing, rows=None if torch.equal(chosen, every) else chosen))
    found = Part(search, later, earlier, chosen, 1).slopes(ways)
    assert found is not None
    return Framewise(found)


def _shared(
    search: Search, later: Place, earlier: Place, *, sharing: Sharing, rows: Int[Tensor, "row"] | None
) -> Float[Tensor, "1 frame row earlier"]:
    slopes = sharing.slopes(search, later, earlier)
    return (slopes if rows is None else slopes[:, rows]).unsqueeze(0)


def _row_by_row(
    search: Search, later: Place, earlier: Place, *, rows: Int[Tensor, "row"]
) -> Float[Tensor, "1 frame row earlier"]:
    units = torch.eye(later.width, dtype=search.dtype, device=search.device)[rows]
    units = units.unsqueeze(1).expand(-1, search.n_frames, -1)
    return search.pull(later, earlier, units).transpose(0, 1).contiguous().unsqueeze(0)


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
    return Constant(rows_at_frames(search, later, earlier, list(range(search.n_frames)), 1)[:, 0])


def rows_at_frames(
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


def one_frame(search: Search, later: Place, frame: int) -> Float[Tensor, "1 frame later"]:
    """A cotangent at one frame, of fixed random numbers."""
    cotangent = torch.zeros(1, search.n_frames, later.width, dtype=search.dtype, device=search.device)
    cotangent[0, frame] = search.random(later.width)
    return cotangent


def narrowest_band(
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
    """The step where no frame hears further back than a few, exactly."""
    every = torch.arange(later.width, device=search.device)
    found = Part(search, later, earlier, every, field).slopes([partial(_comb, field=field)])
    return None if found is None else Band(field, found)


def _comb(search: Search, later: Place, earlier: Place, *, field: int) -> Float[Tensor, "lag frame later earlier"]:
    """Slopes of all frames, those one field apart by the same backward pass."""
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
    return slopes


def _field(search: Search, later: Place, earlier: Place) -> int | None:
    """How many frames a frame hears, itself included; None where a frame hears what comes after it.

    Found at a few frames, then checked at all: cotangents at frames two fields apart leave every other field empty.
    """
    last = search.n_frames - 1
    field = 1
    for frame in {last, *(int(share * last) for share in LOOKS)}:
        try:
            heard = search.pull(later, earlier, one_frame(search, later, frame))[0].abs().amax(dim=1).nonzero()
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
