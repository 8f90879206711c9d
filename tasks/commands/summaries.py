"""`gradmap summarise` and `gradmap report`: from cubes to a table for statistics, and to a page for people."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.plan.config import is_url
from pipeline.text import counted
from tasks.commands.inspect import store_named
from tasks.outcome import COMPLETE, Finished, last_line
from tasks.parsing import new_command
from tasks.progress import Stages
from tasks.terminal import note


def add_parser(commands: Any) -> None:
    """Describe the commands to the argument parser."""
    examples = ("summarise run.toml", "summarise gradmaps.zarr --table maps.parquet --select 'cc_test > 0.3'")
    summarise_parser = new_command(commands, summarise, "measure every map, into the cubes and a table", *examples)
    summarise_parser.add_argument("store", metavar="CONFIG|STORE", help="run configuration (TOML), or a store")
    summarise_parser.add_argument("--table", type=Path, metavar="FILE", help="also write a table (.parquet or .csv)")
    summarise_parser.add_argument(
        "--select", action="append", default=[], metavar="RULE", help="keep rows by a rule such as 'cc_test > 0.3'"
    )
    summarise_parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="SD",
        help="measure STRF maps without the entries under so many robust standard deviations (default: 0, all entries)",
    )
    summarise_parser.add_argument("--address", metavar="ADDR", help="measure on this Ray cluster")
    examples = ("report run.toml", "report s3://bucket/gradmaps.zarr --output page.html")
    report_parser = new_command(commands, report, "write one HTML page about a store", *examples)
    report_parser.add_argument("store", metavar="CONFIG|STORE", help="run configuration (TOML), or a store")
    report_parser.add_argument("--output", type=Path, metavar="FILE.html", help="where to (default: beside the store)")


def summarise(arguments: argparse.Namespace) -> Finished:
    """Measure every map of a store."""
    from tasks.summarising import summarise_store

    location = store_named(arguments.store)
    table = summarise_store(
        location,
        table=arguments.table,
        select=arguments.select,
        threshold=arguments.threshold,
        address=arguments.address,
        say=note,
    )
    line = last_line(COMPLETE, f"{counted(len(table), 'row')} of measures; {arguments.table or location}")
    where = None if arguments.table is None else str(arguments.table)
    content = {"store": location, "rows": len(table), "columns": list(map(str, table.columns)), "table": where}
    return Finished(COMPLETE, line, content)


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
