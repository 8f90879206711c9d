"""`gradmap reliability`: whether the maps of a neuron agree over seeds."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.plan.config import ConfigError
from pipeline.text import counted
from tasks.comparing.answering import MAP, NOTES, add_options, choose_cohorts, print_counted
from tasks.comparing.group_tests import figures, median_and_range, named_by, rows_are
from tasks.comparing.number_tests import numbers_asked, print_number_agreement
from tasks.finished import COMPLETE, Finished, last_line
from tasks.parsing import new_command
from tasks.progress import LINE_EVERY_S
from tasks.terminal import note, tell, tell_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

#: Neurons or groups that are listed on the screen; the others are counted in the line of medians.
LISTED = 40

#: Of many cohorts, those that have a line of their own.
FOLDED = 15

#: Columns of a group's agreement.
AGREEMENT = ("median r", "range", "common", "own", "above chance", "ceiling")

#: What reliability is compared with, in words.
NULLS = {
    "neurons": "sets of maps of different neurons",
    "shift": "maps moved round their axes",
    "entries": "maps with permuted entries",
}


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    parser = new_command(
        commands,
        reliability,
        "whether the maps of a neuron agree over seeds",
        "reliability run.toml",
        "reliability gradmaps.zarr --by architecture --select 'cc_test > 0.3'",
    )
    add_options(parser)
    parser.add_argument(
        "--by",
        nargs="+",
        default=["architecture"],
        metavar="LABEL",
        help="labels whose checkpoints are repetitions of each other (default: architecture, over seeds and folds)",
    )
    parser.add_argument(
        "--null",
        choices=["neurons", "shift", "entries"],
        default="neurons",
        help="what chance is: maps of other neurons (default), maps moved round their axes, or with permuted entries",
    )
    parser.add_argument(
        "--shuffles", type=int, default=1000, metavar="N", help="null sets of maps, at least (default: 1000)"
    )


def reliability(arguments: argparse.Namespace) -> Finished:
    """How well maps agree over seeds, printed."""
    if arguments.shuffles < 1:
        raise ConfigError(
            f"--shuffles {arguments.shuffles}: without null sets nothing says what agreement chance gives; give 100"
            " or more"
        )
    name = arguments.map or MAP
    chosen, answering = choose_cohorts(arguments, arguments.by)
    print_counted(chosen, name)
    groups = _print_reliability({cohort: found.maps for cohort, found in chosen.items()}, arguments)
    numbers = print_number_agreement(answering, numbers_asked(answering, arguments), arguments)
    counts = f"reliability of {counted(len(groups), 'group')} in {counted(len(chosen), 'cohort')}"
    content = {"map": name, "groups": groups, "numbers": numbers}
    return Finished(COMPLETE, last_line(COMPLETE, counts), content)


def _print_reliability(maps: Mapping[str, "xr.DataArray"], arguments: argparse.Namespace) -> list[Mapping[Any, Any]]:
    """One table over all cohorts; the groups in it."""
    from pipeline.numbers.comparing import group_reliability

    by, noun = arguments.by, rows_are(next(iter(maps.values())))
    report = _now_and_then()
    found = {
        cohort: group_reliability(
            one, list(by) if len(by) > 1 else by[0], null=arguments.null, n_null=arguments.shuffles, report=report
        )
        for cohort, one in maps.items()
    }
    if len(found) > NOTES:
        _print_pooled(found, by, noun)
    else:
        _print_groups(found, by, noun)
    tell(
        f"r: mean correlation over the pairs of a neuron's maps; range over {noun}; common: mean correlation of maps of"
        " different neurons; own: median r without the mean map of the other neurons; above chance: r beyond that of"
        f" {NULLS[arguments.null]} (false discovery rate 5 %); ceiling: median correlation with the truth that the mean"
        " map can have"
    )
    _print_notes(found, by)
    _print_shares(maps, by)
    return [row for cohort, table in found.items() for row in table.assign(cohort=cohort).to_dict("records")]


def _print_groups(found: Mapping[str, "pd.DataFrame"], by: Sequence[str], noun: str) -> None:
    """A row for each group of each of a few cohorts."""
    several = len(found) > 1
    rows: list[tuple[object, ...]] = [
        (*named_by(row, by), *((cohort,) if several else ()), row["checkpoints"], row["neurons"], *_agreement_of(row))
        for cohort, table in found.items()
        for _, row in table.iterrows()
    ]
    header = (*by, *(("cohort",) if several else ()), "checkpoints", noun, *AGREEMENT)
    others = " groups; --cohort NAME shows those of one cohort"
    tell_table(header, rows[:LISTED], left_out=len(rows) - LISTED, others=others)


def _print_pooled(found: Mapping[str, "pd.DataFrame"], by: Sequence[str], noun: str) -> None:
    """A row for each group over many cohorts, and the median of each group in some of them."""
    from pipeline.numbers.pooling import pooled_reliability

    pooled = pooled_reliability(found, by)
    rows: list[tuple[object, ...]] = [
        (
            *named_by(row, by),
            row["cohorts"],
            row["neurons"],
            figures(row["median"]),
            f"{figures(row['low'])} to {figures(row['high'])}",
            f"{row['above_chance']} of {row['neurons']}",
            figures(row["ceiling"]),
        )
        for _, row in pooled.iterrows()
    ]
    tell_table((*by, "cohorts", noun, "r", "95 % interval", "above chance", "ceiling"), rows[:FOLDED])
    tell("r: mean over cohorts of the median r of a cohort's neurons, each cohort counted as one site")
    groups = [named_by(row, by) for _, row in pooled.iterrows()][:3]
    medians: list[tuple[object, ...]] = []
    for cohort, table in list(found.items())[:FOLDED]:
        known = {named_by(row, by): figures(row["median"]) for _, row in table.iterrows()}
        medians.append((cohort, *(known.get(group, "-") for group in groups)))
    tell()
    header = ("median r of cohort", *(" ".join(group) for group in groups))
    others = " cohorts; --cohort NAME shows everything of one, --json lists all"
    tell_table(header, medians, left_out=len(found) - FOLDED, others=others)


def _print_notes(found: Mapping[str, "pd.DataFrame"], by: Sequence[str]) -> None:
    """Each note once, with the first group that it is about and how many more there are."""
    groups: dict[str, list[str]] = {}
    for cohort, table in found.items():
        for _, row in table[table["note"] != ""].iterrows():
            name = " ".join((*named_by(row, by), *((cohort,) if len(found) > 1 else ())))
            groups.setdefault(row["note"], []).append(name)
    for words, names in list(groups.items())[:NOTES]:
        more = f" and {counted(len(names) - 1, 'group')} more" if len(names) > 1 else ""
        tell(f"note: {names[0]}{more}: {words}")


def _agreement_of(row: Any) -> tuple[str, ...]:
    if not row["neurons"]:
        return ("-", "needs two maps", "-", "-", "-", "-")
    above = f"{row['above_chance']} of {row['neurons']}" if row["p_smallest"] == row["p_smallest"] else "-"
    middle, extent = figures(row["median"]), f"{figures(row['low'])} to {figures(row['high'])}"
    return (middle, extent, figures(row["common"]), figures(row["specific"]), above, figures(row["ceiling"]))


def _print_shares(maps: Mapping[str, "xr.DataArray"], by: Sequence[str]) -> None:
    import pandas as pd

    from pipeline.numbers.comparing import variance_shares

    found = [variance_shares(one, list(by) if len(by) > 1 else by[0])["share_between"] for one in maps.values()]
    shares = pd.concat(found).dropna()
    if len(shares):
        noun = rows_are(next(iter(maps.values())))
        tell(
            f"variance of the maps' shapes: share between groups by {' and '.join(by)} {median_and_range(shares)},"
            f" median and range over {len(shares)} {noun}; the rest lies between the checkpoints of a group"
        )
    else:
        tell("variance of the maps' shapes: it takes two groups, one of them with two checkpoints, to divide it")


def _now_and_then() -> Callable[[int, int], None]:
    """A line about the progress whenever some seconds have passed since the last one."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > LINE_EVERY_S:
            last = time.monotonic()
            note(f"{done:,} of {total:,} sets of a neuron's maps compared")

    return report
