"""`gradmap reliability` and `gradmap compare`: whether maps agree over seeds, and how architectures differ."""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.plan.config import ConfigError
from pipeline.text import counted
from tasks.answering import MAP, NOTES, choose_cohorts
from tasks.commands.number_tests import measures_left, numbers_asked, print_number_agreement, print_number_tests
from tasks.commands.tested import figures, pooled, print_tests, site_of, unit_of
from tasks.outcome import COMPLETE, Finished, last_line
from tasks.parsing import new_command
from tasks.progress import LINE_EVERY_S
from tasks.terminal import note, tell, tell_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from pipeline.numbers.chosen import ChosenMaps

#: Neurons or groups that are listed on the screen; the others are counted in the line of medians.
LISTED = 40

#: Of many cohorts, those that have a line of their own.
FOLDED = 15


def add_parser(commands: Any) -> None:
    """Describe the commands to the argument parser."""
    reliability_parser = new_command(
        commands,
        reliability,
        "whether the maps of a neuron agree over seeds",
        "reliability run.toml",
        "reliability gradmaps.zarr --by architecture --select 'cc_test > 0.3'",
    )
    _common(reliability_parser)
    reliability_parser.add_argument(
        "--by",
        nargs="+",
        default=["architecture"],
        metavar="LABEL",
        help="labels whose checkpoints are repetitions of each other (default: architecture, over seeds and folds)",
    )
    reliability_parser.add_argument(
        "--null",
        choices=["neurons", "shift", "entries"],
        default="neurons",
        help="what chance is: maps of other neurons (default), maps moved round their axes, or with permuted entries",
    )
    reliability_parser.add_argument(
        "--shuffles", type=int, default=1000, metavar="N", help="null sets of maps, at least (default: 1000)"
    )
    _add_compare(commands)


def _add_compare(commands: Any) -> None:
    parser = new_command(
        commands,
        compare,
        "how the maps of two architectures differ, with a test",
        "compare run.toml linear statenet_gru",
        "compare gradmaps.zarr 0 1 --by seed --measure latency",
    )
    _common(parser)
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


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="CONFIG|STORE", help="run configuration (TOML), or a store")
    parser.add_argument("--cohort", metavar="NAME", help="only this cohort (default: every one that can answer)")
    words = "map of the cube (default: strf, with the numbers of every dynamic map)"
    parser.add_argument("--map", metavar="NAME", help=words)
    parser.add_argument(
        "--select", action="append", default=[], metavar="RULE", help="count maps by a rule such as 'cc_test > 0.3'"
    )
    parser.add_argument("--untrusted", action="store_true", help="count maps that carry a health flag as well")


def reliability(arguments: argparse.Namespace) -> Finished:
    """How well maps agree over seeds, printed."""
    if arguments.shuffles < 1:
        raise ConfigError(
            f"--shuffles {arguments.shuffles}: without null sets nothing says what agreement chance gives; give 100"
            " or more"
        )
    name = arguments.map or MAP
    chosen, answering = choose_cohorts(arguments, arguments.by)
    _print_counted(chosen, name)
    groups = _print_reliability({cohort: found.maps for cohort, found in chosen.items()}, arguments)
    numbers = print_number_agreement(answering, numbers_asked(answering, arguments), arguments)
    counts = f"reliability of {counted(len(groups), 'group')} in {counted(len(chosen), 'cohort')}"
    content = {"map": name, "groups": groups, "numbers": numbers}
    return Finished(COMPLETE, last_line(COMPLETE, counts), content)


def compare(arguments: argparse.Namespace) -> Finished:
    """How the maps of two groups of checkpoints differ, printed."""
    if arguments.reference == arguments.other:
        raise ConfigError(
            f"{arguments.reference!r} is compared with itself, which can show no difference; name two different"
            f" labels of {arguments.by}; gradmap reliability tells how far the checkpoints of one agree"
        )
    name, pair = arguments.map or MAP, (arguments.reference, arguments.other)
    chosen, answering = choose_cohorts(arguments, [arguments.by], pair, arguments.site)
    _print_counted(chosen, name)
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


def _print_counted(chosen: Mapping[str, "ChosenMaps"], name: str) -> None:
    """Which maps counted, of each cohort, or together where cohorts are many."""
    if len(chosen) <= NOTES:
        for cohort, found in chosen.items():
            tell(f"cohort {cohort}, map {name}: {found.in_words()}")
        return
    kept, total = (sum(getattr(found, key) for found in chosen.values()) for key in ("kept", "total"))
    tell(f"{len(chosen)} cohorts, map {name}: {kept:,} of {total:,} maps counted")


def _print_reliability(maps: Mapping[str, "xr.DataArray"], arguments: argparse.Namespace) -> list[Mapping[Any, Any]]:
    """One table over all cohorts; the groups in it."""
    from pipeline.numbers.comparing import group_reliability

    by, noun = arguments.by, _rows_are(next(iter(maps.values())))
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
        (*_named(row, by), *((cohort,) if several else ()), row["checkpoints"], row["neurons"], *_agreement_of(row))
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
            *_named(row, by),
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
    groups = [_named(row, by) for _, row in pooled.iterrows()][:3]
    medians: list[tuple[object, ...]] = []
    for cohort, table in list(found.items())[:FOLDED]:
        known = {_named(row, by): figures(row["median"]) for _, row in table.iterrows()}
        medians.append((cohort, *(known.get(group, "-") for group in groups)))
    tell()
    header = ("median r of cohort", *(" ".join(group) for group in groups))
    others = " cohorts; --cohort NAME shows everything of one, --json lists all"
    tell_table(header, medians, left_out=len(found) - FOLDED, others=others)


def _named(row: Any, by: Sequence[str]) -> tuple[str, ...]:
    from pipeline.numbers.comparing import label_text

    return tuple(label_text(row[name]) for name in by)


def _print_notes(found: Mapping[str, "pd.DataFrame"], by: Sequence[str]) -> None:
    """Each note once, with the first group that it is about and how many more there are."""
    groups: dict[str, list[str]] = {}
    for cohort, table in found.items():
        for _, row in table[table["note"] != ""].iterrows():
            name = " ".join((*_named(row, by), *((cohort,) if len(found) > 1 else ())))
            groups.setdefault(row["note"], []).append(name)
    for words, names in list(groups.items())[:NOTES]:
        more = f" and {counted(len(names) - 1, 'group')} more" if len(names) > 1 else ""
        tell(f"note: {names[0]}{more}: {words}")


#: Columns of a group's agreement.
AGREEMENT = ("median r", "range", "common", "own", "above chance", "ceiling")

#: What reliability is compared with, in words.
NULLS = {
    "neurons": "sets of maps of different neurons",
    "shift": "maps moved round their axes",
    "entries": "maps with permuted entries",
}


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
        noun = _rows_are(next(iter(maps.values())))
        tell(
            f"variance of the maps' shapes: share between groups by {' and '.join(by)} {_median_and_range(shares)},"
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
    _print_medians(known, dict(zip(columns, header[-4:], strict=True)), _rows_are(maps))
    return table


def _print_medians(known: "pd.DataFrame", words: Mapping[str, str], noun: str) -> None:
    medians = (f"{text} {_median_and_range(known[name])}" for name, text in words.items())
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
    _print_medians(pd.concat(list(tables.values())), columns, _rows_are(next(iter(maps.values()))))
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


def _median_and_range(values: Any) -> str:
    low, middle, high = (figures(value) for value in values.quantile([0, 0.5, 1]))
    return f"{middle} ({low} to {high})"


def _rows_are(maps: "xr.DataArray") -> str:
    return "neurons x stimuli" if "stimulus" in maps.dims else "neurons"
