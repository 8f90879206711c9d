"""The state_dicts that a weights file offers: flat or nested, under the names of the file or without a wrapper's."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pipeline.inputs.files import CheckpointError
from pipeline.inputs.recipes import UNWRAPPED, Recipe
from pipeline.text import listed, printable

#: What torch's own wrappers put into names: DataParallel and its kin, torch.compile.
PARALLEL, COMPILED = "module", "_orig_mod"

#: What torch's averaged model counts beside the weights that it wraps.
AVERAGED = "n_averaged"


@dataclass(frozen=True)
class Offer:
    """One reading of a weights file: names and tensors, and what was done to get there."""

    weights: Mapping[str, Tensor]
    notes: tuple[str, ...] = ()
    entry: str = ""


def offers(held: Mapping[str, Any], recipe: Recipe, path: str) -> list[Offer]:
    """Every reading of a weights file that could be meant, the plainest first.

    Raises `CheckpointError` if the file holds no state_dict, or not the entry that the config names.
    """
    plain = [_without_given_prefix(offer, recipe) for offer in _entries(held, recipe, path)]
    return [variant for offer in plain for variant in (offer, *_unwrapped(offer))]


def is_state_dict(value: object) -> bool:
    """Whether a value maps names to tensors, and to nothing else but a module's extra state."""
    return (
        isinstance(value, Mapping)
        and any(isinstance(entry, Tensor) for entry in value.values())
        and all(
            isinstance(name, str) and (isinstance(entry, Tensor) or name.endswith("_extra_state"))
            for name, entry in value.items()
        )
    )


def _entries(held: Mapping[str, Any], recipe: Recipe, path: str) -> list[Offer]:
    if recipe.state_dict is not None:
        return [Offer(_named_entry(held, recipe.state_dict, recipe, path), entry=recipe.state_dict)]
    if is_state_dict(held):
        return [Offer(held)]
    inside = {str(name): value for name, value in held.items() if is_state_dict(value)}
    if not inside:
        others = listed(name for name, value in held.items() if not isinstance(value, Tensor))
        what = f"holds {others}, which are no tensors" if others else "holds no tensor at all"
        raise CheckpointError(
            f"{path} is no bare state_dict: it {what}, so it is not clear what to load; save model.state_dict() alone,"
            ' or name the entry that holds it (`state_dict = "model"`), or a `factory` that picks the weights out'
        )
    return [Offer(value, (f"the weights are the entry {name!r} of the file",), name) for name, value in inside.items()]


def _named_entry(held: Mapping[str, Any], name: str, recipe: Recipe, path: str) -> Mapping[str, Tensor]:
    value: Any = held.get(name)
    if value is None:
        value = held
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    if not is_state_dict(value):
        there = [key for key, entry in held.items() if is_state_dict(entry)]
        advice = (
            f"write one of {listed(there)}" if there else "the file holds no state_dict in an entry, so take it out"
        )
        raise CheckpointError(
            f"{recipe.where}: state_dict = {name!r}, but that entry of {path} is"
            f" {'not there' if value is None else f'a {type(value).__name__}'} and not names with tensors; {advice}"
        )
    return value


def _without_given_prefix(offer: Offer, recipe: Recipe) -> Offer:
    prefix = recipe.strip_prefix
    if not prefix:
        return offer
    kept = {name.removeprefix(prefix): value for name, value in offer.weights.items() if name.startswith(prefix)}
    if not kept:
        return offer  # names without it may fit as they are; where they do not, the refusal says what they begin with
    others = [name for name in offer.weights if not name.startswith(prefix)]
    left = (f"{listed(others)} of the file do not begin with {prefix!r} and are left out",) if others else ()
    return Offer(_like(offer.weights, kept, prefix), (*offer.notes, *left), offer.entry)


def _unwrapped(offer: Offer) -> list[Offer]:
    """The same weights without what wrappers put before their names, where anything is."""
    variants: list[Offer] = []
    for anywhere in (False, True):
        found = _unwrapped_names(offer.weights, anywhere)
        if found is not None and found not in [variant.weights for variant in variants]:
            taken = [
                f"{word}." for word in (PARALLEL, COMPILED) if any(word in name.split(".") for name in offer.weights)
            ]
            note = f"{' and '.join(taken)} {UNWRAPPED}"
            variants.append(Offer(found, (*offer.notes, note), offer.entry))
    return variants


def _unwrapped_names(weights: Mapping[str, Tensor], anywhere: bool) -> Mapping[str, Tensor] | None:
    renamed = {}
    for name, value in weights.items():
        if name == AVERAGED:
            continue
        parts = [part for part in name.split(".") if part != COMPILED and not (anywhere and part == PARALLEL)]
        while parts and parts[0] == PARALLEL:
            parts = parts[1:]
        renamed[".".join(parts)] = value
    names = {name for name in weights if name != AVERAGED}
    return None if set(renamed) == names or len(renamed) != len(names) else renamed


def _like(weights: Mapping[str, Tensor], kept: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    """The kept weights with what the state_dict records of its modules' versions."""
    metadata = getattr(weights, "_metadata", None)
    if metadata is None:
        return kept
    found: OrderedDict[str, Tensor] = OrderedDict(kept)
    stem = prefix.rstrip(".")
    found._metadata = {  # type: ignore[attr-defined]
        key.removeprefix(stem).lstrip("."): value
        for key, value in metadata.items()
        if key == stem or key.startswith(f"{stem}.")
    }
    return found


def fitting_prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """What stands before every name of a model in a file's names, where one thing does."""
    if not own:
        return None
    first = next(iter(own))
    for name in weights:
        prefix = name.removesuffix(first)
        if (
            name != first
            and name.endswith(f".{first}")
            and all(
                f"{prefix}{key}" in weights and weights[f"{prefix}{key}"].shape == value.shape
                for key, value in own.items()
            )
        ):
            return prefix
    return None


def describe_offer(offer: Offer) -> str:
    """Where in a file an offer lies, for a message."""
    return f" (entry {printable(offer.entry, 80)!r})" if offer.entry else ""
