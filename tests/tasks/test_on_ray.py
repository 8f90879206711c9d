"""The whole run on a Ray: the same bytes as in one process, whatever happens to the workers."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from pipeline import load_config, open_cube, run_locally
from tasks.cluster import run_on_ray
from tasks.dispatch import Limits
from tests.run.lab import NEURONS
from tests.tasks.trouble import (
    begun,
    files_of,
    killed_after_the_data,
    killed_after_the_report,
    killed_before_computing,
    logged,
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
    ("work", "repeated"),
    [(killed_before_computing, 1), (killed_after_the_data, 1), (killed_after_the_report, 0)],
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
    troubles = {
        "cut": "cut",
        "hanging": "hang",
        "not_a_number": "nan",
        "raising": "raise",
        "segfaulting": "segfault",
    }
    config = load_config(write_lab(tmp_path, troubles))
    report = run_on_ray(config, work=logged, limits=Limits(shard_s=5.0))
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


def enumerate_rows(folder):
    cube = xr.open_zarr(folder / "cube.zarr", group="lab")
    return list(enumerate(str(label) for label in cube.checkpoint.values))
