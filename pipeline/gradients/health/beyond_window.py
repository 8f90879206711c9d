"""What lies beyond the window of each map, found by looking further back."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline.gradients.gradmaps import gradmaps_around_sounds, gradmaps_around_spectrograms
from pipeline.gradients.health.energy import energy_of, share_from
from pipeline.gradients.health.flags import FLAGS, TRUNCATED_SHARE, WINDOW_TOLERANCE
from pipeline.gradients.health.setting import Setting
from pipeline.gradients.objectives import Objective, Weighing, weigh
from pipeline.gradients.passes.one_frame import response_at
from pipeline.gradients.passes.vjp import vjp
from pipeline.gradients.question import Question
from pipeline.gradients.torch_state.arithmetic import undisturbed

#: Maps looked at in longer windows for whether positions matter.
WINDOW_SAMPLE = 3
#: Relative change of the response below which a longer window cannot change the map.
SETTLED = 1e-6
#: Length of the constant stimulus in which maps may go on before their window, in windows.
LONGER = 4
#: Directions of noise before the window of a constant stimulus.
NUDGES = 4
#: Size of that noise, relative to the stimulus's level.
NUDGE = 1e-2
#: Share of a map's energy before its window that counts as hardly any, as noise estimates it: a tenth for bad luck.
HARDLY = 0.1 * TRUNCATED_SHARE
#: Backward passes that look for anything beyond the windows, each through a mixture of maps.
MIXTURES = 8
#: Maps in one, where there are fewer than all mixtures hold.
IN_MIXTURE = 16
#: Energy of a mixture beyond the window, where each map in it has an energy of 1 to 4.
NOTHING = 0.5 * TRUNCATED_SHARE
#: Numbers of stimuli in one forward pass.
AT_ONCE = 2**19

#: What torch and careful models raise for an input of a length that they were not built for.
REFUSALS = (RuntimeError, ValueError, IndexError, AssertionError, NotImplementedError, TypeError)


@dataclass(frozen=True)
class _Mixtures:
    """Maps weighed at random into a few sums: none can hide that one of its maps goes on beyond the window."""

    shares: Float[Tensor, "mixture neuron"]
    of: Int[Tensor, " neuron"]

    @staticmethod
    def among(values: Float[Tensor, "neuron ... lag"], generator: torch.Generator, most: int) -> "_Mixtures":
        """Mixtures of maps, each with a share of 1 to 2 times its norm at random sign, so that none outweighs another.

        A map whose window holds nothing counts as one of the middle size.
        """
        count = len(values)
        norms = values.flatten(1).double().norm(dim=1)
        positive = norms[norms > 0]
        norms = norms.where(norms > 0, positive.median() if len(positive) else 1.0)
        size = torch.rand(count, generator=generator, dtype=torch.float64) + 1.0
        sign = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
        n_mixtures = max(1, min(most, -(-count // IN_MIXTURE)))
        of = torch.arange(count) % n_mixtures
        shares = torch.zeros(n_mixtures, count, dtype=torch.float64)
        shares[of, torch.arange(count)] = size * sign
        return _Mixtures((shares.to(norms.device) / norms).to(values), of.to(values.device))


def in_longer_windows(
    model: nn.Module,
    values: Tensor,
    inside: Float[Tensor, "stimulus neuron"],
    flags: Tensor,
    setting: Setting,
    question: Question,
    generator: torch.Generator,
) -> Tensor:
    """The flags corrected by what a longer window of the same constant stimulus shows.

    Energy in the oldest lags is no truncation where a model has nothing beyond them, as a linear model in a window of
    its own length; nothing in them is no completeness where a second lobe follows; and a window may matter although
    nothing is cut off, as with absolute positions.

    Parameters
    ----------
    inside
        The energy of each map in its window.
    """

    def longer(factor: int, rows: list[int]) -> Tensor:
        assert setting.constant is not None
        heard = setting.constant[:, None].expand(-1, factor * lags)[None]
        longer_window = Question(factor * lags, setting.asked(rows), space=question.space, check=False)
        found = gradmaps_around_spectrograms(model, heard, longer_window)
        return found.values[0].to(values)

    lags, n_maps = values.shape[-1], values.shape[1]
    try:
        rows, settled = _doubtful_at_rest(setting, inside[0], generator)
        flags = flags & ~FLAGS["truncated_window"]
        if rows:
            cut = share_from(energy_of(longer(LONGER, rows)[None])[0].nan_to_num(nan=0.0), lags) > TRUNCATED_SHARE
            flags[0, rows] |= cut.to(flags.dtype) * FLAGS["truncated_window"]
    except REFUSALS:
        return flags
    if not settled:
        some = torch.randperm(n_maps, generator=generator)[:WINDOW_SAMPLE].tolist()
        try:
            doubled, again_doubled = longer(2, some)[..., :lags], longer(4, some)[..., :lags]
        except REFUSALS:
            return flags
        once = (values[0, some] - doubled).flatten(1).norm(dim=1)
        again = (doubled - again_doubled).flatten(1).norm(dim=1)
        if ((again > WINDOW_TOLERANCE * doubled.flatten(1).norm(dim=1)) & (again > 0.5 * once)).any():
            flags = flags | FLAGS["window_dependent_model"]
    return flags


def _doubtful_at_rest(
    setting: Setting, inside: Float[Tensor, " neuron"], generator: torch.Generator
) -> tuple[list[int], bool]:
    """Maps whose response follows what lies before the window, in a constant stimulus ``LONGER`` times as long.

    And whether the response settled: a causal model responds at each frame as at the end of a stimulus of that length.
    """
    begun = generator.get_state()
    found = setting.kept.answer(("longer", begun.numpy().tobytes()), lambda: _longer_at_rest(setting, generator))
    generator.set_state(found.drawn)
    change = found.change.sum(dim=1, keepdim=True) if setting.neurons is None else found.change[:, setting.index]
    beyond = change.square().mean(dim=0)
    rows: list[int] = (~(beyond <= HARDLY * inside)).nonzero().flatten().tolist()
    return rows, found.settled


@dataclass(frozen=True)
class _Longer:
    """How small noise before the window moves each neuron's last response, relative to the noise.

    Attributes
    ----------
    settled
        Whether the response to the constant stimulus itself is the same after a window, two, and all of it.
    drawn
        The state of the generator after the noise was drawn.
    """

    change: Float[Tensor, "nudge all_neurons"]
    settled: bool
    drawn: Tensor


def _longer_at_rest(setting: Setting, generator: torch.Generator) -> _Longer:
    """What a constant stimulus ``LONGER`` times as long tells of all neurons.

    Small noise before the window moves a response by its own size times the norm of what the window leaves out, on
    average. Forward passes tell that of every neuron; a backward pass through a recurrence costs ten times as much.
    """
    assert setting.constant is not None
    lags = setting.lags
    with undisturbed(setting.listener, setting.heard.dtype), torch.no_grad():
        given = setting.constant[:, None].expand(-1, LONGER * lags)[None, None]
        heard = given if setting.prefilter is None else setting.prefilter(given)
        level = float(heard.abs().amax())
        size = NUDGE * (level if level > 0 else 1.0)
        earlier = (LONGER - 1) * lags
        noise = torch.randn((NUDGES, *heard.shape[1:-1], earlier), generator=generator, dtype=heard.dtype).to(heard)
        moved = heard.repeat(NUDGES + 1, 1, 1, 1)
        moved[1:, ..., :earlier] += size * noise
        response = response_at(setting.listener, moved, [lags - 1, 2 * lags - 1, LONGER * lags - 1])[:, :, 0]
    at = response[0]
    settled = bool((at - at[:, :1]).abs().amax() <= SETTLED * at.abs().amax().clamp(min=1e-30))
    change = (response[1:, :, -1] - response[:1, :, -1]).double() / size
    return _Longer(change, settled, generator.get_state())


def _on_neurons(setting: Setting, shares: Tensor, n_neurons: int) -> Float[Tensor, "mixture all_neurons"]:
    """Shares of maps as weights of the model's neurons."""
    if setting.neurons is None:
        return shares.expand(-1, n_neurons)
    index = torch.tensor(setting.neurons, device=shares.device)
    return shares.new_zeros(len(shares), n_neurons).index_add_(1, index, shares)


def _rows_in_doubt(beyond: Float[Tensor, " mixture"], mixtures: _Mixtures) -> list[int]:
    """The maps of every mixture that goes on beyond the window, or whose numbers do not tell."""
    doubtful = ~(beyond <= NOTHING)
    rows: list[int] = doubtful[mixtures.of].nonzero().flatten().tolist()
    return rows


def in_wider_views(
    model: nn.Module,
    values: Tensor,
    flags: Tensor,
    setting: Setting,
    question: Question,
    stimuli: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The flags of truncation corrected by what lies before each window in the same stimulus.

    A window that begins with its stimulus leaves nothing out.
    """
    truncated = FLAGS["truncated_window"]
    whole = setting.starts.to(flags.device) == 0
    flags = torch.where(whole, flags & ~truncated, flags)
    cut_at_start = (~whole).any(dim=1).nonzero().flatten().tolist()
    if not cut_at_start:
        return flags
    together = max(1, AT_ONCE // setting.heard[0].numel())
    for start in range(0, len(cut_at_start), together):
        some = cut_at_start[start : start + together]
        try:
            doubtful = _doubtful_around(setting, values, question.objective, some, generator)
        except REFUSALS:
            continue
        for stimulus, rows in zip(some, doubtful, strict=True):
            flags[stimulus] &= ~truncated
            rows = [row for row in rows if not whole[stimulus, row]]
            if rows:
                cut = _cut_off(
                    model,
                    setting,
                    question,
                    stimuli[stimulus : stimulus + 1],
                    int(setting.ends[stimulus].max()) + 1,
                    rows,
                )
                flags[stimulus, rows] |= cut.to(flags) * truncated
    return flags


def _cut_off(
    model: nn.Module, setting: Setting, question: Question, stimulus: Tensor, everything: int, rows: list[int]
) -> Tensor:
    """Whether each of these maps goes on before its window, in one of ``everything`` that begins with the stimulus."""
    heard = stimulus.to(setting.heard)
    whole = Question(everything, setting.asked(rows), question.objective, question.space, check=False)
    if heard.ndim == 2:
        found = gradmaps_around_sounds(model, heard, whole)
    else:
        found = gradmaps_around_spectrograms(model, heard, whole)
    return share_from(energy_of(found.values)[0].nan_to_num(nan=0.0), setting.lags) > TRUNCATED_SHARE


def _doubtful_around(
    setting: Setting, values: Tensor, objective: Objective, some: list[int], generator: torch.Generator
) -> list[list[int]]:
    """For each of these stimuli, the maps in whose mixtures there is more than their windows hold.

    One backward pass through a mixture gives its gradient at every time of the stimulus; what is left of it once the
    maps are taken away in their windows lies before these.
    """
    with undisturbed(setting.listener, setting.heard.dtype):
        leaf = setting.heard[some].clone().requires_grad_(True)
        response = setting.listener(leaf)[:, :, 0]
        weighing = weigh(objective, response)
        if weighing.couples:
            return [list(range(values.shape[1]))] * len(some)
        one = [_Mixtures.among(values[stimulus], generator, 1) for stimulus in some]
        left = _left_over(setting, values, response, leaf, weighing, some, one)
        doubtful = [_rows_in_doubt(energy, mixture) for energy, mixture in zip(left, one, strict=True)]
        if not any(doubtful) or setting.heard.ndim == 3 or values.shape[1] <= IN_MIXTURE:
            return doubtful
        several = [_Mixtures.among(values[stimulus], generator, MIXTURES) for stimulus in some]
        left = _left_over(setting, values, response, leaf, weighing, some, several)
        return [_rows_in_doubt(energy, mixture) for energy, mixture in zip(left, several, strict=True)]


def _left_over(
    setting: Setting,
    values: Tensor,
    response: Tensor,
    leaf: Tensor,
    weighing: Weighing,
    some: list[int],
    mixtures: list[_Mixtures],
) -> list[Tensor]:
    """Energy of each mixture around each stimulus up to the last frame looked at, without what its maps hold."""
    weights = torch.stack([_on_neurons(setting, one.shares, response.shape[1]) for one in mixtures], dim=1)
    gradient = vjp(response, leaf, weights.unsqueeze(-1) * weighing.weights, {"vmap"})
    found = []
    for position, (stimulus, mixture) in enumerate(zip(some, mixtures, strict=True)):
        left = gradient[:, position]
        ends = setting.ends[stimulus]
        for end in ends.unique().tolist():
            rows = (ends == end).nonzero().flatten().to(values.device)
            reach = min(setting.lags, end + 1)
            kept = values[stimulus, rows][..., :reach].nan_to_num(nan=0.0)
            mixed = (mixture.shares[:, rows] @ kept.flatten(1)).view(-1, *kept.shape[1:]).flip(-1)
            within = left[..., end - reach + 1 : end + 1]
            within -= mixed.to(left).view_as(within)
        found.append(left[..., : int(ends.max()) + 1].double().square().flatten(1).sum(dim=1))
    return found
