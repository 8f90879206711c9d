"""`os._exit` in code that a command calls: refused as `sys.exit` is, so that no work is called done that is not."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_leave = os._exit


def leave(status: int) -> None:
    """End the process without taking Ray and torch down piece by piece, for which a stopped job has no time."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # it may be closed, or its reader gone
            stream.flush()
    leave_now(status)


def leave_now(status: int) -> None:
    """End this process at once, also where others may not."""
    _leave(status)


@contextmanager
def exits_refused() -> Iterator[None]:
    """A time in which ``os._exit`` raises ``SystemExit``, which says so; processes forked from this one end by it.

    A model or a factory that ends the process would otherwise choose the exit status of the command, 0 among them.
    What ends it below Python, as `exit` called by a C library does, cannot be caught from within; on Ray such a worker
    is a crash like any other.
    """
    owner = os.getpid()

    def refuse(status: int) -> None:
        if os.getpid() != owner:
            _leave(status)
        raise SystemExit(f"os._exit({status})")

    before, os._exit = os._exit, refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        os._exit = before
