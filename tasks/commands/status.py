"""`gradmap status`: what a store holds, what it lacks, and why."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.plan.config import ConfigError, is_url
from pipeline.text import counted
from tasks.finished import COMPLETE, FAILURES, STOPPED, Finished, last_line, merged_failures, trust_line
from tasks.parsing import STORE, new_command, store_named
from tasks.terminal import BAD, DOUBTFUL, tell, tell_lines, tell_table

#: Checkpoints and failures that are listed on the screen; the others are counted, and the report has all.
LISTED = 40

#: From so many cohorts on they are folded: those with something missing come first, and so many lines are printed.
MANY = 8
FOLDED = 15


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    examples = ("status run.toml", "status gradmaps.zarr --json - | jq .cohorts[].failures")
    parser = new_command(commands, status, "what a store holds, what it lacks, and why", *examples)
    parser.add_argument("store", **STORE)
    parser.add_argument("--cohort", metavar="NAME", help="only this cohort (default: all, folded if many)")


def status(arguments: argparse.Namespace) -> Finished:
    """What a store holds, printed; the exit status says whether that is everything."""
    from pipeline.store.status import Counts, store_status

    location = store_named(arguments.store)
    if not is_url(location) and not Path(location).exists() and location != arguments.store:
        tell(f"nothing has been computed yet: there is no {location}")
        return Finished(STOPPED, last_line(STOPPED, f"0 shards done; {location}"), {"store": location, "cohorts": []})
    cohorts = _asked(store_status(location), arguments.cohort)
    if location != arguments.store:
        tell(f"store: {location}")
    _print_cohorts(cohorts)
    if health := trust_line(cohorts):
        tell(health, DOUBTFUL if any(entry.flagged for cohort in cohorts for entry in cohort.maps) else "")
    total = sum((cohort.regions for cohort in cohorts), Counts())
    ended = STOPPED if total.pending else FAILURES if total.failed else COMPLETE  # as of a run
    counts = [f"{counted(total.done, 'shard')} done"]
    counts += [
        f"{number:,} {word}" for number, word in ((total.failed, "failed"), (total.pending, "pending")) if number
    ]
    return Finished(ended, last_line(ended, ", ".join(counts)), {"store": location, "cohorts": list(cohorts)})


def _asked(cohorts: Sequence[Any], name: str | None) -> Sequence[Any]:
    """The cohort that was named, or all."""
    found = [cohort for cohort in cohorts if name in (None, cohort.name)]
    if not found and name is not None:
        some = ", ".join(cohort.name for cohort in cohorts[:LISTED])
        raise ConfigError(f"there is no cohort {name!r} in the store (it has {some or 'none'}); name one of them")
    return found


def _print_cohorts(cohorts: Sequence[Any]) -> None:
    """One table of all maps of all cohorts, then what is missing and what failed, each once."""
    for cohort in cohorts:
        if cohort.state != "ready":
            tell(f"{cohort.name}: its layout is {cohort.state}: a run was interrupted while it was made; run again")
    listed = LISTED if len(cohorts) <= MANY else FOLDED
    rows = [
        (cohort.name, len(cohort.checkpoints), cohort.n_neurons, entry.name, done.done, done.failed, done.pending)
        for cohort in cohorts
        for entry in cohort.maps
        for done in (entry.regions,)
    ]
    if len(cohorts) > MANY:
        rows = [*_summed(cohorts), *sorted(rows, key=lambda row: (not row[5], not row[6]))]
    if rows:
        styles = [BAD if row[5] else DOUBTFUL if row[6] else "" for row in rows]
        header = ("cohort", "checkpoints", "neurons", "map", "shards done", "failed", "pending")
        others = " maps of cohorts; --cohort NAME shows one, --json lists all"
        tell_table(header, rows[:listed], styles, left_out=len(rows) - listed, others=others)
    _print_unfinished(cohorts, listed)
    _print_failures(cohorts, listed)


def _summed(cohorts: Sequence[Any]) -> list[tuple[str, int, int, str, int, int, int]]:
    """A row for each map over all cohorts."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for cohort in cohorts:
        for entry in cohort.maps:
            done = entry.regions
            numbers = (len(cohort.checkpoints), cohort.n_neurons, done.done, done.failed, done.pending)
            found.setdefault(entry.name, []).append(numbers)
    sums = {name: [sum(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}
    return [(f"all {len(found[name])}", s[0], s[1], name, s[2], s[3], s[4]) for name, s in sums.items()]


def _print_unfinished(cohorts: Sequence[Any], listed: int) -> None:
    unfinished = [
        (cohort.name, label, entry.name, counts.done, counts.pending)
        for cohort in cohorts
        for entry in cohort.maps
        for label, counts in entry.by_checkpoint.items()
        if counts.pending
    ]
    if unfinished:
        tell()
        header, more = ("cohort", "checkpoint", "map", "done", "pending"), len(unfinished) - listed
        tell_table(header, unfinished[:listed], left_out=more, others="; --json lists all")


def _print_failures(cohorts: Sequence[Any], listed: int) -> None:
    where = "{checkpoint}" + (" of {cohort}" if len(cohorts) > 1 else "")
    failures = merged_failures((failure for cohort in cohorts for failure in cohort.failures), where)
    tell_lines(failures, BAD, most=listed, others=" failures; --json lists all")
