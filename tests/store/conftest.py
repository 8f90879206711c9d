"""Stores to work on."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.plan.run_plan import RunPlan
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.record import record
from tests.store.plans import HEALTH, done, pending_shards, run_plan, write


@pytest.fixture
def store(tmp_path):
    return tmp_path / "gradmaps.zarr"


@pytest.fixture(scope="session")
def empty_once(tmp_path_factory) -> RunPlan:
    """A laid-out run to be copied."""
    plan = run_plan(tmp_path_factory.mktemp("empty") / "gradmaps.zarr")
    create_or_extend(plan, health_flags=HEALTH)
    return align(plan)


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory, empty_once) -> RunPlan:
    """A finished run to be copied."""
    plan = copied(empty_once, tmp_path_factory.mktemp("finished") / "gradmaps.zarr")
    compute(plan)
    return plan


def copied(plan: RunPlan, store: Path) -> RunPlan:
    """The same run in another place."""
    shutil.copytree(plan.store, store)
    return replace(plan, store=str(store))


@pytest.fixture
def laid_out(empty_once, store) -> RunPlan:
    """A run whose cube is laid out and empty."""
    return copied(empty_once, store)


def compute(plan: RunPlan, shards=None) -> list:
    """Write and record shards; all pending ones by default."""
    shards = pending_shards(plan) if shards is None else shards
    for shard in shards:
        write(plan, shard)
    record(plan, [done(plan, shard) for shard in shards])
    return shards


@pytest.fixture
def finished(finished_once, store) -> RunPlan:
    """A run of which everything is done."""
    return copied(finished_once, store)
