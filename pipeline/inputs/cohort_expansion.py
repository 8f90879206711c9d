"""Cohorts whose name holds words in braces, as one cohort for each value that lies on disk."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.inputs.checkpoint_discovery import find_checkpoints
from pipeline.inputs.checkpoint_memory import Memory
from pipeline.inputs.files import refuse_secrets
from pipeline.plan.config import COHORT, CohortConfig, ConfigError, RunConfig
from pipeline.plan.wildcards import Value, fill, fill_pattern, typed, words_in

#: Most cohorts that one name may stand for.
MOST = 10_000


def expand_cohorts(config: RunConfig, memory: Memory | None = None) -> RunConfig:
    """The config with one cohort per value of the words in a cohort's name, in the order of the values.

    The words are read off the paths of the cohort's checkpoints, fill in its other keys, and label its checkpoints.

    Raises `ConfigError` if a word of a name or of another key stands in no path, a value cannot name a cohort, or two
    cohorts come to share a name.
    """
    expanded = {cohort.name: _expanded(config, cohort, memory) for cohort in config.cohort}
    cohorts = [cohort for group in expanded.values() for cohort in group]
    names = [cohort.name for cohort in cohorts]
    if names == [cohort.name for cohort in config.cohort]:
        return config
    twin = next((name for name in names if names.count(name) > 1), None)
    if twin is not None:
        raise ConfigError(
            f"two cohorts come to be called {twin!r}; each is one group of the store, so change one of the names"
        )
    origin = {cohort.name: pattern for pattern, group in expanded.items() for cohort in group}
    maps = {
        name: entry
        if entry.cohorts is None
        else entry.model_copy(
            update={"cohorts": tuple(n for n in names if origin[n] in entry.cohorts or config.covers(entry, n))}
        )
        for name, entry in config.maps.items()
    }
    return config.model_copy(update={"cohort": tuple(cohorts), "maps": maps})


def _expanded(config: RunConfig, cohort: CohortConfig, memory: Memory | None) -> list[CohortConfig]:
    words = words_in(cohort.name)
    where = f"cohort {cohort.name!r}"
    others = {"neurons": cohort.neurons, "frequencies_hz": cohort.frequencies_hz}
    for key, text in others.items():
        strange = [word for word in words_in(text) if word not in words] if isinstance(text, str) else []
        if strange:
            raise ConfigError(
                f"{where}: {key} = {text!r} asks for {{{strange[0]}}}, which is not a word of the cohort's name; one"
                f' cohort has one {key}, so name the cohorts by it (name = "{{{strange[0]}}}"), or write a path without'
            )
    if not words:
        _refuse_odd(where, cohort.name)
        return [cohort]
    found = [_values_of(config, cohort, position, words, memory) for position in range(len(cohort.checkpoints))]
    values = sorted({value for matched in found if matched is not None for value in matched})
    if not values:
        raise ConfigError(
            f"{where}: no path of its checkpoints has {{{words[0]}}}, so there is nothing to name cohorts by; write it"
            f' into one of them, for example path = "sites/{{{words[0]}}}/*"'
        )
    if len(values) > MOST:
        raise ConfigError(f"{where} stands for {len(values):,} cohorts, more than {MOST:,}; name fewer in the path")
    columns = [typed([value[index] for value in values]) for index in range(len(words))]
    order = sorted(range(len(values)), key=lambda row: [_in_order(column[row]) for column in columns])
    return [
        _one(
            cohort,
            dict(zip(words, values[row], strict=True)),
            {word: column[row] for word, column in zip(words, columns, strict=True)},
            [matched is None or values[row] in matched for matched in found],
        )
        for row in order
    ]


def _in_order(value: Value) -> tuple[int, int, str]:
    return (0, value, "") if isinstance(value, int) else (1, 0, value)


def _values_of(
    config: RunConfig, cohort: CohortConfig, position: int, words: Sequence[str], memory: Memory | None
) -> set[tuple[str, ...]] | None:
    """The values of a cohort's words that an entry's path matches; None where it has none of them."""
    entry = cohort.checkpoints[position]
    lacking = [word for word in words if word not in words_in(entry.path)]
    where = f"cohort {cohort.name!r}: checkpoints[{position}]"
    refuse_secrets(entry.path, where)
    if len(lacking) == len(words):
        return None
    if lacking:
        raise ConfigError(
            f"{where} (path = {entry.path!r}) has no {{{lacking[0]}}}, so it is not clear which cohorts its checkpoints"
            " belong to; write every word of the cohort's name into the path, or none of them"
        )
    matched = find_checkpoints(config, entry, f"{where} (path = {entry.path!r})", memory)
    return {tuple(match.words[word] for word in words) for match in matched}


def _one(
    cohort: CohortConfig, texts: Mapping[str, str], labels: Mapping[str, Value], present: Sequence[bool]
) -> CohortConfig:
    name = fill(cohort.name, texts)
    _refuse_odd(f"cohort {cohort.name!r}", name)
    entries = tuple(
        entry.model_copy(
            update={
                "path": fill_pattern(entry.path, texts),
                "id": None if entry.id is None else fill(entry.id, texts),
                "labels": {**labels, **entry.labels},
            }
        )
        for entry, there in zip(cohort.checkpoints, present, strict=True)
        if there
    )
    update: dict[str, Any] = {"name": name, "checkpoints": entries}
    if cohort.neurons is not None:
        update["neurons"] = fill(cohort.neurons, texts)
    if isinstance(cohort.frequencies_hz, str):
        update["frequencies_hz"] = fill(cohort.frequencies_hz, texts)
    return cohort.model_copy(update=update)


def _refuse_odd(where: str, name: str) -> None:
    if not re.match(COHORT, name):
        raise ConfigError(
            f"{where} comes to be called {name!r}, which cannot name a group of the store; use letters, digits, '-' and"
            " '_', at most 100 of them: rename that folder"
        )
