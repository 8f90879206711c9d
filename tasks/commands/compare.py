"""`gradmap compare`: how the maps of two groups of checkpoints differ, with a test."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.plan.config import ConfigError
from pipeline.text import counted
from tasks.comparing.answering import MAP, add_options, choose_cohorts, print_counted
from tasks.comparing.group_tests import figures, median_and_range, pooled, print_tests, rows_are, site_of, unit_of
from tasks.comparing.number_tests import measures_left, numbers_asked, print_number_tests
from tasks.finished import COMPLETE, Finished, last_line
from tasks.parsing import new_command
from tasks.terminal import tell, tell_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: Neurons or groups that are listed on the screen; the others are counted in the line of medians.
LISTED = 40

#: Of many cohorts, those that have a line of their own.
FOLDED = 15


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    parser = new_command(
        commands,
        compare,
        "how the maps of two architectures differ, with a test",
        "compare run.toml linear statenet_gru",
        "compare gradmaps.zarr 0 1 --by seed --measure latency",
    )
    add_options(parser)
    parser.add_argument("reference", metavar="REFERENCE", help="architecture that is compared with: linear")
    parser.add_argument("other", metavar="OTHER", help="architecture that is compared: statenet_gru")
    words = "what the two are labels of (default: architecture)"
    parser.add_argument("--by", default="architecture", metavar="LABEL", help=words)
    parser.add_argument(
        "--site",
        metavar="COLUMN",
        help="label of neurons that were recorded together (default: site, or else the cohort where there are several)",
    )
    parser.add_argument(
        "--measure",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="measures that are tested (default: some that noise of 10 %% does not move)",
    )
    parser.add_argument(
        "--details", action="store_true", help="print each test by itself, and all cohorts or neurons (--json has them)"
    )


def compare(arguments: argparse.Namespace) -> Finished:
    """How the maps of two groups of checkpoints differ, printed."""
    if arguments.reference == arguments.other:
        raise ConfigError(
            f"{arguments.reference!r} is compared with itself, which can show no difference; name two different"
            f" labels of {arguments.by}; gradmap reliability tells how far the checkpoints of one agree"
        )
    name, pair = arguments.map or MAP, (arguments.reference, arguments.other)
    chosen, answering = choose_cohorts(arguments, [arguments.by], pair, arguments.site)
    print_counted(chosen, name)
    maps = {cohort: found.maps for cohort, found in chosen.items()}
    if len(maps) > 1:
        compared = _print_cohorts(maps, arguments)
    else:
        compared = {cohort: _print_neurons(one, arguments) for cohort, one in maps.items()}
    tell(
        f"r: correlation of the mean maps of {arguments.reference} and {arguments.other}; ceiling: what it would be"
        " if they shared one truth and differed as their seeds do; outside: share of energy of the maps of"
        f" {arguments.other} that is no multiple of the mean map of {arguments.reference}"
    )
    asked = numbers_asked(answering, arguments)
    measures = measures_left(asked, arguments.measure)
    tests = _tests_of_maps(maps, measures, arguments) if measures or not arguments.measure else None
    numbers = print_number_tests(answering, asked, arguments, explained=tests is None)
    neurons = sum(int(table.dropna(subset=["correlation"])["neuron"].nunique()) for table in compared.values())
    words = f"{arguments.other} against {arguments.reference}"
    counts = f"{words} for {counted(neurons, 'neuron')} in {counted(len(chosen), 'cohort')}"
    content = {"map": name, "by": arguments.by, "reference": arguments.reference, "other": arguments.other}
    content |= {"neurons": compared, "tests": [] if tests is None else tests, "numbers": numbers}
    return Finished(COMPLETE, last_line(COMPLETE, counts), content)


def _print_neurons(maps: "xr.DataArray", arguments: argparse.Namespace) -> "pd.DataFrame":
    """How the maps of each neuron of one cohort compare."""
    from pipeline.numbers.comparing import compare_maps

    reference, other = arguments.reference, arguments.other
    found = compare_maps(maps, reference, other, arguments.by)
    columns = ("correlation", "ceiling", "corrected", "unexplained")
    counts = ("n_reference", "n_other")
    shown = found[[*columns, *counts]].transpose("neuron", ...)
    site = site_of(maps, arguments)
    table = shown.to_dataframe().reset_index()
    known = table.dropna(subset=["correlation"])
    extra = [dim for dim in shown["correlation"].dims if dim != "neuron"]
    header = ("neuron", *extra, *((site,) if site else ()), *(f"maps of {label}" for label in (reference, other)))
    header = (*map(str, header), "r", "ceiling", "r / ceiling", "outside")
    rows: list[tuple[object, ...]] = [
        (
            *(row[name] for name in ("neuron", *extra, *((site,) if site else ()))),
            *(int(row[name]) for name in counts),
            *(figures(row[name]) for name in columns),
        )
        for _, row in (table if arguments.details else table.head(LISTED)).iterrows()
    ]
    others = ", which the medians count as well; --details shows all"
    tell_table(header, rows, left_out=len(table) - len(rows), others=others)
    _print_medians(known, dict(zip(columns, header[-4:], strict=True)), rows_are(maps))
    return table


def _print_medians(known: "pd.DataFrame", words: Mapping[str, str], noun: str) -> None:
    medians = (f"{text} {median_and_range(known[name])}" for name, text in words.items())
    tell(f"median and range over {len(known)} {noun}: {'; '.join(medians)}")
    untrusted = int((known["ceiling"].notna() & known["corrected"].isna()).sum())
    if untrusted:
        tell(f"no r / ceiling for {untrusted} {noun} whose seeds agree too little for a ceiling to divide by")


def _print_cohorts(maps: Mapping[str, "xr.DataArray"], arguments: argparse.Namespace) -> dict[str, "pd.DataFrame"]:
    """How the maps compare in each of many cohorts, one line each."""
    import pandas as pd

    from pipeline.numbers.comparing import compare_maps

    columns = {"correlation": "r", "ceiling": "ceiling", "corrected": "r / ceiling", "unexplained": "outside"}
    tables = {}
    for cohort, one in maps.items():
        found = compare_maps(one, arguments.reference, arguments.other, arguments.by)[list(columns)]
        tables[cohort] = found.to_dataframe().reset_index().dropna(subset=["correlation"])
    rows: list[tuple[object, ...]] = [
        (cohort, table["neuron"].nunique(), *(figures(table[name].median()) for name in columns))
        for cohort, table in tables.items()
    ]
    most = len(rows) if arguments.details else FOLDED
    others = ", which the medians count as well; --cohort NAME shows one, --details all"
    tell_table(("cohort", "neurons", *columns.values()), rows[:most], left_out=len(rows) - most, others=others)
    _print_medians(pd.concat(list(tables.values())), columns, rows_are(next(iter(maps.values()))))
    return tables


def _tests_of_maps(
    maps: Mapping[str, "xr.DataArray"], measures: Sequence[str], arguments: argparse.Namespace
) -> "pd.DataFrame":
    """The paired tests of measures of the maps, of all cohorts together."""
    from pipeline.numbers.comparing import compare_measures

    unit, site = unit_of(maps.values(), arguments)
    groups = (arguments.reference, arguments.other, arguments.by)
    tests = compare_measures(pooled(maps), *groups, measures=measures or None, site=site)
    print_tests(tests, arguments, unit)
    return tests
