"""Summaries stand in the cube beside the maps, under the cube's labels."""

import numpy as np
import pytest
import xarray as xr

from pipeline.store.checkpoint_rows import align
from pipeline.store.cube import create_or_extend
from pipeline.store.reader import open_cube
from pipeline.store.summaries import write_summaries
from pipeline.store.verify import verify_store
from tests.store.conftest import compute
from tests.store.plans import HEALTH, cohort, run_plan
from tests.store.test_cube import digests


@pytest.fixture
def summaries(finished, store) -> xr.Dataset:
    cube = open_cube(store)
    found = xr.Dataset(
        {
            "strf_best_frequency": cube.strf.max("lag").idxmax("frequency").assign_attrs(units="Hz"),
            "strf_significant": (cube.strf.max(("lag", "frequency")) > 1),
            "strf_class": xr.full_like(cube.strf_status, "on", dtype=object),
            "waveform_energy": (cube.waveform**2).sum("waveform_lag"),
            "strf_ripple": (("checkpoint", "neuron", "scale"), np.ones((3, 5, 4), np.float32)),
        }
    ).assign_coords(scale=("scale", [0.5, 1.0, 2.0, 4.0], {"units": "cyc/octave"}))
    return found.compute()


def test_summaries_come_back_as_they_were_and_maps_are_untouched(summaries, store):
    before = digests(store / "speech/strf") | digests(store / "speech/strf_status")
    write_summaries(store, {"speech": summaries})
    cube = xr.open_zarr(store, group="speech")
    for name in summaries.data_vars:
        np.testing.assert_array_equal(cube[name].transpose(*summaries[name].dims), summaries[name])
    assert cube.strf_best_frequency.attrs["units"] == "Hz"
    assert cube.scale.attrs["units"] == "cyc/octave"
    assert cube.strf_significant.dtype == bool
    assert (digests(store / "speech/strf") | digests(store / "speech/strf_status")) == before
    assert verify_store(store).complete


def test_summaries_are_overwritten(summaries, store):
    write_summaries(store, {"speech": summaries})
    fewer = summaries.isel(scale=slice(0, 2))
    write_summaries(store, {"speech": fewer})
    cube = open_cube(store)
    assert cube.sizes["scale"] == 2
    np.testing.assert_array_equal(cube.strf_ripple, fewer.strf_ripple)


def test_labels_in_another_order_or_fewer_of_them_find_their_place(summaries, store):
    some = summaries.sel(checkpoint=["c", "a"], neuron=["n004", "n001"])
    write_summaries(store, {"speech": some})
    cube = open_cube(store)
    np.testing.assert_array_equal(
        cube.strf_best_frequency.sel(some.strf_best_frequency.coords), some.strf_best_frequency
    )
    assert int(cube.strf_best_frequency.notnull().sum()) == 4
    assert set(cube.strf_class.fillna("?").values.ravel()) == {"?", "on"}
    assert cube.strf_significant.dtype == np.float64


def test_foreign_labels_are_refused(summaries, store):
    before = digests(store)
    with pytest.raises(ValueError, match=r"labels along neuron that the cube 'speech' has not.*x"):
        write_summaries(store, {"speech": summaries.assign_coords(neuron=["n000", "n001", "n002", "n003", "x"])})
    with pytest.raises(ValueError, match="no labels along neuron"):
        write_summaries(store, {"speech": summaries.drop_vars("neuron")})
    with pytest.raises(ValueError, match="twice"):
        write_summaries(store, {"speech": summaries.isel(neuron=[0, 0])})
    assert digests(store) == before


@pytest.mark.parametrize("name", ["strf", "strf_status", "strf_health", "probe_response"])
def test_what_is_no_summary_is_not_overwritten(summaries, store, name):
    with pytest.raises(ValueError, match=f"{name} of cohort 'speech' .* is no summary"):
        write_summaries(store, {"speech": summaries.rename(strf_best_frequency=name)})


def test_an_axis_that_another_summary_uses_keeps_its_size(summaries, store):
    write_summaries(store, {"speech": summaries})
    other = summaries[["strf_ripple"]].isel(scale=[0]).rename(strf_ripple="other")
    with pytest.raises(ValueError, match=r"axis 'scale' has 1 positions .* 4 in the stored 'strf_ripple'"):
        write_summaries(store, {"speech": other})


def test_types_that_a_cube_does_not_hold_are_refused(summaries, store):
    odd = xr.Dataset({"odd": ("checkpoint", np.array([1j, 2, 3]))}, coords={"checkpoint": summaries.checkpoint})
    with pytest.raises(ValueError, match="complex128"):
        write_summaries(store, {"speech": odd})
    with pytest.raises(ValueError, match="names become paths"):
        write_summaries(store, {"speech": summaries.rename(strf_class="a/b")})


def test_summaries_grow_with_the_cohort(summaries, store):
    write_summaries(store, {"speech": summaries})
    plan = run_plan(store, cohort(("a", "b", "c", "d")))
    create_or_extend(plan, health_flags=HEALTH)
    compute(align(plan))
    cube = open_cube(store)
    assert cube.strf_best_frequency.sel(checkpoint="d").isnull().all()
    assert cube.strf_best_frequency.sel(checkpoint="a").notnull().all()
    assert bool(cube.strf_class.sel(checkpoint="d").isnull().all())
