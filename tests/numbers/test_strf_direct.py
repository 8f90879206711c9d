"""The vectorised measures equal a direct loop over maps and entries."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from pipeline.numbers import strf
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
    np.testing.assert_allclose(summary["latency_envelope"], time[:, 0])
    np.testing.assert_allclose(summary["duration"], 2 * time[:, 1])
    band = each(arrays, lambda g: direct.mean_sd(direct.trimmed(direct.envelope(g, 0)), X))
    np.testing.assert_allclose(summary["best_frequency_envelope"], 2 ** band[:, 0])
    np.testing.assert_allclose(summary["bandwidth_envelope"], 2 * band[:, 1])

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
    transfer = strf.ripple_transfer_function(maps)
    scales, rates = transfer.scale.values, transfer.rate.values
    octaves, seconds = np.arange(9) * (X[-1] - X[0]) / 8, LAG / 1000
    for index in (0, 7, 15):
        expected = direct.transform(arrays[index], octaves, seconds, scales, rates)
        np.testing.assert_allclose(transfer[index], expected, atol=1e-9 * expected.max())
        power = expected**2
        inside = slice(1, -1)
        up, down = power[inside][:, rates > 0].sum(), power[inside][:, (rates < 0) & (rates > rates.min())].sum()
        np.testing.assert_allclose(summary["direction_selectivity"][index], (up - down) / (up + down))
        by_scale = expected.sum(axis=1)
        found = strf.spectral_modulation(maps)[index]
        np.testing.assert_allclose(found, by_scale / by_scale.max())
        by_rate = np.array(
            [
                expected[:, np.isclose(np.abs(rates), w)].sum() * (2 if w in (0, -rates.min()) else 1)
                for w in np.abs(rates)
            ]
        )
        positive = strf.temporal_modulation(maps)[index]
        np.testing.assert_allclose(
            positive.sel(rate=np.abs(rates), method="nearest"), by_rate / by_rate.max(), atol=1e-12
        )
        counted = np.where(found > 0.1, found, 0)
        np.testing.assert_allclose(summary["scale_centroid"][index], (counted * scales).sum() / counted.sum())


def test_correlation_index(arrays, maps):
    temporal, spectral = strf.temporal_correlation(maps), strf.spectral_correlation(maps)
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


def test_lobes(arrays, summary):
    def lobes(g):
        profile = g[np.abs(g).max(axis=1).argmax()]
        threshold = max(
            0.25 * np.abs(g).max(),
            3 * stats.median_abs_deviation(g, axis=None, center=lambda *_, **__: 0.0, scale="normal"),
        )
        signs = [np.sign(value) for value in profile if abs(value) >= threshold]
        if not signs:
            return np.nan, np.nan
        turns = sum(a != b for a, b in pairwise(signs))
        return signs[0], min(turns + 1, 3)

    expected = each(arrays, lobes)
    np.testing.assert_array_equal(summary["onset_class"], expected[:, 0])
    np.testing.assert_array_equal(summary["phase_class"], expected[:, 1])


def test_each_function_returns_its_variable_of_the_summaries(maps, summary):
    functions = {
        "best_frequency": strf.best_frequency(maps),
        "best_frequency_excitatory": strf.best_frequency(maps, "excitatory"),
        "best_frequency_envelope": strf.best_frequency(maps, "envelope"),
        "latency_inhibitory": strf.peak_latency(maps, "inhibitory"),
        "bandwidth": strf.bandwidth(maps),
        "bandwidth_10": strf.envelope_width(maps, "frequency", 0.1),
        "duration_50": strf.envelope_width(maps, "lag", 0.5),
        "quality_factor_inhibitory": strf.quality_factor(maps, "inhibitory"),
        "temporal_width": strf.temporal_width(maps),
        "duration": strf.duration(maps),
        "best_rate": strf.best_rate(maps),
        "best_scale": strf.best_scale(maps),
        "rate_centroid": strf.modulation_centroid(maps, "rate"),
        "scale_bandwidth": strf.modulation_bandwidth(maps, "scale"),
        "rate_class": strf.modulation_class(maps, "rate"),
        "direction_selectivity": strf.direction_selectivity(maps),
        "temporal_correlation_width": strf.correlation_width(maps, "lag"),
        "spectral_correlation_width": strf.correlation_width(maps, "frequency"),
        "norm": strf.norm(maps),
        "singular_values": strf.singular_values(maps),
        "inseparability": strf.inseparability(maps),
        "sparseness_gini": strf.sparseness(maps),
        "memory_99": strf.memory_length(maps, 0.99),
        "oldest_share": strf.oldest_share(maps),
        "signal_to_noise": strf.signal_to_noise(maps),
        "significant": strf.significant(maps),
        "excitation_balance": strf.excitation_balance(maps),
        "inhibition_excitation_ratio": strf.inhibition_excitation_ratio(maps),
        "polarity": strf.polarity(maps),
        "onset_class": strf.onset_class(maps),
        "phase_class": strf.phase_class(maps),
    }
    for name, found in functions.items():
        np.testing.assert_allclose(found, summary[name], err_msg=name)
        assert found.attrs == summary[name].attrs
        assert {"long_name", "units", "description"} <= set(found.attrs)
