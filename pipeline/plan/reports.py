"""What comes back from the work: one report per shard, plain values only."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.plan.shards import Shard

#: Why a checkpoint or a shard failed, as it is counted and stored.
Cause = Literal["load", "non-finite", "compute", "out of memory", "crash", "hang", "storage", "infrastructure"]

#: Numbers that accompany each map, per neuron (and stimulus): name ending, dtype, what it is called.
COMPANIONS: dict[str, tuple[str, str, str]] = {
    "health": ("uint16", "", "reasons not to trust the map"),
    "memory_90": ("float32", "ms", "lag up to which 90 % of the energy of the map lies"),
    "memory_99": ("float32", "ms", "lag up to which 99 % of the energy of the map lies"),
    "oldest_share": ("float32", "1", "share of the energy of the map in the oldest tenth of its window"),
    "frame": ("int32", "1", "frame of the stimulus at lag 0, counted from 0"),
}


@dataclass(frozen=True)
class Problem:
    """One thing that went wrong with a shard: its cause in one word, and a message for a person."""

    cause: Cause
    message: str


@dataclass(frozen=True)
class ShardReport:
    """The outcome of one shard; ``problem`` is None where its region was written.

    ``companions`` holds, for each name of `COMPANIONS`, an array over the shard's (neuron[, stimulus]), or over
    (stimulus,) or () for a map summed over the population.
    """

    shard: Shard
    problem: Problem | None = None
    route: str = ""
    block: int = 0
    seconds: float = 0.0
    engine_seconds: float = 0.0
    attempts: int = 1
    companions: dict[str, np.ndarray] = field(default_factory=dict)
    probe: np.ndarray | None = None

    @property
    def done(self) -> bool:
        """Whether the shard's region holds its numbers."""
        return self.problem is None


def span(what: str, labels: tuple[str, ...]) -> str:
    """Neighbouring labels of an axis in words, such as ``neuron ch0 to ch9``."""
    if not labels:
        return ""
    return f"{what} {labels[0]}" if len(labels) == 1 else f"{what} {labels[0]} to {labels[-1]}"
