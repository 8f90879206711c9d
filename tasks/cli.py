"""`gradmap`: gradient receptive fields of trained auditory models, from a folder of checkpoints to labelled cubes."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from tasks.endings import end
from tasks.importing import put_last
from tasks.terminal import surviving_readers

#: One module per group of commands; each adds its parsers, whose `call` does the work.
COMMANDS = ("demo", "plan", "run", "inspect", "summaries", "agreement")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status, one of the four, whatever happens."""
    words = list(sys.argv[1:] if argv is None else argv)
    put_last([os.getcwd()])  # classes and factories that a config names may lie where the command is given
    with surviving_readers():
        try:
            return int(_called(words))
        except BaseException as error:
            return end(error, words)


def _called(words: Sequence[str]) -> int:
    try:
        arguments = _parser().parse_args(words)
    except SystemExit as exit_request:
        # The parser has said what it did not understand, or printed what was asked for.
        return int(exit_request.code or 0)
    return int(arguments.call(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gradmap", description=__doc__)
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
