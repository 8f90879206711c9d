"""SIGTERM and Ctrl-C as a request that a run answers by recording what it has and leaving within three seconds."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from tasks.os_exit import leave_now

#: `ray job stop` kills after three seconds. The main thread is interrupted where it does not react by itself, and the
#: process ends where even that does not help, as inside a long call into C.
INTERRUPT_AFTER_S = 1.0
#: Seconds after a signal at which the process ends, whatever it is doing.
LEAVE_AFTER_S = 2.6

#: Exit status of a run that was stopped and can be continued.
STATUS_STOPPED = 4


class StopRequest:
    """Whether the run was asked to stop; a context manager that listens to SIGTERM and SIGINT.

    ``last_words``: Called before the process is ended from outside the main thread, to print what was reached.
    """

    def __init__(self, last_words: Callable[[], None] = lambda: None) -> None:
        self._last_words = last_words
        self._asked = threading.Event()
        self._over = threading.Event()
        self._before: dict[int, Any] = {}
        self._pipe: tuple[int, int] | None = None
        self._wakeup_before = -1

    def __call__(self) -> bool:
        """Whether it was asked; whoever gets True as the answer is trusted to end soon and is not interrupted."""
        if self._asked.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            return True
        return False

    @property
    def asked(self) -> bool:
        """Whether it was asked, without a promise to react."""
        return self._asked.is_set()

    def listen(self) -> None:
        """Take the signals; needed again after Ray started, since it takes SIGTERM for itself."""
        for number in (signal.SIGTERM, signal.SIGINT):
            before = signal.signal(number, self._on_signal)
            self._before.setdefault(number, before)
        self._before.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, _interrupt))

    def __enter__(self) -> "StopRequest":
        # Python's own handlers wait for the main thread to come back from C; the pipe does not.
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup_before = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(self._pipe[0],), daemon=True).start()
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        signal.set_wakeup_fd(self._wakeup_before)
        self._over.set()
        if self._pipe is not None:
            os.close(self._pipe[1])  # ends the watch

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked.is_set():
            raise KeyboardInterrupt
        self._asked.set()
        signal.setitimer(signal.ITIMER_REAL, INTERRUPT_AFTER_S)

    def _watch(self, pipe: int) -> None:
        """End the process if it is still there some seconds after the first signal."""
        asked = False
        while not asked and (numbers := os.read(pipe, 16)):
            asked = bool({signal.SIGTERM, signal.SIGINT} & set(numbers))
        os.close(pipe)
        if asked and not self._over.wait(LEAVE_AFTER_S):
            self._last_words()
            leave_now(STATUS_STOPPED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
