"""Trained checkpoints as they lie on disk: found, fingerprinted, rebuilt."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.inputs.building import rebuild, run_factory
from pipeline.inputs.discovery import WEIGHT_NAMES, describe_folder, discover, weights_inside
from pipeline.inputs.files import (
    JSON_BYTES,
    WEIGHTS_BYTES,
    CheckpointError,
    FileTooLargeError,
    join,
    parse_json,
    read_bytes,
    read_inside,
    refuse_secrets,
    shorten,
    split,
)
from pipeline.inputs.metadata import Metadata, read_metadata
from pipeline.inputs.recipes import Recipe, recipe_of
from pipeline.inputs.weights import SUFFIXES, as_state_dict, check_numbers, read_weights
from pipeline.plan.config import ConfigError, ModuleSpec, is_url, plain
from pipeline.plan.shards import Checkpoint, CheckpointSource, FrontEnd

__all__ = [
    "CheckpointError",
    "describe_checkpoint",
    "discover",
    "load_checkpoint",
    "probe_response",
]

#: Frames of the probe, and the seed it is drawn from.
PROBE_FRAMES = 64
PROBE_SEED = 20180412


def describe_checkpoint(
    source: CheckpointSource, keep: Callable[[Checkpoint, nn.Module], None] | None = None
) -> Checkpoint:
    """What the cube needs to know of a checkpoint, which is read, rebuilt and loaded once for it.

    Where the checkpoint's own files are at fault nothing is raised: ``error`` says what is wrong, why it matters and
    what to do, and the other fields hold what could be found out. The fingerprint is empty only where the weights or
    config.json could not be read at all.

    Parameters
    ----------
    keep
        Given the checkpoint and its module, so that one who needs it soon need not load it again.

    Raises
    ------
    ConfigError
        If the entry of the config is at fault: it lacks a module that the files do not record, names what cannot be
        imported or built, or does not fit the weights.
    """
    recipe = recipe_of(source.entry, source.where)
    found = Checkpoint(source=source, fingerprint="")
    try:
        files = _read_files(source.location)
        found = replace(found, fingerprint=_fingerprint(files, recipe), model_class=_recorded_class(files, recipe))
        model = _build(files, recipe)
        found = replace(found, **_model_fields(model, recipe, source.location))
        metadata = _metadata(source.location, found.n_neurons)
        found = replace(
            found,
            neurons=metadata.neurons,
            scalars={**metadata.scalars, "class": found.model_class},
            per_neuron=metadata.per_neuron,
        )
        if keep is not None:
            keep(found, model)
        return found
    except ConfigError:
        raise
    except (CheckpointError, FileTooLargeError) as error:
        return replace(found, error=str(error))
    except (OSError, MemoryError) as error:
        return replace(found, error=_unreadable(source.location, error))


def load_checkpoint(
    source: CheckpointSource | str | os.PathLike[str],
    *,
    class_name: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    modules: Mapping[str, ModuleSpec | Mapping[str, Any] | nn.Module] | None = None,
    factory: str | None = None,
    device: str | torch.device = "cpu",
    fingerprint: str | None = None,
) -> nn.Module:
    """The trained module of a checkpoint, in eval mode, with every weight of its file and no other.

    Nothing in the checkpoint is unpickled or imported. No global random state is changed.

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
        ``"my_lab.models:build"``, a function of the checkpoint's path that returns the module.
    device
        Where the module goes.
    fingerprint
        The fingerprint that `describe_checkpoint` found; files that have changed since are refused.

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
    >>> model = load_checkpoint(
    ...     "checkpoints/ln-seed0", modules={"output_activation": torch.nn.Identity()}
    ... )  # doctest: +SKIP
    """
    if isinstance(source, CheckpointSource):
        if class_name or arguments or modules or factory:
            raise ConfigError(
                f"checkpoint {source.id!r} comes with its entry of the config, so class_name, arguments, modules and"
                " factory beside it would contradict it; give the path instead, or change the entry"
            )
        location, recipe = source.location, recipe_of(source.entry, source.where)
    else:
        location = _location(source)
        recipe = _recipe(location, class_name, arguments or {}, modules or {}, factory)
    try:
        files = _read_files(location)
        if fingerprint is not None and _fingerprint(files, recipe) != fingerprint:
            raise CheckpointError(
                f"{location} is not what it was when the run was planned: its weights or config.json have changed, so"
                " its maps would stand under another model's fingerprint; put the old files back, or plan the run again"
            )
        return _build(files, recipe).to(device)
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
    if factory and (class_name or arguments or modules):
        raise ConfigError(
            f"{where}: factory builds the whole module, so class_name, arguments and modules beside it would be"
            " ignored; keep either the factory or the others"
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


@dataclass(frozen=True)
class _Files:
    """The files of one checkpoint that decide what it is: the weights, and the content of config.json."""

    location: str
    weights_path: str
    weights: bytes
    saved: Mapping[str, Any] | None


def _folder_of(location: str) -> tuple[str | None, str | None]:
    """The checkpoint's folder, and the name of the weights file in it where the location gives it.

    A file under another name than a checkpoint folder's own stands alone: what lies beside it may belong to others.
    """
    folder, name = split(location)
    # Behind a URL the name tells, as every question costs a request.
    if not name.endswith(SUFFIXES) if is_url(location) else os.path.isdir(location):
        return location, None
    if name in WEIGHT_NAMES:
        return folder, name
    return None, name


def _read_files(location: str) -> _Files:
    folder, name = _folder_of(location)
    if folder is None:
        if not location.endswith(SUFFIXES):
            # Told apart from a file that is there: only then does its ending matter.
            read_bytes(location, WEIGHTS_BYTES)
            raise CheckpointError(
                f"{location} is neither a folder nor a weights file ({', '.join(SUFFIXES)}), so nothing says how to"
                " read it; give the folder or the file of a checkpoint"
            )
        return _Files(location, location, read_bytes(location, WEIGHTS_BYTES), None)
    if name is None:
        name = weights_inside(folder)
        if name is None:
            raise CheckpointError(
                f"{folder} {describe_folder(folder)}, so it has no weights (a checkpoint folder has"
                f" {' or '.join(WEIGHT_NAMES)}); copy the checkpoint there again, or name its weights file in the path"
            )
        weights = read_inside(folder, name, WEIGHTS_BYTES)
    else:
        weights = read_bytes(location, WEIGHTS_BYTES)
    return _Files(location, join(folder, name), weights, _read_json(folder, "config.json"))


def _read_json(folder: str, name: str) -> dict[str, Any] | None:
    try:
        content = read_inside(folder, name, JSON_BYTES)
    except FileNotFoundError:
        return None
    return parse_json(content, join(folder, name))


def _metadata(location: str, n_neurons: int) -> Metadata:
    folder, _ = _folder_of(location)
    raw = _read_json(folder, "metadata.json") if folder is not None else None
    return Metadata() if raw is None or folder is None else read_metadata(raw, n_neurons, join(folder, "metadata.json"))


def _fingerprint(files: _Files, recipe: Recipe) -> str:
    """sha256 over everything that decides what the checkpoint computes: the weights' bytes and the whole recipe."""
    words = {
        "config": files.saved,
        "class": recipe.class_name,
        "arguments": plain(recipe.arguments),
        "modules": {name: plain(spec) for name, spec in recipe.modules.items()},
        "factory": recipe.factory,
    }
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, separators=(",", ":"), default=str).encode())
    digest.update(b"\0")
    digest.update(files.weights)
    return digest.hexdigest()


def _recorded_class(files: _Files, recipe: Recipe) -> str:
    """The class by name, as far as it is known without building anything."""
    recorded = (files.saved or {}).get("_model_class")
    return (recipe.class_name or "").rpartition(".")[2] or (shorten(recorded, 80) if isinstance(recorded, str) else "")


# Models


def _build(files: _Files, recipe: Recipe) -> nn.Module:
    held = read_weights(files.weights, files.weights_path)
    check_numbers(held, files.weights_path, len(files.weights))
    if recipe.factory is not None:
        with _local_path(files.location) as path:
            return run_factory(recipe, path, held, files.weights_path)
    weights = as_state_dict(held, files.weights_path)
    saved = files.saved
    if saved is None and recipe.class_name is None and split(files.weights_path)[1] == WEIGHT_NAMES[0]:
        raise CheckpointError(
            f"{files.location} has no config.json beside its {WEIGHT_NAMES[0]}, so the model cannot be rebuilt; copy it"
            " there, or give the entry `class` and `arguments`"
        )
    return rebuild(recipe, saved, weights, files.location)


@contextmanager
def _local_path(location: str) -> Iterator[str]:
    """A path that a factory can open: the location, or a temporary copy of what lies behind a URL."""
    if not is_url(location):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="gradmap-") as copy:
        folder, name = _folder_of(location)
        target = os.path.join(copy, split(location)[1])
        if folder is not None and name is None:
            os.mkdir(target)
            for entry in sorted({*WEIGHT_NAMES, "config.json", "metadata.json"}):
                try:
                    content = read_bytes(join(folder, entry), WEIGHTS_BYTES)
                except FileNotFoundError:
                    continue
                _write(os.path.join(target, entry), content)
        else:
            _write(target, read_bytes(location, WEIGHTS_BYTES))
        yield target


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def _model_fields(model: nn.Module, recipe: Recipe, location: str) -> dict[str, Any]:
    return {
        "model_class": type(model).__name__,
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
            f" {meaning} is read from that attribute to lay the cube out, so set self.{name} to it in the class"
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


def probe_response(model: nn.Module, front_end: FrontEnd | None, frames: int = PROBE_FRAMES) -> np.ndarray:
    """Mean response (neuron,) to a fixed probe: what tells a reloaded model from the one that was described.

    The probe is Gaussian noise from a PCG64 generator with a fixed seed: a spectrogram (frequency, ``frames``) of unit
    variance, or for a model with a front-end a waveform of ``frames`` frames with standard deviation 0.1. The mean is
    over all frames.

    Raises
    ------
    ValueError
        If the model is in training mode, or does not answer with (1, neuron, 1, time).
    """
    if model.training:
        raise ValueError(
            f"{type(model).__name__} is in training mode, where its response depends on chance and batch;"
            " call model.eval() first"
        )
    shape = (1, 1, int(model.F), frames) if front_end is None else (1, 1, front_end.hop * frames)  # type: ignore[arg-type]
    draw = np.random.Generator(np.random.PCG64(PROBE_SEED)).standard_normal(shape, dtype=np.float32)
    tensor = next((entry for entry in [*model.parameters(), *model.buffers()] if entry.is_floating_point()), None)
    probe = torch.from_numpy(draw if front_end is None else 0.1 * draw)
    if tensor is not None:
        probe = probe.to(device=tensor.device, dtype=tensor.dtype)
    # cuDNN may round to TF32; its RNNs are not bitwise the same from one version to the next.
    cudnn: Any = torch.backends.cudnn
    enabled = cudnn.enabled
    try:
        cudnn.enabled = False
        with torch.no_grad():
            response = model(probe)
    finally:
        cudnn.enabled = enabled
    if response.ndim != 4 or response.shape[0] != 1 or response.shape[2] != 1:
        raise ValueError(
            f"{type(model).__name__} answers one stimulus with shape {tuple(response.shape)}, not (1, neuron, 1, time),"
            " so its outputs cannot be told apart; mend its forward or readout"
        )
    return response[0, :, 0].double().mean(dim=-1).float().cpu().numpy()
