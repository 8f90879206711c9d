"""Models rebuilt from a recipe and from what a checkpoint records."""

import copy
import inspect
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from pipeline.inputs.files import CheckpointError
from pipeline.inputs.lab_code import FOREIGN, asked_interrupts_only, private_randomness
from pipeline.inputs.named_code import deepstrf_classes, is_deepstrf, module_class, not_installed, parameters_of
from pipeline.inputs.recipes import Recipe, toml_example
from pipeline.inputs.torchaudio_standin import ensure_lightning
from pipeline.inputs.weight_loading import load_weights, refuse_sizes
from pipeline.plan.config import ConfigError, ModuleSpec
from pipeline.text import listed, meant, printable

#: Numbers in a model above which its sizes are checked against the weights before memory is taken.
LARGE = 2**28


def rebuild(
    recipe: Recipe, saved: Mapping[str, Any] | None, held: Mapping[str, Any], path: str
) -> tuple[nn.Module, tuple[str, ...]]:
    """The module that a recipe and a checkpoint's config.json describe, with its weights, in eval mode, and notes.

    ``saved`` is the content of config.json, None where there is none, ``held`` that of the weights file. No global
    random state is changed.

    Raises `ConfigError` if the recipe lacks something that the files do not record, or names what cannot be imported or
    built, and `CheckpointError` if the weights do not fit the module, or the files contradict each other.
    """
    model_class = _model_class(recipe, saved, path)
    arguments = _arguments(model_class, recipe, saved, path)
    with private_randomness():
        for name, spec in recipe.modules.items():
            arguments[name] = _module(spec, f"{recipe.where}: modules.{name}")
        if is_deepstrf(model_class) and _may_be_large(arguments):
            _compare_before_building(model_class, arguments, recipe, held, path)
        if arguments.get("rnn_type") == "S4" and is_deepstrf(model_class):
            ensure_lightning()
        try:
            model = _call(model_class, arguments)
        except FOREIGN as error:
            raise _cannot_build(model_class, error, recipe, path) from error
    notes = load_weights(model, held, recipe, path)
    return model.eval(), notes


# Which class


def _model_class(recipe: Recipe, saved: Mapping[str, Any] | None, path: str) -> type[nn.Module]:
    recorded = (saved or {}).get("_model_class")
    if recipe.class_name is not None:
        own = recipe.class_name.rpartition(".")[2]
        if recorded is not None and str(recorded).rpartition(".")[2] != own:
            raise ConfigError(
                f"{recipe.where}: class = {recipe.class_name!r}, but the config.json of {path} was written by"
                f" {printable(recorded, 80)!r}; weights of one class in another make a different model, so name that"
                " class, or give these checkpoints an entry of their own"
            )
        return module_class(recipe.class_name, f"{recipe.where}: class")
    if recorded is None:
        raise ConfigError(
            f"{recipe.where}: {path} does not say which class its weights belong to (no config.json with"
            ' "_model_class"), so the model cannot be rebuilt; add `class = "deepSTRF.models.audio.StateNet"` and'
            " `arguments = {...}`, or `factory`, to the entry"
        )
    if not isinstance(recorded, str):
        raise CheckpointError(
            f"the config.json of {path} has a {type(recorded).__name__} as _model_class, not a name, so the model"
            " cannot be rebuilt; write it again with save_pretrained"
        )
    try:
        known = deepstrf_classes()
    except ImportError as error:
        raise not_installed(f"{recipe.where}: {path} is a {printable(recorded, 80)} of deepSTRF", error) from error
    if recorded not in known:
        raise ConfigError(
            f"{recipe.where}: the config.json of {path} names the class {printable(recorded, 80)!r}, which is not one"
            f" of deepSTRF's own ({', '.join(known)}); nothing that only a checkpoint names is ever imported, so write"
            ' the class into the entry if you trust it: `class = "my_lab.models.'
            f'{recorded if recorded.isidentifier() else "Model"}"`'
        )
    return known[recorded]


# With which arguments


def _arguments(
    model_class: type[nn.Module], recipe: Recipe, saved: Mapping[str, Any] | None, path: str
) -> dict[str, Any]:
    """The constructor's arguments but for the modules, checked against its parameters."""
    named, takes_any = parameters_of(model_class)
    recorded = {name: value for name, value in (saved or {}).items() if name != "_model_class"}
    for kind, given in (("arguments", recipe.arguments), ("modules", recipe.modules)):
        _refuse_strange(f"{recipe.where}: {kind}", given, model_class.__name__, named, takes_any)
    twice = sorted(set(recipe.arguments) & set(recipe.modules))
    if twice:
        raise ConfigError(
            f"{recipe.where}: {listed(twice)} stands in arguments and in modules, so it is not clear which one counts;"
            " keep one of them"
        )
    strange = [name for name in recorded if name not in named and not takes_any]
    if strange:
        error = ConfigError if recipe.class_name else CheckpointError
        raise error(
            f"the config.json of {path} records {listed(strange)}, which {model_class.__name__} is not built with (it"
            f" takes {', '.join(named)}); it belongs to another class or version, so name the right `class` in"
            f" {recipe.where}, or install the version that wrote it"
        )
    arguments = {**recorded, **{name: _argument(value, recipe.where) for name, value in recipe.arguments.items()}}
    _refuse_missing(model_class, named, {*arguments, *recipe.modules}, recipe, saved, path)
    return arguments


def _argument(value: Any, where: str) -> Any:
    """An argument of the config; a table with a `class` stands for a module."""
    if isinstance(value, Mapping) and "class" in value:
        return _module(_spec(value, where), where)
    return copy.deepcopy(value)


def _refuse_strange(
    where: str, given: Iterable[str], builder: str, named: Mapping[str, inspect.Parameter], takes_any: bool
) -> None:
    strange = [name for name in given if name not in named and not takes_any]
    if strange:
        raise ConfigError(
            f"{where} has {listed(strange)}, but {builder} is built with {', '.join(named) or 'nothing'};"
            f" {meant(strange[0], named) or 'take it out or mend its spelling'}"
        )


def _refuse_missing(
    model_class: type[nn.Module],
    named: Mapping[str, inspect.Parameter],
    given: set[str],
    recipe: Recipe,
    saved: Mapping[str, Any] | None,
    path: str,
) -> None:
    if saved is not None and is_deepstrf(model_class):
        # deepSTRF records defaults too: what is absent was there, but could not be written as JSON.
        dropped = [name for name in named if name not in given]
        if dropped:
            raise ConfigError(
                f"{recipe.where}: the config.json of {path} does not record {listed(dropped)} of"
                f" {model_class.__name__}, because save_pretrained drops what JSON cannot hold (modules); with the"
                " default in its place the weights could load as another model without an error. Add what it was"
                f" trained with to the entry, for example\n{toml_example(dropped)}"
            )
    required = [name for name, entry in named.items() if entry.default is entry.empty and name not in given]
    if required:
        source = "the config.json" if saved is not None else "the entry"
        raise ConfigError(
            f"{recipe.where}: {model_class.__name__} cannot be built for {path} without {listed(required)}, which"
            f" {source} does not give; add them: `arguments = {{{', '.join(f'{name} = ...' for name in required)}}}`"
        )


def _module(spec: ModuleSpec | nn.Module, where: str) -> nn.Module:
    """A module as the config specifies it, or a copy of the one that was given."""
    if isinstance(spec, nn.Module):
        return copy.deepcopy(spec)
    found = module_class(spec.class_name, f"{where}.class")
    named, takes_any = parameters_of(found)
    _refuse_strange(where, spec.arguments, spec.class_name, named, takes_any)
    arguments = {name: _argument(value, f"{where}.{name}") for name, value in spec.arguments.items()}
    try:
        return _call(found, arguments)
    except FOREIGN as error:
        raise ConfigError(
            f"{where}: {spec.class_name} cannot be built with {printable(spec.arguments)}"
            f" ({type(error).__name__}: {printable(error)}); give the arguments that it was trained with"
        ) from error


def _spec(value: Mapping[str, Any], where: str) -> ModuleSpec:
    try:
        return ModuleSpec.model_validate(dict(value))
    except ValueError as error:
        raise ConfigError(f"{where}: {printable(error)}; name the class with its module, as torch.nn.ReLU") from error


def _call(constructor: type[nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """The module; lists of numbers become tensors where the constructor takes nothing else, as TOML has none."""
    try:
        with _no_hints(), asked_interrupts_only():
            return constructor(**arguments)
    except FOREIGN:
        as_tensors = {name: _as_tensor(value) for name, value in arguments.items()}
        if all(as_tensors[name] is value for name, value in arguments.items()):
            raise
        with suppress(*FOREIGN):  # the first error is about what the user wrote
            return constructor(**as_tensors)
        raise


@contextmanager
def _no_hints() -> Iterator[None]:
    """Without torch's hint that a transformer with an odd number of heads could run faster."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="enable_nested_tensor is True")
        yield


def _as_tensor(value: Any) -> Any:
    numbers = isinstance(value, list) and value and all(type(entry) in (int, float) for entry in value)
    return torch.tensor(value, dtype=torch.float32) if numbers else value


def _cannot_build(model_class: type, error: BaseException, recipe: Recipe, path: str) -> ValueError:
    if isinstance(error, ImportError):
        return not_installed(f"{recipe.where}: {path} is a {model_class.__name__}", error)
    text = (
        f"{model_class.__name__} cannot be built for {path} ({type(error).__name__}: {printable(error)}), so its"
        " weights have no place to go"
    )
    if recipe.decides:
        return ConfigError(f"{recipe.where}: {text}; mend the entry's arguments or modules")
    return CheckpointError(f"{text}; its config.json is damaged or of another version of the class, so save it again")


def _may_be_large(arguments: Mapping[str, Any]) -> bool:
    """Whether the sizes among a constructor's arguments could ask for gigabytes, as those of real models rarely do."""
    sizes = [1]
    for value in arguments.values():
        sizes += [abs(entry) for entry in (value if isinstance(value, list) else [value]) if type(entry) is int]
    return max(sizes) ** 2 > LARGE or math.prod(size for size in sizes if size) > LARGE


def _compare_before_building(
    model_class: type[nn.Module], arguments: Mapping[str, Any], recipe: Recipe, held: Mapping[str, Any], path: str
) -> None:
    """Refuse a config.json whose sizes are not those of the weights before memory for them is taken."""
    try:
        with torch.device("meta"), _no_hints():
            shadow = model_class(**copy.deepcopy(dict(arguments)))
    except FOREIGN:
        return  # some classes compute with their buffers, which a shadow does not have
    refuse_sizes(shadow, held, recipe, path)
