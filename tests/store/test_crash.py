"""Whatever is killed, and whenever, the store is whole again after the next start."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray as xr

from pipeline.plan.shards import cut_shards
from pipeline.store.backend import clean_partials, open_store
from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.groups import is_consolidated
from pipeline.store.reader import open_cube
from pipeline.store.status import store_status
from pipeline.store.verify import verify_store
from pipeline.words import DONE
from tests.store.conftest import compute
from tests.store.plans import HEALTH, checkpoint, cohort, numbers, pending_shards, run_plan, waveform
from tests.store.test_cube import digests

WRITER = """
import sys
from dataclasses import replace
from pipeline.store.cube import create_or_extend
from pipeline.store.checkpoint_rows import align
from pipeline.store.record import record
from pipeline.store.regions import label, write_region
from tests.store.plans import pending_shards
from tests.store.plans import *
store, mode = sys.argv[1:]
plan = run_plan(store, cohort(n_neurons=40, bands=32, lags=64, block=20, stimuli=()))
if mode == "create":
    create_or_extend(plan, health_flags=HEALTH)
plan = align(plan)
print("ready", flush=True)
while True:
    for shard in pending_shards(plan):
        write(plan, shard)
        if mode == "record":
            record(plan, [done(plan, shard)])
"""


def big_plan(store):
    return run_plan(store, cohort(n_neurons=40, bands=32, lags=64, block=20, stimuli=()))


def start(store, mode, code=WRITER):
    process = subprocess.Popen([sys.executable, "-c", code, str(store), mode], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def assert_done_is_right(plan, store):
    """Wherever the status says done, the numbers are the ones that belong there."""
    cube = open_cube(store).load()
    for row, name in enumerate(cube.checkpoint.values):
        done = cube.strf_status.values[row] == DONE
        for shard in (shard for shard in _all(plan) if shard.checkpoint == row and shard.map == "strf"):
            some = shard.neurons.slice()
            if done[some].all():
                np.testing.assert_array_equal(cube.strf.values[row, some], numbers(plan, shard), err_msg=str(name))


def _all(plan):
    return list(cut_shards(plan.cohorts[0]))


def test_objects_are_old_or_new_after_a_kill_while_writing_and_orphans_are_removed(store):
    create_or_extend(big_plan(store), health_flags=HEALTH)
    plan = align(big_plan(store))
    clock = random.Random(0)
    for _ in range(2):
        process = start(store, "write")
        time.sleep(clock.uniform(0.02, 0.3))
        kill(process)
    (store / "speech/strf/c").mkdir(exist_ok=True)
    orphan = store / "speech/strf/c" / f"0.{'0123456789abcdef' * 2}.partial"
    orphan.write_bytes(b"half")
    (store / "speech/mine.partial").write_text("not ours")
    assert clean_partials(store) >= 1
    assert [path.name for path in store.rglob("*.partial")] == ["mine.partial"]
    (store / "speech/mine.partial").unlink()
    found = verify_store(store)
    assert found.sound
    assert set(found.counts()) <= {"unclaimed", "pending"}
    compute(plan)
    assert verify_store(store).complete


def test_a_kill_between_data_and_record_costs_only_that_shard(store):
    create_or_extend(big_plan(store), health_flags=HEALTH)
    plan = align(big_plan(store))
    shards = pending_shards(plan)
    process = start(store, "write")
    deadline = time.monotonic() + 20
    while not list((store / "speech/strf/c").rglob("0")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    kill(process)
    assert pending_shards(plan) == shards
    before = {key: digest for key, (digest, _) in digests(store / "speech/strf/c").items() if "partial" not in key}
    compute(plan)
    after = {key: digest for key, (digest, _) in digests(store / "speech/strf/c").items() if "partial" not in key}
    assert {key: after[key] for key in before} == before


@pytest.mark.parametrize("trial", range(3))
def test_a_kill_while_recording_never_shows_a_wrong_number(store, trial):
    create_or_extend(big_plan(store), health_flags=HEALTH)
    plan = align(big_plan(store))
    process = start(store, "record")
    time.sleep(random.Random(trial).uniform(0.0, 0.4))
    kill(process)
    clean_partials(store)
    create_or_extend(plan, health_flags=HEALTH)
    assert is_consolidated(open_store(store))
    assert verify_store(store).sound
    assert_done_is_right(plan, store)
    compute(plan)
    assert verify_store(store).complete
    assert_done_is_right(plan, store)


# Killed at every single write of a start

STOPPER = """
import json, os, signal, sys
import pipeline.store.backend as local
from pipeline.store.cube import create_or_extend
from tests.store.plans import *

put, left = local._put, -1

def stop(*args, **kwargs):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return put(*args, **kwargs)

local._put = stop
for store, step in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        left = step
        create_or_extend(eval(sys.argv[2]), health_flags=HEALTH)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

SMALL = "run_plan(store, cohort(stimuli=()))"
GROWN = (
    "run_plan(store, cohort(checkpoints=[checkpoint(n) for n in 'abc'] + [checkpoint('d', seed=1, arch='ln'),"
    " checkpoint('e', arch='gru')], maps=[*cohort(stimuli=()).maps, waveform(('hiss',), 5, 6)]))"
)


def plan_of(expression, store):
    return eval(expression, {"run_plan": run_plan, "cohort": cohort, "checkpoint": checkpoint, "waveform": waveform,
                             "store": store})  # fmt: skip


def lay_out_and_kill(stores, expression):
    """Lay out a plan in each store, killed at the write of that number; the exit codes."""
    places = json.dumps([(str(store), step) for step, store in stores.items()])
    found = subprocess.run([sys.executable, "-c", STOPPER, places, expression], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return dict(zip(stores, map(int, found.stdout.split()), strict=True))


def test_a_first_start_killed_at_any_write_is_made_good_by_the_next(tmp_path):
    stores = {step: tmp_path / f"s{step}" for step in range(0, 60, 5)}
    codes = lay_out_and_kill(stores, SMALL)
    killed = [step for step, code in codes.items() if code == -signal.SIGKILL]
    assert set(codes.values()) == {-signal.SIGKILL, 0}  # the last ones had fewer writes to be killed at
    for step in killed:
        store = stores[step]
        plan = plan_of(SMALL, store)
        clean_partials(store)
        create_or_extend(plan, health_flags=HEALTH)
        assert len(pending_shards(plan)) == 9
        assert is_consolidated(open_store(store)), step
        assert xr.open_zarr(store, group="speech").strf.shape == (3, 5, 4, 3)
    compute(align(plan))
    assert verify_store(store).complete


def test_growth_killed_at_any_write_is_made_good_and_old_maps_stay_readable(tmp_path):
    old = tmp_path / "old"
    plan = plan_of(SMALL, old)
    create_or_extend(plan, health_flags=HEALTH)
    compute(align(plan))
    before = {key: digest for key, (digest, _) in digests(old / "speech/strf/c").items()}
    stores = {step: tmp_path / f"s{step}" for step in range(0, 90, 7)}
    for store in stores.values():
        shutil.copytree(old, store)
    codes = lay_out_and_kill(stores, GROWN)
    killed = [step for step, code in codes.items() if code == -signal.SIGKILL]
    assert set(codes.values()) == {-signal.SIGKILL, 0}
    for step in killed:
        store = stores[step]
        plain = xr.open_zarr(store, group="speech")  # a reader sees the cube as it was, or as it will be
        assert plain.sizes["checkpoint"] in (3, 5)
        assert plain.strf[:3].notnull().all()
        clean_partials(store)
        plan = plan_of(GROWN, store)
        create_or_extend(plan, health_flags=HEALTH)
        pending = pending_shards(plan)
        assert {(shard.map, shard.checkpoint) for shard in pending} == {
            ("strf", 3), ("strf", 4), *(("waveform", row) for row in range(5))
        }, step  # fmt: skip
        assert {key: digest for key, (digest, _) in digests(store / "speech/strf/c").items()} == before
        assert is_consolidated(open_store(store)), step
        assert list(xr.open_zarr(store, group="speech").arch.fillna("?").values) == ["?", "?", "?", "ln", "gru"]
    compute(align(plan))
    assert verify_store(store).complete


def test_a_reader_is_told_of_a_growth_that_was_killed(finished, store):
    growth = "run_plan(store, cohort(('a', 'b', 'c', 'd')))"
    assert lay_out_and_kill({3: store}, growth) == {3: -signal.SIGKILL}
    with pytest.raises(ValueError, match=r"'speech' .* is changing.*gradmap run"):
        open_cube(store)
    assert store_status(store)[0].state == "changing"
    assert not verify_store(store).sound
    assert xr.open_zarr(store, group="speech").strf.notnull().all()


def test_a_full_disk_leaves_the_shard_not_done(store):
    plan = big_plan(store)
    create_or_extend(plan, health_flags=HEALTH)
    code = """
import resource, signal, sys
from pipeline.store.checkpoint_rows import align
from pipeline.store.regions import label, write_region
from tests.store.plans import pending_shards
from tests.store.plans import *
plan = align(run_plan(sys.argv[1], cohort(n_neurons=40, bands=32, lags=64, block=20, stimuli=())))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
shard = pending_shards(plan)[0]
try:
    write(plan, shard)
except OSError as error:
    print(type(error).__name__, error.errno)
"""
    found = subprocess.run([sys.executable, "-c", code, str(store)], capture_output=True, text=True)
    assert found.stdout.startswith("OSError"), found
    assert not list(store.rglob("*.partial"))
    plan = align(plan)
    assert len(pending_shards(plan)) == 6
    compute(plan)
    assert verify_store(store).complete
