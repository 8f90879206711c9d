"""Who may write a store, what a reader sees meanwhile, and that order, bundles and processes change no byte."""

import json
import multiprocessing
import random
import shutil
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline import load_config, open_cube
from pipeline.gradients.health.flags import FLAGS
from pipeline.plan.shards import Shard
from pipeline.run.driver import bundles, computable, open_run
from pipeline.run.prepare import prepare_run
from pipeline.run.shard import run_bundle
from pipeline.words import DONE
from tasks.cli import main
from tests.faults.lab import ONE_MAP, contents, truth, write_lab, written
from tests.run.lab import write_checkpoint

SHARDS = 12


@pytest.fixture
def lab(tmp_path):
    return write_lab(tmp_path, 4)


@pytest.fixture
def slow_lab(tmp_path):
    return write_lab(tmp_path, 4, pause_ms=80.0)


def run(config: Path) -> int:
    return main(["run", "--local", str(config)])


# Settings that differ

CHANGES = {
    "lag": ("lags = 6", "lags = 9"),
    "frequenc": ("200.0", "250.0"),
    "frame_ms": ("frame_ms = 10.0", "frame_ms = 5.0"),
    "objective": ('kind = "strf"', 'kind = "strf"\nobjective = "peak"'),
    "baseline": ('kind = "strf"', 'kind = "strf"\nbaseline = "silence"\nsilence_level = -1.0'),
    "object_mib": (ONE_MAP, ""),
}


@pytest.mark.parametrize("setting", CHANGES)
def test_other_settings_are_refused_by_name_with_status_2_and_nothing_is_touched(lab, capsys, setting):
    assert run(lab) == 0
    store = lab.parent / "cube.zarr"
    before, times = contents(store), written(store)
    old, new = CHANGES[setting]
    text = lab.read_text()
    assert old in text
    lab.write_text(text.replace(old, new))
    assert run(lab) == 2
    assert setting in capsys.readouterr().err
    assert contents(store) == before
    assert written(store) == times
    lab.write_text(text)
    assert run(lab) == 0
    assert written(store) == times


def test_attributes_of_other_settings_are_refused_as_well(lab, capsys):
    assert run(lab) == 0
    path = lab.parent / "cube.zarr/lab/strf/zarr.json"
    path.write_text(path.read_text().replace('\\"baseline\\": \\"null\\"', '\\"baseline\\": \\"mean\\"'))
    assert run(lab) == 2
    assert 'baseline is "null" in the config but "mean" in' in capsys.readouterr().err


# One driver


def await_shards(store: Path, count: int) -> None:
    limit = time.monotonic() + 600
    while not store.exists() or len(written(store)) < count:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_second_driver_is_refused_with_status_2_and_a_killed_one_is_followed_at_once(slow_lab, zygote, capsys):
    store = slow_lab.parent / "cube.zarr"
    first = zygote.start("run", "--local", slow_lab)
    await_shards(store, 2)
    assert run(slow_lab) == 2
    assert f"process {first.pid}" in capsys.readouterr().err
    for command in (["verify", "--requeue"],):
        assert main([*command, str(slow_lab)]) == 2
        assert "is held by" in capsys.readouterr().err
    assert zygote.kill(first) == -signal.SIGKILL
    left = SHARDS - int((open_cube(store).strf_status == DONE).sum())
    report = slow_lab.parent / "report.json"
    assert main(["run", "--local", str(slow_lab), "--report", str(report)]) == 0
    took = json.loads(report.read_text())
    assert took["computed"] == left
    assert took["seconds"] < 20.0  # and not the minute after which a silent driver elsewhere is followed


# A reader during the run


def test_a_reader_during_the_run_sees_whole_maps_or_nothing(slow_lab, zygote):
    store = slow_lab.parent / "cube.zarr"
    child = zygote.start("run", "--local", slow_lab)
    await_shards(store, 1)
    names = [f"c{number:02d}" for number in range(4)]
    wanted = np.stack([truth(slow_lab.parent / "checkpoints" / name) for name in names])
    early, seen = open_cube(store), []
    while not seen or seen[-1] < SHARDS:
        counts = []
        for cube in (early, open_cube(store)):  # one that was opened before, and one opened now
            maps = cube.strf.sel(checkpoint=names).values
            shown = np.isfinite(maps)
            whole = shown.all(axis=(2, 3))
            assert (whole == shown.any(axis=(2, 3))).all()
            np.testing.assert_allclose(maps[whole], wanted[whole], atol=1e-6)
            counts.append(int(whole.sum()))
        assert counts[0] <= counts[1]
        seen.append(counts[1])
        assert len(seen) < 3000
        time.sleep(0.2)
    assert zygote.wait(child) == 0
    assert seen == sorted(seen)
    assert set(seen) - {0, SHARDS}, "no reading fell into the middle of the run"
    print(f"{len(seen)} readings, shards seen: {sorted(set(seen))}")


# New checkpoints


def test_only_new_checkpoints_are_computed_and_old_objects_keep_bytes_and_times(lab, tmp_path, capsys):
    assert run(lab) == 0
    store = lab.parent / "cube.zarr"
    before, times = contents(store), written(store)
    write_checkpoint(lab.parent / "checkpoints/a-first", 70)
    write_checkpoint(lab.parent / "checkpoints/z-last", 71)
    report = tmp_path / "report.json"
    assert main(["run", "--local", str(lab), "--report", str(report)]) == 0
    assert json.loads(report.read_text())["computed"] == 6
    after, new_times = contents(store), written(store)
    assert {key: new_times[key] for key in times} == times
    maps = {key for key in before if "/strf/c/" in key}
    assert {key: after[key] for key in maps} == {key: before[key] for key in maps}
    cube = open_cube(store)
    for name in ("a-first", "z-last", "c02"):
        folder = lab.parent / "checkpoints" / name
        np.testing.assert_allclose(cube.strf.sel(checkpoint=name), truth(folder), atol=1e-6)


# Order, bundles, processes


def in_order(plan, shards):
    for bundle in bundles(shards):
        yield from run_bundle(plan, bundle.shards)


def shuffled(plan, shards):
    shards = list(shards)
    random.Random(5).shuffle(shards)
    for shard in shards:
        yield from run_bundle(plan, [shard])


def in_bundles_of_two(plan, shards):
    for bundle in reversed(bundles(shards, most=2)):
        yield from run_bundle(plan, bundle.shards)


def twice_each(plan, shards):
    for shard in shards:
        (first,) = run_bundle(plan, [shard])
        (again,) = run_bundle(plan, [shard])
        yield first
        yield again


def reports_of(plan, shards: list[Shard]):
    return list(run_bundle(plan, shards))


def in_processes(count: int, copies: int = 1):
    """Bundles in several processes at a time; with copies, the same shards in several of them at once."""

    def executor(plan, shards):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.faults.lab"])
        with ProcessPoolExecutor(count, mp_context=context) as pool:
            jobs = [
                pool.submit(reports_of, plan, list(bundle.shards))
                for bundle in bundles(shards, most=2)
                for _ in range(copies)
            ]
            for job in jobs:
                yield from job.result()

    return executor


def bytes_by(config: Path, executor) -> dict:
    store = config.parent / "cube.zarr"
    shutil.rmtree(store, ignore_errors=True)
    with open_run(prepare_run(load_config(config))) as opened:
        for report in executor(opened.plan, computable(opened)):
            assert report.done, report.problem
            opened.record(report)
    return contents(store)


def test_order_bundles_and_repetition_change_no_byte(lab):
    assert run(lab) == 0
    wanted = contents(lab.parent / "cube.zarr")
    for executor in (in_order, shuffled, in_bundles_of_two, twice_each):
        assert bytes_by(lab, executor) == wanted, executor.__name__


def test_one_process_or_two_change_no_byte_nor_do_two_at_the_same_shards(lab):
    wanted = bytes_by(lab, in_order)
    assert bytes_by(lab, in_processes(2)) == wanted
    assert bytes_by(lab, in_processes(2, copies=2)) == wanted


@pytest.mark.slow
def test_one_process_or_four_change_no_byte_over_many_checkpoints(tmp_path):
    config = write_lab(tmp_path, 20)
    wanted = bytes_by(config, in_order)
    for count in (1, 2, 4):
        assert bytes_by(config, in_processes(count)) == wanted


# A neuron that answers to nothing


def test_a_dead_neuron_is_computed_and_stored_as_zero_and_is_not_missing(lab):
    path = lab.parent / "checkpoints/c01/model.safetensors"
    weights = load_file(path)
    weights["readout.weight"][1] = 0.0
    save_file(weights, path)
    assert run(lab) == 0
    cube = open_cube(lab.parent / "cube.zarr").sel(checkpoint="c01").load()
    assert (cube.strf_status == DONE).all()
    assert (cube.strf.isel(neuron=1) == 0.0).all()
    flag = FLAGS["all_zero_map"]
    assert [bool(value & flag) for value in cube.strf_health.values] == [False, True, False]
    assert main(["verify", str(lab)]) == 0
