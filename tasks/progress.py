"""How far a run has come: a bar on a terminal, plain lines in a job's log."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipeline.text import readable_seconds
from tasks.terminal import clean, is_quiet, note

if TYPE_CHECKING:
    from pipeline.run.driver import OpenedRun

#: A plain line is printed when so many seconds or so large a share of the work have passed since the last one.
LINE_EVERY_S = 5.0
#: Share of the work after which a job's log gets another line.
LINE_EVERY_SHARE = 0.1


class Progress:
    """Display on standard error of what a run is doing: a word and a clock while it prepares, then its counts.

    ``bar``: Whether a bar is drawn, and not plain lines; by default where standard error is a terminal.
    """

    def __init__(self, *, bar: bool | None = None) -> None:
        self.opened: Any = None
        self._live: Any = None  # what rich draws at the moment: a word with a clock, or the bar
        self._task: Any = None
        self._busy: tuple[str, float] | None = None
        self._read_at: float | None = None
        self._wants_bar = (sys.stderr.isatty() if bar is None else bar) and not is_quiet()
        self._started: float | None = None
        self._line_at = 0.0
        self._line_share = 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bar as it is; what is printed next stands below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def busy(self, words: str) -> None:
        """Show what is being done before the first shard is computed, and for how long."""
        now = time.monotonic()
        before, self._busy = self._busy, (words, now)
        if self._wants_bar:
            self.close()
            self._live = _new_clock()
            self._live.add_task(words, total=None)
            self._live.start()
            return
        took = now - before[1] if before is not None else 0.0
        note(f"{words} ({before[0]} took {readable_seconds(took)})" if before is not None and took >= 1.0 else words)

    def reading(self, done: int, total: int) -> None:
        """Say now and then how many checkpoints were read, of how many."""
        now = time.monotonic()
        if self._read_at is None:
            self._read_at = now
        if now - self._read_at >= LINE_EVERY_S and done < total:
            self._read_at = now
            self.say(f"{done:,} of {total:,} checkpoints read")

    def say(self, sentence: str) -> None:
        """Print a sentence without disturbing the bar."""
        if self._live is not None:
            self._live.console.print(clean(sentence), highlight=False, markup=False, soft_wrap=True)
        else:
            note(sentence)

    def update(self, opened: "OpenedRun") -> None:
        """Show the counts of a run, if enough has changed."""
        first = self.opened is None
        self.opened = opened
        now = time.monotonic()
        if self._started is None and opened.computed + opened.failed > 0:
            self._started = now
        if self._wants_bar:
            self._show_bar(opened, now)
        elif not is_quiet():
            self._show_line(opened, now, force=first)

    def _show_bar(self, opened: "OpenedRun", now: float) -> None:
        if self._task is None:
            if self._started is None and opened.pending:
                return  # the word and its clock say more than an empty bar
            self.close()
            self._live = _new_bar()
            self._task = self._live.add_task("shards", total=_total(opened), note="")
            self._live.start()
        if self._live is not None:
            self._live.update(self._task, completed=_finished(opened), note=self._note(opened, now))

    def _show_line(self, opened: "OpenedRun", now: float, *, force: bool) -> None:
        share = _finished(opened) / max(1, _total(opened))
        if not force and share < 1.0 and now - self._line_at < LINE_EVERY_S:
            if share - self._line_share < LINE_EVERY_SHARE:
                return
            if now - self._line_at < 1.0:
                return
        if not force and share == self._line_share:
            return
        self._line_at, self._line_share = now, share
        note(f"{_finished(opened):,} of {_total(opened):,} shards, {self._note(opened, now)}")

    def _note(self, opened: "OpenedRun", now: float) -> str:
        parts = [f"{opened.failed_before + opened.failed:,} failed"]
        here = opened.computed + opened.failed
        seconds = 0.0 if self._started is None else now - self._started
        if here > 1 and seconds > 0.0:
            # The first shard only starts the clock: before it, Ray and torch were starting.
            rate = (here - 1) / seconds
            left = _total(opened) - _finished(opened)
            parts += [f"{rate:.3g} shards/s", f"{readable_seconds(left / rate)} left"]
        return ", ".join(parts)


class Stages:
    """Display of how far a preparation has come: a bar on a terminal, otherwise a line at each tenth of a stage."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._stage, self._share = "", -1.0

    def __enter__(self) -> "Stages":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, text: str, share: float) -> None:
        """Say what is being done, and which share of everything is."""
        if is_quiet():
            return
        if sys.stderr.isatty():
            self._draw(text, share)
        elif text.partition(":")[0] != self._stage or share - self._share >= LINE_EVERY_SHARE:
            self._stage, self._share = text.partition(":")[0], share
            note(f"{share:4.0%}  {text}")

    def _draw(self, text: str, share: float) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        if self._bar is None:
            self._bar = Progress(BarColumn(), TextColumn("{task.description}"), console=_console())
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()
        self._bar.update(self._task, description=clean(text), completed=share)


def _total(opened: "OpenedRun") -> int:
    return len(opened.pending) + opened.done_before + opened.failed_before


def _finished(opened: "OpenedRun") -> int:
    return opened.done_before + opened.failed_before + opened.computed + opened.failed


def _new_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        console=_console(),
    )


def _new_clock() -> Any:
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    # It goes when the next word or the bar takes its place.
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=_console(), transient=True
    )


def _console() -> Any:
    from rich.console import Console

    return Console(file=sys.stderr)
