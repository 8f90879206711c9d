"""`gradmap`: gradient receptive fields of trained auditory models, from a folder of checkpoints to labelled cubes."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from pipeline.plan.config import ConfigError
from tasks.outcome import STOPPED, refuse

#: One module per group of commands; each adds its parsers, whose `call` does the work.
COMMANDS = ("demo", "plan", "run", "inspect", "summaries", "agreement")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    # Classes and factories that a config names may lie beside it, where `python -m` would find them as well.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.call(arguments))
    except ConfigError as error:
        return refuse(error)
    except KeyboardInterrupt:
        print(f"gradmap: stopped (exit status {STOPPED})", flush=True)
        return STOPPED


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
