"""The whole run on a Ray: the same bytes as in one process, whatever happens to the workers."""

import platform
import shutil
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

from pipeline import load_config, open_cube, run_locally
from tasks.cluster import Watch, run_on_ray
from tasks.dispatch import Limits
from tests.run.lab import NEURONS
from tests.tasks.trouble import (
    begun,
    files_of,
    killed_after_the_data,
    killed_after_the_report,
    killed_before_computing,
    logged,
    noted,
    straggling,
    write_lab,
)

pytestmark = pytest.mark.usefixtures("own_ray")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, dict[str, bytes]]:
    """A folder of three checkpoints, and the bytes that one undisturbed process writes for them."""
    folder = tmp_path_factory.mktemp("lab")
    report = run_locally(load_config(write_lab(folder)))
    assert (report.done, report.failed, report.pending) == (3 * NEURONS, 0, 0)
    expected = files_of(folder / "cube.zarr")
    shutil.rmtree(folder / "cube.zarr")
    return folder, expected


@pytest.fixture
def lab(undisturbed):
    folder, expected = undisturbed
    yield folder, load_config(folder / "run.toml"), expected
    for path in folder.glob("cube.zarr*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_ray_writes_the_same_bytes_as_one_process_and_a_second_run_computes_nothing(lab):
    folder, config, expected = lab
    report = run_on_ray(config, work=logged)
    assert (report.done, report.computed, report.failed, report.pending) == (9, 9, 0, 0)
    assert files_of(folder / "cube.zarr") == expected
    again = run_on_ray(config, work=logged)
    assert (again.done, again.computed, again.stopped) == (9, 0, False)
    assert set(begun(folder / "cube.zarr").values()) == {1}


def test_bundles_of_another_size_write_the_same_bytes(lab, monkeypatch):
    folder, config, expected = lab
    monkeypatch.setattr("tasks.ledger.FIRST_BUNDLE", 1)
    monkeypatch.setattr("tasks.ledger.TARGET_BUNDLE_S", 0.0)
    run_on_ray(config)
    assert files_of(folder / "cube.zarr") == expected


@pytest.mark.parametrize(
    ("work", "repeated"), [(killed_before_computing, 1), (killed_after_the_data, 1), (killed_after_the_report, 0)]
)
def test_a_worker_killed_at_any_moment_costs_at_most_its_shard_and_no_byte(lab, work, repeated):
    folder, config, expected = lab
    report = run_on_ray(config, work=work)
    assert (report.done, report.failed, report.pending) == (9, 0, 0)
    assert dict(report.faults) == {"crash": 1}
    times = begun(folder / "cube.zarr")
    assert sum(times.values()) == 9 + repeated
    assert max(times.values()) == 1 + repeated
    assert files_of(folder / "cube.zarr") == expected


def test_poison_of_every_kind_fails_alone_with_its_cause_and_all_others_finish(tmp_path):
    troubles = {"cut": "cut", "hanging": "hang", "not_a_number": "nan", "raising": "raise", "segfaulting": "segfault"}
    config = load_config(write_lab(tmp_path, troubles))
    report = run_on_ray(config, work=logged, limits=Limits(shard_s=12.0))
    assert report.pending == 0
    assert report.done + report.failed == (3 + len(troubles)) * NEURONS
    causes = {failure.checkpoint: (failure.cause, failure.shards) for failure in report.failures}
    assert causes == {
        "cut": ("load", 3),
        "hanging": ("hang", 3),
        "not_a_number": ("non-finite", 3),
        "raising": ("compute", 3),
        "segfaulting": ("crash", 3),
    }
    counts = begun(tmp_path / "cube.zarr")
    of = {
        name: sum(counts[f"lab/{row}/strf/neurons {k}:{k + 1}"] for k in range(3))
        for row, name in enumerate_rows(tmp_path)
    }
    assert of == {
        **{f"good-{seed}": 3 for seed in range(3)},
        "cut": 0,
        "hanging": 2,
        "not_a_number": 3,
        "raising": 3,
        "segfaulting": 4,
    }
    message = next(failure.message for failure in report.failures if failure.checkpoint == "not_a_number")
    assert "n0" in message
    cube = open_cube(tmp_path / "cube.zarr")
    status = cube.strf_status.to_series().groupby("checkpoint").agg(list).to_dict()
    assert all(status[f"good-{seed}"] == [1, 1, 1] for seed in range(3))
    assert all(status[name] == [2, 2, 2] for name in troubles)
    done = cube.strf.where(cube.strf_status == 1)
    assert int(np.isfinite(done).sum()) == int((cube.strf_status == 1).sum()) * 4 * 6


def test_a_hang_inside_c_is_ended_at_its_deadline_with_its_process_and_costs_two_attempts(tmp_path):
    troubles = {"in_c": "hang in C", "with_the_lock": "hang in C with the lock"}
    limits = Limits(shard_s=8.0)  # more than a new process takes to import torch on a busy machine
    config = load_config(write_lab(tmp_path, troubles, healthy=2))
    report = run_on_ray(config, work=logged, limits=limits)
    assert (report.done, report.failed, report.pending) == (2 * NEURONS, 2 * NEURONS, 0)
    assert {failure.checkpoint: (failure.cause, failure.shards) for failure in report.failures} == {
        "in_c": ("hang", 3),
        "with_the_lock": ("hang", 3),
    }
    assert all("not finished 8 s after a worker started on it" in failure.message for failure in report.failures)
    assert dict(report.faults) == {"hang": 4}
    rows = {row for row, name in enumerate_rows(tmp_path) if name in troubles}
    attempts = noted(tmp_path / "cube.zarr")
    hanging = [entry for entry in attempts if int(entry[0].split("/")[1]) in rows]
    assert len(attempts) == 2 * NEURONS + len(hanging)
    assert [sum(int(key.split("/")[1]) == row for key, _, _ in hanging) for row in sorted(rows)] == [2, 2]
    for row in rows:
        first, second = (when for key, _, when in hanging if int(key.split("/")[1]) == row)
        assert second - first > limits.shard_s
    # The processes end with their attempts: nothing keeps computing, or holding memory, behind the run's back.
    until = time.monotonic() + 60.0
    while left := [pid for _, pid, _ in hanging if psutil.pid_exists(pid)]:
        assert time.monotonic() < until, left
        time.sleep(0.05)


def test_a_straggler_is_named_while_it_runs_and_in_the_report_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.plan.stragglers.LEAST_S", 3.0)
    calm, config = tmp_path / "calm", load_config(write_lab(tmp_path / "slow", healthy=2, neurons=14))
    said, counts = [], []
    report = run_on_ray(
        config,
        work=straggling,
        watch=Watch(
            report=lambda opened: counts.append(opened.computed),
            say=lambda sentence: said.append((sentence, counts[-1])),
        ),
    )
    assert (report.done, report.failed, report.pending) == (28, 0, 0)
    store = tmp_path / "slow/cube.zarr"
    attempts = noted(store)
    key, _, start = attempts[11]
    _, row, name, neuron = key.split("/")
    own = ("lab", f"good-{row}", name, (f"n{neuron.removeprefix('neurons ').split(':')[0]}",))
    # A machine that is busy with something else may make others slow as well.
    found = {(one.cohort, one.checkpoint, one.map, one.neurons): one for one in report.stragglers}
    straggler = found[own]
    assert straggler.seconds > 4.0
    assert straggler.median_s < straggler.seconds / 4
    assert straggler.alike >= 5
    words = f"slow: lab/good-{row} {name}, neuron {straggler.neurons[0]}: "
    ((sentence, computed),) = [one for one in said if one[0].startswith(words)]
    assert f"on {platform.node()}" in sentence
    # By then the other worker had done what was left, but for the few shards behind the straggler.
    assert 12 < computed < 28
    assert len([when for _, _, when in attempts if when < start + straggler.seconds]) > 16
    assert set(begun(store).values()) == {1}
    even = run_on_ray(load_config(write_lab(calm, healthy=2, neurons=14)), work=logged)
    assert even.done == 28
    assert own not in [(one.cohort, one.checkpoint, one.map, one.neurons) for one in even.stragglers]
    assert files_of(store) == files_of(calm / "cube.zarr")


def enumerate_rows(folder):
    cube = xr.open_zarr(folder / "cube.zarr", group="lab")
    return list(enumerate(str(label) for label in cube.checkpoint.values))
