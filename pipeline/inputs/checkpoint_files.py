"""The files that make one checkpoint what it is: found, read, fingerprinted."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.inputs.checkpoint_discovery import WEIGHT_NAMES, describe_folder, weights_inside
from pipeline.inputs.files import (
    JSON_BYTES,
    SUFFIXES,
    WEIGHTS_BYTES,
    CheckpointError,
    FileTooLargeError,
    is_folder,
    join,
    json_object,
    list_files,
    read_file,
    read_inside,
    split,
)
from pipeline.inputs.recipes import Recipe
from pipeline.plan.config import as_json
from pipeline.plan.urls import is_url
from pipeline.text import printable

#: Files of a checkpoint's folder that say things about it, or record its training, and decide no number.
ABOUT = re.compile(
    r"metadata\.json|final\.json|final_neurons\.pt|summary.*|.*\.(log|out|err|png|pdf|svg|txt|md)|events\.out\.tfevents.*|\..*|.*~"
)

#: Most bytes of files that are compared with what a factory made of them.
COMPARED_BYTES = 4 * 2**30


@dataclass(frozen=True)
class Files:
    """The files of one checkpoint that decide what it is: the weights, and the content of config.json."""

    location: str
    weights_path: str
    weights: bytes
    saved: Mapping[str, Any] | None


def fingerprint_of(files: "Files | Mapping[str, str]", recipe: Recipe) -> str:
    """sha256 over everything that decides what the checkpoint computes: its files and the whole recipe."""
    words: dict[str, Any] = {
        "config": files.saved if isinstance(files, Files) else None,
        "class": recipe.class_name,
        "arguments": as_json(recipe.arguments),
        "modules": {name: as_json(spec) for name, spec in recipe.modules.items()},
        "factory": recipe.factory,
    }
    words |= {
        name: value
        for name, value in (
            ("state_dict", recipe.state_dict),
            ("strip_prefix", recipe.strip_prefix),
            ("adapt", None if recipe.adapt is None else as_json(recipe.adapt)),
        )
        if value is not None
    }
    digest = hashlib.sha256(json.dumps(words, sort_keys=True, separators=(",", ":"), default=str).encode())
    digest.update(b"\0")
    digest.update(files.weights if isinstance(files, Files) else digest_of(files))
    return digest.hexdigest()


def files_of(location: str, recipe: Recipe) -> Files | dict[str, str]:
    """What decides the checkpoint: its weights, or every file that a factory may read."""
    return read_files(location) if recipe.factory is None else factory_files(location)


def unreadable(location: str, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{location} does not fit into this machine's memory; run where there is more, or take it out"
    reason = getattr(error, "strerror", None) or printable(error)
    return (
        f"{location} cannot be read ({type(error).__name__}: {reason}), so there is nothing to differentiate; copy the"
        " checkpoint there again, or take it out of the config"
    )


def folder_of(location: str) -> tuple[str | None, str | None]:
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


def read_files(location: str) -> Files:
    """The weights of a checkpoint, and its config.json where it has one."""
    folder, name = folder_of(location)
    if folder is None:
        if not location.endswith(SUFFIXES):
            # Told apart from a file that is not there: only then does its ending matter.
            read_file(location, WEIGHTS_BYTES)
            raise CheckpointError(
                f"{location} is neither a folder nor a weights file ({', '.join(SUFFIXES)}), so nothing says how to"
                " read it; give the folder or the file of a checkpoint, or name a `factory` that reads it"
            )
        return Files(location, location, read_file(location, WEIGHTS_BYTES), None)
    if name is None:
        name = weights_inside(folder)
        if name is None:
            raise CheckpointError(
                f"{folder} {describe_folder(folder)}, so it has no weights (a checkpoint folder has"
                f" {' or '.join(WEIGHT_NAMES)}); copy the checkpoint there again, or name its weights file in the path"
            )
        weights = read_inside(folder, name, WEIGHTS_BYTES)
    else:
        weights = read_file(location, WEIGHTS_BYTES)
    return Files(location, join(folder, name), weights, json_beside(folder, "config.json"))


def json_beside(folder: str, name: str) -> dict[str, Any] | None:
    """A JSON file of a checkpoint's folder, None where it is not there."""
    try:
        content = read_inside(folder, name, JSON_BYTES)
    except FileNotFoundError:
        return None
    return json_object(content, join(folder, name))


# What a factory reads


def factory_files(location: str) -> dict[str, str]:
    """Every file that a factory may make its module of, by its name below the location.

    Of a folder these are all but what is said about the checkpoint (metadata.json), scores, logs and pictures.

    Raises `CheckpointError` if the folder holds none.
    """
    if not is_folder(location):
        return {split(location)[1]: location}
    found = {name: path for name, path in list_files(location).items() if not ABOUT.fullmatch(split(name)[1])}
    if not found:
        raise CheckpointError(
            f"{location} {describe_folder(location)}, so a factory has nothing to make a model of; copy the checkpoint"
            " there again, or take it out of the pattern"
        )
    return dict(sorted(found.items()))


def digest_of(files: Mapping[str, str]) -> bytes:
    """sha256 over the content of files, and over their names where there are several."""
    digest = hashlib.sha256()
    for name, path in files.items():
        content = read_file(path, WEIGHTS_BYTES)
        if len(files) > 1:
            digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.digest()


def readable_weights(files: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """What of the files can be read as weights without running anything, by path.

    Raises `CheckpointError` if one is a weights file that is damaged: what a factory makes of it is not the trained
    model.
    """
    from pipeline.inputs.weights import read_for_comparison

    readable = {}
    room = COMPARED_BYTES
    for path in files.values():
        try:
            content = read_file(path, room)
        except FileTooLargeError:
            continue
        held = read_for_comparison(content, path)
        if held is not None:
            room -= len(content)
            readable[path] = held
    return readable


@contextmanager
def local_path(location: str) -> Iterator[str]:
    """A path that a factory can open: the location, or a temporary copy of what lies behind a URL."""
    if not is_url(location):
        yield location
        return
    with tempfile.TemporaryDirectory(prefix="gradmap-") as copy:
        target = os.path.join(copy, split(location)[1])
        inside = list_files(location) if is_folder(location) else {"": location}
        for name, path in inside.items():
            local = os.path.join(target, *name.split("/")) if name else target
            os.makedirs(os.path.dirname(local), exist_ok=True)
            with open(local, "wb") as file:
                file.write(read_file(path, WEIGHTS_BYTES))
        yield target
