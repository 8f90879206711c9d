"""Whether a gradmap can be trusted, told by numbers computed from the map, its model and its stimulus."""

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.gradients.arguments import Neurons
from pipeline.gradients.gradmaps import compute_strf_gradmaps, compute_waveform_gradmaps
from pipeline.gradients.objectives import Objective, evaluate
from pipeline.gradients.probes import clamped_bins, home_of, in_double, near_eps, silent_samples, undisturbed
from pipeline.gradients.routes.scope import twin_of

FLAGS = {
    "all_zero_map": 1,
    "truncated_window": 2,
    "window_before_stimulus": 4,
    "clamped_or_silent_stimulus": 8,
    "near_eps_normalisation": 16,
    "routes_disagree": 32,
    "finite_difference_off": 64,
    "window_dependent_model": 128,
}

OLDEST_PART = 0.1
TRUNCATED_SHARE = 0.01  # of the energy, in the oldest tenth of the window, or beyond it
CLAMPED_SHARE = 0.05  # of the stimulus inside the window
ROUTES_TOLERANCE = 1e-4  # relative difference of two routes; float32 gives 1e-7 to 2e-5
FINITE_DIFFERENCE_TOLERANCE = 2e-3
FINITE_DIFFERENCE_STEP = 1e-6  # of the stimulus's rms, in float64; a longer one meets more kinks
WINDOW_TOLERANCE = 0.01  # relative change of a map when its window is doubled once more
WINDOW_SAMPLE = 3  # maps looked at in longer windows
SETTLED = 1e-6  # relative change of the response below which a longer window cannot change the map


class Maps(Protocol):
    """What is asked of maps: the values and how they came about, as the engine returns them."""

    @property
    def values(self) -> Tensor: ...
    @property
    def frames(self) -> Tensor: ...
    @property
    def before_start(self) -> Tensor: ...
    @property
    def disagreement(self) -> float: ...


@dataclass(frozen=True)
class Health:
    """What is known about the maps of one checkpoint.

    ``flags`` is a sum of the masks in ``FLAGS``. ``memory_lags_90`` and ``memory_lags_99`` count the most recent lags
    that hold 90 % and 99 % of a map's energy, ``oldest_share`` is the share in the oldest tenth of the window.
    ``finite_difference_error`` is the largest relative error among the maps sampled, NaN where none was checked.
    """

    flags: Int[Tensor, "stimulus neuron"]
    memory_lags_90: Int[Tensor, "stimulus neuron"]
    memory_lags_99: Int[Tensor, "stimulus neuron"]
    oldest_share: Float[Tensor, "stimulus neuron"]
    finite_difference_error: float


@dataclass(frozen=True)
class _Setting:
    """What was heard when the maps were taken, and the part of the model that hears it first."""

    listener: nn.Module
    heard: Float[Tensor, "stimulus channel *frequency time"]
    neurons: list[int] | None  # None for the one map of the sum over all neurons
    ends: Int[Tensor, "stimulus neuron"]  # position on the time axis of ``heard`` that is lag 0
    lags: int
    hop: int  # positions in one frame of the response
    constant: Float[Tensor, " frequency"] | None = None  # the spectrogram's one frame, where it does not change in time

    @property
    def starts(self) -> Int[Tensor, "stimulus neuron"]:
        return (self.ends - self.lags + 1).clamp(min=0)


def assess(
    model: nn.Module,
    gradmaps: Maps,
    stimuli: Float[Tensor, "stimulus *frequency time"] | None,
    lags: int | None = None,
    objective: Objective = "last",
    *,
    neurons: Neurons = None,
    level: float = 0.0,
    space: str = "spectrogram",
    sample: int = 3,
    seed: int = 0,
    finite_difference: bool = True,
) -> Health:
    """Flags and memory of every map that the engine returned for one checkpoint.

    Everything is computed from the maps, from forward passes over their stimuli and, for a few maps drawn with
    ``seed``, from longer windows and finite differences. Neither the model nor any global state is changed.

    Parameters
    ----------
    gradmaps
        What ``compute_strf_gradmaps`` or ``compute_waveform_gradmaps`` returned.
    stimuli
        The stimuli given there, or ``None`` for maps around a spectrogram that is ``level`` everywhere.
    lags
        The window given there; the length of the maps by default.
    neurons
        The neurons given there; all by default.
    sample
        How many maps are compared with central differences in float64, drawn with ``seed``.
    finite_difference
        Whether any are.

    Raises
    ------
    ValueError
        If the maps do not belong to these stimuli or neurons.
    """
    values = gradmaps.values
    _check_maps(values)
    energy = _energy(values)
    flags = _map_flags(energy, gradmaps.before_start, gradmaps.disagreement)
    setting = _setting(model, gradmaps, stimuli, lags, neurons, level, space)
    generator = torch.Generator().manual_seed(seed)
    error = math.nan
    with undisturbed(setting.listener, setting.heard.dtype), torch.no_grad():
        flags = flags | _flag("near_eps_normalisation", _near_eps(setting))
    if setting.constant is None:
        flags = flags | _flag("clamped_or_silent_stimulus", _clamped_or_silent(model, stimuli, setting))
        flags = _after_wider_views(model, flags, setting, objective, space, generator)
    elif objective == "last":
        flags = _after_longer_windows(model, values, flags, setting, space, generator)
    if finite_difference:
        pairs = _draw(values.shape[0], values.shape[1], sample, generator)
        errors = _finite_difference_errors(setting, values, objective, pairs, generator)
        for (stimulus, neuron), relative in zip(pairs, errors, strict=True):
            if relative > FINITE_DIFFERENCE_TOLERANCE:
                flags[stimulus, neuron] |= FLAGS["finite_difference_off"]
        error = max((relative for relative in errors if not math.isnan(relative)), default=math.nan)
    return Health(flags, _memory_length(energy, 0.9), _memory_length(energy, 0.99), _oldest_share(energy), error)


def map_flags(
    values: Float[Tensor, "stimulus neuron *axes lag"],
    before_start: Bool[Tensor, "stimulus neuron"],
    disagreement: float = 0.0,
) -> Int[Tensor, "stimulus neuron"]:
    """The flags that the maps themselves tell: all zero, truncated, reaching before the stimulus, routes disagree.

    A window that reaches the start of its stimulus truncates nothing; another one is called truncated where its oldest
    tenth holds more than ``TRUNCATED_SHARE`` of the energy.
    """
    _check_maps(values)
    return _map_flags(_energy(values), before_start, disagreement)


def _map_flags(
    energy: Float[Tensor, "stimulus neuron lag"], before_start: Tensor, disagreement: float
) -> Int[Tensor, "stimulus neuron"]:
    before = torch.as_tensor(before_start, dtype=torch.bool, device=energy.device).expand(energy.shape[:2])
    truncated = (_oldest_share(energy) > TRUNCATED_SHARE) & ~before
    disagree = torch.full_like(before, not math.isnan(disagreement) and disagreement > ROUTES_TOLERANCE)
    return (
        _flag("all_zero_map", (energy == 0).all(dim=-1))
        | _flag("truncated_window", truncated)
        | _flag("window_before_stimulus", before)
        | _flag("routes_disagree", disagree)
    )


def oldest_share(values: Float[Tensor, "*maps axis lag"]) -> Float[Tensor, "..."]:
    """Share of each map's energy in the oldest tenth of its window (at least one lag); 0 for an all-zero map.

    The maps are (stimulus, neuron, ..., lag), lag 0 first; NaN counts as zero.
    """
    return _oldest_share(_energy(values))


def memory_length(values: Float[Tensor, "*maps axis lag"], share: float = 0.9) -> Int[Tensor, "..."]:
    """How many of the most recent lags hold ``share`` of each map's energy; 0 for an all-zero map.

    The maps are (stimulus, neuron, ..., lag), lag 0 first; NaN counts as zero. A map whose energy all lies at lag 0
    has a memory of 1 lag.
    """
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}, of which no map has that much energy; give a number above 0, up to 1")
    return _memory_length(_energy(values), share)


def flag_names(mask: int) -> list[str]:
    """Names of the flags that a mask holds, in the table's order."""
    return [name for name, bit in FLAGS.items() if mask & bit]


def finite_difference_check(
    model: nn.Module,
    gradmaps: Maps,
    stimuli: Float[Tensor, "stimulus *frequency time"] | None,
    objective: Objective = "last",
    *,
    neurons: Neurons = None,
    level: float = 0.0,
    space: str = "spectrogram",
    sample: int = 3,
    seed: int = 0,
) -> float:
    """Largest relative error of a few maps against central differences of their objective in float64.

    Each map drawn is checked along itself and along a random direction inside its window; an error of 1 means that the
    objective changes along a direction as if the map were zero there. NaN where the model cannot compute in float64.
    """
    setting = _setting(model, gradmaps, stimuli, None, neurons, level, space)
    generator = torch.Generator().manual_seed(seed)
    pairs = _draw(gradmaps.values.shape[0], gradmaps.values.shape[1], sample, generator)
    errors = _finite_difference_errors(setting, gradmaps.values, objective, pairs, generator)
    return max((error for error in errors if not math.isnan(error)), default=math.nan)


def _flag(name: str, where: Bool[Tensor, "stimulus neuron"]) -> Int[Tensor, "stimulus neuron"]:
    return where.to(torch.int32) * FLAGS[name]


def _energy(values: Tensor) -> Float[Tensor, "stimulus neuron lag"]:
    """Energy at each lag, in double precision; NaN where an entry is."""
    axes = tuple(range(2, values.ndim - 1))
    values = values.detach()
    if not axes:
        return values.double().square()
    energy = values.square().sum(dim=axes, dtype=torch.float64)
    total = energy.sum(dim=-1)
    # Squares of very small or large float32 numbers are 0 or infinite; such maps are rare and done with care.
    doubtful = (total < 1e-30) | ~total.isfinite()
    if doubtful.any():
        exact = values[doubtful].double().square()
        energy[doubtful] = exact.sum(dim=tuple(axis - 1 for axis in axes))
    return energy


def _oldest_share(energy: Float[Tensor, "stimulus neuron lag"]) -> Float[Tensor, "stimulus neuron"]:
    energy = energy.nan_to_num(nan=0.0)
    oldest = max(1, round(OLDEST_PART * energy.shape[-1]))
    total = energy.sum(dim=-1)
    return (energy[..., -oldest:].sum(dim=-1) / total.where(total > 0, 1.0)).to(torch.float32)


def _memory_length(energy: Float[Tensor, "stimulus neuron lag"], share: float) -> Int[Tensor, "stimulus neuron"]:
    held = energy.nan_to_num(nan=0.0).cumsum(dim=-1)
    total = held[..., -1:]
    # The share of a total is rounded too; without the slack a map might be a lag short of all its energy.
    short = held < share * total * (1.0 - 1e-12)
    return torch.where(total.squeeze(-1) > 0, short.sum(dim=-1) + 1, 0)


def _check_maps(values: Tensor) -> None:
    if values.ndim < 3 or values.shape[-1] == 0:
        raise ValueError(
            f"maps of shape {tuple(values.shape)} have no stimulus, neuron and lag to tell apart; give"
            " (stimulus, neuron, ..., lag) with at least one lag"
        )


def _setting(
    model: nn.Module,
    gradmaps: Maps,
    stimuli: Tensor | None,
    lags: int | None,
    neurons: Neurons,
    level: float,
    space: str,
) -> _Setting:
    values = gradmaps.values
    _check_maps(values)
    lags = values.shape[-1] if lags is None else lags
    names = _named(neurons, values.shape[1])
    n_names = 1 if names is None else len(names)
    n_stimuli = 1 if stimuli is None else len(stimuli)
    if n_names != values.shape[1] or n_stimuli != values.shape[0] or lags != values.shape[-1]:
        raise ValueError(
            f"maps of {values.shape[0]} stimuli, {values.shape[1]} neurons and {values.shape[-1]} lags cannot be those"
            f" of {n_stimuli} stimuli, {n_names} neurons and {lags} lags; give what the maps were computed with"
        )
    device, dtype = home_of(model)
    frames = gradmaps.frames.to(device).expand(values.shape[:2])
    if values.ndim == 3:
        return _waveform_setting(model, stimuli, names, frames, lags)
    if stimuli is None:
        stimuli = torch.full((1, _bands(model, values, space), lags), level)
    heard = stimuli.to(device, dtype).unsqueeze(1)
    still = heard.shape[-1] == lags and len(heard) == 1 and bool((heard == heard[..., :1]).all())
    constant = heard[0, 0, :, 0] if still else None
    listener = twin_of(model, {"wav2spec": nn.Identity()})
    if space == "prefiltered":
        with undisturbed(listener, dtype), torch.no_grad():
            heard = listener.get_submodule("prefiltering")(heard)
        listener = twin_of(listener, {"prefiltering": nn.Identity()})
    return _Setting(listener, heard, names, frames, lags, 1, constant)


def _named(neurons: Neurons, n_neurons: int) -> list[int] | None:
    if neurons is None:
        return list(range(n_neurons))
    if isinstance(neurons, str):
        return None
    return [neurons] if isinstance(neurons, int) else [int(neuron) for neuron in neurons]


def _bands(model: nn.Module, values: Tensor, space: str) -> int:
    bands = getattr(model, "F", None)
    return int(bands) if space == "prefiltered" and bands is not None else values.shape[-2]


def _waveform_setting(
    model: nn.Module, stimuli: Tensor | None, names: list[int] | None, frames: Tensor, lags: int
) -> _Setting:
    if stimuli is None or stimuli.ndim != 2:
        raise ValueError(
            f"maps over waveform lags cannot belong to stimuli {None if stimuli is None else tuple(stimuli.shape)};"
            " give the sounds (stimulus, sample) that they were computed around"
        )
    device, dtype = home_of(model)
    twin, heard = twin_of(model), stimuli.to(device, dtype).unsqueeze(1)
    with undisturbed(twin, dtype), torch.no_grad():
        hop = heard.shape[-1] // twin(heard[:1]).shape[-1]
    return _Setting(twin, heard, names, (frames + 1) * hop - 1, lags, hop)


def _near_eps(setting: _Setting) -> Bool[Tensor, "stimulus neuron"]:
    """Per stimulus, over the part of it that its windows look at."""
    found = []
    for heard, starts, ends in zip(setting.heard, setting.starts, setting.ends, strict=True):
        start = int(starts.min()) // setting.hop * setting.hop
        found.append(near_eps(setting.listener, heard[None, ..., start : int(ends.max()) + 1]))
    flags = torch.tensor(found, dtype=torch.bool, device=setting.heard.device)
    return flags[:, None].expand(setting.ends.shape)


def _clamped_or_silent(model: nn.Module, stimuli: Tensor | None, setting: _Setting) -> Bool[Tensor, "stimulus neuron"]:
    """Where more than ``CLAMPED_SHARE`` of what a window looks at carries no gradient or no sound."""
    assert stimuli is not None
    stimuli = stimuli.to(setting.heard)
    if stimuli.ndim == 3:
        lowest = stimuli.amin(dim=(1, 2), keepdim=True)
        at_floor = (stimuli == lowest).to(stimuli.dtype).mean(dim=1)
        return _share_inside(at_floor, setting.starts, setting.ends) > CLAMPED_SHARE
    silent = silent_samples(stimuli, setting.hop).to(stimuli.dtype)
    found = _share_inside(silent, setting.starts, setting.ends) > CLAMPED_SHARE
    front_end = getattr(model, "wav2spec", None)
    if isinstance(front_end, nn.Module):
        clamped = clamped_bins(front_end, stimuli).to(stimuli.dtype).mean(dim=1)
        starts, ends = setting.starts // setting.hop, setting.ends // setting.hop
        found = found | (_share_inside(clamped, starts, ends) > CLAMPED_SHARE)
    return found


def _share_inside(
    share: Float[Tensor, "stimulus time"], starts: Int[Tensor, "stimulus neuron"], ends: Int[Tensor, "stimulus neuron"]
) -> Float[Tensor, "stimulus neuron"]:
    """Mean of ``share`` from ``starts`` to ``ends``, both included."""
    total = nn.functional.pad(share.double().cumsum(dim=-1), (1, 0))
    inside = total.gather(1, (ends + 1).clamp(max=share.shape[-1])) - total.gather(1, starts)
    return inside / (ends - starts + 1)


def _draw(n_stimuli: int, n_neurons: int, sample: int, generator: torch.Generator) -> list[tuple[int, int]]:
    """Distinct (stimulus, neuron) pairs at random."""
    drawn = torch.randperm(n_stimuli * n_neurons, generator=generator)[:sample].tolist()
    return [(index // n_neurons, index % n_neurons) for index in drawn]


def _after_longer_windows(
    model: nn.Module, values: Tensor, flags: Tensor, setting: _Setting, space: str, generator: torch.Generator
) -> Tensor:
    """The flags corrected by what a longer window of the same constant stimulus shows for a few of the maps.

    Energy in the oldest lags is no truncation where a model has nothing beyond them, as a linear model in a window of
    its own length; and a window may matter although nothing is cut off, as with absolute positions.
    """

    def longer(factor: int, rows: list[int]) -> Tensor:
        assert setting.constant is not None
        heard = setting.constant[:, None].expand(-1, factor * lags)[None]
        wanted: Neurons = "sum" if names is None else [names[row] for row in rows]
        found = compute_strf_gradmaps(model, heard, factor * lags, neurons=wanted, space=space, check=False)
        return found.values[0].to(values)

    lags, names = values.shape[-1], setting.neurons
    settled = _settled(setting)
    if settled is None:
        return flags
    candidates = (flags[0] & FLAGS["truncated_window"]).nonzero().flatten()
    if len(candidates):
        some = torch.randperm(len(candidates), generator=generator)[:WINDOW_SAMPLE].to(candidates)
        energy = _energy(longer(2, candidates[some].tolist())[None])[0]
        if not (energy[:, lags:].sum(dim=-1) > TRUNCATED_SHARE * energy.sum(dim=-1)).any():
            flags = flags & ~FLAGS["truncated_window"]
    if not settled:
        rows = [row for _, row in _draw(1, values.shape[1], WINDOW_SAMPLE, generator)]
        doubled = longer(2, rows)[..., :lags]
        once = (values[0, rows] - doubled).flatten(1).norm(dim=1)
        again = (doubled - longer(4, rows)[..., :lags]).flatten(1).norm(dim=1)
        if ((again > WINDOW_TOLERANCE * doubled.flatten(1).norm(dim=1)) & (again > 0.5 * once)).any():
            flags = flags | FLAGS["window_dependent_model"]
    return flags


def _after_wider_views(
    model: nn.Module,
    flags: Tensor,
    setting: _Setting,
    objective: Objective,
    space: str,
    generator: torch.Generator,
) -> Tensor:
    """The flags of truncation corrected by what lies before the window in the same stimulus, for a few of the maps.

    A window that begins with its stimulus leaves nothing out.
    """
    flags = torch.where(setting.starts.to(flags.device) == 0, flags & ~FLAGS["truncated_window"], flags)
    candidates = (flags & FLAGS["truncated_window"]).nonzero()
    chosen = torch.randperm(len(candidates), generator=generator)[:WINDOW_SAMPLE]
    for stimulus, row in candidates[chosen.to(candidates.device)].tolist():
        wanted: Neurons = "sum" if setting.neurons is None else [setting.neurons[row]]
        # After a prefilter the stimulus would have to be heard again; such maps keep the flag that the threshold gave.
        if space == "prefiltered":
            return flags
        heard = setting.heard[stimulus]
        wider: dict[str, Any] = {"neurons": wanted, "objective": objective, "dtype": heard.dtype, "check": False}
        if heard.ndim == 2:
            found = compute_waveform_gradmaps(model, heard, 2 * setting.lags, **wider)
        else:
            found = compute_strf_gradmaps(model, heard, 2 * setting.lags, **wider)
        energy = _energy(found.values)[0, 0]
        if energy[setting.lags :].sum() > TRUNCATED_SHARE * energy.sum():
            return flags
    return flags & ~FLAGS["truncated_window"]


def _settled(setting: _Setting) -> bool | None:
    """Whether the response to a constant stimulus is the same at the end of longer ones; None if these are refused."""
    frame, lags = setting.heard[:1, ..., -1:], setting.lags
    with undisturbed(setting.listener, setting.heard.dtype), torch.no_grad():
        try:
            response = setting.listener(frame.expand(*frame.shape[:-1], 4 * lags))[0, :, 0]
        except (RuntimeError, ValueError, IndexError, AssertionError):
            return None
    # A causal model responds at each frame as at the end of a stimulus of that length.
    last = response[:, [lags - 1, 2 * lags - 1, 4 * lags - 1]]
    return bool((last - last[:, :1]).abs().amax() <= SETTLED * last.abs().amax().clamp(min=1e-30))


def _finite_difference_errors(
    setting: _Setting,
    values: Tensor,
    objective: Objective,
    pairs: list[tuple[int, int]],
    generator: torch.Generator,
) -> list[float]:
    """Relative error of the map of each (stimulus, neuron); NaN where the model does not compute in float64."""
    try:
        exact = replace(setting, listener=in_double(setting.listener), heard=setting.heard.double())
        with undisturbed(exact.listener, torch.float64), torch.no_grad():
            return [_pair_error(exact, values, objective, pair, generator) for pair in pairs]
    except (RuntimeError, TypeError, NotImplementedError):
        return [math.nan] * len(pairs)


def _pair_error(
    exact: _Setting, values: Tensor, objective: Objective, pair: tuple[int, int], generator: torch.Generator
) -> float:
    stimulus, row = pair
    heard, end = exact.heard[stimulus], int(exact.ends[stimulus, row])
    reach = min(exact.lags, end + 1)
    window = slice(end - reach + 1, end + 1)
    placed = values[stimulus, row, ..., :reach].to(heard).nan_to_num(nan=0.0).flip(-1)
    placed = placed.reshape(heard[..., window].shape)
    noise = torch.randn(placed.shape, generator=generator, dtype=torch.float64).to(heard)
    directions = torch.stack([noise, placed] if placed.any() else [noise])
    directions = directions / directions.flatten(1).abs().amax(dim=1).view(-1, *[1] * placed.ndim)

    rms = float(heard.square().mean().sqrt())
    step = FINITE_DIFFERENCE_STEP * (rms if rms > 0 else 1.0)
    moved = heard.expand(2 * len(directions), *heard.shape).clone()
    moved[..., window] += step * torch.cat([directions, -directions])
    response = exact.listener(moved)
    if response.dtype != torch.float64:
        return math.nan
    numbers = evaluate(objective, response[:, :, 0, :])
    number = numbers.sum(dim=1) if exact.neurons is None else numbers[:, exact.neurons[row]]
    slope = (number[: len(directions)] - number[len(directions) :]) / (2 * step)
    told = (directions * placed).flatten(1).sum(dim=1)
    # A random direction meets the map at about this much; less than that, or than rounding, is no measure of an error.
    typical = placed.norm() * directions.flatten(1).norm(dim=1) / math.sqrt(placed.numel())
    rounding = 1e2 * torch.finfo(torch.float64).eps * number.abs().amax() / step
    scale = torch.stack([told.abs(), slope.abs(), typical, rounding.expand_as(told)]).amax(dim=0)
    return float(((slope - told).abs() / scale.clamp(min=1e-300)).amax())
