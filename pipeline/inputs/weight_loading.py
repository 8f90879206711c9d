"""Weights loaded into a module that has a place for each of them, and no others."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from pipeline.inputs.files import CheckpointError
from pipeline.inputs.named_code import parameters_of
from pipeline.inputs.recipes import Recipe, toml_example
from pipeline.inputs.state_dicts import Offer, describe_offer, fitting_prefix, offers
from pipeline.text import listed, printable


@dataclass(frozen=True)
class Differences:
    """Names of weights that the file lacks or has in excess, and a line for each that has another shape."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[str]

    @property
    def any(self) -> bool:
        """Whether there is any."""
        return bool(self.missing or self.unexpected or self.shapes)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.missing) + len(self.unexpected) + len(self.shapes)


def load_weights(model: nn.Module, held: Mapping[str, Any], recipe: Recipe, path: str) -> tuple[str, ...]:
    """Notes on how a file's weights were loaded into a fresh module; each of them has its place, and none is left out.

    Names that the module's own load hooks translate and tensors that share their storage are torch's to judge. A file
    of several entries, and names with a wrapper's prefix, are taken where exactly one reading of the file fits.

    Raises `CheckpointError` if no reading fits, or several do, or numbers are of another kind than the module's, NaN or
    infinite.
    """
    readings = offers(held, recipe, path)
    chosen = _fitting(model, readings, path)
    problems = []
    for offer in readings if chosen is None else [chosen]:
        problem = _loads(model, offer, path)
        if problem is None:
            settle_lazy(model)
            refuse_not_finite(model, path)
            return offer.notes
        problems.append((problem, offer))
    problem, closest = min(problems, key=lambda pair: pair[0].count)
    raise _refusal(model, problem, closest, recipe, path)


def _fitting(model: nn.Module, readings: Sequence[Offer], path: str) -> Offer | None:
    """The reading whose names and shapes are the module's own."""
    fitting = [offer for offer in readings if not differences(model, offer.weights).any]
    if len({offer.entry for offer in fitting}) > 1:
        raise CheckpointError(
            f"{path} holds several sets of weights that fit the {type(model).__name__}:"
            f" {listed(offer.entry for offer in fitting)}; they make different models, so say which one is meant:"
            f' `state_dict = "{fitting[0].entry}"`'
        )
    return fitting[0] if fitting else None


def find_fitting(model: nn.Module, held: Mapping[str, Any], recipe: Recipe, path: str) -> Offer | None:
    """The reading of a file whose names and shapes are exactly the module's own, None where none or several are."""
    try:
        return _fitting(model, offers(held, recipe, path), path)
    except CheckpointError:
        return None


def _loads(model: nn.Module, offer: Offer, path: str) -> Differences | None:
    """What keeps weights from being loaded whole; None where they are loaded now."""
    own = differences(model, offer.weights)
    if own.shapes:
        return own
    _refuse_other_kinds(model, offer.weights, path)
    try:
        outcome = model.load_state_dict(offer.weights, strict=False)
    except Exception as error:  # a load hook of the model may raise anything
        return own if own.any else Differences([], [], [printable(error)])
    loaded = {name: value for name, value in _own(model).items() if name not in outcome.missing_keys}
    present = {_place(value) for value in loaded.values()}
    missing = [name for name in outcome.missing_keys if _place(_own(model).get(name)) not in present]
    unexpected = list(outcome.unexpected_keys)
    return Differences(missing, unexpected, []) if missing or unexpected else None


def differences(model: nn.Module, weights: Mapping[str, Tensor]) -> Differences:
    """How the names and shapes of the weights differ from the module's own."""
    own = _own(model)
    # One tensor under two names (tied weights), or two on one storage, is stored once by safetensors.
    present = {_place(value) for name, value in own.items() if name in weights}
    shapes = [
        f"{name} is {_shape(weights[name])} in the file and {_shape(value)} in the model"
        for name, value in own.items()
        if name in weights and has_size(value) and value.shape != weights[name].shape
    ]
    missing = [name for name, value in own.items() if name not in weights and _place(value) not in present]
    known = set(model.state_dict())
    return Differences(missing, [name for name in weights if name not in known], shapes)


def has_size(tensor: Tensor) -> bool:
    """Whether a tensor has numbers already, which those of lazy layers lack until they are loaded or called."""
    return not isinstance(tensor, nn.UninitializedParameter | nn.UninitializedBuffer)


def settle_lazy(model: nn.Module) -> None:
    """Make lazy layers that were given their sizes by a file what they become at their first call.

    The hook that would do it belongs to this module, and would change it when a copy of it is called.
    """
    for part in model.modules():
        if not isinstance(part, LazyModuleMixin) or part.has_uninitialized_params():
            continue
        for name in ("_initialize_hook", "_load_hook"):
            handle = vars(part).pop(name, None)
            if handle is not None:
                handle.remove()
        if isinstance(part, nn.LazyLinear):
            part.in_features = part.weight.shape[-1]
        if part.cls_to_become is not None:
            part.__class__ = part.cls_to_become  # type: ignore[assignment]


def _own(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def _place(tensor: Tensor | None) -> tuple[object, ...]:
    """Where a tensor's numbers lie: equal for two names of one tensor and for two tensors on the same memory."""
    lazy = tensor is None or not has_size(tensor) or tensor.layout != torch.strided
    pointer = 0 if lazy or tensor is None or tensor.device.type == "meta" else tensor.untyped_storage().data_ptr()
    if not pointer or tensor is None:
        return (id(tensor),)
    return (pointer, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"


# Kinds of numbers


def _refuse_other_kinds(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Refuse numbers that copying would bend: complex into real, codes of a quantised export into weights."""
    own = _own(model)
    translated = {_kind(value) for name, value in own.items() if name not in weights}
    for name, value in weights.items():
        target = own.get(name)
        if not isinstance(value, Tensor):
            continue
        if target is None:
            fits = _kind(value) in translated or not translated
        else:
            fits = _kind(value) == _kind(target) or _kept_by_buffer(value, target)
        if not fits:
            kinds = sorted(
                {
                    str(entry.dtype).removeprefix("torch.")
                    for entry in ([target] if target is not None else own.values())
                }
            )
            raise CheckpointError(
                f"{path}: {name} holds {str(value.dtype).removeprefix('torch.')} numbers where the"
                f" {type(model).__name__} has {listed(kinds)}; copying would drop what the other kind cannot hold (an"
                " imaginary part, a quantised export's scale) and make another model; save the weights as the model"
                " has them"
            )


def _kind(tensor: Tensor) -> str:
    if tensor.is_complex():
        return "complex"
    if tensor.is_floating_point():
        return "float" if tensor.dtype.itemsize > 1 else str(tensor.dtype)  # eight bits come with a scale
    return "whole"


def _kept_by_buffer(value: Tensor, target: Tensor) -> bool:
    """Whether a buffer of another kind holds the very same numbers, as a count saved as float does."""
    if isinstance(target, nn.Parameter) or value.is_complex() or target.is_complex():
        return False
    return torch.equal(value.to(target.dtype).to(value.dtype), value)


def refuse_not_finite(model: nn.Module, path: str) -> None:
    """Refuse a module whose parameters are not finite or have no size yet, or whose buffers are NaN.

    Infinity in a buffer is legitimate: masks of attention are made of it.

    Raises `CheckpointError`; the message names the parameter and counts its numbers.
    """
    for name, tensor in _own(model).items():
        if not has_size(tensor):
            raise CheckpointError(
                f"{path}: {name} belongs to a lazy layer and got no numbers from the file, so the first call would fill"
                " it at random and untrained maps would stand as trained; load all the weights, with strict=True in a"
                " factory"
            )
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        plain = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
        plain = plain if tensor.element_size() > 1 else plain.float()
        bad = ~torch.isfinite(plain) if isinstance(tensor, nn.Parameter) else torch.isnan(plain)
        if bool(bad.any()):
            raise CheckpointError(
                f"{path}: {name} holds {int(bad.sum())} of {tensor.numel()} numbers that are NaN or infinite, so every"
                " map would be NaN; training has diverged or the file is damaged, so train or copy the checkpoint again"
            )


# Refusals


def _refusal(model: nn.Module, found: Differences, offer: Offer, recipe: Recipe, path: str) -> CheckpointError:
    text = (
        f"the weights of {path}{describe_offer(offer)} do not fit the {type(model).__name__} that was built:"
        f" {'; '.join(_parts(found)) or 'its load hooks refuse them'}; loading only what fits would make another model"
        " than the trained one"
    )
    if (
        recipe.strip_prefix
        and found.unexpected
        and not any(name.startswith(recipe.strip_prefix) for name in offer.weights)
    ):
        firsts = dict.fromkeys(name.partition(".")[0] + "." for name in offer.weights)
        text += (
            f". (strip_prefix = {recipe.strip_prefix!r} is no beginning of its names; they begin with {listed(firsts)})"
        )
    prefix = fitting_prefix(offer.weights, _own(model))
    if prefix is not None:
        return CheckpointError(
            f"{recipe.where}: {text}; every name has the prefix {prefix!r} and fits without it, so add"
            f' `strip_prefix = "{prefix}"` to the entry'
        )
    if not recipe.decides:
        return CheckpointError(
            f"{text}. Its config.json records every argument, so the two files are not of one model; save it again"
        )
    return CheckpointError(f"{recipe.where}: {text}; {_advice(model, found, recipe)}")


def _parts(found: Differences) -> Iterator[str]:
    if found.missing:
        yield f"the file lacks {listed(found.missing)}"
    if found.unexpected:
        yield f"the file has {listed(found.unexpected)} beyond the model's own"
    if found.shapes:
        yield listed(found.shapes, most=3)


def _advice(model: nn.Module, found: Differences, recipe: Recipe) -> str:
    slots = _slots(model, found)
    if recipe.modules or slots:
        names = slots or sorted(recipe.modules)
        verb = "change" if set(names) & set(recipe.modules) else "add"
        return f"{verb} the entry's module {listed(names)}, for example\n{toml_example(names)}"
    if recipe.factory is not None:
        return "load them in the factory, or have it build the module that they belong to"
    return "mend the entry's class and arguments, or give this checkpoint an entry of its own"


def refuse_sizes(model: nn.Module, held: Mapping[str, Any], recipe: Recipe, path: str) -> None:
    """Refuse weights of which no reading has the names and shapes of a module that takes no memory."""
    readings = offers(held, recipe, path)
    found = [(differences(model, offer.weights), offer) for offer in readings]
    problem, closest = min(found, key=lambda pair: pair[0].count)
    if problem.any:
        raise _refusal(model, problem, closest, recipe, path)


def _slots(model: nn.Module, found: Differences) -> list[str]:
    """Constructor parameters that probably hold the modules whose weights differ."""
    named, _ = parameters_of(type(model))
    differing = [*found.missing, *found.unexpected, *(line.split(" ", 1)[0] for line in found.shapes)]
    slots = [name for name in named if any(key.split(".")[0] == name for key in differing)]
    if any("activation" in key for key in differing):
        slots += [name for name in named if "activation" in name and name not in slots]
    return slots
