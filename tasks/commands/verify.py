"""`gradmap verify`: whether a store holds what it says it holds."""

import argparse
from contextlib import nullcontext
from typing import Any

from pipeline.text import printable
from tasks.finished import COMPLETE, FAILURES, STOPPED, Finished
from tasks.parsing import STORE, new_command, store_named
from tasks.terminal import LONGEST_LINE, tell


def add_parser(commands: Any) -> None:
    """Describe the command to the argument parser."""
    examples = ("verify gradmaps.zarr", "verify --requeue gradmaps.zarr && gradmap run run.toml")
    summary = "decode everything a store holds, and compare it with its claims"
    parser = new_command(commands, verify, summary, *examples)
    parser.add_argument("store", **STORE)
    parser.add_argument("--requeue", action="store_true", help="mark what is wrong or failed for the next run")


def verify(arguments: argparse.Namespace) -> Finished:
    """Everything in a store, checked; exit status 0 sound and complete, 3 wrong or failed, 4 only unfinished."""
    from pipeline.store.lease import hold_lease
    from pipeline.store.verify import verify_store

    location = store_named(arguments.store)
    held = hold_lease(location, owner="gradmap verify --requeue") if arguments.requeue else nullcontext()
    with held as lease:
        found = verify_store(location, requeue=arguments.requeue, held=None if lease is None else lease.store)
    lines = found.lines()
    for line in lines[:-1]:
        tell(printable(line, LONGEST_LINE))
    wrong = not found.sound or bool(found.counts().get("failed"))
    ended = COMPLETE if found.sound and found.complete else FAILURES if wrong and not arguments.requeue else STOPPED
    content = {name: getattr(found, name) for name in ("sound", "complete", "regions", "objects", "done", "requeued")}
    content |= {"store": location, "counts": found.counts(), "findings": list(found.findings)}
    return Finished(ended, f"gradmap: {lines[-1]} (exit status {ended})", content)
