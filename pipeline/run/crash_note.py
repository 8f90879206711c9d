"""Where a local run is, noted outside its store, so that one which ends without a word can still be told about."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def noted(store: str) -> Iterator[Callable[[str], None]]:
    """A function that notes what is being computed, each time anew; only a crash leaves the last note behind."""
    place = _place(store)

    def note(what: str) -> None:
        with suppress(OSError):  # a note is no reason to fail
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            with open(os.open(place, flags, 0o600), "w", encoding="utf-8", errors="replace") as file:
                file.write(f"{os.getpid()} {what}")
                file.truncate()  # not before: what was emptied goes to the disk at once when it is closed

    try:
        yield note
    finally:
        with suppress(OSError):
            place.unlink()


def left_behind_at(store: str) -> str | None:
    """What the last local run of a store was computing when its process crashed; None where none did. Told once."""
    place = _place(store)
    try:
        process, _, what = place.read_text(encoding="utf-8").partition(" ")
        if _lives(int(process)):
            return None
        place.unlink()
    except (OSError, ValueError):
        return None
    return what


def _place(store: str) -> Path:
    digest = hashlib.sha256(f"{os.getuid()} {store}".encode(errors="surrogateescape")).hexdigest()[:24]
    return Path(tempfile.gettempdir(), f"gradmap-at-{digest}")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
