"""A run cut into shards: which numbers are to be computed, and by whom."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from pipeline.plan.axes import Block, blocks
from pipeline.plan.run_plan import CohortPlan, MapPlan, RunPlan


@dataclass(frozen=True)
class Shard:
    """One piece of work: a map of one checkpoint, a block of neurons, a block of stimuli; whole chunks of the cube."""

    cohort: str
    checkpoint: int
    map: str
    neurons: Block | None
    stimuli: Block | None

    def key(self) -> str:
        """A short name for messages and ledgers."""
        parts = [self.cohort, str(self.checkpoint), self.map]
        if self.neurons is not None:
            parts.append(f"neurons {self.neurons.start}:{self.neurons.stop}")
        if self.stimuli is not None:
            parts.append(f"stimuli {self.stimuli.start}:{self.stimuli.stop}")
        return "/".join(parts)

    def region(self, plan: MapPlan) -> dict[str, slice]:
        """The positions that this shard owns along each axis of its map."""
        owned = {dim: slice(0, len(axis)) for dim, axis in plan.axes.items()}
        owned["checkpoint"] = slice(self.checkpoint, self.checkpoint + 1)
        if self.neurons is not None:
            owned["neuron"] = self.neurons.slice()
        if self.stimuli is not None and plan.stimulus_dim is not None:
            owned[plan.stimulus_dim] = self.stimuli.slice()
        return owned


def cut_shards(cohort: CohortPlan) -> Iterator[Shard]:
    """The shards of a cohort, checkpoint by checkpoint, each one cut on the chunk grid of the cube.

    Every number of every map of every checkpoint belongs to exactly one shard, and no two shards share a chunk.
    """
    for position, checkpoint in enumerate(cohort.checkpoints):
        for entry in cohort.maps:
            if entry.settings.computed_for(checkpoint):
                for neurons, stimuli in product(cut_blocks(entry, "neuron"), cut_blocks(entry, entry.stimulus_dim)):
                    yield Shard(cohort.name, position, entry.name, neurons, stimuli)


def cut_blocks(entry: MapPlan, dim: str | None) -> list[Block | None]:
    """The blocks into which shards cut a map along an axis; one None where they do not."""
    return [*blocks(entry.size(dim), entry.blocks[dim])] if dim in entry.blocks and dim is not None else [None]


def shards_of(plan: RunPlan) -> tuple[Shard, ...]:
    """Every shard of a run, cohort by cohort and checkpoint by checkpoint."""
    return tuple(shard for cohort in plan.cohorts for shard in cut_shards(cohort))
