"""How far a run has come: a bar on a terminal, plain lines in a job's log."""

import sys
import time
from types import TracebackType
from typing import Any, Protocol

from tasks.outcome import readable_seconds

#: A plain line is printed when so many seconds or so large a share of the work have passed since the last one.
LINE_EVERY_S = 5.0
LINE_EVERY_SHARE = 0.1


class Counts(Protocol):
    """What is shown of a run: `pipeline.run.OpenedRun` has it."""

    pending: list[Any]
    done_before: int
    failed_before: int
    computed: int
    failed: int


class Progress:
    """Shows the counts of a run as they change, and sentences between them."""

    def __init__(self, *, bar: bool | None = None) -> None:
        self.opened: Any = None
        self._bar: Any = None
        self._task: Any = None
        self._wants_bar = sys.stdout.isatty() if bar is None else bar
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
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, sentence: str) -> None:
        """Print a sentence without disturbing the bar."""
        if self._bar is not None:
            self._bar.console.print(sentence, highlight=False, markup=False)
        else:
            print(sentence, flush=True)

    def update(self, opened: Counts) -> None:
        """Show the counts of a run, if enough has changed."""
        first = self.opened is None
        self.opened = opened
        now = time.monotonic()
        if self._started is None and opened.computed + opened.failed > 0:
            self._started = now
        if self._wants_bar:
            self._show_bar(opened, now)
        else:
            self._show_line(opened, now, force=first)

    def _show_bar(self, opened: Counts, now: float) -> None:
        if self._bar is None:
            self._bar = _new_bar()
            self._task = self._bar.add_task("shards", total=_total(opened), note="")
            self._bar.start()
        self._bar.update(self._task, completed=_finished(opened), note=self._note(opened, now))

    def _show_line(self, opened: Counts, now: float, *, force: bool) -> None:
        share = _finished(opened) / max(1, _total(opened))
        if not force and share < 1.0 and now - self._line_at < LINE_EVERY_S:
            if share - self._line_share < LINE_EVERY_SHARE:
                return
            if now - self._line_at < 1.0:
                return
        if not force and share == self._line_share:
            return
        self._line_at, self._line_share = now, share
        print(f"{_finished(opened):,} of {_total(opened):,} shards, {self._note(opened, now)}", flush=True)

    def _note(self, opened: Counts, now: float) -> str:
        parts = [f"{opened.failed_before + opened.failed:,} failed"]
        here = opened.computed + opened.failed
        seconds = 0.0 if self._started is None else now - self._started
        if here > 1 and seconds > 0.0:
            # The first shard only starts the clock: before it, Ray and torch were starting.
            rate = (here - 1) / seconds
            left = _total(opened) - _finished(opened)
            parts += [f"{rate:.3g} shards/s", f"{readable_seconds(left / rate)} left"]
        return ", ".join(parts)


def _total(opened: Counts) -> int:
    return len(opened.pending) + opened.done_before + opened.failed_before


def _finished(opened: Counts) -> int:
    return opened.done_before + opened.failed_before + opened.computed + opened.failed


def _new_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}")
    )
