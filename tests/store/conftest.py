"""Stores to work on."""

import pytest

from pipeline.plan.shards import RunPlan
from pipeline.store import create_or_extend, record, write_region
from pipeline.store.cube import align
from pipeline.store.regions import label
from pipeline.store.status import pending_shards
from tests.store.plans import HEALTH, done, numbers, run_plan


@pytest.fixture
def store(tmp_path):
    return tmp_path / "gradmaps.zarr"


@pytest.fixture
def laid_out(store) -> RunPlan:
    """A run whose cube is laid out and empty."""
    plan = run_plan(store)
    create_or_extend(plan, health_flags=HEALTH)
    return align(plan)


def compute(plan: RunPlan, shards=None) -> list:
    """Write and record shards; all pending ones by default."""
    shards = pending_shards(plan) if shards is None else shards
    for shard in shards:
        write_region(plan, shard, label(plan, shard, numbers(plan, shard)))
    record(plan, [done(plan, shard) for shard in shards])
    return shards


@pytest.fixture
def finished(laid_out) -> RunPlan:
    """A run of which everything is done."""
    compute(laid_out)
    return laid_out
