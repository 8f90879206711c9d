"""How a command ended, in the exit status and in the last line that it prints."""

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from pipeline.plan.shard_reports import Failure
from pipeline.text import counted
from pipeline.words import DEGREES, Degree
from tasks.terminal import COLUMNS

COMPLETE, REFUSED, FAILURES, STOPPED = 0, 2, 3, 4

#: Place of an outcome for other programs that is standard output and no file.
STANDARD_OUTPUT = "-"

#: Words of the last line for each exit status.
ENDINGS = {
    COMPLETE: "everything written",
    REFUSED: "refused, nothing was computed",
    FAILURES: "finished, with failures",
    STOPPED: "stopped, and can be continued",
}


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    #: The exit status.
    status: int
    #: The last line that is printed, which says so.
    line: str
    #: The outcome for other programs.
    content: Mapping[str, Any] = field(default_factory=dict)
    #: Whether the process was told to end, and has no time to take its parts down one by one, or cannot do so.
    at_once: bool = False


def last_line(status: int, counts: str) -> str:
    """The sentence that says how a command ended."""
    return f"gradmap: {ENDINGS[status]}: {counts} (exit status {status})"


def trust_line(cohorts: Iterable[Any]) -> str:
    """How many of the maps that a store holds carry a health flag, by how much it takes from them; empty without maps.

    In lines that fit 80 columns.

    ``cohorts``: What `pipeline.store.status.store_status` says of them.
    """
    maps = [entry for cohort in cohorts for entry in cohort.maps]
    done = sum(entry.entries.done for entry in maps)
    if not done:
        return ""
    flagged: Counter[Degree] = Counter()
    flags: Counter[str] = Counter()
    for entry in maps:
        flagged.update(entry.flagged)
        flags.update(entry.flags)
    if not flagged:
        return f"health: none of {counted(done, 'map')} carries a flag"
    degrees = ", ".join(f"{flagged[degree]:,} {degree}" for degree in DEGREES if flagged[degree])
    names = ", ".join(f"{name} {count:,}" for name, count in flags.most_common())
    words = f"health: {degrees} of {counted(done, 'map')} ({names})"
    return fill(words, COLUMNS, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


#: Checkpoints with one fault that are named.
NAMED = 3


def merged_failures(failures: Iterable[Failure], where: str = "{cohort}/{checkpoint}") -> list[str]:
    """One line for each fault, with the checkpoints that have it and all the maps that it cost.

    ``where``: How a checkpoint is named.
    """
    found: dict[tuple[str, str, str, str], tuple[list[str], int]] = {}
    for failure in failures:
        key = (failure.cohort, failure.checkpoint, failure.cause, failure.message)
        maps, shards = found.get(key, ([], 0))
        found[key] = ([*maps, failure.map], shards + failure.shards)
    alike: dict[tuple[str, str, str], list[tuple[str, str, int]]] = {}
    for (cohort, checkpoint, cause, message), (maps, shards) in found.items():
        name = where.format(cohort=cohort, checkpoint=checkpoint)
        fault = (", ".join(dict.fromkeys(maps)), cause, fault_of(message, checkpoint))
        alike.setdefault(fault, []).append((name, message, shards))
    lines = []
    for (lost, cause, _), members in alike.items():
        all_shards = counted(sum(count for _, _, count in members), "shard")
        names = named([name for name, _, _ in members]) + (" in" if len(members) > 1 else "")
        lines.append(f"failed: {names} {lost}: {cause} ({all_shards}): {members[0][1]}")
    return lines


def fault_of(message: str, checkpoint: str = "") -> str:
    """What messages about one fault have in common: they differ in paths, counts and the checkpoint's name at most."""
    return re.sub(r"\S*/\S*|\d+", "", message.replace(checkpoint, "") if checkpoint else message)


def named(names: Sequence[str]) -> str:
    """The first of several checkpoints, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def write_outcome(place: str, content: Mapping[str, Any]) -> None:
    """Write an outcome for other programs to a file, or to standard output for ``-``.

    Dataclasses and tables become objects; what is no number becomes null.
    """
    text = json.dumps(_plain(content), indent=2, allow_nan=False) + "\n"
    if place == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    path = Path(place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, str | bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({entry.name: getattr(value, entry.name) for entry in fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return _plain(value.to_dict("records"))
    if isinstance(value, Iterable):
        return [_plain(entry) for entry in value]
    return _plain(value.item()) if hasattr(value, "item") else str(value)
