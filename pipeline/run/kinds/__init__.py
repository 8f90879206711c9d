"""The kinds of map, one file each: what a shard computes. See `pipeline.plan.kinds` for how a kind is added."""

from pipeline.registry import Registry
from pipeline.run.job import Compute

#: What computes a shard of each kind of map, by the word in ``kind = "..."``.
COMPUTE: Registry[Compute] = Registry("pipeline.run.kinds", "compute of the kind of map")
