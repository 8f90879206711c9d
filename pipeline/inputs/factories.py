"""Modules that a factory of the config makes: asked first, then compared with the numbers in the checkpoint's files."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.inputs.files import CheckpointError
from pipeline.inputs.lab_code import FOREIGN, asked_interrupts_only, private_randomness
from pipeline.inputs.named_code import import_named
from pipeline.inputs.recipes import Recipe
from pipeline.inputs.weight_loading import find_fitting, has_size, load_weights, refuse_not_finite, settle_lazy
from pipeline.plan.config import ConfigError
from pipeline.text import listed, of_exit, printable

#: What a checkpoint's files hold, as far as they can be read without running anything, by path.
Readable = Callable[[], Mapping[str, Mapping[str, Any]]]


def run_factory(recipe: Recipe, argument: str, readable: Readable, location: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The module that the config's factory makes of a checkpoint's path, in eval mode; and notes on its weights.

    A module that holds none of the file's numbers gets them where their names and shapes are its own. Where they are
    not, it was not made from this file, and is refused. What the file does not hold must be the same at every call.

    Raises `ConfigError` if the factory cannot be imported or called, and `CheckpointError` if it fails for this
    checkpoint, returns no module, or its weights are not those of the file.
    """
    function = _function(recipe)
    model = _made(function, argument, recipe, seed=0)
    contents = readable()
    shares = _compare(model, contents)
    untouched = not shares.found and any(value.numel() for value in _tensors(model).values())
    by_chance = [] if contents and untouched else _by_chance(shares, function, argument, recipe)
    if contents and (untouched or _only_built(model, shares, by_chance, contents, recipe)):
        notes = _load_into(model, contents, recipe, location)
    else:
        _refuse_chance(by_chance, recipe, location)
        _refuse_left_out(shares, recipe, location)
        notes = shares.notes(bool(contents))
    settle_lazy(model)
    refuse_not_finite(model, location)
    return model.eval(), notes


def _function(recipe: Recipe) -> Callable[..., Any]:
    name = recipe.factory or ""
    module_name, _, function_name = name.partition(":")
    function = import_named(f"{module_name}.{function_name}", f"{recipe.where}: factory = {name!r}")
    if not callable(function):
        raise ConfigError(
            f"{recipe.where}: factory = {name!r} is a {type(function).__name__}, which cannot be called with a"
            " checkpoint's path; name a function"
        )
    return function  # type: ignore[no-any-return]


def _made(function: Callable[..., Any], argument: str, recipe: Recipe, seed: int) -> nn.Module:
    with private_randomness(seed):
        try:
            with asked_interrupts_only():
                model = function(argument, **copy.deepcopy(dict(recipe.arguments)))
        except FOREIGN as error:
            ended = f"called {of_exit(error).partition('(')[0]}" if isinstance(error, SystemExit) else "failed"
            raise CheckpointError(
                f"{recipe.where}: factory = {recipe.factory!r} {ended} for {argument}"
                f" ({type(error).__name__}: {printable(error)}); mend the function, or take that path out of the"
                " pattern"
            ) from error
    if not isinstance(model, nn.Module):
        raise CheckpointError(
            f"{recipe.where}: factory = {recipe.factory!r} returned a {type(model).__name__} for {argument}, which"
            " cannot be differentiated; return a torch.nn.Module"
        )
    return _as_it_is_now(model)


def _as_it_is_now(model: nn.Module) -> nn.Module:
    """A copy, for a factory may give one module of the process at every call, each time with other weights."""
    try:
        return copy.deepcopy(model)
    except Exception:  # parts of a lab's own may not be copied
        return model


def _load_into(
    model: nn.Module, contents: Mapping[str, Mapping[str, Any]], recipe: Recipe, location: str
) -> tuple[str, ...]:
    """Notes on loading a file into a module that a factory has only built."""
    fitting = [path for path, held in contents.items() if find_fitting(model, held, recipe, path) is not None]
    if len(fitting) != 1:
        raise CheckpointError(
            f"{recipe.where}: none of the numbers in {location} are in the {type(model).__name__} that factory ="
            f" {recipe.factory!r} returned, and their names or shapes are not the module's own"
            f" ({_example(model, contents)}), so its maps would be those of other weights; load the file's weights in"
            " the factory (load_state_dict with strict=True tells which names differ), or save what it makes of them"
            " with torch.save(model.state_dict(), ...) and give that file as `path`"
        )
    return load_weights(model, contents[fitting[0]], recipe, fitting[0])


def _example(model: nn.Module, contents: Mapping[str, Mapping[str, Any]]) -> str:
    theirs = [entry.name for held in contents.values() for entry in _numbers(held)]
    own = [name for name, _ in model.named_parameters()]
    return f"the file has {listed(theirs, most=3)}; the module has {listed(own, most=3)}"


# Are the file's numbers in the model?


@dataclass(frozen=True)
class _Numbers:
    """One tensor of a file: the mapping it stands in, its name there, and its numbers."""

    owner: str
    name: str
    tensor: Tensor


@dataclass(frozen=True)
class _Shares:
    """Tensors of a module that a file holds, those that it does not, and what of the file is nowhere in the module.

    Numbers are known by how many they are, the least and the greatest of them: so they are also when a factory has
    transposed or reshaped them. What holds one number only, as fresh biases do, tells nothing and is not ``found``.
    """

    found: tuple[str, ...]
    lacking: Mapping[str, Tensor]
    orphans: tuple[_Numbers, ...]
    names: Mapping[str, tuple[int, ...]]

    def notes(self, checked: bool) -> tuple[str, ...]:
        if not checked:
            return (
                "its files cannot be read without running code in them, so whether their numbers are in the factory's"
                " module was not checked",
            )
        if self.lacking:
            return (f"the factory's module has weights that its files do not hold: {listed(self.lacking)}",)
        return ()


Print = tuple[int, float, float]


def _compare(model: nn.Module, contents: Mapping[str, Mapping[str, Any]]) -> _Shares:
    own = _tensors(model)
    dtypes = {value.dtype for value in own.values() if value.is_floating_point() or value.is_complex()}
    there: dict[Print, list[_Numbers]] = defaultdict(list)
    names: dict[str, tuple[int, ...]] = {}
    for held in contents.values():
        for entry in _numbers(held):
            names[entry.name] = tuple(entry.tensor.shape)
            for dtype in dtypes:
                known = _print(entry.tensor, dtype)
                if known is not None:
                    there[known].append(entry)
    prints = {name: _print(value, value.dtype) for name, value in own.items()}
    found = tuple(
        name for name, known in prints.items() if known in there and known is not None and known[1] < known[2]
    )
    lacking = {name: own[name] for name, known in prints.items() if known is not None and known not in there}
    owners = {entry.owner for known in prints.values() if known in there for entry in there[known]}
    matched = {id(entry.tensor) for known in prints.values() if known in there for entry in there[known]}
    orphans = {
        id(entry.tensor): entry
        for entries in there.values()
        for entry in entries
        if entry.owner in owners and id(entry.tensor) not in matched
    }
    return _Shares(found, lacking, tuple(orphans.values()), names)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """The numbers of a module by name, but for those of layers that have no size yet."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor) and has_size(value)}


def _numbers(held: Any, owner: str = "") -> Iterator[_Numbers]:
    pairs = held.items() if isinstance(held, Mapping) else enumerate(held)
    for name, value in pairs:
        if isinstance(value, Tensor):
            yield _Numbers(owner, str(name), value)
        elif isinstance(value, Mapping | list | tuple):
            yield from _numbers(value, f"{owner}/{name}")


def _print(tensor: Tensor, dtype: torch.dtype) -> Print | None:
    """How many numbers a tensor has, the least and the greatest; None where they tell nothing."""
    numeric = tensor.is_floating_point() or tensor.is_complex()
    if not numeric or tensor.numel() < 2 or (tensor.is_complex() and not dtype.is_complex):
        return None
    whole = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    cast = whole.to("cpu", dtype)
    plain = (torch.view_as_real(cast) if cast.is_complex() else cast).double()
    low, high = (float(value) for value in torch.aminmax(plain))
    return None if low != low else (tensor.numel(), low, high)


def _by_chance(shares: _Shares, function: Callable[..., Any], argument: str, recipe: Recipe) -> list[str]:
    """Weights that no file holds and that another call with other random numbers makes anew."""
    if not shares.lacking:
        return []
    again = _made(function, argument, recipe, seed=1).state_dict()
    return [name for name, value in shares.lacking.items() if not _same(value, again.get(name))]


def _only_built(
    model: nn.Module,
    shares: _Shares,
    by_chance: Sequence[str],
    contents: Mapping[str, Mapping[str, Any]],
    recipe: Recipe,
) -> bool:
    """Whether a module shares with its file only what every fresh one holds, as a mask or a table of positions.

    All that the file does not hold is drawn at random then, and the file's names and shapes are the module's own.
    """
    if not by_chance or len(by_chance) < len(shares.lacking):
        return False
    return sum(find_fitting(model, held, recipe, path) is not None for path, held in contents.items()) == 1


def _refuse_chance(by_chance: Sequence[str], recipe: Recipe, location: str) -> None:
    """Refuse weights that no file holds and that differ from call to call."""
    if by_chance:
        raise CheckpointError(
            f"{recipe.where}: factory = {recipe.factory!r} gives other numbers at every call ({listed(by_chance)}), so"
            f" they do not come from {location}; load all the weights in the factory"
        )


def _same(one: Tensor, other: object) -> bool:
    return isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)


def _refuse_left_out(shares: _Shares, recipe: Recipe, location: str) -> None:
    """Refuse a module that holds only a part of what the file has for it.

    A tensor under the same name and of the same shape was changed on purpose; one of another shape, or one of equal
    size under another name, was passed over when the file was loaded without strict=True.
    """
    for name, value in shares.lacking.items():
        if value.numel() < 2:
            continue
        twins = [shape for key, shape in shares.names.items() if _one_name(key, name)]
        if any(shape == tuple(value.shape) for shape in twins):
            continue
        passed_over = next((entry for entry in shares.orphans if entry.tensor.numel() == value.numel()), None)
        if twins or passed_over is not None:
            there = f"{name} there is {_size(twins[0])}" if twins else f"{passed_over.name} there is nowhere in it"  # type: ignore[union-attr]
            raise CheckpointError(
                f"{recipe.where}: factory = {recipe.factory!r} loads {location} only in part: {name}"
                f" ({_size(value.shape)}) of its module is not in the file, and {there}; untrained numbers would be"
                " mapped as trained, so load with load_state_dict(..., strict=True) and mend what it names"
            )


def _one_name(one: str, other: str) -> bool:
    return one == other or one.endswith(f".{other}") or other.endswith(f".{one}")


def _size(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a number"
