"""How every command is described to the argument parser: its help, its examples, and the options that all have."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from tasks.outcome import ENDINGS


def new_command(
    commands: Any, name: str, call: Callable[[argparse.Namespace], Any], *, summary: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """Parser of one command, whose help shows how it is used and what its exit status means."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[:1].upper()}{summary[1:]}.",
        epilog=_epilog(examples),
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


def _epilog(examples: Sequence[str]) -> str:
    lines = ["examples:", *(f"  gradmap {example}" for example in examples), "", "exit status:"]
    return "\n".join([*lines, *(f"  {status}  {words}" for status, words in ENDINGS.items())])
