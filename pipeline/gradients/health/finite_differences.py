"""Maps compared with what the response really does: central differences along a few directions."""

import itertools
import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.gradients.health.setting import Setting
from pipeline.gradients.objectives import Objective, evaluate, objective_name, only_frame
from pipeline.gradients.passes.one_frame import response_at
from pipeline.gradients.torch_state.arithmetic import undisturbed
from pipeline.gradients.torch_state.copies import Inventory, in_double, twin_of

#: Step in float64, relative to the stimulus's rms; a longer one meets more kinks.
DOUBLE_STEP = 1e-6
#: Steps in the model's own precision, relative to the rms, where rounding asks for longer ones.
OWN_STEPS = (1e-3, 4e-3, 1.6e-2)
#: Relative difference of the slopes by two of these steps, up to which they tell something.
AGREEING = 0.02
#: Seed of the direction that the maps of all neurons share.
DIRECTION_SEED = 31
DOUBLE, OWN_PRECISION = "float64", "own precision"


def draw(n_stimuli: int, n_neurons: int, sample: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Distinct (stimulus, neuron) pairs at random."""
    drawn = torch.randperm(n_stimuli * n_neurons, generator=generator)[:sample].tolist()
    return [(index // n_neurons, index % n_neurons) for index in drawn]


@dataclass(frozen=True)
class Errors:
    """Relative errors of maps, NaN where they cannot be told.

    ``drawn`` are those of the maps that were drawn, in their order, found in ``precision``. ``others`` are those of
    each neuron along one direction that they share, around stimuli of which a map was drawn.
    """

    drawn: list[float]
    others: Float[Tensor, " neuron"]
    precision: str


def finite_difference_errors(
    setting: Setting, values: Tensor, objective: Objective, pairs: list[tuple[int, int]], generator: torch.Generator
) -> Errors:
    """Errors of the maps of some pairs (stimulus, neuron), closely, and of all others as far as that costs nothing."""
    nothing = torch.full((values.shape[1],), math.nan)
    with undisturbed(setting.listener, setting.heard.dtype), torch.no_grad():
        try:
            # What is kept is never run itself: a model may finish its weights when it first hears something.
            double = setting.kept.answer("in double", lambda: in_double(setting.listener), _bytes_of)
            exact = replace(setting, listener=twin_of(double), heard=setting.heard.double())
            errors, others = _in_double(exact, values, objective, pairs, generator)
            if not any(map(math.isnan, errors)):
                return Errors(errors, others, DOUBLE)
        except Exception:  # a model's own code may raise anything in another precision
            errors = []
        try:
            errors = [_in_own_precision(setting, values, objective, pair, generator) for pair in pairs]
        except Exception:
            errors = [math.nan] * len(pairs)
    return Errors(errors, nothing, OWN_PRECISION)


def _bytes_of(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in Inventory.of(model).tensors)


def _in_double(
    exact: Setting, values: Tensor, objective: Objective, pairs: list[tuple[int, int]], generator: torch.Generator
) -> tuple[list[float], Tensor]:
    """The errors of all maps around one stimulus by one forward pass; and those of each neuron's map by another.

    A map is compared along a random direction and along itself. The random one is the same for all maps that look at
    one window, so that one pass tells the slopes of them all.
    """
    errors = [math.nan] * len(pairs)
    others = torch.full((values.shape[1],), math.nan, dtype=torch.float64)
    for stimulus in dict.fromkeys(stimulus for stimulus, _ in pairs):
        mine = [number for number, pair in enumerate(pairs) if pair[0] == stimulus]
        shared = _shared(exact, stimulus)
        along = None if shared is None else _along(exact, objective, (stimulus, int(shared[0])))
        directed = [_directions(exact, values, pairs[number], generator, along) for number in mine]
        asked = [(pairs[number], one.own) for number, one in zip(mine, directed, strict=True) if len(one.own)]
        moved = dict(zip((pair for pair, _ in asked), _moved(exact, objective, asked, DOUBLE_STEP), strict=True))
        for number, one in zip(mine, directed, strict=True):
            taken = [*one.shared, *(moved[pair] for pair in (pairs[number],) if pair in moved)]
            steps = [_slope(exact, each, pairs[number][1]) for each in taken]
            slope, rounding = torch.cat([slope for slope, _ in steps]), torch.stack([most for _, most in steps]).amax()
            errors[number] = _error(slope, rounding, one.all, one.placed)
        if shared is not None and along is not None:
            maps = values[stimulus] if len(shared) == values.shape[1] else values[stimulus, shared]
            others[shared] = torch.fmax(others[shared], _errors_along(exact, along, maps, shared))
    return errors, others


def _shared(setting: Setting, stimulus: int) -> Int[Tensor, " row"] | None:
    """The maps around a stimulus that look at one window of it: those of most neurons. None for maps of sums."""
    if setting.neurons is None:
        return None
    ends = setting.ends[stimulus]
    return (ends == ends.mode().values).nonzero()[:, 0].cpu()


@dataclass(frozen=True)
class _Along:
    """A random direction inside one window of a stimulus, and what steps along it do to all neurons."""

    window: slice
    direction: Float[Tensor, "1 *frequency time"]
    moved: "_Moved"


def _along(exact: Setting, objective: Objective, pair: tuple[int, int]) -> _Along:
    """Steps in the window of this map, along a direction that is the same whichever neurons are asked for."""
    window = _window(exact, pair)

    def found() -> _Along:
        heard = exact.heard[pair[0]][..., window]
        direction = _unit(_noise(heard, torch.Generator().manual_seed(DIRECTION_SEED))[None])
        [moved] = _moved(exact, objective, [(pair, direction)], DOUBLE_STEP)
        return _Along(window, direction, moved)

    if callable(objective):
        return found()
    about = ("along", objective_name(objective), pair[0], window.start, window.stop)
    return exact.kept.answer(about, found)


def _in_own_precision(
    setting: Setting, values: Tensor, objective: Objective, pair: tuple[int, int], generator: torch.Generator
) -> float:
    """The error by the two steps that agree best along the map itself; NaN where no two agree."""
    directed = _directions(setting, values, pair, generator)
    along, placed = directed.all[-1:], directed.placed
    moved = [_moved(setting, objective, [(pair, along)], step)[0] for step in OWN_STEPS]
    slopes = [_slope(setting, numbers, pair[1])[0] for numbers in moved]
    best = (math.inf, math.nan)
    for one, other in itertools.pairwise(slopes):
        if not bool(one.isfinite().all() and other.isfinite().all()):
            continue
        apart = float(
            (one - other).abs().amax()
            / torch.maximum(one.abs(), other.abs()).amax().clamp(min=torch.finfo(torch.float32).tiny)
        )
        rounding = one.new_tensor(torch.finfo(one.dtype).tiny)
        best = min(best, (apart, _error(one, rounding, along, placed)))
    return best[1] if best[0] <= AGREEING else math.nan


@dataclass(frozen=True)
class _Directed:
    """Directions in which a map is compared, of largest entry 1, and the map itself, time ascending.

    ``shared`` are the steps taken already along the first of them, ``own`` the directions that are left to step along.
    """

    all: Float[Tensor, "direction *frequency time"]
    own: Float[Tensor, "direction *frequency time"]
    placed: Float[Tensor, "*frequency time"]
    shared: tuple["_Moved", ...] = ()


def _directions(
    setting: Setting, values: Tensor, pair: tuple[int, int], generator: torch.Generator, along: _Along | None = None
) -> _Directed:
    """A random direction inside the window, the shared one where it is of that window, and the map itself if any."""
    placed = _placed(setting, values, pair)
    itself = _unit(placed[None]) if placed.any() else placed[None][:0]
    if along is not None and along.window == _window(setting, pair):
        return _Directed(torch.cat([along.direction, itself]), itself, placed, (along.moved,))
    both = torch.cat([_unit(_noise(placed, generator)[None]), itself])
    return _Directed(both, both, placed)


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)


def _unit(directions: Float[Tensor, "direction *frequency time"]) -> Float[Tensor, "direction *frequency time"]:
    return directions / directions.flatten(1).abs().amax(dim=1).view(-1, *[1] * (directions.ndim - 1))


def _placed(setting: Setting, values: Tensor, pair: tuple[int, int]) -> Tensor:
    """A map as its window of the stimulus lies, time ascending."""
    heard = setting.heard[pair[0]][..., _window(setting, pair)]
    placed = values[(*pair, ..., slice(heard.shape[-1]))].to(heard).nan_to_num(nan=0.0).flip(-1)
    return placed.reshape(heard.shape)


def _window(setting: Setting, pair: tuple[int, int]) -> slice:
    end = int(setting.ends[pair])
    return slice(end + 1 - min(setting.lags, end + 1), end + 1)


@dataclass(frozen=True)
class _Moved:
    """The objectives of all neurons after steps forth, then back, along some directions."""

    numbers: Float[Tensor, "move neuron"]
    step: float


def _moved(
    setting: Setting, objective: Objective, asked: list[tuple[tuple[int, int], Tensor]], step: float
) -> list[_Moved]:
    """Steps in the windows of maps around one stimulus, along directions of each, by one forward pass."""
    if not asked:
        return []
    heard = setting.heard[asked[0][0][0]]
    rms = float(heard.square().mean().sqrt())
    step *= rms if rms > 0 else 1.0
    moved = []
    for pair, directions in asked:
        rows = heard.expand(2 * len(directions), *heard.shape).clone()
        rows[..., _window(setting, pair)] += step * torch.cat([directions, -directions])
        moved.append(rows)
    frame = only_frame(objective, heard.shape[-1] // setting.hop)
    with undisturbed(setting.listener, heard.dtype):
        if frame is None or heard.dtype != torch.float64:
            response = setting.listener(torch.cat(moved))
        else:  # a readout that hears other frames shows it in a response that moved by a millionth
            response, objective = response_at(setting.listener, torch.cat(moved), [frame]), "last"
        if heard.dtype == torch.float64 and response.dtype != torch.float64:
            raise TypeError(f"the model answers in {response.dtype} to float64")
        numbers = evaluate(objective, response[:, :, 0])
    return [_Moved(mine, step) for mine in numbers.split([len(rows) for rows in moved])]


def _slope(setting: Setting, moved: _Moved, rows: int | Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of the objective of a map, or of each of some, and what rounding may add to them."""
    if setting.neurons is None:
        number = moved.numbers.sum(dim=1)
    else:
        number = moved.numbers[:, setting.neurons[rows] if isinstance(rows, int) else setting.index[rows]]
    half = len(number) // 2
    slope = (number[:half] - number[half:]) / (2 * moved.step)
    return slope, 1e2 * torch.finfo(number.dtype).eps * number.abs().amax(dim=0) / moved.step


def _errors_along(
    setting: Setting, along: _Along, maps: Float[Tensor, "row ..."], rows: Int[Tensor, " row"]
) -> Float[Tensor, " row"]:
    """What `_error` tells of maps that look at one window, along one direction of it."""
    slope, rounding = _slope(setting, along.moved, rows)
    direction = along.direction[0]
    # In the precision of the maps: twice as wide a copy of thousands of them takes longer than all else here.
    within = maps[..., : direction.shape[-1]].flatten(1)
    backwards = direction.flip(-1).flatten().to(within)  # a map begins with its newest frame
    told = within @ backwards
    if not bool(told.isfinite().all()):
        within = within.nan_to_num(nan=0.0)
        told = within @ backwards
    typical = within.norm(dim=1).to(slope) * direction.norm() / math.sqrt(direction.numel())
    return _relative(slope[0], told.to(slope), typical, rounding).cpu()


def _error(slope: Tensor, rounding: Tensor, directions: Tensor, placed: Tensor) -> float:
    told = (directions * placed).flatten(1).sum(dim=1)
    typical = placed.norm() * directions.flatten(1).norm(dim=1) / math.sqrt(placed.numel())
    return float(_relative(slope, told, typical, rounding).amax())


def _relative(slope: Tensor, told: Tensor, typical: Tensor, rounding: Tensor) -> Tensor:
    """Difference of slopes from what maps tell, relative to the largest that counts.

    A random direction meets a map at about ``typical``; less than that, or than rounding, is no measure of an error.
    """
    scale = torch.stack([told.abs(), slope.abs(), typical, rounding.expand_as(told)]).amax(dim=0)
    return (slope - told).abs() / scale.clamp(min=torch.finfo(torch.float32).tiny)
