"""What the commands write: results on standard output, progress on standard error, no more than asked, clean lines."""

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from shutil import get_terminal_size
from textwrap import fill, wrap
from typing import Any, TextIO, cast

from pipeline.text import harmless, printable

#: Characters of one line that are printed; reports in files hold more.
LONGEST_LINE = 2000

#: Columns of a table where no terminal says how many there are, and of one entry, so that two stand side by side.
COLUMNS = 80
#: Characters of a cell of a table on the screen, at most.
LONGEST_CELL = 39

#: Colours of what is to be seen first, on a terminal that has colours.
BAD, DOUBTFUL = "red", "yellow"


@dataclass(frozen=True)
class Screen:
    """What of a command is shown: only its end, or all; and whether standard output belongs to other programs."""

    quiet: bool = False
    for_programs: bool = False


_ALL = Screen()
_SCREEN: ContextVar[Screen] = ContextVar("screen", default=_ALL)


@contextmanager
def showing(screen: Screen) -> Iterator[None]:
    """What is printed inside follows ``screen``."""
    token = _SCREEN.set(screen)
    try:
        yield
    finally:
        _SCREEN.reset(token)


def tell(text: object = "", style: str = "") -> None:
    """Print a result: as many lines as the text has, each of them clean."""
    if not _SCREEN.get().quiet:
        _print(_fitted(clean(text), _results()), style, _results())


def tell_table(
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    styles: Sequence[str] = (),
    *,
    left_out: int = 0,
    others: str = "",
) -> None:
    """Print rows in columns that fit the terminal, coloured by ``styles``; ``others`` is said of those left out."""
    if not _SCREEN.get().quiet:
        for line, row in _laid_out(header, rows):
            _print(line, styles[row] if row is not None and row < len(styles) else "", _results())
        _tell_left_out(left_out, others)


def tell_lines(lines: Sequence[str], style: str = "", *, most: int, others: str) -> None:
    """Print the first texts, a line each; ``others`` is said of the rest."""
    for line in lines[:most]:
        tell(printable(line, LONGEST_LINE), style)
    _tell_left_out(len(lines) - most, others)


def _tell_left_out(count: int, others: str) -> None:
    if count > 0:
        tell(f"... and {count:,} more{others}")


def conclude(line: object) -> None:
    """Print the last line of a command, which a quiet one prints as well."""
    print(_fitted(clean(line), _results()), file=_results(), flush=True)


def note(text: object) -> None:
    """Print a word about the progress, on standard error."""
    if not _SCREEN.get().quiet:
        print(clean(text), file=sys.stderr, flush=True)


def is_quiet() -> bool:
    """Whether nothing but the end is to be shown."""
    return _SCREEN.get().quiet


def complain(text: object) -> None:
    """Print why something was not done, on standard error."""
    _print(_fitted(clean(text), sys.stderr), BAD if text else "", sys.stderr)


def text_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows in columns two spaces apart; numbers to the right.

    Where the columns are wider than the terminal, the table goes on below with the further columns, beginning with the
    first one again. A long entry takes several lines.
    """
    return "\n".join(line for line, _ in _laid_out(header, rows))


def _laid_out(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[tuple[str, int | None]]:
    """Each line of a table, with the number of its row; None where it is of none."""
    cells = [[_folded(entry) for entry in row] for row in (header, *rows)]
    widths = [max(len(part) for row in cells for part in row[column]) for column in range(len(header))]
    right = [bool(rows) and all(isinstance(row[column], int | float) for row in rows) for column in range(len(header))]
    for number, columns in enumerate(_fitting(widths)):
        if number:
            yield "", None
        for position, row in enumerate(cells):
            for at in range(max(len(row[column]) for column in columns)):
                parts = ((row[column][at] if at < len(row[column]) else "", column) for column in columns)
                words = (text.rjust(widths[c]) if right[c] else text.ljust(widths[c]) for text, c in parts)
                yield "  ".join(words).rstrip(), position - 1 if position else None
            if position == 0:
                yield "  ".join("-" * widths[column] for column in columns), None


def _fitting(widths: Sequence[int]) -> Iterator[list[int]]:
    """The columns in groups that fit the terminal, the first column in each."""
    room = max(COLUMNS, _columns(_results()))
    group, used = [0], widths[0]
    for column in range(1, len(widths)):
        if used + 2 + widths[column] > room and len(group) > 1:
            yield group
            group, used = [0], widths[0]
        group.append(column)
        used += 2 + widths[column]
    yield group


def _fitted(text: str, stream: TextIO) -> str:
    """A text whose lines are folded between words where they are wider than a terminal; programs get them whole."""
    if not stream.isatty():
        return text
    room = _columns(stream)
    return "\n".join(
        fill(line, room, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        if len(line) > room
        else line
        for line in text.split("\n")
    )


def _columns(stream: TextIO) -> int:
    """Columns of a terminal, and those of a page where a stream is none."""
    return get_terminal_size((COLUMNS, 24)).columns if stream.isatty() else COLUMNS


def _folded(entry: object) -> list[str]:
    """The lines that an entry of a table takes, broken between words where there are some."""
    return wrap(printable(entry), LONGEST_CELL, break_on_hyphens=False) or [""]


def clean(text: object) -> str:
    """The lines of a text of our own, without what steers a terminal in the names and messages that it holds."""
    lines = map(harmless, str(text).split("\n"))
    return "\n".join(line if len(line) <= LONGEST_LINE else printable(line, LONGEST_LINE) for line in lines)


def _results() -> TextIO:
    return sys.stderr if _SCREEN.get().for_programs else sys.stdout


def _print(text: str, style: str, stream: TextIO) -> None:
    if not style or not stream.isatty():
        print(text, file=stream, flush=True)
        return
    from rich.console import Console

    Console(file=stream, highlight=False).print(text, style=style, markup=False, soft_wrap=True)


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
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def close(self) -> None:
        """Nothing but what is waiting goes out: code of a lab may close its output, and ours goes on."""
        self.flush()

    def _let_go(self, error: OSError) -> None:
        # The reader stopped, or code of a lab closed the file below the stream.
        if error.errno not in (errno.EPIPE, errno.EBADF):
            raise error
        # Not closed: the interpreter flushes what is left in the buffer at its end, and would fail once more.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
