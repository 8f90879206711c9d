"""What a command that could not do its work comes to: an exit status, and a message in three parts."""

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.plan.config import ConfigError
from pipeline.text import of_error, of_exit, printable
from tasks.finished import ENDINGS, REFUSED, STOPPED
from tasks.terminal import LONGEST_LINE, complain

#: Errors of files that the one who gave the command has to see to; with any other the same command may work later.
_REFUSING = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)

#: A line of a traceback in the packages that decode the store.
_DECODING = re.compile(r'File ".*[/\\](?:zarr|numcodecs|xarray[/\\]backends)[/\\]')

#: Packages whose errors are our own words: each says what was wrong, why it matters and what to do.
_OURS = ("pipeline", "tasks")


@dataclass(frozen=True)
class Ending:
    """How a command ended that raised: its status, the message for people, and whether nobody foresaw it."""

    status: int
    message: str
    foreseen: bool = True


def ending_of(error: BaseException) -> Ending:
    """What an exception that reached the command means for the one who gave it."""
    if isinstance(error, KeyboardInterrupt):
        return Ending(STOPPED, "it was asked to stop")
    if isinstance(error, ConfigError) or (isinstance(error, ValueError) and _is_refusal(error)):
        return Ending(REFUSED, str(error))
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError):
        words = "the memory of this machine does not suffice, so nothing more was done; free some, or take a larger one"
        return Ending(STOPPED, words)
    if isinstance(error, SystemExit):
        words = (
            f"code that the command called asked the process to end ({of_exit(error)}), so the work is not"
            " done; take the call out of the module that the config names"
        )
        return Ending(STOPPED, words)
    if type(error).__module__.partition(".")[0] == "ray" or type(error).__name__ == "LeaseLostError":
        words = f"{of_error(error)}; what was recorded stays, and the same command goes on from there"
        return Ending(STOPPED, words)
    if isinstance(error, Exception) and _DECODING.search("".join(traceback.format_exception(error))):
        words = (
            f"a piece of the store cannot be read ({of_error(error)}), so the work is not done; `gradmap verify STORE`"
            " names what is damaged, and its --requeue has those maps computed again"
        )
        return Ending(REFUSED, words)
    return Ending(STOPPED, of_error(error), foreseen=False)


def end(error: BaseException, command: Sequence[str]) -> int:
    """Exit status of a command that raised, after saying how it ended."""
    ended = ending_of(error)
    lines = reason_of(error, command).splitlines() or [""]
    complain("\n".join(printable(line, LONGEST_LINE) for line in (f"gradmap: {lines[0]}", *lines[1:])))
    complain(f"gradmap: {ENDINGS[ended.status]} (exit status {ended.status})")
    return ended.status


def reason_of(error: BaseException, command: Sequence[str] = ()) -> str:
    """Why something ended, in words without secrets.

    Where nobody foresaw the error, the full report goes to a file and only its place into the words.
    """
    ended = ending_of(error)
    message = without_secrets(ended.message)
    if ended.foreseen:
        return message
    place = _written_report(error, command)
    advice = (
        f"the full report lies in {place}; please send it with what you did" if place else "no report could be kept"
    )
    return f"an error that was not foreseen, {printable(message)}, so the work is not done; {advice}"


def _is_refusal(error: ValueError) -> bool:
    """Whether our own code raised it on purpose, and not a library that was given something odd."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step is not None and str(step.tb_frame.f_globals.get("__name__", "")).partition(".")[0] in _OURS


def _of_system(error: OSError) -> Ending:
    words = of_error(error)
    if isinstance(error, _REFUSING):
        return Ending(REFUSED, f"{words}, so the command cannot do its work; see to that file or folder")
    return Ending(
        STOPPED, f"{words}, so nothing more could be read or written; give the command again once that is mended"
    )


def without_secrets(text: str) -> str:
    """A text without the credentials that a URL in it carries."""
    from pipeline.store.backend import scrub

    return scrub(text)


def _written_report(error: BaseException, command: Sequence[str]) -> str | None:
    """The file that the traceback was written to, with the command; None where no folder takes it."""
    text = "".join(traceback.format_exception(error))
    words = f"gradmap {' '.join(command)}\nPython {sys.version}\n\n{text}"
    try:
        descriptor, place = tempfile.mkstemp(prefix="gradmap-report-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(without_secrets(words))
    except OSError:
        return None
    return place
