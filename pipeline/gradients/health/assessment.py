"""Whether the maps of one checkpoint can be trusted, told by numbers from the maps, their model and their stimulus."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pipeline.gradients.contract import Contract
from pipeline.gradients.gradmaps import kept_pass
from pipeline.gradients.health.beyond_window import in_longer_windows, in_wider_views
from pipeline.gradients.health.energy import energy_of, share_of_oldest
from pipeline.gradients.health.finite_differences import OWN_PRECISION, draw, finite_difference_errors
from pipeline.gradients.health.flags import (
    CLAMPED_SHARE,
    FINITE_DIFFERENCE_TOLERANCE,
    FLAGS,
    FUTURE_SHARE,
    OWN_PRECISION_TOLERANCE,
    ROUTES_TOLERANCE,
    TRUNCATED_SHARE,
)
from pipeline.gradients.health.future import future_shares
from pipeline.gradients.health.normalisation import near_eps, near_eps_in
from pipeline.gradients.health.raising import raised
from pipeline.gradients.health.setting import EngineMaps, Setting, check_maps, setting_of
from pipeline.gradients.health.unheard import clamped_bins, silent_samples
from pipeline.gradients.objectives import Objective
from pipeline.gradients.question import Question
from pipeline.gradients.torch_state.arithmetic import undisturbed


@dataclass(frozen=True)
class Health:
    """What is known about the maps of one checkpoint.

    ``flags`` is a sum of the masks in ``FLAGS``. ``future_share`` is the share of each map's energy after its lag 0, 0
    where the model was found causal. ``finite_difference_error`` is the largest relative error among the maps sampled,
    NaN where none was checked.
    """

    flags: Int[Tensor, "stimulus neuron"]
    future_share: Float[Tensor, "stimulus neuron"]
    finite_difference_error: float


def assess(
    model: nn.Module,
    gradmaps: EngineMaps,
    stimuli: Float[Tensor, "stimulus *frequency time"] | None,
    question: Question | int | None = None,
    *,
    finite_difference: bool = True,
    sample: int = 3,
    seed: int = 0,
    contract: Contract | None = None,
) -> Health:
    """Flags of every map that the engine returned for one checkpoint.

    Everything is computed from the maps, from passes over their stimuli and, for a few maps drawn with ``seed``, from
    finite differences. Neither the model nor any global state is changed.

    Parameters
    ----------
    gradmaps
        The engine's answer: what ``compute_strf_gradmaps`` or ``compute_waveform_gradmaps`` returned.
    stimuli
        The stimuli given there, or ``None`` for maps around a spectrogram of one level.
    question
        The question that was asked there; where it had a window and nothing else, that window.
    finite_difference
        Whether maps are compared with central differences at all.
    sample
        How many maps are compared, drawn with ``seed``.
    contract
        What :func:`~pipeline.gradients.contract.check_contract` told of the model; None where it was not asked.

    Raises
    ------
    ValueError
        If the maps do not belong to these stimuli or neurons.
    """
    question = Question.of(question)
    values = gradmaps.values
    check_maps(values)
    energy = energy_of(values)
    flags = _map_flags(energy, gradmaps.before_start, gradmaps.disagreement)
    setting = setting_of(model, gradmaps, stimuli, question)
    generator = torch.Generator().manual_seed(seed)
    with undisturbed(setting.listener, setting.heard.dtype), torch.no_grad():
        flags = flags | raised("near_eps_normalisation", _near_eps(setting, question if stimuli is None else None))
    if setting.constant is not None and question.objective == "last":
        flags = in_longer_windows(model, values, energy.sum(dim=-1), flags, setting, question, generator)
    elif setting.constant is None:
        assert stimuli is not None
        flags = flags | raised("clamped_or_silent_stimulus", _clamped_or_silent(model, stimuli, setting))
        flags = in_wider_views(model, values, flags, setting, question, stimuli, generator)
    error = math.nan
    if sample and finite_difference:
        told, error = _by_finite_differences(setting, values, question.objective, sample, generator)
        flags = flags | told
    # A dead neuron answers to nothing, which its all-zero map says already.
    future = torch.zeros(flags.shape)
    if contract is not None:
        # A dead neuron among those of a sum answers to nothing either, and adds nothing to their map.
        unchecked = contract.unchecked.all()[None] if setting.neurons is None else contract.unchecked
        unchecked = _of_maps(unchecked, setting, flags)
        flags = flags | raised("not_checked", unchecked & (flags & FLAGS["all_zero_map"] == 0))
    if contract is not None and bool(contract.hears_future.any()):
        future = future_shares(model, gradmaps, stimuli, replace(question, lags=setting.lags))
        ahead = _of_maps(contract.hears_future, setting, flags) | (future > FUTURE_SHARE).to(flags.device)
        flags = flags | raised("hears_the_future", ahead)
    return Health(flags, future, error)


def slope_flags(
    model: nn.Module,
    gradmaps: EngineMaps,
    stimuli: Float[Tensor, "stimulus *frequency time"],
    question: Question,
    *,
    sample: int = 3,
    seed: int = 0,
) -> Int[Tensor, "stimulus neuron"]:
    """What central differences alone tell of maps: flags of those whose backward pass is not the response's slope.

    The parameters are those of :func:`assess`.
    """
    generator = torch.Generator().manual_seed(seed)
    setting = setting_of(model, gradmaps, stimuli, question)
    return _by_finite_differences(setting, gradmaps.values, question.objective, sample, generator)[0]


def map_flags(
    values: Float[Tensor, "stimulus neuron *axes lag"],
    before_start: Bool[Tensor, "stimulus neuron"],
    disagreement: float = 0.0,
) -> Int[Tensor, "stimulus neuron"]:
    """The flags that the maps themselves tell: all zero, truncated, reaching before the stimulus, routes disagree.

    A window that reaches the start of its stimulus truncates nothing; another one is called truncated where its oldest
    tenth holds more than ``TRUNCATED_SHARE`` of the energy.
    """
    check_maps(values)
    return _map_flags(energy_of(values), before_start, disagreement)


def _map_flags(
    energy: Float[Tensor, "stimulus neuron lag"], before_start: Bool[Tensor, "stimulus neuron"], disagreement: float
) -> Int[Tensor, "stimulus neuron"]:
    before = torch.as_tensor(before_start, dtype=torch.bool, device=energy.device).expand(energy.shape[:2])
    truncated = (share_of_oldest(energy) > TRUNCATED_SHARE) & ~before
    disagree = torch.full_like(before, not math.isnan(disagreement) and disagreement > ROUTES_TOLERANCE)
    return (
        raised("all_zero_map", (energy == 0).all(dim=-1))
        | raised("truncated_window", truncated)
        | raised("window_before_stimulus", before)
        | raised("routes_disagree", disagree)
    )


def _by_finite_differences(
    setting: Setting, values: Tensor, objective: Objective, sample: int, generator: torch.Generator
) -> tuple[Int[Tensor, "stimulus neuron"], float]:
    """Flags of all maps from a few of them, those of further neurons along one direction, and the largest error drawn.

    A backward pass that is wrong for one of the few is wrong for its like, which were not drawn. Of the others each
    neuron speaks for itself: among thousands one may stand at a kink.
    """
    pairs = draw(values.shape[0], values.shape[1], sample, generator)
    errors = finite_difference_errors(setting, values, objective, pairs, generator)
    made = [error for error in errors.drawn if not math.isnan(error)]
    tolerance = OWN_PRECISION_TOLERANCE if errors.precision == OWN_PRECISION else FINITE_DIFFERENCE_TOLERANCE
    everywhere = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    if not made:
        return raised("not_checked", everywhere), math.nan
    off = (errors.others > tolerance).to(values.device) | (max(made) > tolerance)
    return raised("finite_difference_off", everywhere & off), max(made)


def _of_maps(of_neurons: Bool[Tensor, " neuron"], setting: Setting, like: Tensor) -> Bool[Tensor, "..."]:
    """What holds for neurons, for their maps; a sum over neurons is concerned where any of them is."""
    each = of_neurons.any()[None] if setting.neurons is None else of_neurons[torch.tensor(setting.neurons)]
    return each.to(like.device).expand(like.shape)


def _near_eps(setting: Setting, at_rest: Question | None) -> Bool[Tensor, "stimulus neuron"]:
    """Per stimulus, over the part of it that its windows look at.

    ``at_rest``: What was asked around a constant spectrogram, of which a forward pass may have been kept.
    """
    found = []
    for heard, starts, ends in zip(setting.heard, setting.starts, setting.ends, strict=True):
        start, stop = int(starts.min()) // setting.hop * setting.hop, int(ends.max()) + 1

        def look(part: Tensor = heard[None, ..., start:stop]) -> bool:
            kept = None if at_rest is None else kept_pass(at_rest, part)
            told = None if kept is None else near_eps_in(setting.listener, kept.trace.calls)
            return near_eps(setting.listener, part) if told is None else told

        found.append(setting.kept.answer(("near eps", start, stop), look))
    flags = torch.tensor(found, dtype=torch.bool, device=setting.heard.device)
    return flags[:, None].expand(setting.ends.shape)


def _clamped_or_silent(model: nn.Module, stimuli: Tensor, setting: Setting) -> Bool[Tensor, "stimulus neuron"]:
    """Where more than ``CLAMPED_SHARE`` of what a window looks at carries no gradient or no sound."""
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
