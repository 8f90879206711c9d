"""Labels of checkpoints keep their type in the cube, also where one is missing for a while."""

import json

import numpy as np
import pytest
import xarray as xr

from pipeline.plan.config import load_config
from pipeline.run.driver import run_locally
from pipeline.store.reader import open_cube
from tests.run.lab import write_checkpoint, write_config


def run(folder, **labels):
    for name, known in labels.items():
        write_checkpoint(folder / f"checkpoints/{name}", 0)
        (folder / f"checkpoints/{name}/metadata.json").write_text(json.dumps(known))
    report = run_locally(load_config(write_config(folder)))
    assert report.failed == 0
    return open_cube(folder / "cube.zarr", "lab"), xr.open_zarr(folder / "cube.zarr", group="lab")


def test_whole_numbers_and_truth_values_stay_such(tmp_path):
    for cube in run(tmp_path, a={"fold": 3, "augmented": True}, b={"fold": 2**60 + 1, "augmented": False}):
        assert cube.fold.dtype == np.int64
        assert list(cube.fold.values) == [3, 2**60 + 1]
        assert cube.augmented.dtype == bool
        assert list(cube.augmented.values) == [True, False]


def test_half_a_character_is_left_out_and_the_rest_kept(tmp_path):
    for cube in run(tmp_path, a={"fold": 3, "who": "\ud800"}, b={"fold": 4, "who": "Zo\u00eb"}):
        assert cube.fold.values.tolist() == [3, 4]
        assert cube.who.values.tolist()[1] == "Zo\u00eb"


def test_a_missing_one_is_nan_for_readers_and_no_loss_in_the_store(tmp_path):
    for cube in run(tmp_path, a={"fold": 3, "augmented": True}, b={}):
        np.testing.assert_array_equal(cube.fold.values, [3, np.nan])
        np.testing.assert_array_equal(cube.augmented.values, [1, np.nan])
    # A column that is whole again is one of whole numbers again, also for checkpoints that are gone from the config.
    (tmp_path / "checkpoints/a").rename(tmp_path / "a-away")
    for cube in run(tmp_path, b={"fold": 4, "augmented": False}):
        assert cube.fold.dtype == np.int64
        assert dict(zip(cube.checkpoint.values.tolist(), cube.fold.values.tolist(), strict=True)) == {"a": 3, "b": 4}
        assert cube.augmented.dtype == bool
        assert cube.augmented.values.tolist() == [True, False]


@pytest.mark.parametrize(
    ("late", "expected"), [("blue", ["3", "blue"]), (2.5, [3.0, 2.5]), (True, [3.0, 1.0]), (None, [3, np.nan])]
)
def test_a_column_that_grows_by_another_type_loses_nothing(tmp_path, late, expected):
    run(tmp_path, a={"fold": 3})
    cube, _ = run(tmp_path, b={} if late is None else {"fold": late})
    values = cube.fold.values.tolist()
    assert values[0] == expected[0]
    assert values[1] == expected[1] or values[1] != values[1]
