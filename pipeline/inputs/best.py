"""The best of several checkpoints of one training, by what its own records say of them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import torch

from pipeline.inputs import inert
from pipeline.inputs.files import WEIGHTS_BYTES, CheckpointError, FileTooLargeError, join, read_bytes, split
from pipeline.inputs.weights import SUFFIXES, check_archive, listed
from pipeline.plan.config import ConfigError


def best_of(locations: Sequence[str], score: str, where: str) -> list[str]:
    """Of the checkpoints that lie in one folder, the one with the best score; in the order of their folders.

    A folder's ``metadata.json`` says the score of the checkpoint that it is; beside weights files it may hold an object
    of their names under the score. Otherwise the files are asked: a Lightning checkpoint knows which file was the best
    by the score that it monitored, and the latest file of a folder knows it best.

    Parameters
    ----------
    score
        Its name; the highest is the best, after a minus the lowest. Lightning knows that itself.

    Raises
    ------
    ConfigError
        If a folder has several checkpoints and none says which is the best.
    """
    folders: dict[str, list[str]] = {}
    for location in locations:
        folders.setdefault(split(location)[0], []).append(location)
    return [_best(folder, members, score, where) for folder, members in folders.items()]


def _best(folder: str, members: Sequence[str], score: str, where: str) -> str:
    if len(members) == 1:
        return members[0]
    name, sign = score.removeprefix("-"), -1.0 if score.startswith("-") else 1.0
    scores = {member: sign * value for member, value in _stated(folder, members, name)}
    if scores:
        return max(scores, key=lambda member: (scores[member], member))
    named = _named_by_lightning(members, name)
    if named is not None:
        return named
    raise ConfigError(
        f"{where}: {listed([split(member)[1] for member in members], most=3)} in {folder} lie beside each other, and"
        f" nothing says which has the best {name!r}: no metadata.json has it, and no Lightning callback monitored it"
        " and names one of them; name the file in `path`, or take `best` out and give each an `id`"
    )


def _stated(folder: str, members: Sequence[str], name: str) -> Iterator[tuple[str, float]]:
    """Scores that metadata.json holds: of checkpoints that are folders, in each; of files, beside them by name."""
    beside = _object(join(folder, "metadata.json")).get(name)
    for member in members:
        is_file = member.endswith(SUFFIXES)
        stem = split(member)[1]
        value = (
            next((beside[key] for key in (stem, stem.rpartition(".")[0]) if key in beside), None)
            if is_file and isinstance(beside, Mapping)
            else None
            if is_file
            else _object(join(member, "metadata.json")).get(name)
        )
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield member, float(value)


def _object(path: str) -> Mapping[str, Any]:
    try:
        value = json.loads(read_bytes(path, 2**24))
    except (OSError, ValueError, CheckpointError, FileTooLargeError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _named_by_lightning(members: Sequence[str], name: str) -> str | None:
    """The file that the latest file's callback calls the best by a score."""
    known = {split(member)[1]: member for member in members}
    found: list[tuple[float, str]] = []
    for member in members:
        if not member.endswith(SUFFIXES):
            continue
        held = _records(member)
        for state in _callbacks(held):
            # Where it was trained may be another machine: the name of the file is what lasts.
            path = state.get("best_model_path")
            base = PureWindowsPath(PurePosixPath(path).name).name if isinstance(path, str) else ""
            if state.get("monitor") == name and base in known:
                step = held.get("global_step")
                found.append((float(step) if isinstance(step, int | float) else -1.0, known[base]))
    return max(found)[1] if found else None


def _callbacks(held: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    callbacks = held.get("callbacks")
    if isinstance(callbacks, Mapping):
        yield from (state for state in callbacks.values() if isinstance(state, Mapping))


def _records(path: str) -> Mapping[str, Any]:
    """What a weights file holds beside its weights; nothing in it is imported, and one that cannot be read has none."""
    try:
        content = read_bytes(path, WEIGHTS_BYTES)
        check_archive(content, path)
        value = torch.load(BytesIO(content), map_location="cpu", weights_only=False, pickle_module=inert)
    except OSError:
        raise
    except Exception:  # damage takes many forms, and is told when the checkpoint itself is read
        return {}
    return value if isinstance(value, Mapping) else {}
