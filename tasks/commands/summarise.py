"""`gradmap summarise`: from cubes to a table for statistics."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.text import counted
from tasks.finished import COMPLETE, Finished, last_line
from tasks.parsing import STORE, new_command, store_named
from tasks.terminal import note


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    examples = ("summarise run.toml", "summarise gradmaps.zarr --table maps.parquet --select 'cc_test > 0.3'")
    parser = new_command(commands, summarise, "measure every map, into the cubes and a table", *examples)
    parser.add_argument("store", **STORE)
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write a table (.parquet or .csv)")
    parser.add_argument(
        "--select", action="append", default=[], metavar="RULE", help="keep rows by a rule such as 'cc_test > 0.3'"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="SD",
        help="measure STRF maps without the entries under so many robust standard deviations (default: 0, all entries)",
    )
    parser.add_argument("--address", metavar="ADDR", help="measure on this Ray cluster")


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
