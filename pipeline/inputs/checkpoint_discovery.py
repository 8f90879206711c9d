"""Checkpoints that a config's patterns name, each with its label."""

import os
import string
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape
from pathlib import PurePath

from pipeline.inputs.best_checkpoint import best_of
from pipeline.inputs.checkpoint_memory import Memory
from pipeline.inputs.files import SUFFIXES, Match, find, list_names, refuse_secrets, split
from pipeline.plan.config import CheckpointsConfig, CohortConfig, ConfigError, RunConfig, is_url
from pipeline.plan.run_plan import CheckpointSource
from pipeline.plan.wildcards import Value, as_expression, as_glob, refuse_words, typed, words_in
from pipeline.text import listed, meant

#: Names of a checkpoint folder's weights; where a folder has both, the first one counts.
WEIGHT_NAMES = ("model.safetensors", "best.pt")

#: Files of deepSTRF's `fit_multi_seed` that hold numbers per neuron, not weights.
NOT_WEIGHTS = ("final_neurons.pt", "summary_neurons.pt")

#: Longest id, in characters.
ID_LENGTH = 200


def discover(config: RunConfig, cohort: CohortConfig, memory: Memory | None = None) -> tuple[CheckpointSource, ...]:
    """The checkpoints of a cohort, in the order of its entries and sorted by path within an entry.

    Of what a pattern matches, these are checkpoints: every folder, also one that turns out to be empty or broken (it
    fails alone later), and every weights file (.safetensors, .pt, .pth). These are not: other files, the two files of
    per-neuron numbers that deepSTRF's `fit_multi_seed` writes, weights inside a folder that is matched itself, and a
    folder without weights that only holds other matches (as with ``**``).

    The id is the name of the checkpoint's folder. An entry's ``id`` replaces it; where the entry matches several
    checkpoints it must be a template, with ``{folder}``, ``{parent}`` (the folder above), ``{stem}`` (the file's name
    without its ending, for a folder the folder's name) and the words in braces of its ``path``. These words match as
    ``*`` does within one part of the path, and label the checkpoint.

    Raises `ConfigError` if a pattern matches no checkpoint, an id cannot be a label, or two checkpoints share one.
    """
    found: list[tuple[CheckpointsConfig, str, Found]] = []
    for position, entry in enumerate(cohort.checkpoints):
        where = _place(cohort, position, entry)
        matched = find_checkpoints(config, entry, where, memory)
        if entry.id is not None and len(matched) > 1 and "{" not in entry.id:
            raise ConfigError(
                f"{where} matches {len(matched)} checkpoints, which cannot all be called {entry.id!r}; take `id` out,"
                ' or make it a template such as id = "{parent}-{folder}"'
            )
        found += [(entry, where, match) for match in matched]
    values = _typed_words([match.words for _, _, match in found])
    sources = [
        CheckpointSource(_id(entry, match, where), match.location, entry, where, {**words, **entry.labels})
        for (entry, where, match), words in zip(found, values, strict=True)
    ]
    _refuse_twins(cohort, sources)
    return tuple(sources)


@dataclass(frozen=True)
class Found:
    """Where one checkpoint lies, and the text of each word that its path was matched with."""

    location: str
    words: Mapping[str, str] = field(default_factory=dict)


def _place(cohort: CohortConfig, position: int, entry: CheckpointsConfig) -> str:
    where = f"cohort {cohort.name!r}: checkpoints[{position}]"
    refuse_secrets(entry.path, where)
    return f"{where} (path = {entry.path!r})"


def _typed_words(found: Sequence[Mapping[str, str]]) -> list[dict[str, Value]]:
    """The words of every checkpoint; numbers where all checkpoints have whole numbers."""
    labels: list[dict[str, Value]] = [{} for _ in found]
    for word in dict.fromkeys(word for words in found for word in words):
        holders = [index for index, words in enumerate(found) if word in words]
        for index, value in zip(holders, typed([found[index][word] for index in holders]), strict=True):
            labels[index][word] = value
    return labels


def _pattern(config: RunConfig, entry: CheckpointsConfig) -> str:
    """The path of an entry from the root of its file system; what is meant literally holds no mark of a pattern."""
    if is_url(entry.path) or os.path.isabs(entry.path):
        return entry.path
    literal = os.path.join(config.folder, entry.path)
    # A bracket in the folder of the config is no pattern, one in the entry is.
    folder = escape(config.folder).replace("{", "[{]")
    return literal if os.path.lexists(literal) else os.path.normpath(os.path.join(folder, entry.path))


def find_checkpoints(
    config: RunConfig, entry: CheckpointsConfig, where: str, memory: Memory | None = None
) -> list[Found]:
    """What an entry of the config matches, sorted by path.

    Raises `ConfigError` if it matches no checkpoint, or a word cannot be a label.
    """
    pattern = _pattern(config, entry)
    words = () if not is_url(pattern) and os.path.lexists(pattern) else words_in(pattern)
    refuse_words(words, where)
    locations = _locations(as_glob(pattern) if words else pattern, where, any_file=entry.factory is not None)
    if entry.best is not None:
        locations = best_of(locations, entry.best, where, memory)
    if not words:
        return [Found(location) for location in locations]
    expression = as_expression(pattern.rstrip("/"))
    read = [(location, expression.fullmatch(location)) for location in locations]
    found = [Found(location, match.groupdict()) for location, match in read if match is not None]
    if not found:
        raise ConfigError(
            f"{where} matches {listed(locations, most=3)}, but a word in braces stands for different texts in each; the"
            " same word must match the same text, so call one of them otherwise"
        )
    for word, text in (pair for one in found for pair in one.words.items()):
        if not text.isprintable():
            raise ConfigError(
                f"{where}: {{{word}}} stands for {text!r}, which cannot be a label (control characters, or bytes that"
                " are no UTF-8); rename that file or folder"
            )
    return found


def _locations(pattern: str, where: str, any_file: bool) -> list[str]:
    try:
        matches = find(pattern)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not matches:
        raise ConfigError(
            f"{where} matches nothing; paths are relative to the config's folder, so mend the path or copy the"
            " checkpoints there"
        )
    if any_file and not any(match.folder for match in matches):
        return [match.path for match in matches]
    found = _checkpoints(matches)
    if not found:
        raise ConfigError(
            f"{where} matches only {listed(PurePath(match.path).name for match in matches)}, which are neither"
            f" folders nor weights ({', '.join(SUFFIXES)}); name the checkpoints' folders or files, or a `factory` that"
            " reads them"
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
    holding = {folder for path in kept for folder in _folders_above(path)}
    containers = {folder for folder in folders if folder.rstrip("/") in holding and _weightless(folder)}
    return sorted(set(kept) - containers)


def _folders_above(path: str) -> Iterator[str]:
    """Every folder that a path lies in, from the nearest on."""
    above = path.rstrip("/").rpartition("/")[0]
    while above:
        yield above
        above = above.rpartition("/")[0]


def _weightless(folder: str) -> bool:
    try:
        return not list_names(folder) & set(WEIGHT_NAMES)
    except OSError:
        return True


def _id(entry: CheckpointsConfig, match: Found, where: str) -> str:
    location = match.location
    folder, name = split(location)
    is_file = name.endswith(SUFFIXES) if is_url(location) else os.path.isfile(location)
    stem = os.path.splitext(name)[0] if is_file else name
    if is_file:
        folder, name = split(folder)
    label = name
    if entry.id is not None:
        words = {"folder": name, "parent": split(folder)[1], "stem": stem, **match.words}
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
            strange = sorted(set(asked) - set(words))
            raise ValueError(f"it asks for {listed(strange)}: {meant(strange[0], words) or 'no word of the path'}")
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
                else f"set `id`, for example {_better_ids(source, sources)}, or rename a folder"
            )
            raise ConfigError(
                f"cohort {cohort.name!r}: two checkpoints have the id {source.id!r}: {twin.location} and"
                f" {source.location}; the id is their label in the cube, so {advice}"
            )


def _better_ids(twin: CheckpointSource, sources: Sequence[CheckpointSource]) -> str:
    """Templates by which the checkpoints of an entry get ids that no other has; those that might where none does."""
    words = words_in(twin.entry.path)
    own = ["-".join(f"{{{word}}}" for word in words)] if words else []
    others = [source.id for source in sources if source.where != twin.where]
    alike = [source for source in sources if source.where == twin.where]
    templates = [*own, "{stem}", "{parent}-{folder}", "{folder}-{stem}", "{parent}-{folder}-{stem}"]
    ids = {template: [*others, *(_renamed(one, template) for one in alike)] for template in templates}
    apart = [template for template, named in ids.items() if len(set(named)) == len(named)]
    return " or ".join(f'id = "{template}"' for template in (apart or templates)[:2])


def _renamed(source: CheckpointSource, template: str) -> str:
    words = {word: str(source.labels[word]) for word in words_in(source.entry.path)}
    try:
        return _id(source.entry.model_copy(update={"id": template}), Found(source.location, words), source.where)
    except ConfigError:
        return ""


def weights_inside(folder: str) -> str | None:
    """Name of the weights in a checkpoint's folder, None where it has none."""
    names = list_names(folder)
    return next((name for name in WEIGHT_NAMES if name in names), None)


def describe_folder(folder: str) -> str:
    """What lies in a folder, for a message."""
    names = sorted(list_names(folder))
    return f"holds {listed(names)}" if names else "is empty"
