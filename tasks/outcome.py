"""How a command ended, in the exit status and in the last line that it prints."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pipeline.text import printable
from pipeline.words import DEGREES, Degree

#: Characters of one entry of a table on the screen.
LONGEST_CELL = 60

COMPLETE, REFUSED, FAILURES, STOPPED = 0, 2, 3, 4

#: Words of the last line for each exit status.
ENDINGS = {
    COMPLETE: "everything written",
    REFUSED: "refused, nothing was computed",
    FAILURES: "finished, with failures",
    STOPPED: "stopped, and can be continued",
}


def last_line(status: int, counts: str) -> str:
    """The sentence that says how a command ended."""
    return f"gradmap: {ENDINGS[status]}: {counts} (exit status {status})"


def trust_line(cohorts: Iterable[Any]) -> str:
    """How many of the maps that a store holds carry a health flag, by how much it takes from them; empty without maps.

    Parameters
    ----------
    cohorts
        What `pipeline.store.status.store_status` says of them.
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
    return f"health: {degrees} of {counted(done, 'map')} ({names})"


def leave(status: int) -> None:
    """End the process without taking Ray and torch down piece by piece, for which a stopped job has no time."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a report for other programs; dataclasses in it become tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, indent=2, default=_plain, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def counted(number: int, noun: str) -> str:
    """A number with its noun, which takes an s except after 1."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def readable_bytes(count: float) -> str:
    """Bytes in the unit that leaves one to three digits before the point."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def readable_seconds(seconds: float) -> str:
    """A duration in the two largest units that say something."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def text_table(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    """Rows in columns as wide as their longest entry; numbers to the right."""
    cells = [tuple(printable(entry, LONGEST_CELL) for entry in row) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    right = [bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(header))]
    lines = [
        "  ".join(
            entry.rjust(width) if to_right else entry.ljust(width)
            for entry, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") else str(value)
