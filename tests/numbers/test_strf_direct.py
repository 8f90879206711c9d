"""The vectorised measures equal a direct loop over maps and entries."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline.numbers import strf
from pipeline.numbers.catalogue import measure, table_of
from pipeline.numbers.map_reach import reach
from pipeline.numbers.strf.all_measures import MEASURES
from pipeline.plan.axes import lag_ms, waveform_lag_ms
from tests.numbers import direct
from tests.numbers.planted import labelled

FREQUENCY = np.geomspace(300.0, 4800.0, 9)
LAG = np.arange(12) * 10.0
X = np.log2(FREQUENCY)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(3)
    smooth = rng.standard_normal((12, 9, 12)).cumsum(axis=1).cumsum(axis=2)
    return np.concatenate([smooth * np.exp(-LAG / 40.0), rng.standard_normal((6, 9, 12))])


@pytest.fixture(scope="module")
def maps(arrays):
    return labelled(arrays, FREQUENCY, LAG)


@pytest.fixture(scope="module")
def summary(maps):
    return strf.strf_summaries(maps)


def each(arrays, function):
    return np.array([function(g) for g in arrays])


def test_peaks(arrays, summary):
    for suffix, signed in (("", np.abs), ("_excitatory", np.asarray), ("_inhibitory", np.negative)):
        at = each(arrays, lambda g, signed=signed: np.unravel_index(np.argmax(signed(g)), g.shape))
        np.testing.assert_array_equal(summary[f"best_frequency{suffix}"], FREQUENCY[at[:, 0]])
        np.testing.assert_array_equal(summary[f"latency{suffix}"], LAG[at[:, 1]])


def test_edges_at_the_peak(arrays, summary):
    def widths(g, sign):
        g = g * sign
        f, k = np.unravel_index(np.argmax(g), g.shape)
        level = np.exp(-1) * g[f, k]
        octaves = direct.crossing_width(g[:, k], f, level, X)
        return octaves, direct.crossing_width(g[f], k, level, LAG, closed_start=True)

    for suffix, sign in (("_excitatory", 1), ("_inhibitory", -1)):
        expected = each(arrays, lambda g, sign=sign: widths(g, sign))
        assert np.isfinite(expected).any(axis=0).all()
        np.testing.assert_allclose(summary[f"bandwidth{suffix}"], expected[:, 0])
        np.testing.assert_allclose(summary[f"temporal_width{suffix}"], expected[:, 1])


def test_envelopes(arrays, summary):
    time = each(arrays, lambda g: direct.mean_sd(direct.trimmed(direct.envelope(g, 1)), LAG))
    np.testing.assert_allclose(summary["latency_analytic"], time[:, 0])
    np.testing.assert_allclose(summary["duration_analytic"], 2 * time[:, 1])
    band = each(arrays, lambda g: direct.mean_sd(direct.trimmed(direct.envelope(g, 0)), X))
    np.testing.assert_allclose(summary["best_frequency_analytic"], 2 ** band[:, 0])
    np.testing.assert_allclose(summary["bandwidth_analytic"], 2 * band[:, 1])

    def full(g, axis, share, positions):
        profile = direct.envelope(g, axis)
        return direct.crossing_width(profile, profile.argmax(), share * profile.max(), positions, axis == 1)

    for share, name in ((0.5, "50"), (0.1, "10")):
        np.testing.assert_allclose(
            summary[f"duration_{name}"], each(arrays, lambda g, share=share: full(g, 1, share, LAG))
        )
        np.testing.assert_allclose(
            summary[f"bandwidth_{name}"], each(arrays, lambda g, share=share: full(g, 0, share, X))
        )


def test_ripple_transfer_function_and_what_is_read_from_it(arrays, maps, summary):
    transfer = measure(maps, "ripple_transfer_function")
    scales, rates = transfer.scale.values, transfer.rate.values
    octaves, seconds = np.arange(9) * (X[-1] - X[0]) / 8, LAG / 1000
    for index in (0, 7, 15):
        expected = direct.transform(arrays[index], octaves, seconds, scales, rates)
        np.testing.assert_allclose(transfer[index], expected, atol=1e-9 * expected.max())
        power = np.where(expected**2 >= 0.1 * (expected**2).max(), expected**2, 0.0)
        inside = slice(1, -1)
        up, down = power[inside][:, rates > 0].sum(), power[inside][:, (rates < 0) & (rates > rates.min())].sum()
        np.testing.assert_allclose(summary["direction_selectivity"][index], (up - down) / (up + down))
        by_scale = expected.sum(axis=1)
        found = measure(maps, "spectral_modulation")[index]
        np.testing.assert_allclose(found, by_scale / by_scale.max())
        by_rate = np.array(
            [
                expected[:, np.isclose(np.abs(rates), w)].sum() * (2 if w in (0, -rates.min()) else 1)
                for w in np.abs(rates)
            ]
        )
        positive = measure(maps, "temporal_modulation")[index]
        np.testing.assert_allclose(
            positive.sel(rate=np.abs(rates), method="nearest"), by_rate / by_rate.max(), atol=1e-12
        )
        counted = np.where(found > 0.1, found, 0)
        np.testing.assert_allclose(summary["scale_centroid_magnitude"][index], (counted * scales).sum() / counted.sum())
        by_scale = power.sum(axis=1)[:-1]
        np.testing.assert_allclose(summary["scale_centroid"][index], (by_scale * scales[:-1]).sum() / by_scale.sum())
        # both halves of the plane of scales, rates folded, as in the definition
        half = power[:, rates > rates.min()]
        both = np.concatenate([half, half[-2:0:-1, ::-1]]).sum(axis=0)
        positive = rates[rates > rates.min()]
        folded = np.array([both[np.isclose(np.abs(positive), w)].mean() for w in positive[positive >= 0]])
        expected_rate = (folded * positive[positive >= 0]).sum() / folded.sum()
        np.testing.assert_allclose(summary["rate_centroid"][index], expected_rate)


def test_correlation_index(arrays, maps):
    temporal, spectral = measure(maps, "temporal_correlation"), measure(maps, "spectral_correlation")
    np.testing.assert_allclose(temporal.lag_shift, LAG)
    for index in (1, 16):
        for shift in range(10):
            np.testing.assert_allclose(
                temporal[index, shift], direct.shifted_correlation(arrays[index], shift), atol=1e-9
            )
        for shift in range(7):
            expected = direct.shifted_correlation(arrays[index].T, shift)
            np.testing.assert_allclose(spectral[index, shift], expected, atol=1e-9)


def test_shape_numbers(arrays, summary):
    np.testing.assert_allclose(summary["norm"], each(arrays, np.linalg.norm))
    np.testing.assert_allclose(
        summary["singular_values"], each(arrays, lambda g: np.linalg.svd(g, compute_uv=False)), rtol=1e-6
    )
    np.testing.assert_allclose(summary["sparseness_gini"], each(arrays, direct.gini))
    np.testing.assert_allclose(summary["sparseness_vinje_gallant"], each(arrays, direct.vinje_gallant))
    np.testing.assert_allclose(summary["signal_to_noise"], each(arrays, lambda g: np.abs(g).max() / g.std()))

    def memory(g, share):
        energy = 0.0
        for k in range(g.shape[1]):
            energy += (g[:, k] ** 2).sum()
            if energy >= share * (g**2).sum():
                return LAG[k]

    np.testing.assert_array_equal(summary["memory_90"], each(arrays, lambda g: memory(g, 0.9)))
    np.testing.assert_array_equal(summary["memory_99"], each(arrays, lambda g: memory(g, 0.99)))
    np.testing.assert_allclose(summary["oldest_share"], each(arrays, lambda g: (g[:, -1:] ** 2).sum() / (g**2).sum()))


def chance_level(entries):
    """Where the largest of so many Student's t of 0.37 x entries degrees of freedom lies in 95 % of draws."""
    return stats.t.isf((1 - 0.95 ** (1 / entries)) / 2, 0.37 * entries)


def robust_sd(g):
    return stats.median_abs_deviation(g, axis=None, center=lambda *_, **__: 0.0, scale=1 / 1.4826)


def test_lobes(arrays):
    # with fields strong enough to stand out of noise that does not decay
    strong = arrays + 12 * direct_field()
    summary = strf.strf_summaries(labelled(strong, FREQUENCY, LAG))

    def lobes(g):
        profile = g[np.abs(g).max(axis=1).argmax()]
        threshold = max(0.25 * np.abs(g).max(), chance_level(len(LAG)) * robust_sd(g))
        signs = [np.sign(value) for value in profile if abs(value) >= threshold]
        if not signs or np.abs(g).max() <= chance_level(g.size) * robust_sd(g):
            return np.nan, np.nan
        turns = sum(a != b for a, b in pairwise(signs))
        return signs[0], min(turns + 1, 3)

    expected = each(strong, lobes)
    kept = np.isfinite(expected[:, 0]) & (np.arange(len(strong)) >= 12)  # white noise, without a decay to be undone
    assert kept.sum() >= 5
    np.testing.assert_array_equal(summary["onset_class"][kept], expected[kept, 0])
    np.testing.assert_array_equal(summary["phase_class"][kept], expected[kept, 1])


def direct_field():
    return np.exp(-0.5 * ((X - X[4]) / 0.4) ** 2)[:, None] * np.sin(LAG / 12.0) * np.exp(-LAG / 30.0)


@pytest.mark.parametrize("name", MEASURES)
def test_each_measure_by_itself_is_its_variable_of_the_summaries(maps, summary, name):
    found = measure(maps, name)
    assert found.dims[0] == "neuron"
    assert {"long_name", "units", "description"} <= set(found.attrs)
    if MEASURES[name].summarised:
        np.testing.assert_allclose(found, summary[name])
        assert found.attrs == summary[name].attrs
    else:
        assert name not in summary


def test_the_page_of_measures_is_printed_from_their_entries():
    page = (Path(__file__).parents[2] / "docs" / "measures.md").read_text(encoding="utf-8")
    for kind in ("strf", "waveform"):
        assert table_of(kind) in page, "write it again with python -m pipeline.numbers.catalogue docs/measures.md"


def test_memory_is_told_in_the_unit_of_the_step_and_the_oldest_tenth_as_a_share():
    # Energies 1, 0 ... 0.2 at lag 4, 0.05 at lag 9 of ten lags: 90 % are reached at lag 4, 99 % at lag 9.
    maps = np.zeros((1, 2, 3, 10))
    maps[0, :, 1, [0, 4, 9]] = np.sqrt([1.0, 0.2, 0.05])[:, None]
    found = reach(maps, 12.5)
    np.testing.assert_allclose(found["memory_90"], [[50.0, 50.0]])
    np.testing.assert_allclose(found["memory_99"], [[112.5, 112.5]])
    np.testing.assert_allclose(found["oldest_share"], [[0.04, 0.04]], rtol=1e-6)


def test_lags_are_those_of_frames_and_of_samples_in_ms():
    np.testing.assert_allclose(lag_ms(3, 12.5), [0.0, 12.5, 25.0])
    np.testing.assert_allclose(waveform_lag_ms(3, 8000.0), [0.0, 0.125, 0.25])
