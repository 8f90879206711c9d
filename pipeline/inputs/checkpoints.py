"""Trained modules of checkpoints, rebuilt with every weight of their files and no other."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.inputs.adapters import Adapted, AdaptError, look_at
from pipeline.inputs.checkpoint_description import describe_checkpoints
from pipeline.inputs.checkpoint_discovery import WEIGHT_NAMES, discover
from pipeline.inputs.checkpoint_files import Files, files_of, fingerprint_of, local_path, readable_weights, unreadable
from pipeline.inputs.factories import run_factory
from pipeline.inputs.files import CheckpointError, FileTooLargeError, refuse_secrets, split
from pipeline.inputs.module_building import rebuild
from pipeline.inputs.probe_response import probe_response
from pipeline.inputs.recipes import Recipe, recipe_of
from pipeline.inputs.weights import read_weights
from pipeline.plan.config import CheckpointsConfig, ConfigError, ModuleSpec, is_url
from pipeline.plan.config_mistakes import explain
from pipeline.plan.run_plan import CheckpointSource, FrontEnd
from pipeline.text import printable

__all__ = [
    "CheckpointError",
    "build",
    "describe_checkpoints",
    "discover",
    "load_checkpoint",
    "model_fields",
    "probe_response",
]


def load_checkpoint(
    source: CheckpointSource | str | os.PathLike[str],
    *,
    class_name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    modules: Mapping[str, ModuleSpec | Mapping[str, Any] | nn.Module] | None = None,
    factory: str | None = None,
    state_dict: str | None = None,
    strip_prefix: str | None = None,
    device: str | torch.device = "cpu",
    fingerprint: str | None = None,
) -> nn.Module:
    """The trained module of a checkpoint, in eval mode, with every weight of its file and no other.

    Of its files only tensors and plain containers are rebuilt; nothing that they name is imported or run. No global
    random state is changed.

    Parameters
    ----------
    source
        A folder with ``config.json`` and ``model.safetensors`` (as deepSTRF's ``save_pretrained`` writes it), a folder
        with ``best.pt``, a weights file, or a URL of one of these; or what `discover` found, whose config entry then
        says the rest.
    class_name
        Class of the model, ``"deepSTRF.models.audio.StateNet"``. Needed where no config.json names one of deepSTRF's.
    arguments
        Arguments of the class, over those in config.json.
    modules
        Modules that the checkpoint does not record, by the name of the constructor's argument: modules, or
        ``{"class": "torch.nn.Identity"}`` with further keys as arguments of that class.
    factory
        ``"my_lab.models:build"``, a function of the checkpoint's path and of ``arguments`` that returns the module.
    state_dict
        Entry of the weights file that holds the weights, where it has several.
    strip_prefix
        What the weights' names begin with in the file and not in the module, as ``"model."``.
    device
        Where the module goes.
    fingerprint
        The fingerprint that `describe_checkpoints` found; files that have changed since are refused.

    Raises
    ------
    CheckpointError
        If the checkpoint's files are damaged, hold numbers that are not finite, contradict each other, or are no longer
        those of the fingerprint.
    ConfigError
        If what was said about it here or in the config is missing a module or does not fit.
    OSError
        If storage fails otherwise than by the file's absence; trying again may help.

    Examples
    --------
    >>> from pipeline import load_checkpoint
    >>> load_checkpoint("checkpoints/seed0", class_name="my_lab.LabModel").O
    3
    """
    if isinstance(source, CheckpointSource):
        if class_name or arguments or modules or factory or state_dict or strip_prefix:
            raise ConfigError(
                f"checkpoint {source.id!r} comes with its entry of the config, so class_name, arguments, modules,"
                " factory, state_dict and strip_prefix beside it would contradict it; give the path instead, or change"
                " the entry"
            )
        location, recipe = source.location, recipe_of(source.entry, source.where)
    else:
        location = _location(source)
        words = {"class": class_name, "arguments": arguments, "factory": factory}
        words |= {"state_dict": state_dict, "strip_prefix": strip_prefix}
        recipe = _recipe(location, modules or {}, words)
    try:
        files = files_of(location, recipe)
        if fingerprint is not None and fingerprint_of(files, recipe) != fingerprint:
            raise CheckpointError(
                f"{location} is not what it was when the run was planned: its weights or config.json have changed, so"
                " its maps would stand under another model's fingerprint; put the old files back, or plan the run again"
            )
        return build(files, location, recipe)[0].to(device)
    except FileTooLargeError as error:
        raise CheckpointError(str(error)) from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise CheckpointError(unreadable(location, error)) from error


def _location(source: str | os.PathLike[str]) -> str:
    path = os.fspath(source)
    refuse_secrets(path, "load_checkpoint")
    return path if is_url(path) else os.path.abspath(path)


def _recipe(
    location: str, modules: Mapping[str, ModuleSpec | Mapping[str, Any] | nn.Module], words: Mapping[str, Any]
) -> Recipe:
    """What was said about one checkpoint, checked as an entry of a config is."""
    where = f"load_checkpoint({location!r})"
    made = {name: module for name, module in modules.items() if isinstance(module, nn.Module)}
    # A module that is there stands for a class like any other, until the entry is checked.
    stand_ins = {name: {"class": "torch.nn.Identity"} for name in made}
    entry = {"path": location, "modules": {**modules, **stand_ins}} | {
        key: value for key, value in words.items() if value is not None
    }
    try:
        recipe = recipe_of(CheckpointsConfig.model_validate(entry), where)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, entry, CheckpointsConfig)}") from error
    return replace(recipe, modules={**recipe.modules, **made})


# Models


def build(files: Files | Mapping[str, str], location: str, recipe: Recipe) -> tuple[nn.Module, tuple[str, ...]]:
    """The module as the contract has it, and notes on how its weights were read and its layout was changed."""
    model, notes = _built(files, location, recipe)
    if recipe.adapt is None:
        return model, notes
    try:
        adapted = Adapted(model, recipe.adapt)
        seen = look_at(adapted)
    except AdaptError as error:
        raise CheckpointError(f"{recipe.where}: {location}: {error}") from error
    return adapted, (*notes, f"adapt: {seen.text()}")


def _built(files: Files | Mapping[str, str], location: str, recipe: Recipe) -> tuple[nn.Module, tuple[str, ...]]:
    """The module as it was trained, and notes on how its weights were read."""
    if not isinstance(files, Files):
        with local_path(location) as path:
            return run_factory(recipe, path, lambda: readable_weights(files), location)
    held = read_weights(files.weights, files.weights_path)
    saved = files.saved
    if saved is None and recipe.class_name is None and split(files.weights_path)[1] == WEIGHT_NAMES[0]:
        raise CheckpointError(
            f"{files.location} has no config.json beside its {WEIGHT_NAMES[0]}, so the model cannot be rebuilt; copy it"
            " there, or give the entry `class` and `arguments`"
        )
    return rebuild(recipe, saved, held, files.location)


def model_fields(model: nn.Module, recipe: Recipe, location: str) -> dict[str, Any]:
    return {
        "model_class": type(model.module if isinstance(model, Adapted) else model).__name__,
        "n_neurons": _size(model, "O", "neurons", recipe, location),
        "n_bands": _size(model, "F", "frequency bands", recipe, location),
        "n_channels": int(getattr(model, "C_in", 1)),
        "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "front_end": _front_end(model, recipe, location),
    }


def _size(model: nn.Module, name: str, meaning: str, recipe: Recipe, location: str) -> int:
    size = getattr(model, name, None)
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise ConfigError(
            f"{recipe.where}: {type(model).__name__}, built for {location}, has {name} = {printable(size)}; its number"
            f" of {meaning} is read from that attribute to lay the cube out, so set self.{name} to it in the class, or"
            " write an `adapt` table with `bands` and `neurons` into the entry"
        )
    return int(size)


def _front_end(model: nn.Module, recipe: Recipe, location: str) -> FrontEnd | None:
    """What the model's waveform part expects; None where it hears spectrograms."""
    module = getattr(model, "wav2spec", None)
    if module is None or isinstance(module, nn.Identity):
        return None
    rate, hop = getattr(module, "audio_fs", None), getattr(module, "hop", None)
    frame_ms = getattr(module, "dt_ms", None)
    if hop is None and rate and frame_ms:
        hop = round(rate * frame_ms / 1000.0)  # deepSTRF's ICNet says how long a frame is instead
    if not rate or not hop:
        raise ConfigError(
            f"{recipe.where}: the front-end {type(module).__name__} of {location} has audio_fs = {printable(rate)} and"
            f" hop = {printable(hop)}; sounds cannot be matched to it without its sample rate in Hz and its samples per"
            " frame, so set both attributes in its class"
        )
    return FrontEnd(sample_rate=float(rate), hop=int(hop))
