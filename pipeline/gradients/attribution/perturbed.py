"""Whether a map can be believed: it falls apart with the weights, and it tells what small changes of the sound do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.gradients.arguments import chosen_rows
from pipeline.gradients.attribution.listening import listening
from pipeline.gradients.objectives import evaluate
from pipeline.gradients.question import Question
from pipeline.gradients.torch_state.copies import Inventory, copied

#: Perturbed sounds that are heard in one batch.
TOGETHER = 16


#: What the weights are called that a model holds outside its parts.
ITSELF = "itself"


@dataclass(frozen=True)
class Randomised:
    """How alike maps stay when the weights are shuffled, from the output down.

    Attributes
    ----------
    parts
        Names of the parts whose weights were shuffled, in the order in which that was done; each step keeps the
        earlier ones shuffled. What the model holds outside its parts comes last, as ``ITSELF``.
    correlation
        Pearson correlation of each neuron's map with the one of the trained model, after each step; NaN where a map
        is constant.
    """

    parts: tuple[str, ...]
    correlation: Float[Tensor, "part neuron"]


def randomised_maps(
    model: nn.Module, maps_of: Callable[[nn.Module], Float[Tensor, "neuron ..."]], *, seed: int = 0
) -> Randomised:
    """Correlation of each neuron's map with its map once the weights are shuffled, part by part from the output down.

    A map that tells what the model has learnt changes (Adebayo et al. 2018, "cascading randomization"); one that
    stays shows the architecture or the sound instead. Shuffling the entries of each weight tensor keeps their
    distribution. The model is not touched.

    Parameters
    ----------
    model
        The trained model.
    maps_of
        The maps of a model, for instance ``lambda model: strf_gradmaps(model, 40)``.
    seed
        Seed of the shuffles.
    """
    trained = maps_of(model).flatten(1).double()
    inventory = Inventory.of(model)
    shuffled, generator = copied(model, inventory, inventory.dtype), torch.Generator().manual_seed(seed)
    names, rows = [], []
    parts = [(name, list(part.parameters())) for name, part in reversed(list(shuffled.named_children()))]
    for name, weights in [*parts, (ITSELF, list(shuffled.parameters(recurse=False)))]:
        if not any(parameter.numel() > 1 for parameter in weights):
            continue
        _shuffle(weights, generator)
        names.append(name)
        rows.append(_correlation(maps_of(shuffled).flatten(1).double(), trained))
    if not names:
        raise ValueError(
            f"{type(model).__name__} has no weights of more than one number, so nothing can be shuffled; give a model"
            " that has learnt some"
        )
    return Randomised(tuple(names), torch.stack(rows))


def _shuffle(weights: Iterable[Tensor], generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in weights:
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))


def infidelity(
    model: nn.Module,
    maps: Float[Tensor, "neuron frequency lag"],
    stimulus: Float[Tensor, "frequency time"],
    question: Question | None = None,
    *,
    scale: float = 0.1,
    samples: int = 64,
    seed: int = 0,
) -> Float[Tensor, "neuron"]:
    """Share of the response's change under random changes of the sound that the maps do not tell (Yeh et al. 2019).

    E[(<p, map> - (r(x) - r(x - p)))^2] / E[(r(x) - r(x - p))^2] over white perturbations p of the frames under the
    map: 0 where the maps tell all, 1 for a map of zeros. NaN where the response does not change.

    Parameters
    ----------
    maps
        Gradmaps around ``stimulus``; lag 0 is its last frame, so the objective is ``last``, ``sum`` or ``mean``.
    question
        Whose maps they are, of which objective; its ``lags`` are the maps' own.
    scale
        Standard deviation of the perturbation, relative to that of the sound (or absolute, for a sound that does not
        change).
    samples
        Number of perturbations.
    seed
        Seed of the perturbations.
    """
    lags, question = maps.shape[-1], Question.of(question)
    with listening(model, question.dtype) as listener, torch.no_grad():
        sound = listener.placed(torch.as_tensor(stimulus))
        rows = maps.to(sound)
        spread = float(sound.std()) or 1.0
        generator = torch.Generator().manual_seed(seed)
        at_rest = evaluate(question.objective, listener.response(sound[None]))[0]
        chosen = chosen_rows(question.neurons, len(at_rest), listener.device)
        told, happened = [], []
        for first in range(0, samples, TOGETHER):
            count = min(TOGETHER, samples - first)
            drawn = torch.randn(count, sound.shape[0], lags, generator=generator, dtype=torch.float64)
            under = (scale * spread * drawn).to(sound)  # (sample, frequency, lag)
            moved = sound.repeat(count, 1, 1)
            reach = min(lags, sound.shape[1])
            moved[..., sound.shape[1] - reach :] -= under[..., :reach].flip(-1)
            happened.append((at_rest - evaluate(question.objective, listener.response(moved)))[:, chosen])
            told.append(torch.einsum("nfk,sfk->sn", rows[..., :reach], under[..., :reach]))
        change = torch.cat(happened)
        return (torch.cat(told) - change).square().mean(dim=0) / change.square().mean(dim=0)


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    one, other = one - one.mean(dim=1, keepdim=True), other - other.mean(dim=1, keepdim=True)
    return (one * other).sum(dim=1) / (one.norm(dim=1) * other.norm(dim=1))
