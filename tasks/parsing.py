"""How every command is described to the argument parser: its help, its examples, and the options that all have."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from pipeline.plan.config import is_url, load_config
from tasks.finished import ENDINGS, REFUSED


class Parser(argparse.ArgumentParser):
    """A parser whose refusal ends with the line that every refusal ends with."""

    def error(self, message: str) -> NoReturn:
        """Say what was not understood, and leave."""
        self.print_usage(sys.stderr)
        ended = f"gradmap: {ENDINGS[REFUSED]} (exit status {REFUSED})"
        self.exit(REFUSED, f"{self.prog}: error: {message}\n{ended}\n")


def new_command(
    commands: Any, call: Callable[[argparse.Namespace], Any], summary: str, *examples: str, name: str = ""
) -> argparse.ArgumentParser:
    """Parser of one command, called as its function is; its help shows examples, and what its exit status means."""
    used = ["examples:", *(f"  gradmap {example}" for example in examples)]
    ended = ["exit status:", *(f"  {status}  {words}" for status, words in ENDINGS.items())]
    parser: argparse.ArgumentParser = commands.add_parser(
        name or call.__name__,
        help=summary,
        description=f"{summary[:1].upper()}{summary[1:]}.",
        epilog="\n".join([*used, "", *ended]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print the last line only, and why it was refused")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="write the outcome for other programs; - for standard output, which then holds nothing else",
    )
    parser.set_defaults(call=call)
    return parser


#: How the argument of a command that reads a store is described.
STORE: dict[str, Any] = {"metavar": "CONFIG|STORE", "help": "run configuration (TOML), or a store"}


def store_named(argument: str) -> str:
    """The store that a command was given: itself, or the one that a config names."""
    if not is_url(argument) and (argument.endswith(".toml") or Path(argument).is_file()):
        return load_config(argument).store_location()
    return argument
