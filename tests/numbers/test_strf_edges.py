"""Degenerate maps, wrong axes, laziness, blocks, speed."""

import time
import tracemalloc

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.numbers import measures as engine
from pipeline.numbers import strf
from pipeline.numbers.catalogue import measure
from pipeline.numbers.strf.all_measures import MEASURES
from tests.numbers.planted import FREQUENCY, LAG, Gabor, labelled, planted

GOOD = Gabor().at(FREQUENCY, LAG)


def degenerate_maps():
    one_hot = np.zeros_like(GOOD)
    one_hot[7, 3] = 2.0
    hole = GOOD.copy()
    hole[0, 0] = np.nan
    infinite = GOOD.copy()
    infinite[4, 4] = np.inf
    return {
        "not_computed_or_not_finite": [np.full_like(GOOD, np.nan), hole, infinite],
        "all_zero": [np.zeros_like(GOOD)],
        "single_entry": [one_hot, -one_hot],
        "constant": [np.full_like(GOOD, 0.5), np.full_like(GOOD, -3.0)],
    }


def reason(summary):
    code = summary["degenerate"]
    meanings = dict(zip(code.attrs["flag_values"].tolist(), code.attrs["flag_meanings"].split(), strict=True))
    return [meanings[value] for value in code.values.ravel().tolist()]


@pytest.mark.parametrize("kind", degenerate_maps())
def test_a_degenerate_map_gives_nan_everywhere_with_its_reason(kind):
    for values in degenerate_maps()[kind]:
        summary = strf.strf_summaries(labelled(np.stack([GOOD, values, GOOD])))
        assert reason(summary) == ["usable", kind, "usable"]
        for name in summary.drop_vars("degenerate"):
            assert summary[name].isel(neuron=1).isnull().all(), name
            xr.testing.assert_equal(summary[name].isel(neuron=0, drop=True), summary[name].isel(neuron=2, drop=True))
    assert measure(labelled(values), "ripple_transfer_function").isnull().all()
    assert measure(labelled(values), "temporal_correlation").isnull().all()


SPECTRAL = (
    "best_frequency",
    "bandwidth",
    "quality",
    "best_scale",
    "best_ripple",
    "best_velocity",
    "scale",
    "spectral",
    "direction",
    "insep",
)
TEMPORAL = (
    "latency",
    "temporal",
    "duration",
    "best_rate",
    "rate_",
    "memory",
    "oldest",
    "onset",
    "phase",
    "direction",
    "best_ripple",
    "best_velocity",
    "insep",
)


@pytest.mark.parametrize("whole_axis", [True, False])
@pytest.mark.parametrize(("axis", "kind", "without"), [(0, "single_band", SPECTRAL), (1, "single_lag", TEMPORAL)])
def test_one_band_or_one_lag_gives_nan_for_what_needs_an_extent_there(whole_axis, axis, kind, without):
    at = 12
    if whole_axis:
        values = np.take(GOOD, [at], axis=axis)
        maps = labelled(values, FREQUENCY[[at]] if axis == 0 else FREQUENCY, LAG[[at]] if axis == 1 else LAG)
    else:
        values = np.zeros_like(GOOD)
        values[(at, slice(None)) if axis == 0 else (slice(None), at)] = np.take(GOOD, at, axis=axis)
        maps = labelled(values)
    summary = strf.strf_summaries(maps)
    assert reason(summary) == [kind]
    for name in summary.drop_vars(["degenerate", "singular_values"]):
        if name.startswith(without):
            assert np.isnan(summary[name]), name
        elif not name.endswith("_inhibitory") and not MEASURES[name].threshold and "runs" not in MEASURES[name].nan:
            assert np.isfinite(summary[name]) or "does not fall" in MEASURES[name].nan, name


def test_a_map_of_one_entry_is_no_map():
    assert reason(strf.strf_summaries(labelled(np.ones((1, 1)), FREQUENCY[:1], LAG[:1]))) == ["single_entry"]


def test_no_maps_give_no_numbers():
    summary = strf.strf_summaries(labelled(np.zeros((0, 34, 40))))
    assert summary.sizes["neuron"] == 0
    assert summary["best_rate"].size == 0


@settings(max_examples=25, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=3, max_dims=4, max_side=5),
        elements=st.one_of(st.floats(-(2.0**100), 2.0**100, width=32), st.sampled_from([0.0, np.nan, np.inf, 1.0])),
    )
)
def test_any_map_of_any_shape_gives_labelled_numbers(values):
    maps = labelled(values, FREQUENCY[: values.shape[-2]], LAG[: values.shape[-1]])
    summary = strf.strf_summaries(maps)
    for name, variable in summary.items():
        assert variable.dims[: values.ndim - 2] == maps.dims[:-2], name
        assert not np.isinf(variable).any(), name
    for name in ("excitation_balance", "direction_selectivity", "inhibition_excitation_ratio"):
        assert (np.abs(summary[name].fillna(0)) <= 1 + 1e-9).all()
    for name in ("sparseness_gini", "inseparability", "oldest_share"):
        assert ((summary[name].fillna(0) > -1e-9) & (summary[name].fillna(0) < 1 + 1e-9)).all()


def test_bands_too_far_apart_are_put_on_no_octave_axis():
    linear = 100.0 + np.arange(34) * 200.0  # the second band lies 1.6 octaves above the first
    maps = labelled(Gabor().at(linear, LAG), frequency=linear)
    for name in ("ripple_transfer_function", "best_scale", "direction_selectivity", "bandwidth_envelope"):
        with pytest.raises(ValueError, match=r"1\.6 octaves above 100 Hz.*in Hz or ms"):
            measure(maps, name)
    summary = strf.strf_summaries(maps)
    left_out = {line.split(":")[0] for line in summary.attrs["left_out"]}
    assert {"best_scale", "direction_selectivity", "bandwidth_envelope"} <= left_out
    assert not left_out & set(summary)
    assert np.isfinite(summary["bandwidth"])
    assert np.isfinite(summary["best_rate"])


def test_log_centres_rounded_to_hertz_still_count_as_logarithmic():
    rounded = np.round(FREQUENCY)
    assert np.isfinite(measure(labelled(GOOD, frequency=rounded), "best_scale"))


def test_no_octave_begins_at_zero_hertz():
    linear = np.arange(34) * 100.0
    maps = labelled(GOOD, frequency=linear)
    with pytest.raises(ValueError, match="no octave from 0 Hz"):
        measure(maps, "bandwidth")
    summary = strf.strf_summaries(maps)
    assert "bandwidth" not in summary
    assert np.isfinite(summary["best_frequency"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.isel(frequency=[1, 0, *range(2, m.sizes["frequency"])]), "ascending"),
        (lambda m: m.assign_coords(lag=-m.lag).isel(lag=slice(None, None, -1)), "positive lags are earlier"),
        (lambda m: m.assign_coords(lag=m.lag**2), "not evenly spaced"),
        (lambda m: m.assign_coords(frequency=m.frequency.assign_attrs(units="kHz")), "'kHz'"),
        (lambda m: m.assign_coords(lag=m.lag.assign_attrs(units="s")), "'s'"),
        (lambda m: m.rename(lag="delay"), "no coordinate 'lag'"),
        (lambda m: m.drop_vars("frequency"), "no coordinate 'frequency'"),
        (lambda m: m.values, "ndarray"),
    ],
)
def test_maps_with_wrong_axes_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        strf.strf_summaries(change(labelled(GOOD)))


def test_wrong_choices_are_refused_with_what_there_is():
    maps = labelled(GOOD)
    for call, match in (
        (lambda: measure(maps, "best_freq"), "best_frequency"),
        (lambda: measure(maps, "duration_30"), "duration_50"),
        (lambda: strf.strf_summaries(maps, ["best_freq"]), "best_frequency"),
        (lambda: strf.StrfSettings(edge=1.5), "edge = 1.5"),
        (lambda: strf.StrfSettings(threshold=-1), "threshold = -1"),
        (lambda: strf.StrfSettings(padding=0), "padding"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


def test_order_of_the_dimensions_does_not_matter():
    maps = planted([Gabor(), Gabor(rate=15.0, scale=1.0)])
    turned = strf.strf_summaries(maps.transpose("lag", "neuron", "frequency"))
    xr.testing.assert_identical(turned, strf.strf_summaries(maps))


@pytest.mark.parametrize("chunks", [{"checkpoint": 1, "neuron": 3}, {"checkpoint": 2, "frequency": 5, "lag": 7}])
def test_dask_gives_the_same_numbers_lazily_one_chunk_at_a_time(chunks):
    rng = np.random.default_rng(0)
    maps = labelled(rng.standard_normal((3, 7, 8, 9)).astype("f4"), FREQUENCY[:8], LAG[:9])
    lazy = strf.strf_summaries(maps.chunk(chunks))
    assert all(variable.chunks for variable in lazy.values())
    xr.testing.assert_identical(lazy.compute(), strf.strf_summaries(maps))


def test_maps_in_a_file_are_read_in_parts_without_dask(tmp_path, monkeypatch):
    maps = planted([Gabor(rate=rate, scale=1.0) for rate in range(-20, 20, 4)], noise=0.1)
    maps.drop_vars("neuron").to_dataset(name="strf").to_zarr(tmp_path / "cube.zarr", consolidated=False)
    stored = xr.open_zarr(tmp_path / "cube.zarr", consolidated=False, chunks=None)["strf"]
    monkeypatch.setattr(engine, "READ_BYTES", 3 * 34 * 40 * 8)
    found = strf.strf_summaries(stored)
    assert not stored.variable._in_memory
    xr.testing.assert_identical(found, strf.strf_summaries(maps.drop_vars("neuron")))


def test_a_threshold_leaves_what_stands_out_of_the_noise():
    gabor = Gabor(sigma_octaves=0.3, sigma_ms=12)
    noisy, settings = planted([gabor] * 20, noise=0.1), strf.StrfSettings(threshold=3)
    clean = measure(planted([gabor]), "duration_analytic")[0]
    with_threshold = measure(noisy, "duration_analytic", settings=settings)
    error, without = (
        np.abs(numbers - clean).mean() for numbers in (with_threshold, measure(noisy, "duration_analytic"))
    )
    assert error < 0.25 * without
    level = 3 * 1.4826 * np.median(np.abs(noisy), axis=(-2, -1), keepdims=True)
    np.testing.assert_allclose(with_threshold, measure(noisy.where(np.abs(noisy) >= level, 0.0), "duration_analytic"))
    assert (measure(noisy, "significant", settings=settings) == measure(noisy, "significant")).all()


def test_a_lazy_summary_computes_nothing_before_it_is_asked():
    def never(block):
        raise AssertionError("computed too early")

    data = dask.array.map_blocks(never, dtype="f4", chunks=((1, 1), (3,), (34,), (40,)), meta=np.empty((0,) * 4, "f4"))
    summary = strf.strf_summaries(labelled(np.zeros((2, 3, 34, 40))).copy(data=data))
    assert summary["best_rate"].shape == (2, 3)


def test_blocks_change_nothing(monkeypatch):
    maps = planted([Gabor(rate=rate, scale=1.0) for rate in range(-20, 20, 4)], noise=0.1)
    whole = strf.strf_summaries(maps)
    monkeypatch.setattr(engine, "BLOCK_ENTRIES", 3 * 34 * 40)
    monkeypatch.setattr(engine, "READ_BYTES", 4 * 34 * 40 * 8)
    xr.testing.assert_identical(strf.strf_summaries(maps), whole)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    chunks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    room=st.integers(1, 50),
)
def test_regions_cover_every_map_once_along_stored_chunks(sizes, chunks, room):
    maps = xr.DataArray(np.zeros((*sizes, 2, 3), "f4"), dims=("checkpoint", "neuron", "frequency", "lag"))
    maps.encoding["preferred_chunks"] = dict(zip(("checkpoint", "neuron"), chunks, strict=True))
    seen = np.zeros(sizes, int)
    for region in engine.regions(maps, ("checkpoint", "neuron"), read_bytes=room * 24):
        for dim, chunk in zip(("checkpoint", "neuron"), chunks, strict=True):
            assert region[dim].start % min(chunk, maps.sizes[dim]) == 0
        seen[region["checkpoint"], region["neuron"]] += 1
    assert (seen == 1).all()


def cube_of(checkpoints):
    block = np.random.default_rng(0).standard_normal((4, 119, 34, 40)).astype("f4")
    data = dask.array.concatenate([dask.array.from_array(block, chunks=(1, 119, 34, 40))] * (checkpoints // 4))
    return xr.DataArray(data, dims=("checkpoint", "neuron", "frequency", "lag")).assign_coords(
        frequency=FREQUENCY, lag=LAG
    )


@pytest.mark.slow
def test_three_hundred_checkpoints_take_under_a_minute_of_two_cores():
    summary = strf.strf_summaries(cube_of(300))
    start = time.process_time()  # of the processors, so that what else runs on the machine does not count
    assert summary.compute().sizes["checkpoint"] == 300
    assert time.process_time() - start < 2 * 60


@pytest.mark.slow
def test_memory_is_bounded_by_blocks_not_by_the_cube():
    def peak(checkpoints):
        tracemalloc.start()
        strf.strf_summaries(cube_of(checkpoints)).compute(num_workers=2)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small = peak(8)
    assert small < 100 * 2**20
    assert peak(40) < 1.6 * small  # what grows is the numbers, a tenth of the maps
