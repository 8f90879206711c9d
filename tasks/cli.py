"""`gradmap`: gradient receptive fields of trained auditory models, from a folder of checkpoints to labelled cubes."""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TextIO

from tasks.errors import end, ending_of, without_secrets
from tasks.finished import STANDARD_OUTPUT, Finished, write_outcome
from tasks.importing import put_last
from tasks.os_exit import exits_refused, leave
from tasks.parsing import Parser
from tasks.terminal import Screen, conclude, showing, surviving_readers

#: The commands, each a module of its name, which adds its parser; the parser's `call` does the work.
COMMANDS = (
    *("demo", "init", "plan", "run", "status", "verify"),
    *("summarise", "report", "reliability", "compare", "help"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of one command, one of the four, whatever happens.

    Without ``argv`` it is the process that is asked, and that ends here: what code of a lab has registered for the end,
    or left running, decides neither the status nor when that is.
    """
    status = _status(list(sys.argv[1:] if argv is None else argv))
    if argv is None:
        leave(status)
    return status


def _status(words: Sequence[str]) -> int:
    put_last([os.getcwd()])  # classes and factories that a config names may lie where the command is given
    with surviving_readers():
        try:
            arguments = _parser().parse_args(words)
        except SystemExit as exit_request:
            # The parser has said what it did not understand, or printed what was asked for.
            return int(exit_request.code or 0)
        except BaseException as error:
            return end(error, words)
        for_programs = str(arguments.json) == STANDARD_OUTPUT
        if arguments.json is not None and not for_programs:
            arguments.json = os.path.abspath(arguments.json)  # code of a lab may change the folder we are in
        with showing(Screen(quiet=arguments.quiet, for_programs=for_programs)):
            return _carry_out(arguments, words, sys.stderr if for_programs else sys.stdout)


def _carry_out(arguments: argparse.Namespace, words: Sequence[str], printed: TextIO) -> int:
    """The same, of a command that was understood; ``printed`` takes what code of a lab prints."""
    try:
        with exits_refused(), redirect_stdout(printed):
            finished: Finished = arguments.call(arguments)
        if arguments.json is not None:
            write_outcome(arguments.json, {"exit_status": finished.status, **finished.content})
    except BaseException as error:
        status = end(error, words)
        if arguments.json is not None:
            with suppress(OSError):  # which may be what the command ended by
                reason = without_secrets(ending_of(error).message)
                write_outcome(arguments.json, {"exit_status": status, "reason": reason})
        return status
    conclude(finished.line)
    if finished.at_once:
        leave(finished.status)
    return finished.status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="gradmap",
        description=__doc__,
        epilog="gradmap COMMAND --help shows examples; gradmap help TOPIC explains config, measures, flags and kinds.",
    )
    parser.add_argument("--version", action="version", version=f"gradmap {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"tasks.commands.{name}").add_parser(commands)
    return parser


def _version() -> str:
    try:
        return version("gradmap-pipeline")
    except PackageNotFoundError:
        return "(not installed)"
