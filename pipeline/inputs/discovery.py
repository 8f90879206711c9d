"""Checkpoints that a config's patterns name, each with its label."""

import os
import string
import unicodedata
from collections.abc import Sequence
from glob import escape

from pipeline.inputs.files import Match, find, list_names, refuse_secrets, split
from pipeline.inputs.weights import SUFFIXES, listed
from pipeline.plan.config import CheckpointsConfig, CohortConfig, ConfigError, RunConfig, is_url
from pipeline.plan.shards import CheckpointSource

#: Names of a checkpoint folder's weights; where a folder has both, the first one counts.
WEIGHT_NAMES = ("model.safetensors", "best.pt")

#: Files of deepSTRF's `fit_multi_seed` that hold numbers per neuron, not weights.
NOT_WEIGHTS = ("final_neurons.pt", "summary_neurons.pt")

#: Longest id, in characters.
ID_LENGTH = 200


def discover(config: RunConfig, cohort: CohortConfig) -> tuple[CheckpointSource, ...]:
    """The checkpoints of a cohort, in the order of its entries and sorted by path within an entry.

    Of what a pattern matches, these are checkpoints: every folder, also one that turns out to be empty or broken (it
    fails alone later), and every weights file (.safetensors, .pt, .pth). These are not: other files, the two files of
    per-neuron numbers that deepSTRF's `fit_multi_seed` writes, weights inside a folder that is matched itself, and a
    folder without weights that only holds other matches (as with ``**``).

    The id is the name of the checkpoint's folder. An entry's ``id`` replaces it; where the entry matches several
    checkpoints it must be a template, with ``{folder}``, ``{parent}`` (the folder above) and ``{stem}`` (the file's
    name without its ending, for a folder the folder's name).

    Raises
    ------
    ConfigError
        If a pattern matches no checkpoint, an id cannot be a label, or two checkpoints share one.
    """
    sources: list[CheckpointSource] = []
    for position, entry in enumerate(cohort.checkpoints):
        where = f"cohort {cohort.name!r}: checkpoints[{position}]"
        refuse_secrets(entry.path, where)
        where = f"{where} (path = {entry.path!r})"
        locations = _locations(_pattern(config, entry), where)
        if entry.id is not None and len(locations) > 1 and "{" not in entry.id:
            raise ConfigError(
                f"{where} matches {len(locations)} checkpoints, which cannot all be called {entry.id!r}; take `id` out,"
                ' or make it a template such as id = "{parent}-{folder}"'
            )
        sources += [CheckpointSource(_id(entry, location, where), location, entry, where) for location in locations]
    _refuse_twins(cohort, sources)
    return tuple(sources)


def _pattern(config: RunConfig, entry: CheckpointsConfig) -> str:
    if is_url(entry.path) or os.path.isabs(entry.path):
        return entry.path
    literal = os.path.join(config.folder, entry.path)
    # A bracket in the folder of the config is no pattern, one in the entry is.
    return literal if os.path.lexists(literal) else os.path.join(escape(config.folder), entry.path)


def _locations(pattern: str, where: str) -> list[str]:
    try:
        matches = find(pattern)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not matches:
        raise ConfigError(
            f"{where} matches nothing; paths are relative to the config's folder, so mend the path or copy the"
            " checkpoints there"
        )
    found = _checkpoints(matches)
    if not found:
        raise ConfigError(
            f"{where} matches only {listed(match.path for match in matches)}, which are neither folders nor weights"
            f" ({', '.join(SUFFIXES)}); name the checkpoints' folders or files"
        )
    return found


def _checkpoints(matches: Sequence[Match]) -> list[str]:
    folders = {match.path for match in matches if match.folder}
    files = [
        match.path
        for match in matches
        if not match.folder
        and match.path.endswith(SUFFIXES)
        and (len(matches) == 1 or split(match.path)[1] not in NOT_WEIGHTS)
    ]
    files = [path for path in files if not (split(path)[0] in folders and split(path)[1] in WEIGHT_NAMES)]
    kept = [*files, *folders]
    containers = {folder for folder in folders if any(_inside(path, folder) for path in kept) and _weightless(folder)}
    return sorted(set(kept) - containers)


def _inside(path: str, folder: str) -> bool:
    return path != folder and path.startswith(folder.rstrip("/") + "/")


def _weightless(folder: str) -> bool:
    try:
        return not list_names(folder) & set(WEIGHT_NAMES)
    except OSError:
        return True


def _id(entry: CheckpointsConfig, location: str, where: str) -> str:
    folder, name = split(location)
    is_file = name.endswith(SUFFIXES) and (is_url(location) or not os.path.isdir(location))
    stem = os.path.splitext(name)[0] if is_file else name
    if is_file:
        folder, name = split(folder)
    label = name
    if entry.id is not None:
        words = {"folder": name, "parent": split(folder)[1], "stem": stem}
        label = _fill(entry.id, words, where)
    reason = _unfit(label)
    if reason:
        raise ConfigError(
            f"{where}: the id {label!r} of {location!r} {reason}; it labels the checkpoint in the cube, in logs"
            f" and in tables, so use letters, digits, '-', '_', '.', at most {ID_LENGTH} of them: set `id`, or"
            " rename the folder"
        )
    return label


def _fill(template: str, words: dict[str, str], where: str) -> str:
    try:
        asked = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        if not set(asked) <= set(words):
            raise ValueError(f"it asks for {listed(sorted(set(asked) - set(words)))}")
        return template.format_map(words)
    except (ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"{where}: id = {template!r} cannot be filled in ({error}); in braces there may be"
            f" {', '.join('{' + word + '}' for word in words)}"
        ) from error


def _unfit(label: str) -> str | None:
    """Why a text cannot be an id."""
    if not label or label in (".", ".."):
        return "is no name"
    if "/" in label or "\\" in label:
        return "holds a path separator"
    if any(unicodedata.category(character)[0] == "C" for character in label) or label != label.strip():
        return "holds control characters, or spaces at its ends"
    if len(label) > ID_LENGTH:
        return f"has {len(label)} characters"
    return None


def _refuse_twins(cohort: CohortConfig, sources: Sequence[CheckpointSource]) -> None:
    seen: dict[str, CheckpointSource] = {}
    for source in sources:
        twin = seen.setdefault(source.id, source)
        if twin is not source:
            same = twin.location == source.location
            advice = (
                "one checkpoint is named twice, so take one of the entries out"
                if same
                else 'set `id`, for example id = "{parent}-{folder}" or id = "{stem}", or rename a folder'
            )
            raise ConfigError(
                f"cohort {cohort.name!r}: two checkpoints have the id {source.id!r}: {twin.location} and"
                f" {source.location}; the id is their label in the cube, so {advice}"
            )


def weights_inside(folder: str) -> str | None:
    """Name of the weights in a checkpoint's folder, None where it has none."""
    names = list_names(folder)
    return next((name for name in WEIGHT_NAMES if name in names), None)


def describe_folder(folder: str) -> str:
    """What lies in a folder, for a message."""
    names = sorted(list_names(folder))
    return f"holds {listed(names)}" if names else "is empty"
