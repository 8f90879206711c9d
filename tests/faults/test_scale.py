"""Ten thousand checkpoints of a thousand neurons, without the hardware: what the driver costs in time and memory."""

import gc
import time
import tracemalloc
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import load_config, plan_shards
from pipeline.gradients.health.flags import FLAGS
from pipeline.plan.run_plan import RunPlan
from pipeline.plan.run_weight import weight_of
from pipeline.plan.shard_reports import ShardReport
from pipeline.run.driver import bundles, computable, open_run
from pipeline.run.prepare import prepare_run
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.status import backlog
from tasks.cli import main
from tests.faults.lab import write_lab
from tests.store.plans import cohort, labelled, run_plan, strf

NEURONS = 1000


@dataclass
class Figures:
    """What was measured, printed as a table at the end."""

    rows: list[str] = field(default_factory=list)

    @contextmanager
    def time(self, what: str, limit: float):
        gc.collect()
        started = time.perf_counter()
        yield
        took = time.perf_counter() - started
        self.rows.append(f"| {what} | {took:.2f} s |")
        print(self.rows[-1])
        assert took < limit, f"{what} took {took:.1f} s, and {limit} s were promised"

    def note(self, what: str, value: str) -> None:
        self.rows.append(f"| {what} | {value} |")
        print(self.rows[-1])


def planned(store: Path, n_checkpoints: int) -> RunPlan:
    """A run as plain data: small maps, so that what is measured is the driver."""
    names = [f"model-{number:05d}" for number in range(n_checkpoints)]
    entry = strf(NEURONS, 2, 2, block=NEURONS)
    return run_plan(store, cohort(names, n_neurons=NEURONS, bands=2, lags=2, maps=[entry]))


def no_op(shard, probe) -> ShardReport:
    """The report of a shard that was not computed, with everything that a real one carries."""
    companions = {
        "health": np.zeros(NEURONS, np.uint16),
        "memory_90": np.full(NEURONS, 40.0, np.float32),
        "memory_99": np.full(NEURONS, 80.0, np.float32),
        "oldest_share": np.full(NEURONS, 0.01, np.float32),
        "frame": np.full(NEURONS, 1, np.int32),
    }
    return ShardReport(shard, route="factored", companions=companions, probe=probe)


def resident_mib() -> float:
    fields = Path("/proc/self/status").read_text().split()
    return int(fields[fields.index("VmRSS:") + 1]) / 1024


def simulate(store: Path, n_checkpoints: int, *, write: bool, limit: float) -> None:
    """Plan, lay out, compute nothing at all and record it, stop half way, resume, ask for the status."""
    figures = Figures()
    size = f"{n_checkpoints:,} checkpoints x {NEURONS:,} neurons"
    with figures.time(f"planning {size}", limit):
        plan = planned(store, n_checkpoints)
        assert len(plan_shards(plan)) == n_checkpoints
        assert weight_of(plan).shards == n_checkpoints
    with figures.time("laying out the cube", limit):
        create_or_extend(plan, health_flags=FLAGS)
    figures.note("objects of an empty cube", f"{sum(1 for path in store.rglob('*') if path.is_file()):,}")
    aligned = align(plan)
    half = n_checkpoints // 2
    with figures.time(f"first half of the run, {half:,} shards of no work, memory traced", 10 * limit):
        grown = drive(plan, aligned, half, write=write, traced=True)
    for what, (first, last) in grown.items():
        figures.note(f"{what}, after a tenth and at the end of that half", f"{first:.1f} and {last:.1f} MiB")
    # Flat: what is left at the end does not grow with the shards that were recorded.
    first, last = grown["objects of the driver (tracemalloc)"]
    assert last < first + 8.0 + 1e-4 * half
    with figures.time("resume scan", 2.0):
        left = backlog(aligned)
    assert (left.done, len(left.pending)) == (half, n_checkpoints - half)
    with figures.time("gradmap status", 2.0 if n_checkpoints <= 1000 else 2 * limit):
        assert main(["status", str(store)]) == 4
    with figures.time(f"second half, {n_checkpoints - half:,} shards", 10 * limit):
        drive(plan, aligned, n_checkpoints, write=write)
    with figures.time("third start, nothing left", 2 * limit), open_run(plan) as opened:
        assert (opened.pending, opened.done_before) == ([], n_checkpoints)
    with figures.time("gradmap status of the finished cube", 2.0 if n_checkpoints <= 1000 else 2 * limit):
        assert main(["status", str(store)]) == 0
    print("\n".join(["", "| what | measured |", "| --- | --- |", *figures.rows]))


def drive(
    plan: RunPlan, aligned: RunPlan, count: int, *, write: bool, traced: bool = False
) -> dict[str, tuple[float, float]]:
    """The loop of a local run without the engine, until so many shards are done; memory early and late."""
    probe = np.ones(NEURONS, np.float32)
    block = np.ones((NEURONS, 2, 2), np.float32)
    seen: list[tuple[float, float]] = []
    if traced:
        tracemalloc.start()
    try:
        with open_run(plan) as opened:
            shards = [shard for bundle in bundles(computable(opened)) for shard in bundle.shards]
            shards = shards[: count - opened.done_before]
            for number, shard in enumerate(shards):
                if write:
                    write(aligned, shard, labelled(aligned, shard, block))
                opened.record(no_op(shard, probe))
                if traced and number and number % max(1, len(shards) // 10) == 0:
                    opened.flush()
                    gc.collect()
                    seen.append((tracemalloc.get_traced_memory()[0] / 2**20, resident_mib()))
    finally:
        tracemalloc.stop()
    if not seen:
        return {}
    return {
        "objects of the driver (tracemalloc)": (seen[0][0], seen[-1][0]),
        "resident memory of the driver": (seen[0][1], seen[-1][1]),
    }


def test_a_run_of_500_checkpoints_and_1000_neurons_costs_seconds(tmp_path):
    simulate(tmp_path / "cube.zarr", 500, write=False, limit=15.0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_of_10000_checkpoints_and_1000_neurons_costs_minutes(tmp_path):
    simulate(tmp_path / "cube.zarr", 10_000, write=False, limit=30.0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_of_2000_checkpoints_that_writes_every_map(tmp_path):
    simulate(tmp_path / "cube.zarr", 2000, write=True, limit=30.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_checkpoints_are_described_in_milliseconds_each(tmp_path):
    config = load_config(write_lab(tmp_path, 500))
    figures = Figures()
    with figures.time("reading 500 small checkpoints (driver, before any compute)", 60.0):
        plan = prepare_run(config)
    assert len(plan.cohorts[0].checkpoints) == 500
    again = replace(plan, store=str(tmp_path / "other.zarr"))
    with figures.time("laying out 500 checkpoints", 20.0):
        create_or_extend(again, health_flags=FLAGS)
