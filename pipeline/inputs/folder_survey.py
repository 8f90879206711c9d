"""What lies in a folder that could be mapped: checkpoints and their patterns, tables, axes, stimuli."""

import itertools
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Any

from pipeline.inputs.checkpoint_discovery import NOT_WEIGHTS, WEIGHT_NAMES
from pipeline.inputs.files import SUFFIXES
from pipeline.inputs.named_code import deepstrf_classes, parameters_of
from pipeline.plan.config import ConfigError
from pipeline.plan.wildcards import as_expression, words_in
from pipeline.words import RESERVED_NAMES

#: Most files and folders that are looked at.
MOST = 200_000

#: Folders whose name says nothing of what their entries are.
GENERAL = ("checkpoint", "model", "run", "result", "output", "weight", "net")

#: A word that ends in a number, as seed0.
NUMBERED = re.compile(r"([A-Za-z]*)(\d+)")


@dataclass(frozen=True)
class EntryGroup:
    """Checkpoints that one entry of a config can name, and what it has to say of them.

    ``class_name`` is None where the files do not name a class that may be built; ``modules`` are those that they do not
    record. ``words`` are what the pattern's names in braces become.
    """

    pattern: str
    count: int
    class_name: str | None
    modules: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """What the path is matched with."""
        return words_in(self.pattern)


@dataclass(frozen=True)
class Survey:
    """What was found in a folder; paths are relative to it."""

    groups: tuple[EntryGroup, ...]
    neurons: str | None = None
    frequencies: str | None = None
    bands: int | None = None
    frame_ms: float | None = None
    spectrograms: tuple[str, ...] = ()
    sounds: str | None = None

    @property
    def site(self) -> str | None:
        """The word that tells populations apart: one that stands in the path of the neuron tables."""
        return next(iter(words_in(self.neurons or "")), None)


def survey(folder: str) -> Survey:
    """What lies below a folder.

    Raises `ConfigError` if it is no folder, or holds no checkpoint.
    """
    if not os.path.isdir(folder):
        raise ConfigError(f"{folder} is no folder, so there is nothing to look at; give the folder of your checkpoints")
    checkpoints, files = _walked(folder)
    if not checkpoints:
        raise ConfigError(
            f"{folder} holds no checkpoint: no {' or '.join(WEIGHT_NAMES)}, and no other file of weights"
            f" ({', '.join(SUFFIXES)}); give the folder that holds them"
        )
    first = {name: _json(os.path.join(folder, name)) for name in _beside(checkpoints, files)}
    facts = [entry for entry in first.values() if entry]
    tables = [name for name in files if name.endswith(".csv") and "neuron" in _header(os.path.join(folder, name))]
    groups = tuple(_groups(folder, checkpoints))
    return Survey(
        groups=groups,
        neurons=_pattern(tables, set()) if len(tables) > 1 else next(iter(tables), None),
        frequencies=next((name for name in files if _is_frequencies(folder, name)), None),
        bands=next((int(entry["n_frequency_bands"]) for entry in facts if _is_count(entry, "n_frequency_bands")), None),
        frame_ms=next((float(entry["dt_ms"]) for entry in facts if _is_number(entry, "dt_ms")), None),
        spectrograms=tuple(name for name in files if name.endswith(".npz"))[:3],
        sounds=next((f"{os.path.dirname(name) or '.'}/*.wav" for name in files if name.endswith(".wav")), None),
    )


def _walked(folder: str) -> tuple[list[str], list[str]]:
    """Checkpoints below a folder, and the other files, in order."""
    checkpoints, files, seen = [], [], 0
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not name.endswith(".zarr"))
        seen += len(names) + len(folders)
        if seen > MOST:
            raise ConfigError(
                f"{folder} holds more than {MOST:,} files, which takes too long to look at; give the folder of the"
                " checkpoints"
            )
        place = os.path.relpath(base, folder)
        if set(names) & set(WEIGHT_NAMES) and place != ".":
            checkpoints.append(place)
        for name in sorted(names):
            path = name if place == "." else os.path.join(place, name)
            if name.endswith(SUFFIXES) and name not in (*WEIGHT_NAMES, *NOT_WEIGHTS):
                checkpoints.append(path)
            elif not name.startswith("."):
                files.append(path)
    return checkpoints, files


def _beside(checkpoints: Sequence[str], files: Sequence[str]) -> list[str]:
    """JSON files that belong to the first checkpoints."""
    known = set(files)
    named = [os.path.join(place, name) for place in checkpoints[:20] for name in ("config.json", "metadata.json")]
    return [name for name in named if name in known]


def _json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_count(entry: Mapping[str, Any], key: str) -> bool:
    return isinstance(entry.get(key), int) and not isinstance(entry[key], bool) and entry[key] > 0


def _is_number(entry: Mapping[str, Any], key: str) -> bool:
    return isinstance(entry.get(key), int | float) and not isinstance(entry[key], bool) and entry[key] > 0


def _header(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [name.strip() for name in file.readline(10_000).split(",")]
    except (OSError, UnicodeDecodeError):
        return []


def _is_frequencies(folder: str, name: str) -> bool:
    """Whether a text file holds nothing but frequencies, one after the other."""
    path = os.path.join(folder, name)
    if not name.endswith(".txt") or os.path.getsize(path) > 2**20:
        return False
    try:
        with open(path, encoding="utf-8") as file:
            numbers = [float(word) for word in file.read().split()]
    except (OSError, ValueError):
        return False
    rises = all(low < high for low, high in itertools.pairwise(numbers))
    return len(numbers) > 1 and numbers[0] > 0 and rises


# Entries


def _groups(folder: str, checkpoints: Sequence[str]) -> Iterator[EntryGroup]:
    needs: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for place in checkpoints:
        needs[(place.count("/"), os.path.splitext(place)[1], *_needs(folder, place))].append(place)
    for (_, _, class_name, modules), places in needs.items():
        others = [place for place in checkpoints if place not in places]
        for pattern, count in _patterns(places, others):
            yield EntryGroup(pattern, count, class_name, modules)


def _needs(folder: str, place: str) -> tuple[str | None, tuple[str, ...]]:
    """The class that a checkpoint's files name, where it is one of deepSTRF's, and the modules that they leave out."""
    saved = _json(os.path.join(folder, place, "config.json"))
    name = saved.get("_model_class")
    try:
        known = deepstrf_classes()
    except ImportError:
        known = {}
    if not isinstance(name, str) or name not in known:
        return None, ()
    parameters, _ = parameters_of(known[name])
    return name, tuple(parameter for parameter in parameters if parameter not in saved)


def _patterns(places: Sequence[str], others: Sequence[str]) -> Iterator[tuple[str, int]]:
    """A pattern for all places, or several where one would match other checkpoints as well."""
    pattern = _pattern(places, set())
    expression = as_expression(pattern)
    if not any(expression.fullmatch(place) for place in others):
        yield pattern, len(places)
        return
    alike: dict[str, list[str]] = defaultdict(list)
    for place in places:
        alike[re.sub(r"\d+", "#", place)].append(place)
    for members in alike.values():
        yield _pattern(members, set()), len(members)


def _pattern(places: Sequence[str], used: set[str]) -> str:
    """The path of all places, with a word in braces where they differ."""
    columns = list(zip(*(place.split("/") for place in places), strict=False))
    parts = []
    for index, column in enumerate(columns):
        above = columns[index - 1][0] if index and len(set(columns[index - 1])) == 1 else ""
        parts.append(_part(column, above, used))
    return "/".join(parts)


def _part(values: Sequence[str], above: str, used: set[str]) -> str:
    """One part of a path: what all have, numbers behind the words that stand before them, and a word for the rest."""
    if len(set(values)) == 1:
        return escape(values[0])
    stems, ends = zip(*(os.path.splitext(value) for value in values), strict=True)
    ending = ends[0] if len(set(ends)) == 1 and ends[0] in SUFFIXES else ""
    separator = "-" if all("-" in stem for stem in stems) else "_"
    rests = [(stem if ending else value).split(separator) for stem, value in zip(stems, values, strict=True)]
    tail: list[str] = []
    while all(len(rest) > 1 for rest in rests):
        token = _token([rest[-1] for rest in rests], used)
        if token is None:
            break
        tail.insert(0, token)
        rests = [rest[:-1] for rest in rests]
    heads = [separator.join(rest) for rest in rests]
    head = _token(heads, used) or f"{{{_free(_guess(above), used)}}}"
    return separator.join([head, *tail]) + ending


def _token(values: Sequence[str], used: set[str]) -> str | None:
    """What all have, or a number behind one word; None where neither is so."""
    if len(set(values)) == 1:
        return escape(values[0])
    found = [NUMBERED.fullmatch(value.replace("=", "")) for value in values]
    if not all(found) or len({match[1] for match in found if match}) != 1:
        return None
    word = found[0][1] if found[0] else ""
    mark = "=" if all("=" in value for value in values) else ""
    return f"{word}{mark}{{{_free(word.lower() or 'number', used)}}}"


def _guess(above: str) -> str:
    """A word for the entries of a folder: the singular of its name, if that says anything."""
    word = re.sub(r"\W", "_", above).lower()
    single = word.removesuffix("s")
    return single if word.endswith("s") and single.isidentifier() and single not in GENERAL else "architecture"


def _free(word: str, used: set[str]) -> str:
    word = f"{word}_name" if word in RESERVED_NAMES or word in ("class", "folder", "parent", "stem") else word
    name, count = word, 2
    while name in used:
        name, count = f"{word}{count}", count + 1
    used.add(name)
    return name
