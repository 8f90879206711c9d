"""`gradmap reliability` and `gradmap compare`: whether maps agree over seeds, and how architectures differ."""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.plan.config import ConfigError
from tasks.commands.inspect import store_named
from tasks.outcome import COMPLETE, counted, last_line, text_table
from tasks.progress import LINE_EVERY_S
from tasks.terminal import tell

if TYPE_CHECKING:
    import xarray as xr

    from pipeline.numbers.choosing import ChosenMaps

#: Neurons that are listed on the screen; the others are counted in the line of medians.
LISTED = 40


def add_parser(commands: Any) -> None:
    """Describe the commands to the argument parser."""
    reliability_parser = commands.add_parser("reliability", help="whether the maps of a neuron agree over seeds")
    _common(reliability_parser)
    reliability_parser.add_argument(
        "--by",
        nargs="+",
        default=["architecture"],
        metavar="LABEL",
        help="labels whose checkpoints are repetitions of each other (default: architecture, over seeds and folds)",
    )
    reliability_parser.add_argument(
        "--shuffles", type=int, default=1000, metavar="N", help="shuffled maps behind the null (default: 1000)"
    )
    reliability_parser.set_defaults(call=reliability)
    compare_parser = commands.add_parser("compare", help="how the maps of two architectures differ, with a test")
    _common(compare_parser)
    compare_parser.add_argument("reference", metavar="REFERENCE", help="architecture that is compared with: linear")
    compare_parser.add_argument("other", metavar="OTHER", help="architecture that is compared: statenet_gru")
    compare_parser.add_argument("--by", default="architecture", metavar="LABEL", help="what the two are labels of")
    compare_parser.add_argument(
        "--site",
        metavar="COLUMN",
        help="label of neurons that were recorded together (default: site, where there is one)",
    )
    compare_parser.set_defaults(call=compare)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="CONFIG|STORE", help="run configuration (TOML), or a store")
    parser.add_argument("--cohort", metavar="NAME", help="only this cohort (default: every one that can answer)")
    parser.add_argument("--map", default="strf", metavar="NAME", help="map of the cube (default: strf)")
    parser.add_argument(
        "--select", action="append", default=[], metavar="RULE", help="count maps by a rule such as 'cc_test > 0.3'"
    )
    parser.add_argument("--untrusted", action="store_true", help="count maps that carry a health flag as well")


def reliability(arguments: argparse.Namespace) -> int:
    """Print how well maps agree over seeds; the exit status."""
    if arguments.shuffles < 1:
        raise ConfigError(
            f"--shuffles {arguments.shuffles}: without shuffled maps nothing says what agreement chance gives; give 100"
            " or more"
        )
    chosen = _chosen(arguments, arguments.by)
    groups = 0
    for cohort, found in chosen.items():
        tell(f"cohort {cohort}, map {arguments.map}: {found.in_words()}")
        groups += _print_reliability(found.maps, arguments.by, arguments.shuffles)
    tell(last_line(COMPLETE, f"reliability of {counted(groups, 'group')} in {counted(len(chosen), 'cohort')}"))
    return COMPLETE


def compare(arguments: argparse.Namespace) -> int:
    """Print how the maps of two groups of checkpoints differ; the exit status."""
    if arguments.reference == arguments.other:
        raise ConfigError(
            f"{arguments.reference!r} is compared with itself, which can show no difference; name two different"
            f" labels of {arguments.by}; gradmap reliability tells how far the checkpoints of one agree"
        )
    pair = (arguments.reference, arguments.other)
    chosen = _chosen(arguments, [arguments.by], pair, arguments.site)
    neurons = 0
    for cohort, found in chosen.items():
        tell(f"cohort {cohort}, map {arguments.map}: {found.in_words()}")
        neurons += _print_comparison(found.maps, arguments)
    words = f"{arguments.other} against {arguments.reference}"
    tell(last_line(COMPLETE, f"{words} for {counted(neurons, 'neuron')} in {counted(len(chosen), 'cohort')}"))
    return COMPLETE


def _chosen(
    arguments: argparse.Namespace, by: Sequence[str], labels: Sequence[str] = (), site: str | None = None
) -> dict[str, "ChosenMaps"]:
    """The maps that count, of each cohort that can answer; refused where none can, or where the one named cannot."""
    from pipeline.numbers.choosing import choose_maps
    from pipeline.store.groups import cohort_names, open_existing
    from pipeline.store.reader import open_cube

    location = store_named(arguments.store)
    names = cohort_names(open_existing(location)[0])
    if arguments.cohort is not None and arguments.cohort not in names:
        raise ValueError(
            f"the store {location} has no cohort {arguments.cohort!r}, so there is nothing to compare; its cohorts"
            f" are {', '.join(names) or 'none'}; name one of them"
        )
    found, reasons = {}, []
    for name in names if arguments.cohort is None else [arguments.cohort]:
        cube = open_cube(location, name)
        reason = _why_not(cube, arguments.map, by, labels, site)
        if reason is None:
            chosen = choose_maps(cube, arguments.map, arguments.select, untrusted=arguments.untrusted)
            if chosen.kept:
                found[name] = chosen
                continue
            reason = f"no map that counts: {chosen.in_words()}"
        reasons.append(f"cohort {name} has {reason}")
    if not found:
        raise ValueError(
            f"{'; '.join(reasons) or f'the store {location} has no cohort'}; maps are compared between the checkpoints"
            " of one cohort, by their labels; choose from what is there with --cohort, --map, --by and --select"
            " (--untrusted counts maps with health flags)"
        )
    for reason in reasons:
        tell(f"left aside: {reason}")
    return found


def _why_not(cube: "xr.Dataset", name: str, by: Sequence[str], labels: Sequence[str], site: str | None) -> str | None:
    """What a cube lacks, or None."""
    from pipeline.numbers.comparing import label_text
    from pipeline.numbers.tables import maps_per_neuron

    maps = maps_per_neuron(cube)
    if name in cube.data_vars and "neuron" not in cube[name].dims:
        return (
            f'only one map {name!r} for all neurons together (neurons = "sum"), and maps are compared neuron by neuron'
        )
    if name not in maps:
        return f"no map {name!r} with one entry per neuron (its maps are {', '.join(maps) or 'none'})"
    for dim, wanted in (("checkpoint", by), ("neuron", [site] if site else [])):
        there = sorted(str(key) for key, coord in cube.coords.items() if coord.dims == (dim,) and key != dim)
        missing = [key for key in wanted if key not in [*there, dim]]
        if missing:
            return f"no label {', '.join(missing)} of its {dim}s (they have {', '.join(there) or 'none'})"
    known = sorted({label_text(value) for value in cube[by[0]].values.tolist()}) if labels else []
    absent = [label for label in labels if label not in known]
    if absent:
        return f"no checkpoint whose {by[0]} is {' or '.join(absent)} (they are {', '.join(known)})"
    return None


def _print_reliability(maps: "xr.DataArray", by: Sequence[str], shuffles: int) -> int:
    from pipeline.numbers.comparing import group_reliability, label_text, variance_shares

    found = group_reliability(maps, list(by) if len(by) > 1 else by[0], n_null=shuffles, report=_told_now_and_then())
    rows: list[tuple[object, ...]] = []
    for _, row in found.iterrows():
        start = (*(label_text(row[name]) for name in by), row["checkpoints"], row["neurons"])
        if row["neurons"]:
            numbers = (_figures(row["median"]), f"{_figures(row['low'])} to {_figures(row['high'])}")
            rows.append((*start, *numbers, f"{row['above_chance']} of {row['neurons']}", _figures(row["ceiling"])))
        else:
            rows.append((*start, "-", "needs two maps", "-", "-"))
    noun = _rows_are(maps)
    header = (*by, "checkpoints", noun, "median r", "range", "above chance", "ceiling")
    tell(text_table(header, rows))
    tell(
        f"r: mean correlation over the pairs of a neuron's maps; range over {noun}; above chance: r beyond that of"
        f" {shuffles} sets of shuffled maps (false discovery rate 5 %); ceiling: median correlation with the truth that"
        " the mean map can have"
    )
    shares = variance_shares(maps, list(by) if len(by) > 1 else by[0])["share_between"].dropna()
    if len(shares):
        tell(
            f"variance of the maps' shapes: share between groups by {' and '.join(by)} {_median_and_range(shares)},"
            f" median and range over {len(shares)} {noun}; the rest lies between the checkpoints of a group"
        )
    else:
        tell("variance of the maps' shapes: it takes two groups, one of them with two checkpoints, to divide it")
    return len(found)


def _told_now_and_then() -> Callable[[int, int], None]:
    """A line about the progress whenever some seconds have passed since the last one."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > LINE_EVERY_S:
            last = time.monotonic()
            tell(f"{done:,} of {total:,} neurons compared with shuffled maps")

    return report


def _print_comparison(maps: "xr.DataArray", arguments: argparse.Namespace) -> int:
    from pipeline.numbers.comparing import compare_maps, compare_measures

    reference, other = arguments.reference, arguments.other
    found = compare_maps(maps, reference, other, arguments.by)
    columns = ("correlation", "ceiling", "corrected", "unexplained")
    counts = ("n_reference", "n_other")
    shown = found[[*columns, *counts]].transpose("neuron", ...)
    site = arguments.site or _site_of(maps)
    table = shown.to_dataframe().reset_index()
    known = table.dropna(subset=["correlation"])
    extra = [dim for dim in shown["correlation"].dims if dim != "neuron"]
    header = ("neuron", *extra, *((site,) if site else ()), *(f"maps of {label}" for label in (reference, other)))
    header = (*map(str, header), "r", "ceiling", "r / ceiling", "outside")
    rows: list[tuple[object, ...]] = [
        (
            *(row[name] for name in ("neuron", *extra, *((site,) if site else ()))),
            *(int(row[name]) for name in counts),
            *(_figures(row[name]) for name in columns),
        )
        for _, row in table.head(LISTED).iterrows()
    ]
    tell(text_table(header, rows))
    if len(table) > LISTED:
        tell(f"... and {len(table) - LISTED:,} more, which the medians count as well")
    words = dict(zip(columns, header[-4:], strict=True))
    medians = (f"{words[name]} {_median_and_range(known[name])}" for name in columns)
    tell(f"median and range over {len(known)} {_rows_are(maps)}: {'; '.join(medians)}")
    tell(
        f"r: correlation of the mean maps of {reference} and {other}; ceiling: what it would be if they shared one"
        f" truth and differed as their seeds do; outside: share of energy of the maps of {other} that is no multiple"
        f" of the mean map of {reference}"
    )
    _print_tests(compare_measures(maps, reference, other, arguments.by, site=site), reference, other, site)
    return int(known["neuron"].nunique())


def _site_of(maps: "xr.DataArray") -> str | None:
    """The label of neurons that were recorded together, where the neurons have it; checkpoints may have one too."""
    return "site" if "site" in maps.coords and maps.coords["site"].dims == ("neuron",) else None


def _print_tests(tests: Any, reference: str, other: str, site: str | None) -> None:
    unit = f"{site}s" if site else "neurons"
    rows: list[tuple[object, ...]] = [
        (
            row["measure"],
            _figures(row["reference"]),
            _figures(row["other"]),
            row["units"] if row["n"] else "-",
            f"{_figures(row['difference'], sign=True)} {'oct' if row['difference_units'] == 'octave' else ''}".strip(),
            row["n"],
            _figures(row["p_value"]),
            _figures(row["p_adjusted"]),
        )
        for _, row in tests.iterrows()
    ]
    tell()
    tell(text_table(("measure", reference, other, "units", "difference", unit, "p", "p adjusted"), rows))
    where = f"means of {unit}" if site else "neurons, which are taken as independent of each other"
    tell(
        f"difference: median over {unit} of {other} - {reference}, paired; p: Wilcoxon's signed-rank test over {where};"
        " adjusted for the number of measures by Benjamini and Hochberg"
    )
    for note in dict.fromkeys(note for note in tests["note"] if note):
        tell(f"note: {note.replace('sites', unit)}")


def _median_and_range(values: Any) -> str:
    low, middle, high = (_figures(value) for value in values.quantile([0, 0.5, 1]))
    return f"{middle} ({low} to {high})"


def _rows_are(maps: "xr.DataArray") -> str:
    return "neurons x stimuli" if "stimulus" in maps.dims else "neurons"


def _figures(value: float, sign: bool = False) -> str:
    """A number with three significant figures; a dash where there is none."""
    if value != value:
        return "-"
    if value == 0:
        return "0"
    return f"{value:+.3g}" if sign else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
