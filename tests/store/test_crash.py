"""Whatever is killed, and whenever, the store is whole again after the next start."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline.plan.shards import DONE
from pipeline.store import (
    align,
    clean_partials,
    create_or_extend,
    open_cube,
    pending_shards,
    verify_store,
)
from pipeline.store.backend import open_store
from pipeline.store.groups import is_consolidated
from tests.store.conftest import compute
from tests.store.plans import HEALTH, checkpoint, cohort, numbers, run_plan, waveform
from tests.store.test_cube import digests

WRITER = """
import sys
from dataclasses import replace
from pipeline.store import align, create_or_extend, label, pending_shards, record, write_region
from tests.store.plans import *
store, mode = sys.argv[1:]
plan = run_plan(store, cohort(n_neurons=40, bands=32, lags=64, block=20, stimuli=()))
if mode == "create":
    create_or_extend(plan, health_flags=HEALTH)
plan = align(plan)
print("ready", flush=True)
while True:
    for shard in pending_shards(plan):
        write_region(plan, shard, label(plan, shard, numbers(plan, shard)))
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
    from pipeline.plan.shards import cut_shards

    return list(cut_shards(plan.cohorts[0]))


def test_objects_are_old_or_new_after_a_kill_while_writing_and_orphans_are_removed(store):
    create_or_extend(big_plan(store), health_flags=HEALTH)
    plan = align(big_plan(store))
    clock = random.Random(0)
    for _ in range(3):
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


# Killed at every single write of the metadata

STOPPER = """
import os, signal, sys
import zarr.storage._local as local
from pipeline.store import create_or_extend
from tests.store.plans import *
store, step = sys.argv[1], int(sys.argv[2])
put, count = local._put, 0
def stop(*args, **kwargs):
    global count
    if count == step:
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    return put(*args, **kwargs)
local._put = stop
import shutil
remove = shutil.rmtree
def stop_remove(*args, **kwargs):
    stop_at(); return remove(*args, **kwargs)
exec(sys.argv[3])
print("count", count)
"""


def grown(store):
    """Two more checkpoints with metadata of their own, and one more map."""
    entries = [checkpoint(name) for name in "abc"] + [checkpoint("d", seed=1, arch="ln"), checkpoint("e", arch="gru")]
    maps = [*cohort(stimuli=()).maps, waveform(5, ("hiss",), 5, 6)]
    return run_plan(store, cohort(checkpoints=entries, maps=maps))


def run_killed(store, step, expression):
    code = STOPPER.replace("import shutil\nremove = shutil.rmtree\n", "")
    code = re.sub(r"def stop_remove.*?remove\(\*args, \*\*kwargs\)\n", "", code, flags=re.S)
    return subprocess.run(
        [sys.executable, "-c", code, str(store), str(step), expression],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )


CREATE = "create_or_extend(run_plan(store, cohort(stimuli=())), health_flags=HEALTH)"
EXTEND = (
    "entries = [checkpoint(n) for n in 'abc'] + [checkpoint('d', seed=1, arch='ln'), checkpoint('e', arch='gru')]\n"
    "maps = [*cohort(stimuli=()).maps, waveform(5, ('hiss',), 5, 6)]\n"
    "create_or_extend(run_plan(store, cohort(checkpoints=entries, maps=maps)), health_flags=HEALTH)"
)


def steps(total, some=6):
    """Points spread over all writes: the first ones, the last ones, some between."""
    return sorted({0, 1, 2, total - 3, total - 2, total - 1, *range(3, total, max(1, total // some))})


def test_a_start_killed_at_any_write_is_made_good_by_the_next(tmp_path):
    whole = run_killed(tmp_path / "whole", -1, CREATE)
    assert whole.returncode == 0, whole.stderr
    total = int(whole.stdout.split()[-1])
    for step in steps(total):
        store = tmp_path / f"s{step}"
        assert run_killed(store, step, CREATE).returncode == -signal.SIGKILL
        plan = run_plan(store, cohort(stimuli=()))
        clean_partials(store)
        create_or_extend(plan, health_flags=HEALTH)
        compute(align(plan))
        assert verify_store(store).complete, step
        assert is_consolidated(open_store(store))
        xr.testing.assert_identical(
            xr.open_zarr(store, group="speech").drop_attrs(), xr.open_zarr(store, group="speech").drop_attrs()
        )


def test_growth_killed_at_any_write_is_made_good_and_old_maps_stay_readable(tmp_path):
    def prepared(store):
        plan = run_plan(store, cohort(stimuli=()))
        create_or_extend(plan, health_flags=HEALTH)
        compute(align(plan))
        return digests(store / "speech/strf/c")

    prepared(tmp_path / "whole")
    whole = run_killed(tmp_path / "whole", -1, EXTEND)
    assert whole.returncode == 0, whole.stderr
    total = int(whole.stdout.split()[-1])
    for step in steps(total):
        store = tmp_path / f"s{step}"
        before = prepared(store)
        assert run_killed(store, step, EXTEND).returncode == -signal.SIGKILL
        plain = xr.open_zarr(store, group="speech")  # a reader sees the cube as it was, or as it will be
        assert plain.sizes["checkpoint"] in (3, 5)
        assert plain.strf[:3].notnull().all()
        clean_partials(store)
        plan = grown(store)
        create_or_extend(plan, health_flags=HEALTH)
        plan = align(plan)
        old = {shard for shard in pending_shards(plan) if shard.map == "strf" and shard.checkpoint < 3}
        assert not old, step
        compute(plan)
        assert verify_store(store).complete, step
        after = digests(store / "speech/strf/c")
        assert {key: after[key] for key in before} == before
        cube = open_cube(store)
        assert list(cube.arch.values) == ["", "", "", "ln", "gru"]


def test_a_reader_is_told_of_a_growth_that_was_killed(finished, store):
    total_before = open_cube(store).sizes["checkpoint"]
    killed = run_killed(
        store,
        3,
        EXTEND.replace("*cohort(stimuli=()).maps", "*cohort().maps").replace("waveform(5, ('hiss',), 5, 6)", ""),
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(ValueError, match=r"'speech' .* is changing.*gradmap run"):
        open_cube(store)
    assert total_before == 3


def test_a_full_disk_leaves_the_shard_not_done(store):
    plan = big_plan(store)
    create_or_extend(plan, health_flags=HEALTH)
    code = """
import resource, signal, sys
from pipeline.store import align, label, pending_shards, write_region
from tests.store.plans import *
plan = align(run_plan(sys.argv[1], cohort(n_neurons=40, bands=32, lags=64, block=20, stimuli=())))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
shard = pending_shards(plan)[0]
try:
    write_region(plan, shard, label(plan, shard, numbers(plan, shard)))
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
