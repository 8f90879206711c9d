"""`gradmap report`: from cubes to a page for people."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.plan.config import is_url
from tasks.finished import COMPLETE, Finished, last_line
from tasks.parsing import STORE, new_command, store_named
from tasks.progress import Stages


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    examples = ("report run.toml", "report s3://bucket/gradmaps.zarr --output page.html")
    parser = new_command(commands, report, "write one HTML page about a store", *examples)
    parser.add_argument("store", **STORE)
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="where to (default: beside the store)")


def report(arguments: argparse.Namespace) -> Finished:
    """The page, written."""
    from pipeline.pictures.report import write_report
    from pipeline.store.reader import open_maps

    location = store_named(arguments.store)
    output = arguments.output or _beside(location)
    with Stages() as stages:
        path = write_report(open_maps(location, without=()), output, progress=stages.show)
    return Finished(
        COMPLETE, last_line(COMPLETE, f"the report lies in {path}"), {"store": location, "report": str(path)}
    )


def _beside(location: str) -> Path:
    """The page's place: beside a store in a folder, in the current folder for one behind a URL."""
    name = location.rstrip("/").rpartition("/")[2].removesuffix(".zarr") + ".html"
    return Path(name) if is_url(location) else Path(location).resolve().parent / name
