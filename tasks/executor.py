"""What the driver asks of whatever computes its bundles, be it Ray or another kind of cluster."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.plan.shard_reports import Problem, ShardReport
from tasks.ledger import Assignment

#: What a bundle is known by, as the executor gave it.
Ticket = Hashable


@dataclass(frozen=True)
class Started:
    """A worker has begun with a bundle, so the deadline of its first shard runs from now."""

    node: str


@dataclass(frozen=True)
class BundleEnded:
    """A bundle came to its end."""

    #: Why it ended before its last report; None where it ended in good order.
    problem: Problem | None = None
    #: Why no worker can begin with any bundle, if that is what the problem says.
    setup: str | None = None


#: What comes back of a bundle: first that it started, then a report for each of its shards in order, then its end.
Item = Started | ShardReport | BundleEnded


class Executor(Protocol):
    """A place where bundles are computed. Nothing of it waits, but `poll` for as long as it is told."""

    def submit(self, assignment: Assignment) -> Ticket:
        """Hand over a bundle; it is computed as soon as there is room for it."""

    def poll(self, bundles: Sequence[Ticket], timeout_s: float) -> list[tuple[Ticket, Item]]:
        """What has arrived of some bundles, at most one item of each, waiting for the first one."""

    def cancel(self, bundle: Ticket) -> None:
        """End a bundle at once, whatever it is doing."""

    def slots(self) -> int | None:
        """How many bundles can be computed at a time; None where the place does not answer at the moment."""

    def why_lost(self) -> str | None:
        """Why nothing will be computed here any more, once that is so."""

    def shortage(self) -> str:
        """What each bundle asks for, and what there is, in words; for a run in which nothing starts."""
