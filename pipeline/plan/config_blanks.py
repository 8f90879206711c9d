"""Places of a drafted config that a person has to fill in."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.plan.urls import texts

#: What such a place begins with.
MARK = "FILL IN"


def blank(hint: str) -> str:
    """The value of a key that nobody but its user knows, with what to write there."""
    return f"{MARK}: {hint}"


def blanks(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The key and the hint of every place that is still to be filled in."""
    for where, text in texts(config):
        if text.startswith(MARK):
            yield where, text.removeprefix(MARK).lstrip(": ")
