"""What comes back from the work: one report per shard, plain values only."""

from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.plan.shards import Shard
from pipeline.text import printable
from pipeline.words import Cause


@dataclass(frozen=True)
class Problem:
    """One thing that went wrong with a shard: its cause in one word, and a message for a person.

    The message is one line of bounded length, whatever an exception held; it goes to logs, records and pages.
    """

    cause: Cause
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", printable(self.message))


@dataclass(frozen=True)
class Failure:
    """Shards of one map of one checkpoint that failed for one reason: how many, with the message of the first."""

    cohort: str
    checkpoint: str
    map: str
    cause: str
    message: str
    shards: int = 1

    @property
    def key(self) -> tuple[str, str, str, str]:
        """By which failures are one and the same."""
        return (self.cohort, self.checkpoint, self.map, self.cause)


def tally(failures: dict[tuple[str, str, str, str], Failure], failure: Failure) -> None:
    """Count a failure among those noted before it."""
    known = failures.get(failure.key)
    failures[failure.key] = failure if known is None else replace(known, shards=known.shards + failure.shards)


@dataclass(frozen=True)
class ShardReport:
    """The outcome of one shard; ``problem`` is None where its region was written.

    ``companions`` holds, for each ending of `pipeline.words.COMPANIONS`, an array over the shard's (neuron[,
    stimulus]), or over (stimulus,) or () for a map summed over the population. ``digests`` has one number per entry of
    the region that was written, by which `gradmap verify` knows it again.
    """

    shard: Shard
    problem: Problem | None = None
    route: str = ""
    device: str = ""
    block: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0
    attempts: int = 1
    companions: dict[str, np.ndarray] = field(default_factory=dict)
    probe: np.ndarray | None = None
    digests: np.ndarray | None = None

    def failure(self, checkpoint: str) -> Failure | None:
        """The failure that the report tells of, for the checkpoint of that name; None where there is none."""
        if self.problem is None:
            return None
        return Failure(self.shard.cohort, checkpoint, self.shard.map, self.problem.cause, self.problem.message)

    @property
    def done(self) -> bool:
        """Whether the shard's region holds its numbers."""
        return self.problem is None


def span(what: str, labels: tuple[str, ...]) -> str:
    """Neighbouring labels of an axis in words, such as ``neuron ch0 to ch9``."""
    if not labels:
        return ""
    return f"{what} {labels[0]}" if len(labels) == 1 else f"{what} {labels[0]} to {labels[-1]}"
