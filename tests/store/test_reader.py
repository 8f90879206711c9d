"""`open_cube` gives labelled cubes, with dask or without it, and says what is wrong where it cannot."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.plan.shards import shards_of
from pipeline.store.cube import create_or_extend
from pipeline.store.reader import open_cube, open_cubes
from pipeline.store.status import store_status
from pipeline.store.summaries import write_summaries
from pipeline.store.verify import verify_store
from pipeline.words import FAILED, NOT_COMPUTED
from tests.store.conftest import compute
from tests.store.plans import HEALTH, checkpoint, cohort, numbers, pending_shards, run_plan, strf


def test_the_only_cohort_is_opened_in_chunks_of_one_object(finished, store):
    cube = open_cube(store)
    assert cube.strf.chunks == ((1, 1, 1), (2, 2, 1), (4,), (3,))
    assert cube.waveform.chunks == ((1, 1, 1), (1, 1), (5,), (6,))
    assert cube.checkpoint.dtype == object
    assert cube.strf.sel(checkpoint="b", neuron="n001", frequency=200.0).shape == (3,)


def test_one_neuron_of_a_large_population_is_read_from_its_chunk_alone(store):
    plan = run_plan(store, cohort(("a",), maps=[strf(120, 4, 3, block=120, inner=60)], n_neurons=120))
    create_or_extend(plan, health_flags=HEALTH)
    compute(plan)
    cube = open_cube(store)
    (shard,) = shards_of(plan)
    np.testing.assert_array_equal(cube.strf.sel(neuron="n077")[0], numbers(plan, shard)[77])
    assert zarr.open_array(store, path="speech/strf").chunks == (1, 60, 4, 3)
    assert verify_store(store).complete


def test_what_is_not_done_has_no_health_and_shows_no_summary(laid_out, store):
    compute(laid_out)
    whole = open_cube(store)
    best = whole.strf.max(("frequency", "lag")).rename("strf_best").assign_attrs(map="strf")
    write_summaries(store, {"speech": best.to_dataset()})
    array = zarr.open_array(store, path="speech/strf_status", mode="r+")
    array[1, 2:4] = FAILED
    cube = open_cube(store)
    assert (cube.strf_health[1, 2:4] == NOT_COMPUTED).all()
    assert cube.strf_best[1].isnull().values.tolist() == [False, False, True, True, False]
    np.testing.assert_array_equal(cube.strf_best[0], best[0])


def test_a_cube_opens_the_same_without_dask(laid_out, store):
    compute(laid_out, pending_shards(laid_out)[:5])
    with_dask = open_cube(store)
    code = (
        "import warnings; warnings.filterwarnings('error', module='pipeline')\n"
        "import sys; sys.modules['dask'] = None\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'dask' else find(name, *a)\n"
        "import numpy as np\n"
        "from pipeline.store.reader import open_cube\n"
        "cube = open_cube(sys.argv[1])\n"
        "assert cube.strf.chunks is None\n"
        "np.savez(sys.argv[2], strf=cube.strf.values, picked=cube.strf.isel(neuron=[4, 0], lag=1).values,\n"
        "         waveform=cube.waveform[:, 0, ::2].values, one=cube.strf[0, 0, 0, 0].values)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(store), str(store.parent / "x.npz")], check=True)
    found = np.load(store.parent / "x.npz")
    np.testing.assert_array_equal(found["strf"], with_dask.strf)
    np.testing.assert_array_equal(found["picked"], with_dask.strf.isel(neuron=[4, 0], lag=1))
    np.testing.assert_array_equal(found["waveform"], with_dask.waveform[:, 0, ::2])
    np.testing.assert_array_equal(found["one"], with_dask.strf[0, 0, 0, 0])


def test_points_can_be_picked(finished, store):
    cube = open_cube(store)
    picked = cube.strf.isel(checkpoint=xr.DataArray([0, 2], dims="p"), neuron=xr.DataArray([4, 1], dims="p"))
    whole = cube.strf.values
    np.testing.assert_array_equal(picked, whole[[0, 2], [4, 1]])


def test_a_dask_graph_of_a_cube_travels_to_another_process(finished, store):
    cube = pickle.loads(pickle.dumps(open_cube(store)))
    assert cube.strf.mean("neuron").compute(scheduler="processes", num_workers=1).notnull().all()


@pytest.mark.parametrize("call", [open_cube, store_status, verify_store])
def test_no_store_is_said_so(tmp_path, call):
    with pytest.raises(ValueError, match=r"no store of gradmaps at .*nothing there.*gradmap run CONFIG"):
        call(tmp_path / "nowhere.zarr")
    assert not (tmp_path / "nowhere.zarr").exists()


def test_an_unknown_cohort_is_named_with_those_there_are(finished, store):
    with pytest.raises(ValueError, match=r"no cohort 'speach' \(its cohorts: speech\)"):
        open_cube(store, "speach")


def test_a_store_is_found_by_file_url_and_relative_path(finished, store, monkeypatch):
    assert open_cube(f"file://{store}").sizes["checkpoint"] == 3
    monkeypatch.chdir(store.parent)
    assert open_cube("gradmaps.zarr").sizes["checkpoint"] == 3


def test_all_cubes_of_a_store_come_in_its_order_as_one_by_one(store):
    plan = run_plan(store, cohort(), cohort(("w",), name="another", n_neurons=2))
    create_or_extend(plan, health_flags=HEALTH)
    cubes = open_cubes(store)
    assert list(cubes) == [group.name for group in store_status(store)]
    for name, cube in cubes.items():
        xr.testing.assert_identical(cube, open_cube(store, name))


def test_plain_xarray_answers_the_same_queries_without_chunks(store):
    """The one word that docs/cube.md gives as the cure."""
    entries = [checkpoint(name, architecture=label) for name, label in (("a", "x"), ("b", "y"), ("c", "x"))]
    plan = run_plan(store, cohort(checkpoints=entries, maps=[strf(5, 4, 3)]))
    create_or_extend(plan, health_flags=HEALTH)
    compute(plan)
    for cube in (open_cube(store), xr.open_zarr(store, group="speech", chunks=None)):
        means = cube.strf.groupby("architecture").mean("checkpoint")
        assert means.architecture.values.tolist() == ["x", "y"]
        np.testing.assert_allclose(means.sel(architecture="x"), cube.strf.values[[0, 2]].mean(axis=0), rtol=1e-6)
        kept = cube.strf.where(cube.architecture == "x", drop=True)
        assert kept.checkpoint.values.tolist() == ["a", "c"]
