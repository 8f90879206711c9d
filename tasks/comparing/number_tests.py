"""The numbers of dynamic STRFs in `gradmap reliability` and `gradmap compare`: seeds that agree, groups that differ."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.text import counted
from tasks.comparing.group_tests import figures, pooled, print_tests, unit_of
from tasks.terminal import tell, tell_table

if TYPE_CHECKING:
    import xarray as xr

    from pipeline.numbers.counted_maps import ChosenNumbers

#: Rows of the table of agreement that are listed on the screen.
LISTED = 40


def numbers_asked(cubes: Mapping[str, "xr.Dataset"], arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """The numbers to test, by the name of their map: of the map named, or of all that have any."""
    from pipeline.numbers.comparing import NUMBERS_COMPARED
    from pipeline.numbers.counted_maps import numbers_per_neuron
    from pipeline.words import owner_of, variable_name

    there: dict[str, dict[str, None]] = {}
    for cube in cubes.values():
        for owner, names in numbers_per_neuron(cube).items():
            if arguments.map is None or owner in (arguments.map, owner_of(cube, arguments.map)):
                there.setdefault(owner, {}).update(dict.fromkeys(names))
    words = getattr(arguments, "measure", None) or NUMBERS_COMPARED
    asked = {}
    for owner, known in there.items():
        spelt = [one for word in words for one in (word, variable_name(owner, word)) if one in known]
        if spelt:
            asked[owner] = tuple(dict.fromkeys(spelt))
    return asked


def measures_left(asked: Mapping[str, Sequence[str]], measures: Sequence[str]) -> list[str]:
    """The measures named that are no numbers of a map, and so are taken of the maps themselves."""
    from pipeline.words import variable_name

    return [
        word
        for word in measures
        if not any(one in (word, variable_name(owner, word)) for owner, names in asked.items() for one in names)
    ]


def print_number_tests(
    cubes: Mapping[str, "xr.Dataset"],
    asked: Mapping[str, Sequence[str]],
    arguments: argparse.Namespace,
    *,
    explained: bool,
) -> list[Mapping[Any, Any]]:
    """A paired test for each number, a table for each map, its columns ``explained``; the rows of all."""
    from pipeline.numbers.comparing import compare_numbers

    rows: list[Mapping[Any, Any]] = []
    for owner, names in asked.items():
        chosen = _that_count(cubes, owner, names, arguments, (arguments.reference, arguments.other))
        if not chosen:
            continue
        parts = {cohort: found.numbers for cohort, found in chosen.items()}
        unit, site = unit_of(parts.values(), arguments)
        pair = (arguments.reference, arguments.other)
        tests = compare_numbers(pooled(parts), *pair, arguments.by, site=site)
        tell()
        tell(_counted(owner, chosen))
        print_tests(tests, arguments, unit, explained=explained and not rows)
        rows += tests.assign(map=owner).to_dict("records")
    if rows:
        tell(
            "numbers are averaged over sounds; complexity and the sizes grow with the number of frames, so they compare"
            " over equal sounds only, as those of one cohort are; temporal hold is a statistic, not a duration"
        )
    return rows


def print_number_agreement(
    cubes: Mapping[str, "xr.Dataset"], asked: Mapping[str, Sequence[str]], arguments: argparse.Namespace
) -> list[Mapping[Any, Any]]:
    """How far checkpoints agree on the numbers of their neurons; the rows of all."""
    import pandas as pd

    from pipeline.numbers.agreement.number_agreement import number_reliability

    by: list[str] = arguments.by
    rows: list[Mapping[Any, Any]] = []
    for owner, names in asked.items():
        chosen = _that_count(cubes, owner, names, arguments)
        tables = [
            number_reliability(found.numbers, by, n_null=arguments.shuffles).assign(cohort=cohort, map=owner)
            for cohort, found in chosen.items()
        ]
        if not tables:
            continue
        table = pd.concat(tables)
        tell()
        tell(_counted(owner, chosen))
        several = ("cohort",) if len(chosen) > 1 else ()
        header = ("number", *by, *several, "checkpoints", "neurons", "rank r", "ceiling", "p", "p adjusted")
        shown = [_agreement_row(row, (*by, *several)) for _, row in table.head(LISTED).iterrows()]
        others = " rows; --cohort NAME shows those of one cohort"
        tell_table(header, shown, left_out=len(table) - len(shown), others=others)
        rows += table.to_dict("records")
    if rows:
        tell(
            "rank r: mean over pairs of checkpoints of the rank correlation of their neurons' numbers; p: against"
            " neurons permuted in every checkpoint, which are taken as independent of each other; ceiling: correlation"
            " with the truth that the mean over the checkpoints can have"
        )
    return rows


def _agreement_row(row: Any, labels: Sequence[str]) -> tuple[object, ...]:
    from pipeline.numbers.comparing import label_text

    numbers = (figures(row[name]) for name in ("r", "ceiling", "p_value", "p_adjusted"))
    return (row["number"], *(label_text(row[name]) for name in labels), row["checkpoints"], row["neurons"], *numbers)


def _that_count(
    cubes: Mapping[str, "xr.Dataset"],
    owner: str,
    names: Sequence[str],
    arguments: argparse.Namespace,
    groups: Sequence[str] = (),
) -> dict[str, "ChosenNumbers"]:
    """The numbers of the maps that count, of each cohort that has them and the labels that are asked for."""
    from pipeline.numbers.comparing import label_text
    from pipeline.numbers.counted_maps import choose_numbers, numbers_per_neuron

    labels = [arguments.by] if isinstance(arguments.by, str) else list(arguments.by)
    found = {}
    for cohort, cube in cubes.items():
        here = [name for name in names if name in numbers_per_neuron(cube).get(owner, ())]
        if not here or any(label not in cube.coords for label in labels):
            continue
        if not set(groups) <= {label_text(value) for value in cube[labels[0]].values.tolist()}:
            continue
        chosen = choose_numbers(cube, owner, here, arguments.select, untrusted=arguments.untrusted)
        if chosen.kept:
            found[cohort] = chosen
    return found


def _counted(owner: str, chosen: Mapping[str, "ChosenNumbers"]) -> str:
    kept, total = (sum(getattr(one, key) for one in chosen.values()) for key in ("kept", "total"))
    where = f"cohort {next(iter(chosen))}" if len(chosen) == 1 else counted(len(chosen), "cohort")
    return f"numbers of {owner} in {where}: those of {kept:,} of {total:,} maps counted"
