"""Stores of the size that runs have are laid out, read and continued within the times that were promised."""

import time
from contextlib import contextmanager

import numpy as np
import pytest

from pipeline.plan.shard_reports import ShardReport
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.reader import open_cube
from pipeline.store.record import record
from pipeline.store.status import backlog, store_status
from tests.store.plans import HEALTH, cohort, labelled, pending_shards, run_plan, strf, write

pytestmark = pytest.mark.slow


@contextmanager
def within(seconds, what):
    started = time.perf_counter()
    yield
    took = time.perf_counter() - started
    print(f"{what}: {took:.3f} s (of {seconds} s)")
    assert took < seconds, f"{what} took {took:.2f} s"


def laid_out(store, n_checkpoints, n_neurons, block):
    names = [f"model-{i:05d}" for i in range(n_checkpoints)]
    maps = [strf(n_neurons, 2, 2, block=block)]
    plan = run_plan(store, cohort(names, n_neurons=n_neurons, bands=2, lags=2, maps=maps))
    with within(10, f"layout of {n_checkpoints} x {n_neurons}"):
        create_or_extend(plan, health_flags=HEALTH)
    return align(plan)


def test_status_of_300_checkpoints_and_1000_neurons_answers_within_2_seconds(store):
    plan = laid_out(store, 300, 1000, 100)
    shards = pending_shards(plan)
    assert len(shards) == 3000
    with within(30, "record of 3000 shards"):
        for start in range(0, 3000, 100):
            record(plan, [ShardReport(shard, route="factored") for shard in shards[start : start + 100]])
    with within(2, "status"):
        (status,) = store_status(store)
    assert status.regions.done == 3000
    with within(2, "opening"):
        open_cube(store)


def test_a_resume_scan_of_10000_shards_takes_less_than_2_seconds(store):
    plan = laid_out(store, 1000, 100, 10)
    shards = pending_shards(plan)
    record(plan, [ShardReport(shard) for shard in shards[:5000]])
    with within(2, "resume scan of 10000 shards"):
        left = backlog(plan)
    assert left.pending == shards[5000:]
    assert left.done == 5000


def test_ten_thousand_checkpoints_of_a_thousand_neurons_are_laid_out_and_recorded(store):
    plan = laid_out(store, 10_000, 1000, 1000)
    shards = pending_shards(plan)
    assert len(shards) == 10_000
    answer = np.ones(1000, np.float32)
    with within(60, "record of 10000 checkpoints, 250 at a time"):
        for start in range(0, 10_000, 250):
            some = shards[start : start + 250]
            record(plan, [ShardReport(shard, route="factored", probe=answer) for shard in some])
    with within(5, "resume scan of 10000 checkpoints x 1000 neurons"):
        assert backlog(plan).done == 10_000
    with within(5, "second start"):
        create_or_extend(plan, health_flags=HEALTH)


def test_a_write_costs_milliseconds_besides_its_bytes(store):
    plan = laid_out(store, 20, 100, 10)
    shards = pending_shards(plan)
    blocks = [labelled(plan, shard, np.ones((10, 2, 2), np.float32)) for shard in shards]
    write(plan, shards[0], blocks[0])
    started = time.perf_counter()
    for shard, block in zip(shards, blocks, strict=True):
        write(plan, shard, block)
    each = (time.perf_counter() - started) / len(shards)
    print(f"{1000 * each:.2f} ms per write")
    assert each < 0.02
