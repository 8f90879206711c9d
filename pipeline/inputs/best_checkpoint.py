"""The best of several checkpoints of one training, by what its own records say of them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from pipeline.inputs.checkpoint_memory import Memory
from pipeline.inputs.files import (
    SUFFIXES,
    WEIGHTS_BYTES,
    CheckpointError,
    FileTooLargeError,
    join,
    read_file,
    split,
    stamp,
)
from pipeline.plan.config import ConfigError
from pipeline.text import listed


def best_of(locations: Sequence[str], score: str, where: str, memory: Memory | None = None) -> list[str]:
    """Of the checkpoints that lie in one folder, the one with the best score; in the order of their folders.

    A folder's ``metadata.json`` says the score of the checkpoint that it is; beside weights files it may hold an object
    of their names under the score. Otherwise the files are asked: a Lightning checkpoint knows which file was the best
    by the score that it monitored, and the latest file of a folder knows it best.

    ``score``: Its name; the highest is the best, after a minus the lowest. Lightning knows that itself. ``memory``:
    What files said before, which are not read again as long as the storage says that they are the same. Raises
    `ConfigError` if a folder has several checkpoints and none says which is the best.
    """
    folders: dict[str, list[str]] = {}
    for location in locations:
        folders.setdefault(split(location)[0], []).append(location)
    return [_best(folder, members, score, where, memory or Memory()) for folder, members in folders.items()]


def _best(folder: str, members: Sequence[str], score: str, where: str, memory: Memory) -> str:
    if len(members) == 1:
        return members[0]
    name, sign = score.removeprefix("-"), -1.0 if score.startswith("-") else 1.0
    scores = {member: sign * value for member, value in _stated(folder, members, name)}
    if scores:
        return max(scores, key=lambda member: (scores[member], member))
    named = _named_by_lightning(members, name, memory)
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
        value = json.loads(read_file(path, 2**24))
    except (OSError, ValueError, CheckpointError, FileTooLargeError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _named_by_lightning(members: Sequence[str], name: str, memory: Memory) -> str | None:
    """The file that the latest file's callback calls the best by a score."""
    known = {split(member)[1]: member for member in members}
    found = [
        (step, known[base])
        for member in members
        if member.endswith(SUFFIXES)
        for monitor, base, step in _said(member, memory)
        if monitor == name and base in known
    ]
    return max(found)[1] if found else None


def _said(path: str, memory: Memory) -> Sequence[tuple[str, str, float]]:
    """For each callback of a file that monitors a score: the score, the name of the best file, the steps so far."""
    seen = stamp(path)
    known = None if seen is None else memory.callbacks.take(seen)
    if known is not None:
        return known
    said = list(_monitored(path))
    return said if seen is None else memory.callbacks.keep(seen, said)


def _monitored(path: str) -> Iterator[tuple[str, str, float]]:
    from pipeline.inputs.weights import read_records

    held = read_records(read_file(path, WEIGHTS_BYTES), path)
    callbacks, step = held.get("callbacks"), held.get("global_step")
    for state in callbacks.values() if isinstance(callbacks, Mapping) else ():
        if not isinstance(state, Mapping) or not isinstance(state.get("best_model_path"), str):
            continue
        # Where it was trained may be another machine: the name of the file is what lasts.
        base = PureWindowsPath(PurePosixPath(state["best_model_path"]).name).name
        yield str(state.get("monitor")), base, float(step) if isinstance(step, int | float) else -1.0
