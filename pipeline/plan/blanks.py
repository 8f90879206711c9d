"""Places of a drafted config that a person has to fill in."""

from collections.abc import Iterator, Mapping
from typing import Any

#: What such a place begins with.
MARK = "FILL IN"


def blank(hint: str) -> str:
    """The value of a key that nobody but its user knows, with what to write there."""
    return f"{MARK}: {hint}"


def blanks(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """The key and the hint of every place that is still to be filled in."""
    if isinstance(value, str) and value.startswith(MARK):
        yield where, value.removeprefix(MARK).lstrip(": ")
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from blanks(entry, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from blanks(entry, f"{where}.{index}")
