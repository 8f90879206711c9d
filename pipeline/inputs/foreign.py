"""Code of a lab, which may raise anything, draw random numbers or never come back: what is caught and put back."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")

#: What code of a lab may raise that concerns one checkpoint only; ``sys.exit`` in it ends nothing but that checkpoint.
FOREIGN: tuple[type[BaseException], ...] = (Exception, SystemExit)


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
            made.append(call())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name=_WATCHED, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised and isinstance(raised[0], KeyboardInterrupt):
        # Ctrl-C is for the main thread, so nobody asked this process to stop.
        raise RuntimeError("it raised KeyboardInterrupt by itself") from raised[0]
    if raised:
        raise raised[0]
    if not made:
        raise OverdueError(f"no answer within {seconds:g} s")
    return made[0]


def left_behind() -> bool:
    """Whether a call that did not come back in time still runs, so that this process has to be left at once."""
    return any(thread.name == _WATCHED for thread in threading.enumerate())
