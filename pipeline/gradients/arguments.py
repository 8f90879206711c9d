"""What the gradmap functions accept: every argument is checked here, before anything is computed."""

import math
from numbers import Integral
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pipeline import words
from pipeline.gradients.naming import name_of
from pipeline.gradients.objectives import Objective, check_objective
from pipeline.gradients.question import SPACES, Neurons, Question
from pipeline.gradients.torch_state.copies import Inventory
from pipeline.gradients.torch_state.memory import check_memory

#: Ways to the Jacobian that may be asked for.
ROUTE_NAMES: tuple[str, ...] = get_args(words.Route)

# torch's layers that compute the same in training mode as in eval mode, unless they drop out.
_MODELESS = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd, nn.RReLU)


def has_front_end(model: nn.Module) -> bool:
    """Whether the model hears waveforms."""
    front_end = getattr(model, "wav2spec", None)
    return isinstance(front_end, nn.Module) and not isinstance(front_end, nn.Identity)


def chosen_rows(neurons: Neurons, n_neurons: int, device: torch.device) -> Int[Tensor, "neuron"] | None:
    """Indices of the neurons asked for, where a mask is read as one; None for the sum over all."""
    if neurons is None:
        return torch.arange(n_neurons, device=device)
    if isinstance(neurons, str):
        if neurons != "sum":
            raise ValueError(
                f'neurons = {neurons!r} names no neurons; give indices, None for all, or "sum" for the sum over all'
            )
        return None
    given: list[Any] = [neurons] if isinstance(neurons, (int, Integral)) else list(neurons)
    plain = set(map(type, given)) == {int}  # as nearly always, and told of thousands at once
    if plain:
        listed = given
    else:
        listed = _masked(given, n_neurons) if any(map(_is_truth, given)) else [int(neuron) for neuron in given]
    if not listed:
        raise ValueError("neurons is empty, so there is no map to compute; give at least one index, or None for all")
    if min(listed) < 0 or max(listed) >= n_neurons:
        wrong = [neuron for neuron in listed if not 0 <= neuron < n_neurons]
        raise ValueError(
            f"neurons {wrong[:5]} are not among the model's {n_neurons}, so they have no response; give indices from 0"
            f" to {n_neurons - 1}"
        )
    return torch.tensor(listed, device=device)


def _masked(given: list[Any], n_neurons: int) -> list[int]:
    """Indices of the neurons at which a mask is true."""
    if len(given) != n_neurons or not all(map(_is_truth, given)):
        raise ValueError(
            f"neurons holds {len(given)} entries of which some are true or false, which is no mask over the model's"
            f" {n_neurons} neurons; give one boolean for each of them, or indices"
        )
    return [index for index, chosen in enumerate(given) if bool(chosen)]


def _is_truth(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_)) or (isinstance(value, Tensor) and value.dtype == torch.bool)


def bands_of(model: nn.Module) -> int:
    """Number of bands that a model hears.

    Raises `ValueError` if the model does not say it.
    """
    bands = getattr(model, "F", None)
    if not isinstance(bands, int):
        raise ValueError(
            f"{name_of(model)} has no attribute F, so the number of bands of a spectrogram for it is unknown; set"
            " self.F in the class, or give a spectrogram to take the gradient around"
        )
    return bands


def spectrograms(
    model: nn.Module, stimuli: Tensor | None, lags: int, level: float
) -> Float[Tensor, "stimulus frequency time"]:
    """The spectrograms to take gradients around."""
    if stimuli is None:
        if not math.isfinite(level):
            raise ValueError(f"the level {level} is no sound level; give a finite number")
        return torch.full((1, bands_of(model), lags), level)
    if stimuli.dim() != 3 or 0 in stimuli.shape:
        raise ValueError(
            f"the stimuli have shape {tuple(stimuli.shape)}, which holds no spectrograms; give (stimulus, frequency,"
            " time) with at least one entry each"
        )
    bands = getattr(model, "F", None)
    if isinstance(bands, int) and stimuli.shape[1] != bands:
        raise ValueError(
            f"the stimuli have {stimuli.shape[1]} bands but the model hears {bands}; the gradient would belong to"
            " other frequencies; give spectrograms with the bands that the model was trained on"
        )
    check_finite(stimuli, "spectrogram")
    return stimuli


def sounds(model: nn.Module, waveforms: Tensor) -> Float[Tensor, "stimulus sample"]:
    """The sounds to take gradients around."""
    if not has_front_end(model):
        raise ValueError(
            f"{name_of(model)} has no front-end (its wav2spec is an identity), so its response does not depend on"
            " a waveform; use strf_gradmaps, or give a model that hears sound"
        )
    if waveforms.dim() != 2 or 0 in waveforms.shape:
        raise ValueError(
            f"the waveforms have shape {tuple(waveforms.shape)}, which holds no sounds; give (stimulus, sample) with at"
            " least one entry each"
        )
    hop = getattr(model.wav2spec, "hop", None)
    if isinstance(hop, int) and hop > 0 and waveforms.shape[-1] % hop:
        raise ValueError(
            f"the waveform has {waveforms.shape[-1]} samples, which is no whole number of frames of {hop} samples, so"
            f" the last frame would be cut; give {waveforms.shape[-1] // hop * hop} samples, or resample the sound to"
            " the front-end's rate"
        )
    check_finite(waveforms, "waveform")
    return waveforms


def check_common(model: nn.Module, objective: Objective, route: str) -> None:
    """Refuse what is no model, objective or route."""
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"model is a {name_of(model)}, which cannot be differentiated part by part; give a torch.nn.Module"
        )
    check_objective(objective)
    if route not in ROUTE_NAMES:
        raise ValueError(
            f"route {route!r} is not known, so there is no way to the gradient; give one of {', '.join(ROUTE_NAMES)}"
        )


def check_question(model: nn.Module, question: Question) -> None:
    """Refuse what is no model, objective, route or space, and a budget that nothing fits in."""
    check_memory(question.memory_bytes)
    if question.space not in SPACES:
        raise ValueError(
            f"space {question.space!r} is not known, so there is nothing to differentiate; give one of {SPACES}"
        )
    check_common(model, question.objective, question.route)


def check_eval(twin: nn.Module, model: nn.Module) -> None:
    """Refuse a model that would behave as in training: ``twin`` is what will be run of it."""
    name = name_of(model)
    if model.training:
        raise ValueError(
            f"{name} is in training mode, where dropout is random and batch statistics mix the gradients of different"
            " stimuli; call model.eval() before computing gradmaps"
        )
    if not any(part.training for part in twin.modules()):
        return
    for path, part in twin.named_modules():
        known = type(part).__module__.startswith("torch.nn.") and not isinstance(part, _MODELESS)
        if part.training and not (known and not getattr(part, "dropout", 0)):
            raise ValueError(
                f"the part {path} ({type(part).__name__}) of {name} is in training mode although the model is not, so"
                " its gradients may be random or mix stimuli; call model.eval() before computing gradmaps"
            )


def check_finite(stimuli: Tensor, what: str) -> None:
    """Refuse stimuli with NaN or infinite entries."""
    finite = torch.isfinite(stimuli).flatten(1).all(dim=1)
    if not bool(finite.all()):
        wrong = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"{what} {wrong[:5]} holds numbers that are not finite, around which there is no gradient; remove the NaN"
            " and infinite entries"
        )


def check_count(value: int | None, name: str, unit: str) -> None:
    """Refuse what is not a positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} = {value!r} keeps nothing of the gradient; give a whole number of {unit} from 1")


def checked_dtype(dtype: torch.dtype | None, inventory: Inventory) -> torch.dtype:
    """The precision to compute in."""
    if dtype is None:
        return inventory.dtype
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype {dtype} cannot hold a gradient to 1e-5; give torch.float32 or torch.float64")
    return dtype
