"""Waveform maps: planted sounds come back, degenerate maps give NaN."""

import numpy as np
import pytest
import xarray as xr

from pipeline.numbers import waveform
from pipeline.numbers.catalogue import measure
from tests.numbers import direct

RATE = 16000.0
LAG = np.arange(1600) / RATE * 1000


def labelled(values, lag=LAG):
    values = np.atleast_2d(values)
    coords = {"waveform_lag": ("waveform_lag", lag, {"units": "ms"}), "neuron": [f"n{i}" for i in range(len(values))]}
    return xr.DataArray(values, dims=("neuron", "waveform_lag"), coords=coords)


def tone(frequency=1000.0, latency=30.0, sigma=4.0, phase=0.0):
    t = LAG - latency
    return np.exp(-0.5 * (t / sigma) ** 2) * np.cos(2 * np.pi * frequency * t / 1000 + phase)


@pytest.mark.parametrize("frequency", [300.0, 1000.0, 3700.0])
@pytest.mark.parametrize("latency", [25.0, 61.3])
def test_a_tone_pip_comes_back(frequency, latency):
    summary = waveform.waveform_summaries(labelled(tone(frequency, latency, phase=0.7))).isel(neuron=0)
    cut = np.sqrt(2 * np.log(20))
    z = np.linspace(-cut, cut, 2001)
    sd = 4.0 / np.sqrt(2) * np.sqrt((np.exp(-0.5 * z**2) * z**2).sum() / np.exp(-0.5 * z**2).sum())
    np.testing.assert_allclose(summary["centroid_frequency"], frequency, rtol=0.01)
    np.testing.assert_allclose(summary["peak_frequency"], frequency, atol=5.0)
    np.testing.assert_allclose(summary["bandwidth"], 2 / (2 * np.sqrt(2) * np.pi * 0.004), rtol=0.05)
    np.testing.assert_allclose(summary["latency"], latency, atol=1000 / RATE)
    np.testing.assert_allclose(summary["latency_envelope"], latency, atol=1000 / RATE)
    np.testing.assert_allclose(summary["duration"], 2 * sd, rtol=0.02)
    np.testing.assert_allclose(summary["duration_50"], 2 * np.sqrt(np.log(2)) * 4.0, rtol=0.02)


def test_noise_at_a_tenth_of_the_peak_leaves_the_latency():
    rng = np.random.default_rng(0)
    maps = labelled(tone() + 0.1 * rng.standard_normal((50, LAG.size)))
    assert np.abs(measure(maps, "latency") - 30).max() < 4
    assert np.abs(measure(maps, "peak_frequency") - 1000).max() <= 20


def test_the_numbers_equal_a_direct_loop():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((5, 64)).cumsum(axis=1)
    lag = np.arange(64) * 0.125
    maps = labelled(values, lag)
    spectrum = measure(maps, "spectrum")
    frequency = np.fft.rfftfreq(64, 0.125e-3)
    np.testing.assert_allclose(spectrum.waveform_frequency, frequency)
    for index, g in enumerate(values):
        power = np.array(
            [
                abs(sum(v * np.exp(-2j * np.pi * f * t / 1000) for v, t in zip(g, lag, strict=True))) ** 2
                for f in frequency
            ]
        )
        np.testing.assert_allclose(spectrum[index], power, rtol=1e-8, atol=1e-8 * power.max())
        mean, sd = direct.mean_sd(power, frequency)
        np.testing.assert_allclose(measure(maps, "centroid_frequency")[index], mean)
        np.testing.assert_allclose(measure(maps, "bandwidth")[index], 2 * sd)
        delay, spread = direct.mean_sd(direct.trimmed(direct.envelope(g[None], 1)), lag)
        np.testing.assert_allclose(measure(maps, "latency_envelope")[index], delay)
        np.testing.assert_allclose(measure(maps, "duration")[index], 2 * spread)
        np.testing.assert_allclose(measure(maps, "norm")[index], np.linalg.norm(g))


def test_degenerate_maps_give_nan_with_the_reason():
    one_hot = np.zeros(LAG.size)
    one_hot[4] = 1
    hole = tone()
    hole[3] = np.nan
    summary = waveform.waveform_summaries(
        labelled(np.stack([tone(), np.zeros(LAG.size), one_hot, hole, np.ones(LAG.size)]))
    )
    np.testing.assert_array_equal(summary["degenerate"], [0, 2, 3, 1, 4])
    for name in summary.drop_vars("degenerate"):
        np.testing.assert_array_equal(summary[name].isnull(), [False, True, True, True, True])


def test_stimuli_checkpoints_and_dask_are_leading_dimensions_like_any_other():
    rng = np.random.default_rng(2)
    maps = xr.DataArray(
        rng.standard_normal((2, 3, 4, 50)),
        dims=("checkpoint", "stimulus", "neuron", "waveform_lag"),
        coords={"waveform_lag": np.arange(50) / 8.0, "stimulus": ["a", "b", "c"]},
    )
    summary = waveform.waveform_summaries(maps)
    assert summary["duration"].dims == ("checkpoint", "stimulus", "neuron")
    lazy = waveform.waveform_summaries(maps.chunk(checkpoint=1, stimulus=2))
    assert lazy["duration"].chunks
    xr.testing.assert_identical(lazy.compute(), summary)


def test_a_lag_axis_in_seconds_is_refused():
    maps = labelled(tone())
    with pytest.raises(ValueError, match="'s'"):
        waveform.waveform_summaries(maps.assign_coords(waveform_lag=maps.waveform_lag.assign_attrs(units="s")))
    with pytest.raises(ValueError, match="centroid_frequency"):
        waveform.waveform_summaries(maps, ["centroid"])
