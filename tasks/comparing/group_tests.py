"""Tests between two groups of checkpoints as tables on the screen."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tasks.terminal import tell, tell_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Data = TypeVar("Data")

#: Places of the columns of a table of tests that are printed without ``--details``: all but each test by itself.
BRIEFLY = (0, 1, 2, 3, 4, 5, 8, 12, 13)


def site_of(data: "xr.DataArray | xr.Dataset", arguments: argparse.Namespace) -> str | None:
    """The label of the neurons that were recorded together, where they have it."""
    name = arguments.site or "site"
    return name if name in data.coords and data.coords[name].dims == ("neuron",) else None


def pooled(parts: Mapping[str, Data]) -> dict[str, Data] | Data:
    """What a comparison takes: the parts by cohort, which is their site then, or the only one as it is."""
    return dict(parts) if len(parts) > 1 else next(iter(parts.values()))


def unit_of(parts: Iterable["xr.DataArray | xr.Dataset"], arguments: argparse.Namespace) -> tuple[str, str | None]:
    """What the tests count, in words, and the label of the neurons that says which of them it is, or None."""
    labelled = [site_of(one, arguments) for one in parts]
    site = next(filter(None, labelled), None)
    if site:
        return f"{site}s", site
    return ("cohorts", "site") if len(labelled) > 1 else ("neurons", None)


def print_tests(tests: "pd.DataFrame", arguments: argparse.Namespace, unit: str, *, explained: bool = True) -> None:
    """One row per measure, what its columns are, and the notes."""
    tell()
    header = ("measure", arguments.reference, arguments.other, "units", "difference", "95 % interval")
    spread = (f"± {unit}", "± checkpoints", unit, f"p {unit}", "p checkpoints", "p both", "p", "p adjusted")
    columns = (*header, *spread)
    shown = range(len(columns)) if arguments.details else BRIEFLY
    rows = [_test_row(row) for _, row in tests.iterrows()]
    tell_table([columns[at] for at in shown], [tuple(row[at] for at in shown) for row in rows])
    if explained:
        alone = unit in ("neurons", "cohorts")
        where = f"{unit}, which are taken as independent of each other" if alone else f"means of {unit}"
        errors = f"; ±: its standard error over {unit} and over checkpoints" if arguments.details else ""
        tell(
            f"difference: mean over {unit} of {arguments.other} - {arguments.reference}, paired{errors}; p: the largest"
            f" of three, since a claim needs all: Wilcoxon's signed-rank test over {where} (p {unit}),"
            f" {arguments.by} labels permuted over checkpoints (p checkpoints), Student's t of the sum of both spreads"
            " (p both); adjusted: for the number of measures (Benjamini,"
            f" Hochberg){'' if arguments.details else '; --details: each'}"
        )
    for sentence in dict.fromkeys(sentence for words in tests["note"] if words for sentence in words.split("; ")):
        tell(f"note: {sentence.replace('sites', unit)}")


def _test_row(row: Any) -> tuple[object, ...]:
    octaves = "oct" if row["difference_units"] == "octave" else ""
    known = row["low"] == row["low"]
    return (
        row["measure"],
        figures(row["reference"]),
        figures(row["other"]),
        row["units"] if row["n"] else "-",
        f"{figures(row['difference'], sign=True)} {octaves}".strip(),
        f"{figures(row['low'], sign=True)} to {figures(row['high'], sign=True)}" if known else "-",
        figures(row["se_sites"]),
        figures(row["se_checkpoints"]),
        row["n"],
        *(figures(row[name]) for name in ("p_sites", "p_checkpoints", "p_both", "p_value", "p_adjusted")),
    )


def figures(value: float, sign: bool = False) -> str:
    """A number with three significant figures; a dash where there is none."""
    if value != value:
        return "-"
    if value == 0:
        return "0"
    return f"{value:+.3g}" if sign else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def median_and_range(values: Any) -> str:
    """The median of some numbers, and the smallest and the largest."""
    low, middle, high = (figures(value) for value in values.quantile([0, 0.5, 1]))
    return f"{middle} ({low} to {high})"


def rows_are(maps: "xr.DataArray") -> str:
    """What the rows of a comparison are, in a word."""
    return "neurons x stimuli" if "stimulus" in maps.dims else "neurons"


def named_by(row: Any, by: Sequence[str]) -> tuple[str, ...]:
    """The labels of a group, as text."""
    from pipeline.numbers.comparing import label_text

    return tuple(label_text(row[name]) for name in by)
