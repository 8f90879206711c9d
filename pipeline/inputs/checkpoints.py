"""Trained checkpoints as they lie on disk: found, fingerprinted, rebuilt."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.inputs.adapters import Adapted, AdaptError, look_at
from pipeline.inputs.building import rebuild
from pipeline.inputs.checkpoint_files import (
    Files,
    digest_of,
    factory_files,
    folder_of,
    local_path,
    read_files,
    read_json,
    readable_weights,
)
from pipeline.inputs.discovery import WEIGHT_NAMES, discover
from pipeline.inputs.factories import run_factory
from pipeline.inputs.files import CheckpointError, FileTooLargeError, join, refuse_secrets, shorten, split
from pipeline.inputs.learnt import Learnt, Memory
from pipeline.inputs.metadata import Metadata, read_metadata
from pipeline.inputs.offers import UNWRAPPED
from pipeline.inputs.probe import probe_response
from pipeline.inputs.recipes import Recipe, recipe_of
from pipeline.inputs.training import read_training
from pipeline.inputs.weights import read_weights
from pipeline.plan.config import ConfigError, ModuleSpec, is_url, plain
from pipeline.plan.shards import Checkpoint, CheckpointSource, FrontEnd

__all__ = [
    "CheckpointError",
    "describe_checkpoints",
    "discover",
    "load_checkpoint",
    "probe_response",
]

#: Checkpoints that are read ahead of the one that is built; each is held in memory until it is its turn.
READ_AHEAD = 4


def describe_checkpoints(
    sources: Sequence[CheckpointSource],
    keep: Callable[[Checkpoint, nn.Module], None] | None = None,
    memory: Memory | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> list[Checkpoint]:
    """What the cube needs to know of each checkpoint, in order.

    Files are read and fingerprinted side by side; modules are built one after the other, since libraries and random
    states that they share are no place for threads. Where an entry of the config suits some of its checkpoints, those
    that it does not suit fail alone. Where a checkpoint's own files are at fault its ``error`` says so, and the other
    fields hold what could be found out, labels among them.

    Parameters
    ----------
    keep
        Given each checkpoint that is built with its module.
    memory
        What was learnt before, which need not be built; what is learnt now is added.
    report
        Called with how many are described, and of how many.

    Raises
    ------
    ConfigError
        If an entry of the config suits none of its checkpoints.
    """
    described = []
    with ThreadPoolExecutor(READ_AHEAD) as pool:
        waiting = deque(pool.submit(_read, source) for source in sources[:READ_AHEAD])
        for number, source in enumerate(sources):
            read = waiting.popleft().result()
            waiting += [pool.submit(_read, later) for later in sources[number + READ_AHEAD : number + READ_AHEAD + 1]]
            described.append(_describe(source, read, keep, memory))
            report(number + 1, len(sources))
    for entry in dict.fromkeys(source.where for source in sources):
        refusals = [refusal for found, refusal in described if found.source.where == entry]
        if all(refusals):
            raise refusals[0]  # type: ignore[misc]
    return _refuse_odd_wrappers(
        [
            found
            if refusal is None
            else replace(found, error=f"{refusal}; or give this checkpoint an entry of its own")
            for found, refusal in described
        ]
    )


def _refuse_odd_wrappers(described: list[Checkpoint]) -> list[Checkpoint]:
    """The checkpoints, without those that alone of their entry have a wrapper's prefix before their names.

    Where all of an entry have it, it is how the lab trains. One among others comes from another script, and is not
    stacked with them unasked.
    """
    wrapped = {
        entry.id for entry in described if entry.usable and any(note.endswith(UNWRAPPED) for note in entry.notes)
    }
    plain_entries = {entry.source.where for entry in described if entry.usable and entry.id not in wrapped}
    return [
        replace(
            found,
            error=f"{found.source.where}: the names of the weights in {found.source.location} have a wrapper's prefix"
            f" ({next(note for note in found.notes if note.endswith(UNWRAPPED)).removesuffix(UNWRAPPED).strip()}) that"
            " other checkpoints of the entry do not have, so another script trained it; if it belongs to them all the"
            ' same, add `strip_prefix = "module."` (or "_orig_mod.") to the entry, which takes it off where it stands',
        )
        if found.id in wrapped and found.source.where in plain_entries and not found.source.entry.strip_prefix
        else found
        for found in described
    ]


@dataclass(frozen=True)
class _Read:
    """The files of a checkpoint as far as they could be read, with what was wrong with each."""

    metadata: Metadata = field(default_factory=Metadata)
    damage: str | None = None
    files: Files | Mapping[str, str] | None = None
    fingerprint: str = ""
    error: Exception | None = None


def _read(source: CheckpointSource) -> _Read:
    """What lies on disk of a checkpoint; nothing is built."""
    recipe = recipe_of(source.entry, source.where)
    read = _Read()
    try:
        try:
            read = replace(read, metadata=_metadata(source.location))
        except (CheckpointError, FileTooLargeError) as error:
            read = replace(read, damage=str(error))
        files = _files(source.location, recipe)
        return replace(read, files=files, fingerprint=_fingerprint(files, recipe))
    except (ConfigError, CheckpointError, FileTooLargeError, OSError, MemoryError) as error:
        return replace(read, error=error)


def _describe(
    source: CheckpointSource,
    read: _Read,
    keep: Callable[[Checkpoint, nn.Module], None] | None,
    memory: Memory | None,
) -> tuple[Checkpoint, ConfigError | None]:
    """A checkpoint as far as it could be described, and what is wrong with its entry of the config."""
    recipe = recipe_of(source.entry, source.where)
    metadata = replace(read.metadata, scalars={**read.metadata.scalars, **source.labels})
    found = Checkpoint(source=source, fingerprint="", scalars=metadata.scalars)
    damage = read.damage
    try:
        if read.error is not None:
            raise read.error
        assert read.files is not None
        named = _recorded_class(read.files, recipe)
        found = replace(found, fingerprint=read.fingerprint, model_class=named, scalars=_with_class(metadata, named))
        known = None if memory is None or damage is not None else memory.take(_remembered_by(source, read))
        model = None
        if known is None:
            model, notes = _build(read.files, source.location, recipe)
            found = replace(found, **_model_fields(model, recipe, source.location), notes=notes)
            known = Learnt.of(found)
        else:
            found = replace(found, **{entry.name: getattr(known, entry.name) for entry in fields(known)})
        found = replace(found, **_placed(metadata, found))
        if damage is None and memory is not None:
            memory.keep(_remembered_by(source, read), known)
        if damage is None and model is not None and keep is not None:
            keep(found, model)
    except ConfigError as error:
        return found, error
    except (CheckpointError, FileTooLargeError) as error:
        damage = damage or str(error)
    except (OSError, MemoryError) as error:
        damage = damage or _unreadable(source.location, error)
    return replace(found, error=damage), None


def _remembered_by(source: CheckpointSource, read: _Read) -> str:
    """What tells a checkpoint from every other: its fingerprint, and the names by which its files are read."""
    named = read.files.weights_path if isinstance(read.files, Files) else source.location
    words = (read.fingerprint, split(named)[1])
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _with_class(metadata: Metadata, name: str) -> dict[str, str | float | int | bool]:
    return {**metadata.scalars, **({"class": name} if name else {})}


def _placed(metadata: Metadata, found: Checkpoint) -> dict[str, Any]:
    """What the metadata say of the neurons of a model, and what of them has no place in the cube."""
    per_neuron, left_out = metadata.for_neurons(found.n_neurons)
    return {
        "scalars": _with_class(metadata, found.model_class),
        "neurons": metadata.names(found.n_neurons),
        "per_neuron": per_neuron,
        "notes": (*found.notes, *left_out),
    }


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
        recipe = replace(
            _recipe(location, class_name, arguments or {}, modules or {}, factory),
            state_dict=state_dict,
            strip_prefix=strip_prefix,
        )
    try:
        files = _files(location, recipe)
        if fingerprint is not None and _fingerprint(files, recipe) != fingerprint:
            raise CheckpointError(
                f"{location} is not what it was when the run was planned: its weights or config.json have changed, so"
                " its maps would stand under another model's fingerprint; put the old files back, or plan the run again"
            )
        return _build(files, location, recipe)[0].to(device)
    except FileTooLargeError as error:
        raise CheckpointError(str(error)) from error
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise CheckpointError(_unreadable(location, error)) from error


def _location(source: str | os.PathLike[str]) -> str:
    path = os.fspath(source)
    refuse_secrets(path, "load_checkpoint")
    return path if is_url(path) else os.path.abspath(path)


def _recipe(
    location: str,
    class_name: str | None,
    arguments: Mapping[str, Any],
    modules: Mapping[str, ModuleSpec | Mapping[str, Any] | nn.Module],
    factory: str | None,
) -> Recipe:
    where = f"load_checkpoint({location!r})"
    if factory and (class_name or modules):
        raise ConfigError(
            f"{where}: factory builds the whole module, so class_name and modules beside it would be ignored; keep"
            " either the factory or the others"
        )
    try:
        specs = {
            name: spec if isinstance(spec, nn.Module) else ModuleSpec.model_validate(spec)
            for name, spec in modules.items()
        }
    except ValidationError as error:
        raise ConfigError(
            f'{where}: modules holds something else than modules and {{"class": "torch.nn.Identity"}}'
            f" ({shorten(error)}); mend it"
        ) from error
    if factory and not all(part for part in factory.partition(":")):
        raise ConfigError(f'{where}: factory = {factory!r} is not of the form "my_lab.models:build"; mend it')
    if class_name and "." not in class_name:
        raise ConfigError(
            f"{where}: class_name = {class_name!r} has no module; write it in full, as deepSTRF.models.audio.StateNet"
        )
    return Recipe(where, class_name, arguments, specs, factory)


def _unreadable(location: str, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{location} does not fit into this machine's memory; run where there is more, or take it out"
    reason = getattr(error, "strerror", None) or shorten(error)
    return (
        f"{location} cannot be read ({type(error).__name__}: {reason}), so there is nothing to differentiate; copy the"
        " checkpoint there again, or take it out of the config"
    )


# Files


def _fingerprint(files: Files | Mapping[str, str], recipe: Recipe) -> str:
    """sha256 over everything that decides what the checkpoint computes: its files and the whole recipe."""
    words: dict[str, Any] = {
        "config": files.saved if isinstance(files, Files) else None,
        "class": recipe.class_name,
        "arguments": plain(recipe.arguments),
        "modules": {name: plain(spec) for name, spec in recipe.modules.items()},
        "factory": recipe.factory,
    }
    words |= {
        name: value
        for name, value in (
            ("state_dict", recipe.state_dict),
            ("strip_prefix", recipe.strip_prefix),
            ("adapt", None if recipe.adapt is None else plain(recipe.adapt)),
        )
        if value is not None
    }
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, separators=(",", ":"), default=str).encode())
    digest.update(b"\0")
    digest.update(files.weights if isinstance(files, Files) else digest_of(files))
    return digest.hexdigest()


def _files(location: str, recipe: Recipe) -> Files | dict[str, str]:
    """What decides the checkpoint: its weights, or every file that a factory may read."""
    return read_files(location) if recipe.factory is None else factory_files(location)


def _recorded_class(files: Files | Mapping[str, str], recipe: Recipe) -> str:
    """The class by name, as far as it is known without building anything."""
    saved = files.saved if isinstance(files, Files) else None
    recorded = (saved or {}).get("_model_class")
    return (recipe.class_name or "").rpartition(".")[2] or (shorten(recorded, 80) if isinstance(recorded, str) else "")


# Models


def _build(files: Files | Mapping[str, str], location: str, recipe: Recipe) -> tuple[nn.Module, tuple[str, ...]]:
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


def _metadata(location: str) -> Metadata:
    """What lies beside the weights and says things about them."""
    folder, _ = folder_of(location)
    if folder is None:
        return Metadata()
    raw = read_json(folder, "metadata.json")
    stated = Metadata() if raw is None else read_metadata(raw, join(folder, "metadata.json"))
    trained = read_training(folder)
    return replace(stated, scalars={**trained.scalars, **stated.scalars}, lists={**trained.lists, **stated.lists})


def _model_fields(model: nn.Module, recipe: Recipe, location: str) -> dict[str, Any]:
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
            f"{recipe.where}: {type(model).__name__}, built for {location}, has {name} = {shorten(size)}; its number of"
            f" {meaning} is read from that attribute to lay the cube out, so set self.{name} to it in the class, or"
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
            f"{recipe.where}: the front-end {type(module).__name__} of {location} has audio_fs = {shorten(rate)} and"
            f" hop = {shorten(hop)}; sounds cannot be matched to it without its sample rate in Hz and its samples per"
            " frame, so set both attributes in its class"
        )
    return FrontEnd(sample_rate=float(rate), hop=int(hop))
