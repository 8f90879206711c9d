"""Code of a lab, which may raise anything, draw random numbers or never come back: what is caught and put back."""

import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")

#: What code of a lab may raise that concerns one checkpoint only; ``sys.exit`` in it ends nothing but that checkpoint.
FOREIGN: tuple[type[BaseException], ...] = (Exception, SystemExit)


#: Signals by which a person, a terminal or a scheduler asks a process to stop, and the alarm that insists on it.
_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class InterruptedItselfError(RuntimeError):
    """Code of a lab raised ``KeyboardInterrupt`` although nobody asked the process to stop."""

    def __init__(self) -> None:
        super().__init__("it raised KeyboardInterrupt by itself, and nobody pressed Ctrl-C")


@contextmanager
def asked_interrupts_only() -> Iterator[None]:
    """A time in which ``KeyboardInterrupt`` without a signal comes out as `InterruptedItselfError`.

    Otherwise one model that raises it would look like a person who stops the whole run.
    """
    asked = False

    def noting(handler: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], Any]:
        def note(number: int, frame: FrameType | None) -> Any:
            nonlocal asked
            asked = True
            return handler(number, frame)

        return note

    before: dict[signal.Signals, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():  # no other one is interrupted by a signal
            for number in _ASKING:
                handler = signal.getsignal(number)
                if callable(handler):
                    before[number] = handler
                    signal.signal(number, noting(handler))
        yield
    except KeyboardInterrupt as error:
        if asked:
            raise
        raise InterruptedItselfError from error
    finally:
        for number, taken in before.items():
            signal.signal(number, taken)


@contextmanager
def private_randomness(seed: int = 0) -> Iterator[None]:
    """Random numbers that are the same each time, and leave the global generators where they were."""
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset a GPU's generator as well
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.random.set_rng_state(torch_state)


class OverdueError(Exception):
    """Code of a lab did not come back in the time that it was given."""


#: Name of the threads that such code is called in where it has a deadline.
_WATCHED = "code of a lab, with a deadline"


def within(seconds: float, call: Callable[[], T]) -> T:
    """What a call gives, where it comes back in time; whatever it raises, it raises here.

    A call that does not come back is left behind in a thread of its own, for Python can end no thread.

    Raises `OverdueError` if it takes longer.
    """
    made: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            with asked_interrupts_only():
                made.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name=_WATCHED, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not made:
        raise OverdueError(f"no answer within {seconds:g} s")
    return made[0]


def left_behind() -> bool:
    """Whether a call that did not come back in time still runs, so that this process has to be left at once."""
    return any(thread.name == _WATCHED for thread in threading.enumerate())
