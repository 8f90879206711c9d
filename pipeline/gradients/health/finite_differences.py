"""Maps compared with what the response really does: central differences along a few directions."""

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.gradients.health.setting import Setting
from pipeline.gradients.objectives import Objective, evaluate
from pipeline.gradients.torch_state.arithmetic import undisturbed
from pipeline.gradients.torch_state.copies import in_double

#: Step in float64, relative to the stimulus's rms; a longer one meets more kinks.
DOUBLE_STEP = 1e-6
#: Steps in the model's own precision, relative to the rms, where rounding asks for longer ones.
OWN_STEPS = (1e-3, 4e-3, 1.6e-2)
#: Relative difference of the slopes by two of these steps, up to which they tell something.
AGREEING = 0.02
DOUBLE, OWN_PRECISION = "float64", "own precision"


def draw(n_stimuli: int, n_neurons: int, sample: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Distinct (stimulus, neuron) pairs at random."""
    drawn = torch.randperm(n_stimuli * n_neurons, generator=generator)[:sample].tolist()
    return [(index // n_neurons, index % n_neurons) for index in drawn]


def finite_difference_errors(
    setting: Setting,
    values: Tensor,
    objective: Objective,
    pairs: list[tuple[int, int]],
    generator: torch.Generator,
) -> tuple[list[float], str]:
    """Relative error of the map of each (stimulus, neuron), NaN where it cannot be told, and the precision used."""
    try:
        exact = replace(setting, listener=in_double(setting.listener), heard=setting.heard.double())
        with undisturbed(exact.listener, torch.float64), torch.no_grad():
            errors = _in_double(exact, values, objective, pairs, generator)
            if not any(map(math.isnan, errors)):
                return errors, DOUBLE
    except Exception:  # a model's own code may raise anything in another precision
        errors = []
    try:
        with undisturbed(setting.listener, setting.heard.dtype), torch.no_grad():
            return [_in_own_precision(setting, values, objective, pair, generator) for pair in pairs], OWN_PRECISION
    except Exception:
        return [math.nan] * len(pairs), OWN_PRECISION


def _in_double(
    exact: Setting, values: Tensor, objective: Objective, pairs: list[tuple[int, int]], generator: torch.Generator
) -> list[float]:
    """The errors, of all maps around one stimulus by one forward pass."""
    directed = [_directions(exact, values, pair, generator) for pair in pairs]
    errors = [math.nan] * len(pairs)
    for stimulus in {stimulus for stimulus, _ in pairs}:
        mine = [number for number, pair in enumerate(pairs) if pair[0] == stimulus]
        slopes = _slopes(exact, objective, [(pairs[number], directed[number][0]) for number in mine], DOUBLE_STEP)
        for number, (slope, rounding) in zip(mine, slopes, strict=True):
            errors[number] = _error(slope, *directed[number], rounding)
    return errors


def _in_own_precision(
    setting: Setting, values: Tensor, objective: Objective, pair: tuple[int, int], generator: torch.Generator
) -> float:
    """The error by the two steps that agree best along the map itself; NaN where no two agree."""
    directions, placed = _directions(setting, values, pair, generator)
    along = directions[-1:]
    slopes = [_slopes(setting, objective, [(pair, along)], step)[0][0] for step in OWN_STEPS]
    best = (math.inf, math.nan)
    for one, other in itertools.pairwise(slopes):
        if not bool(one.isfinite().all() and other.isfinite().all()):
            continue
        apart = float(
            (one - other).abs().amax()
            / torch.maximum(one.abs(), other.abs()).amax().clamp(min=torch.finfo(torch.float32).tiny)
        )
        rounding = float(torch.finfo(one.dtype).tiny)
        best = min(best, (apart, _error(one, along, placed, rounding)))
    return best[1] if best[0] <= AGREEING else math.nan


def _directions(
    setting: Setting, values: Tensor, pair: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A random direction inside the window and the map itself, of largest entry 1; and the map, time ascending."""
    stimulus, row = pair
    heard = setting.heard[stimulus]
    window = _window(setting, pair)
    reach = window.stop - window.start
    placed = values[stimulus, row, ..., :reach].to(heard).nan_to_num(nan=0.0).flip(-1)
    placed = placed.reshape(heard[..., window].shape)
    noise = torch.randn(placed.shape, generator=generator, dtype=torch.float64).to(heard)
    directions = torch.stack([noise, placed] if placed.any() else [noise])
    return directions / directions.flatten(1).abs().amax(dim=1).view(-1, *[1] * placed.ndim), placed


def _window(setting: Setting, pair: tuple[int, int]) -> slice:
    end = int(setting.ends[pair])
    return slice(end + 1 - min(setting.lags, end + 1), end + 1)


def _slopes(
    setting: Setting, objective: Objective, asked: list[tuple[tuple[int, int], Tensor]], step: float
) -> list[tuple[Tensor, float]]:
    """Central differences of maps around one stimulus along directions of each, and what rounding may add to them."""
    heard = setting.heard[asked[0][0][0]]
    rms = float(heard.square().mean().sqrt())
    step *= rms if rms > 0 else 1.0
    moved = []
    for pair, directions in asked:
        rows = heard.expand(2 * len(directions), *heard.shape).clone()
        rows[..., _window(setting, pair)] += step * torch.cat([directions, -directions])
        moved.append(rows)
    response = setting.listener(torch.cat(moved))
    if heard.dtype == torch.float64 and response.dtype != torch.float64:
        raise TypeError(f"the model answers in {response.dtype} to float64")
    found = []
    for ((_, row), directions), mine in zip(asked, response.split([len(rows) for rows in moved]), strict=True):
        numbers = evaluate(objective, mine[:, :, 0, :])
        number = numbers.sum(dim=1) if setting.neurons is None else numbers[:, setting.neurons[row]]
        slope = (number[: len(directions)] - number[len(directions) :]) / (2 * step)
        found.append((slope, float(1e2 * torch.finfo(number.dtype).eps * number.abs().amax() / step)))
    return found


def _error(slope: Tensor, directions: Tensor, placed: Tensor, rounding: float) -> float:
    told = (directions * placed).flatten(1).sum(dim=1)
    # A random direction meets the map at about this much; less than that, or than rounding, is no measure of an error.
    typical = placed.norm() * directions.flatten(1).norm(dim=1) / math.sqrt(placed.numel())
    scale = torch.stack([told.abs(), slope.abs(), typical, torch.full_like(told, rounding)]).amax(dim=0)
    return float(((slope - told).abs() / scale.clamp(min=torch.finfo(torch.float32).tiny)).amax())
