"""The cohorts of a store that can answer a question about their maps, and why the others cannot."""

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.plan.run_plan import told_twins
from pipeline.text import counted
from tasks.parsing import STORE, store_named
from tasks.terminal import tell, tell_lines

if TYPE_CHECKING:
    import xarray as xr

    from pipeline.numbers.counted_maps import ChosenMaps

#: The map that is compared unless another is named.
MAP = "strf"

#: Sentences about cohorts that are printed one by one; what more there are is counted.
NOTES = 8


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both commands are given: a store, and which of its maps count."""
    parser.add_argument("store", **STORE)
    parser.add_argument("--cohort", metavar="NAME", help="only this cohort (default: every one that can answer)")
    words = "map of the cube (default: strf, with the numbers of every dynamic map)"
    parser.add_argument("--map", metavar="NAME", help=words)
    parser.add_argument(
        "--select", action="append", default=[], metavar="RULE", help="count maps by a rule such as 'cc_test > 0.3'"
    )
    parser.add_argument("--untrusted", action="store_true", help="count maps that carry a health flag as well")


def choose_cohorts(
    arguments: argparse.Namespace, by: Sequence[str], labels: Sequence[str] = (), site: str | None = None
) -> tuple[dict[str, "ChosenMaps"], dict[str, "xr.Dataset"]]:
    """The maps that count, of each cohort that can answer, and its cube; refused where none can, or the one named."""
    from pipeline.numbers.counted_maps import choose_maps, variable_of_map
    from pipeline.store.open_store import open_existing
    from pipeline.store.reader import open_cube, open_cubes

    location = store_named(arguments.store)
    names = open_existing(location).cohorts()
    if arguments.cohort is not None and arguments.cohort not in names:
        raise ValueError(
            f"the store {location} has no cohort {arguments.cohort!r}, so there is nothing to compare; its cohorts"
            f" are {', '.join(names) or 'none'}; name one of them"
        )
    asked = arguments.cohort
    cubes = open_cubes(location) if asked is None else {asked: open_cube(location, asked)}
    found: dict[str, ChosenMaps] = {}
    reasons: dict[str, list[str]] = {}
    for name, cube in cubes.items():
        variable = variable_of_map(cube, arguments.map or MAP)
        reason = _why_not(cube, variable, by, labels, site)
        if reason is None:
            chosen = choose_maps(cube, variable, arguments.select, untrusted=arguments.untrusted)
            if chosen.kept:
                found[name] = chosen
                continue
            reason = f"no map that counts: {chosen.in_words()}"
        reasons.setdefault(reason, []).append(name)
    _tell_left_aside(location, reasons, nobody=not found)
    twins = [
        sentence for name in found for sentence in told_twins(json.loads(cubes[name].attrs.get("fingerprints", "{}")))
    ]
    tell_lines(twins, most=NOTES, others=" models that several checkpoints hold")
    return found, {name: cubes[name] for name in found}


def _tell_left_aside(location: str, reasons: Mapping[str, Sequence[str]], *, nobody: bool) -> None:
    """Say which cohorts cannot answer, with one line for all that lack the same; refused where no other is left."""
    told = [f"{_cohorts_in_words(cohorts)} {reason}" for reason, cohorts in reasons.items()]
    if nobody:
        raise ValueError(
            f"{'; '.join(told[:NOTES]) or f'the store {location} has no cohort'}; maps are compared between the"
            " checkpoints of one cohort, by their labels; choose from what is there with --cohort, --map, --by and"
            " --select (--untrusted counts maps with health flags)"
        )
    for sentence in told[:NOTES]:
        tell(f"left aside: {sentence}")
    if len(told) > NOTES:
        more = sum(len(cohorts) for cohorts in list(reasons.values())[NOTES:])
        tell(f"left aside: {counted(more, 'cohort')} more, for reasons alike")


def _cohorts_in_words(names: Sequence[str]) -> str:
    """The subject of what is said of some cohorts, with its verb."""
    if len(names) == 1:
        return f"cohort {names[0]} has"
    some = f"{', '.join(names[:3])}, ..." if len(names) > 3 else ", ".join(names)
    return f"{len(names)} cohorts ({some}) have"


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
    known = sorted({label_text(value) for value in cube[by[0]].values.tolist()} - {""}) if labels else []
    absent = [label for label in labels if label not in known]
    if absent:
        return f"no checkpoint whose {by[0]} is {' or '.join(absent)} (they are {', '.join(known)})"
    return None


def print_counted(chosen: Mapping[str, "ChosenMaps"], name: str) -> None:
    """Which maps counted, of each cohort, or together where cohorts are many."""
    if len(chosen) <= NOTES:
        for cohort, found in chosen.items():
            tell(f"cohort {cohort}, map {name}: {found.in_words()}")
        return
    kept, total = (sum(getattr(found, key) for found in chosen.values()) for key in ("kept", "total"))
    tell(f"{len(chosen)} cohorts, map {name}: {kept:,} of {total:,} maps counted")
