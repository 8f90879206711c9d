"""Each measure recovers what was planted."""

from itertools import product

import numpy as np
import pytest
import xarray as xr

from pipeline.numbers import strf
from tests.numbers.planted import FREQUENCY, LAG, Gabor, labelled, planted

BAND = np.log2(FREQUENCY[1] / FREQUENCY[0])
FRAME = LAG[1] - LAG[0]
TUNED = [
    Gabor(best_frequency=bf, latency_ms=latency, sigma_octaves=sigma, sigma_ms=width, polarity=sign)
    for bf, latency, sigma, width, sign in product(
        (500.0, 1300.0, 2900.0), (55.0, 82.0), (0.25, 0.4), (8.0, 12.0), (1, -1)
    )
]
RIPPLES = [
    Gabor(best_frequency=bf, latency_ms=95.0, sigma_octaves=0.9, sigma_ms=35.0, scale=scale, rate=rate, polarity=sign)
    for bf, scale, rate, sign in product((900.0, 1600.0), (0.5, 0.8, 1.2), (-20, -12, 12, 20, 30), (1, -1))
]


def truth(gabors, attribute):
    return np.array([getattr(gabor, attribute) for gabor in gabors], dtype=float)


def octaves_from(found, expected):
    return np.abs(np.log2(np.asarray(found) / expected))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_best_frequency_and_latency_are_the_planted_ones_within_a_band_and_a_frame(noise):
    maps = planted(TUNED, noise)
    nearest = FREQUENCY[np.abs(np.log2(FREQUENCY / truth(TUNED, "best_frequency")[:, None])).argmin(axis=1)]
    assert octaves_from(strf.best_frequency(maps), nearest).max() <= 1.01 * BAND
    assert np.abs(strf.peak_latency(maps) - truth(TUNED, "latency_ms")).max() <= FRAME


@pytest.mark.parametrize(("noise", "share_of_bin"), [(0.0, 0.1), (0.02, 0.5)])
def test_envelope_centroids_of_ripples_are_finer_than_the_grid(noise, share_of_bin):
    gabors = [
        Gabor(bf, latency, 0.5, 20.0, scale=1.2, rate=rate)
        for bf, latency, rate in product((900.0, 1300.0, 1700.0), (82.0, 97.0), (-30.0, 30.0))
    ]
    maps = planted(gabors, noise)
    away = octaves_from(strf.best_frequency(maps, "envelope"), truth(gabors, "best_frequency"))
    assert away.max() <= share_of_bin * BAND
    late = np.abs(strf.peak_latency(maps, "envelope") - truth(gabors, "latency_ms"))
    assert late.max() <= share_of_bin * FRAME


def test_envelope_centroids_of_blobs_are_exact_to_a_band_and_a_frame():
    maps = planted(TUNED)
    assert octaves_from(strf.best_frequency(maps, "envelope"), truth(TUNED, "best_frequency")).max() <= BAND
    assert np.abs(strf.peak_latency(maps, "envelope") - truth(TUNED, "latency_ms")).max() <= FRAME


def test_signed_peaks_belong_to_their_own_subfields():
    excitation = Gabor(best_frequency=800.0, latency_ms=30.0, sigma_octaves=0.3, sigma_ms=10)
    inhibition = Gabor(best_frequency=3200.0, latency_ms=90.0, sigma_octaves=0.3, sigma_ms=10, polarity=-0.7)
    maps = labelled(excitation.at(FREQUENCY, LAG) + inhibition.at(FREQUENCY, LAG))
    assert octaves_from(strf.best_frequency(maps, "excitatory"), 800) <= BAND
    assert octaves_from(strf.best_frequency(maps, "inhibitory"), 3200) <= BAND
    assert abs(strf.peak_latency(maps, "excitatory") - 30) <= FRAME
    assert abs(strf.peak_latency(maps, "inhibitory") - 90) <= FRAME
    assert strf.polarity(maps) == 1
    assert strf.polarity(-maps) == -1


@pytest.mark.parametrize("level", [np.exp(-1), 0.75])
def test_bandwidth_q_and_temporal_width_are_those_of_the_planted_gaussian(level):
    settings = strf.StrfSettings(edge=level)
    maps = planted(TUNED)
    half = np.sqrt(-2 * np.log(level))
    octaves = 2 * half * truth(TUNED, "sigma_octaves")
    np.testing.assert_allclose(strf.bandwidth(maps, settings=settings), octaves, rtol=0.05)
    np.testing.assert_allclose(
        strf.temporal_width(maps, settings=settings), 2 * half * truth(TUNED, "sigma_ms"), rtol=0.05
    )
    q = 1 / (2 ** (octaves / 2) - 2 ** (-octaves / 2))
    np.testing.assert_allclose(strf.quality_factor(maps, settings=settings), q, rtol=0.12)  # BF is exact to a band only
    sign = truth(TUNED, "polarity")
    for of, kept in (("excitatory", sign > 0), ("inhibitory", sign < 0)):
        widths = strf.bandwidth(maps, of, settings=settings)
        np.testing.assert_allclose(widths[kept], octaves[kept], rtol=0.05)
        assert widths[~kept].isnull().all()


def test_widths_in_noise_stay_within_a_band_and_a_frame_on_the_median():
    maps = planted([TUNED[10]] * 200, noise=0.05)
    half = np.sqrt(2)
    assert abs(strf.bandwidth(maps).median() - 2 * half * TUNED[10].sigma_octaves) <= BAND
    assert abs(strf.temporal_width(maps).median() - 2 * half * TUNED[10].sigma_ms) <= FRAME


def test_envelope_widths_are_those_of_the_planted_envelope():
    # the envelope of a ripple is its Gaussian; its square has sd sigma / sqrt 2, cut where it falls under 5 %
    gabors = [Gabor(1000.0, 95.0, sigma_octaves=0.6, sigma_ms=22.0, scale=1.2, rate=rate) for rate in (-30.0, 30.0)]
    maps = planted(gabors)
    cut = np.sqrt(2 * np.log(20))
    density = np.exp(-0.5 * np.linspace(-cut, cut, 2001) ** 2)
    sd = np.sqrt((density * np.linspace(-cut, cut, 2001) ** 2).sum() / density.sum()) / np.sqrt(2)
    np.testing.assert_allclose(strf.duration(maps), 2 * sd * 22.0, rtol=0.05)
    np.testing.assert_allclose(strf.bandwidth(maps, "envelope"), 2 * sd * 0.6, rtol=0.05)
    for share in (0.5, 0.1):
        width = 2 * np.sqrt(-np.log(share))
        np.testing.assert_allclose(strf.envelope_width(maps, "lag", share), width * 22.0, rtol=0.05)
        np.testing.assert_allclose(strf.envelope_width(maps, "frequency", share), width * 0.6, rtol=0.05)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_best_rate_and_scale_are_the_planted_ones_within_five_percent(noise):
    maps = planted(RIPPLES, noise)
    for found, expected in (
        (strf.best_rate(maps), np.abs(truth(RIPPLES, "rate"))),
        (strf.best_scale(maps), truth(RIPPLES, "scale")),
    ):
        within = np.abs(found / expected - 1) <= 0.05
        assert within.mean() >= (0.9 if noise == 0.1 else 1.0)


def test_modulation_transfer_functions_have_the_width_of_the_planted_gaussian():
    gabors = [Gabor(1300.0, 95.0, sigma_octaves=0.8, sigma_ms=30.0, scale=1.5, rate=40.0)]
    maps = planted(gabors)
    full = 2 * np.sqrt(-2 * np.log(0.7))
    np.testing.assert_allclose(strf.modulation_bandwidth(maps, "rate"), full / (2 * np.pi * 0.030), rtol=0.05)
    np.testing.assert_allclose(strf.modulation_bandwidth(maps, "scale"), full / (2 * np.pi * 0.8), rtol=0.05)
    np.testing.assert_allclose(strf.modulation_centroid(maps, "rate"), 40.0, rtol=0.05)
    np.testing.assert_allclose(strf.modulation_centroid(maps, "scale"), 1.5, rtol=0.05)
    assert strf.modulation_class(maps, "rate") == 1
    assert strf.modulation_class(maps, "scale") == 1
    blob = planted([Gabor()])
    assert strf.modulation_class(blob, "rate") == 0
    assert strf.modulation_class(blob, "scale") == 0
    assert strf.best_rate(blob) == 0
    assert strf.best_scale(blob) == 0


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_direction_selectivity_has_the_sign_of_the_planted_ripple(noise):
    found = strf.direction_selectivity(planted(RIPPLES, noise)).values
    rate, scale = truth(RIPPLES, "rate"), truth(RIPPLES, "scale")
    assert (np.sign(found) == np.sign(rate)).all()
    resolved = (np.abs(rate) >= 20) & (scale >= 0.8)
    assert np.abs(found[resolved]).min() > (0.95 if noise == 0 else 0.75)


def test_a_separable_ripple_has_no_direction():
    up, down = (Gabor(latency_ms=95.0, scale=1.0, rate=rate).at(FREQUENCY, LAG) for rate in (20.0, -20.0))
    assert abs(strf.direction_selectivity(labelled(up + down))) < 1e-9


@pytest.mark.parametrize("direction", [1, -1])
def test_upward_means_that_a_rising_sweep_drives_the_neuron_most(direction):
    # a sweep in real time, filtered with the map over past sound: the only convention is that lag > 0 is earlier
    time = np.arange(300) * 5.0
    octave = np.log2(FREQUENCY / FREQUENCY[0])

    def peak_response(map_, sweep_direction):
        centre = 2.75 + sweep_direction * 0.02 * (time - time.mean())
        sound = np.exp(-0.5 * ((octave[:, None] - centre) / 0.15) ** 2)
        frames = range(len(LAG) - 1, len(time))
        return max((map_ * sound[:, t - len(LAG) + 1 : t + 1][:, ::-1]).sum() for t in frames)

    # the kernel of a neuron that waits for a sweep in that direction: energy at lag l lies where the sweep was l ago
    ridge = 2.75 + direction * 0.02 * (-(LAG - 95.0))
    sweep_neuron = np.exp(-0.5 * ((octave[:, None] - ridge) / 0.15) ** 2)
    assert peak_response(sweep_neuron, direction) > 2 * peak_response(sweep_neuron, -direction)
    assert strf.direction_selectivity(labelled(sweep_neuron)) * direction > 0.5
    ripple = Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=16.0 * direction).at(FREQUENCY, LAG)
    assert peak_response(ripple, direction) > 1.2 * peak_response(ripple, -direction)
    assert strf.direction_selectivity(labelled(ripple)) * direction > 0.8


def test_the_transfer_function_peaks_on_the_upward_side_for_an_upward_ripple():
    gabor = Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=20.0)
    transfer = strf.ripple_transfer_function(planted([gabor, Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=-20.0)]))
    peak = transfer.argmax(["scale", "rate"])
    np.testing.assert_allclose(transfer.rate[peak["rate"]], [20.0, -20.0], rtol=0.05)
    np.testing.assert_allclose(transfer.scale[peak["scale"]], 0.8, rtol=0.08)
    assert (np.diff(transfer.rate) > 0).all()


@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_singular_values_and_inseparability_are_the_planted_ones(rank):
    rng = np.random.default_rng(rank)
    left = np.linalg.qr(rng.standard_normal((34, rank)))[0]
    right = np.linalg.qr(rng.standard_normal((40, rank)))[0]
    planted_values = np.sort(rng.uniform(1, 4, rank))[::-1]
    maps = labelled(left * planted_values @ right.T)
    values = strf.singular_values(maps)
    np.testing.assert_allclose(values[:rank], planted_values, rtol=1e-9)
    np.testing.assert_allclose(values[rank:], 0.0, atol=1e-6)
    expected = 1 - planted_values[0] ** 2 / (planted_values**2).sum()
    np.testing.assert_allclose(strf.inseparability(maps), expected, atol=1e-9)
    noisy = maps + 0.01 * rng.standard_normal(maps.shape) / np.sqrt(34)
    np.testing.assert_allclose(strf.inseparability(noisy), expected, atol=0.02)


def test_balance_counts_the_energy_of_either_sign():
    values = np.zeros((3, 34, 40))
    values[0, 5, 5:7], values[0, 9, 9] = 1.0, -1.0
    values[1, 5, 5], values[1, 9, 9:13] = 1.0, -1.0
    values[2, 5, 5:9] = 2.0
    maps = labelled(values)
    np.testing.assert_allclose(strf.inhibition_excitation_ratio(maps), [0.5, -0.25, 0.0])
    np.testing.assert_allclose(strf.excitation_balance(maps), [1 / 3, -3 / 5, 1.0])


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("lobes", [1, 2, 3])
def test_onset_and_phase_class_read_the_planted_lobes(lobes, sign, noise):
    profile = sum((-1) ** k * 0.8**k * np.exp(-0.5 * ((LAG - 30 - 30 * k) / 8) ** 2) for k in range(lobes))
    tuning = np.exp(-0.5 * (np.log2(FREQUENCY / 1000) / 0.4) ** 2)
    rng = np.random.default_rng(lobes)
    maps = labelled(sign * tuning[:, None] * profile + noise * rng.standard_normal((20, 34, 40)))
    assert (strf.onset_class(maps) == sign).all()
    assert (strf.phase_class(maps) == lobes).all()


def test_two_channels_give_an_on_off_index():
    values = np.stack([2 * TUNED[0].at(FREQUENCY, LAG), TUNED[0].at(FREQUENCY, LAG)])
    maps = labelled(values).rename(neuron="channel").expand_dims(neuron=["n0"])
    np.testing.assert_allclose(strf.on_off_index(maps), (4 - 1) / (4 + 1))
    only_on = maps.where(maps.channel == "n0", 0.0)
    np.testing.assert_allclose(strf.on_off_index(only_on), 1.0)
    np.testing.assert_allclose(strf.strf_summaries(maps)["on_off_index"], 0.6)
    assert np.isnan(strf.on_off_index(0 * maps))
    with pytest.raises(ValueError, match="two channels"):
        strf.on_off_index(maps.isel(channel=[0]))


@pytest.mark.parametrize("tau", [20.0, 40.0])
def test_memory_of_an_exponential_is_its_closed_form(tau):
    decay = np.exp(-LAG / tau)
    maps = labelled(np.outer(np.exp(-0.5 * np.linspace(-2, 2, 34) ** 2), decay))
    total = (1 - np.exp(-2 * 200 / tau)) / (1 - np.exp(-2 * 5 / tau))
    for share in (0.9, 0.99):
        frames = [
            k for k in range(40) if (1 - np.exp(-2 * 5 * (k + 1) / tau)) / (1 - np.exp(-10 / tau)) >= share * total
        ]
        assert strf.memory_length(maps, share) == LAG[frames[0]]
    np.testing.assert_allclose(strf.oldest_share(maps), (decay[-4:] ** 2).sum() / (decay**2).sum())


def test_oldest_share_of_a_map_without_decay_is_a_tenth():
    np.testing.assert_allclose(strf.oldest_share(labelled(np.outer(np.arange(1, 35), np.ones(40)))), 0.1)


def test_sparseness_of_a_flat_magnitude_is_zero_and_grows_with_concentration():
    flat = np.ones((34, 40))
    flat[::2] = -1
    wide, narrow = Gabor(sigma_octaves=1.0, sigma_ms=40), Gabor(sigma_octaves=0.2, sigma_ms=8)
    maps = labelled(np.stack([flat, wide.at(FREQUENCY, LAG), narrow.at(FREQUENCY, LAG)]))
    for kind in ("gini", "vinje_gallant"):
        found = strf.sparseness(maps, kind).values
        assert abs(found[0]) < 1e-12
        assert found[0] < found[1] < found[2] < 1


def test_signal_to_noise_rejects_pure_noise_less_than_a_field():
    field = planted([TUNED[0]] * 50, noise=0.1)
    weak = planted([TUNED[0]] * 50, noise=3.0)
    assert strf.signal_to_noise(field).min() > 5 > strf.signal_to_noise(weak).median()
    assert (strf.significant(field) == 1).all()
    assert (strf.significant(field, latest_ms=30.0) == 0).all()


def test_correlation_width_of_a_gaussian_is_that_of_its_autocorrelation():
    # autocorrelation of a Gaussian of sd s falls to 1/e at a shift of 2 s, up to the mean of the overlapping entries
    maps = planted([Gabor(1300.0, 95.0, sigma_octaves=0.3, sigma_ms=12.0)])
    np.testing.assert_allclose(strf.correlation_width(maps, "lag"), 24.0, rtol=0.05)
    np.testing.assert_allclose(strf.correlation_width(maps, "frequency"), 0.6, rtol=0.06)


def test_norm_and_units_follow_the_maps():
    maps = planted(TUNED[:2]).assign_attrs(units="spikes/s")
    np.testing.assert_allclose(strf.norm(3 * maps), 3 * np.sqrt((maps**2).sum(("frequency", "lag"))))
    assert strf.norm(maps).attrs["units"] == "spikes/s"
    assert strf.strf_summaries(maps)["singular_values"].attrs["units"] == "spikes/s"


def test_scale_changes_nothing_but_the_norm_and_the_singular_values():
    maps = planted(RIPPLES[:6], noise=0.05)
    base = strf.strf_summaries(maps)
    for factor in (1e-30, 1e30, 1e-160):
        scaled = strf.strf_summaries(factor * maps)
        names = [name for name in base if name not in ("norm", "singular_values")]
        xr.testing.assert_allclose(scaled[names], base[names])
        np.testing.assert_allclose(scaled["norm"], factor * base["norm"])
