"""`gradmap status` and `gradmap verify`: what a store holds, what it lacks, and whether that is true."""

import argparse
from pathlib import Path
from typing import Any

from pipeline.plan.config import is_url, load_config
from pipeline.text import printable
from tasks.outcome import COMPLETE, FAILURES, STOPPED, counted, last_line, text_table, trust_line, write_json
from tasks.terminal import LONGEST_LINE, tell

#: Checkpoints and failures that are listed on the screen; the others are counted, and the report has all.
LISTED = 40


def add_parser(commands: Any) -> None:
    """Describe the commands to the argument parser."""
    status_parser = commands.add_parser("status", help="what a store holds, what it lacks, and why")
    status_parser.add_argument("store", metavar="CONFIG|STORE", help="run configuration (TOML), or a store")
    status_parser.add_argument("--json", type=Path, metavar="FILE", help="write everything for other programs")
    status_parser.set_defaults(call=status)
    verify_parser = commands.add_parser(
        "verify", help="decode everything a store holds, and compare it with its claims"
    )
    verify_parser.add_argument("store", metavar="CONFIG|STORE", help="run configuration (TOML), or a store")
    verify_parser.add_argument("--requeue", action="store_true", help="mark what is wrong or failed for the next run")
    verify_parser.add_argument("--json", type=Path, metavar="FILE", help="write every finding for other programs")
    verify_parser.set_defaults(call=verify)


def store_named(argument: str) -> str:
    """The store that a command was given: itself, or the one that a config names."""
    if not is_url(argument) and (argument.endswith(".toml") or Path(argument).is_file()):
        return load_config(argument).store_location()
    return argument


def status(arguments: argparse.Namespace) -> int:
    """Print what a store holds; the exit status says whether that is everything."""
    from pipeline.store.status import Counts, store_status

    location = store_named(arguments.store)
    if not is_url(location) and not Path(location).exists() and location != arguments.store:
        tell(f"nothing has been computed yet: there is no {location}")
        tell(last_line(STOPPED, f"0 shards done; {location}"))
        return STOPPED
    cohorts = store_status(location)
    for cohort in cohorts:
        _print_cohort(cohort)
    if health := trust_line(cohorts):
        tell(health)
    total = sum((cohort.regions for cohort in cohorts), Counts())
    ended = FAILURES if total.failed else STOPPED if total.pending else COMPLETE
    if arguments.json is not None:
        write_json(arguments.json, {"store": location, "exit_status": ended, "cohorts": list(cohorts)})
    counts = f"{counted(total.done, 'shard')} done, {total.failed:,} failed, {total.pending:,} pending; {location}"
    tell(last_line(ended, counts))
    return ended


def verify(arguments: argparse.Namespace) -> int:
    """Check everything in a store; exit status 0 sound and complete, 3 something wrong or failed, 4 only unfinished."""
    from contextlib import nullcontext

    from pipeline.store.lease import hold_lease
    from pipeline.store.verify import verify_store

    location = store_named(arguments.store)
    held = hold_lease(location, owner="gradmap verify --requeue") if arguments.requeue else nullcontext()
    with held:
        found = verify_store(location, requeue=arguments.requeue)
    lines = found.lines()
    for line in lines[:-1]:
        tell(printable(line, LONGEST_LINE))
    wrong = not found.sound or bool(found.counts().get("failed"))
    ended = COMPLETE if found.sound and found.complete else FAILURES if wrong and not arguments.requeue else STOPPED
    if arguments.json is not None:
        write_json(
            arguments.json,
            {
                "store": location,
                "exit_status": ended,
                "sound": found.sound,
                "complete": found.complete,
                "regions": found.regions,
                "objects": found.objects,
                "done": found.done,
                "requeued": found.requeued,
                "counts": found.counts(),
                "findings": list(found.findings),
            },
        )
    tell(f"gradmap: {lines[-1]} (exit status {ended})")
    return ended


def _print_cohort(cohort: Any) -> None:
    tell(f"{cohort.name}: {counted(len(cohort.checkpoints), 'checkpoint')}, {counted(cohort.n_neurons, 'neuron')}")
    if cohort.state != "ready":
        tell(f"  its layout is {cohort.state}: a run was interrupted while it was made; run again")
        return
    rows: list[tuple[object, ...]] = [
        (entry.name, entry.regions.done, entry.regions.failed, entry.regions.pending) for entry in cohort.maps
    ]
    tell(text_table(("map", "shards done", "failed", "pending"), rows))
    unfinished = [
        (label, entry.name, counts.done, counts.failed, counts.pending)
        for entry in cohort.maps
        for label, counts in entry.by_checkpoint.items()
        if counts.failed or counts.pending
    ]
    if unfinished:
        listed: list[tuple[object, ...]] = list(unfinished[:LISTED])
        tell(text_table(("checkpoint", "map", "done", "failed", "pending"), listed))
        if len(unfinished) > LISTED:
            tell(f"... and {len(unfinished) - LISTED} more")
    for failure in cohort.failures[:LISTED]:
        shards = counted(failure.shards, "shard")
        where = f"{failure.checkpoint} {failure.map}"
        tell(printable(f"failed: {where}: {failure.cause} ({shards}): {failure.message}", LONGEST_LINE))
    if len(cohort.failures) > LISTED:
        tell(f"... and {len(cohort.failures) - LISTED} more failures")
    tell()
