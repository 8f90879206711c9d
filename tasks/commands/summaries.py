"""`gradmap summarise` and `gradmap report`: from cubes to a table for statistics, and to a page for people."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.plan.config import is_url
from tasks.commands.inspect import store_named
from tasks.outcome import COMPLETE, counted, last_line
from tasks.terminal import tell


def add_parser(commands: Any) -> None:
    """Describe the commands to the argument parser."""
    summarise_parser = commands.add_parser("summarise", help="measure every map, into the cubes and a table")
    summarise_parser.add_argument("store", metavar="CONFIG|STORE", help="run configuration (TOML), or a store")
    summarise_parser.add_argument("--table", type=Path, metavar="FILE", help="also write a table (.parquet or .csv)")
    summarise_parser.add_argument(
        "--select", action="append", default=[], metavar="RULE", help="keep rows by a rule such as 'cc_test > 0.3'"
    )
    summarise_parser.add_argument("--address", metavar="ADDR", help="measure on this Ray cluster")
    summarise_parser.set_defaults(call=summarise)
    report_parser = commands.add_parser("report", help="write one HTML page about a store")
    report_parser.add_argument("store", metavar="CONFIG|STORE", help="run configuration (TOML), or a store")
    report_parser.add_argument("--output", type=Path, metavar="FILE.html", help="where to (default: beside the store)")
    report_parser.set_defaults(call=report)


def summarise(arguments: argparse.Namespace) -> int:
    """Measure every map of a store; the exit status."""
    from tasks.summarising import summarise_store

    location = store_named(arguments.store)
    table = summarise_store(
        location, table=arguments.table, select=arguments.select, address=arguments.address, say=tell
    )
    tell(last_line(COMPLETE, f"{counted(len(table), 'row')} of measures; {arguments.table or location}"))
    return COMPLETE


def report(arguments: argparse.Namespace) -> int:
    """Write the page; the exit status."""
    from pipeline.pictures.report import write_report
    from pipeline.store.groups import cohort_names, open_existing
    from pipeline.store.reader import open_cube

    location = store_named(arguments.store)
    output = arguments.output or _beside(location)
    opened, _ = open_existing(location)
    path = write_report({name: open_cube(location, name) for name in cohort_names(opened)}, output)
    tell(last_line(COMPLETE, f"the report lies in {path}"))
    return COMPLETE


def _beside(location: str) -> Path:
    """The page's place: beside a store in a folder, in the current folder for one behind a URL."""
    name = location.rstrip("/").rpartition("/")[2].removesuffix(".zarr") + ".html"
    return Path(name) if is_url(location) else Path(location).resolve().parent / name
