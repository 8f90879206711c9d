"""What the commands write: clean lines, and no end of the world where nobody reads them any more."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from pipeline.text import harmless, printable

#: Characters of one line that are printed; reports in files hold more.
LONGEST_LINE = 2000


def tell(text: object = "") -> None:
    """Print a result on standard output: as many lines as the text has, each of them clean."""
    print(clean(text), flush=True)


def retell(text: object, *, last: bool = False) -> None:
    """Print a line over the one that was printed so before; the last one stays."""
    print(f"\r\x1b[2K{clean(text)}", end="\n" if last else "", flush=True)


def complain(text: object) -> None:
    """Print why something was not done, on standard error."""
    print(clean(text), file=sys.stderr, flush=True)


def clean(text: object) -> str:
    """The lines of a text of our own, without what steers a terminal in the names and messages that it holds."""
    return "\n".join(_bounded(harmless(line)) for line in str(text).split("\n"))


def _bounded(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else printable(line, LONGEST_LINE)


@contextmanager
def surviving_readers() -> Iterator[None]:
    """Standard output and error for a command that ends as it should though `| head -1` stopped to read."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Patient(stream)) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Patient:
    """A stream whose reader may go away: from then on what is written goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._let_go()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._let_go()

    def _let_go(self) -> None:
        # Not closed: the interpreter flushes what is left in the buffer at its end, and would fail once more.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
