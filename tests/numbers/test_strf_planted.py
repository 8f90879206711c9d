"""Each measure recovers what was planted."""

from itertools import product

import numpy as np
import pytest
import xarray as xr

from pipeline.numbers import strf
from pipeline.numbers.catalogue import measure
from pipeline.numbers.comparing import IN_OCTAVES, STRF_COMPARED
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
    assert octaves_from(measure(maps, "best_frequency"), nearest).max() <= 1.01 * BAND
    assert np.abs(measure(maps, "latency") - truth(TUNED, "latency_ms")).max() <= FRAME


@pytest.mark.parametrize(("noise", "share_of_bin"), [(0.0, 0.1), (0.02, 0.5)])
def test_envelope_centroids_of_ripples_are_finer_than_the_grid(noise, share_of_bin):
    gabors = [
        Gabor(bf, latency, 0.5, 20.0, scale=1.2, rate=rate)
        for bf, latency, rate in product((900.0, 1300.0, 1700.0), (82.0, 97.0), (-30.0, 30.0))
    ]
    maps = planted(gabors, noise)
    away = octaves_from(measure(maps, "best_frequency_envelope"), truth(gabors, "best_frequency"))
    assert away.max() <= share_of_bin * BAND
    late = np.abs(measure(maps, "latency_envelope") - truth(gabors, "latency_ms"))
    assert late.max() <= share_of_bin * FRAME


def test_envelope_centroids_of_blobs_are_exact_to_a_band_and_a_frame():
    maps = planted(TUNED)
    assert octaves_from(measure(maps, "best_frequency_envelope"), truth(TUNED, "best_frequency")).max() <= BAND
    assert np.abs(measure(maps, "latency_envelope") - truth(TUNED, "latency_ms")).max() <= FRAME


def test_signed_peaks_belong_to_their_own_subfields():
    excitation = Gabor(best_frequency=800.0, latency_ms=30.0, sigma_octaves=0.3, sigma_ms=10)
    inhibition = Gabor(best_frequency=3200.0, latency_ms=90.0, sigma_octaves=0.3, sigma_ms=10, polarity=-0.7)
    maps = labelled(excitation.at(FREQUENCY, LAG) + inhibition.at(FREQUENCY, LAG))
    assert octaves_from(measure(maps, "best_frequency_excitatory"), 800) <= BAND
    assert octaves_from(measure(maps, "best_frequency_inhibitory"), 3200) <= BAND
    assert abs(measure(maps, "latency_excitatory") - 30) <= FRAME
    assert abs(measure(maps, "latency_inhibitory") - 90) <= FRAME
    assert measure(maps, "polarity") == 1
    assert measure(-maps, "polarity") == -1


@pytest.mark.parametrize("level", [np.exp(-1), 0.75])
def test_bandwidth_q_and_temporal_width_are_those_of_the_planted_gaussian(level):
    settings = strf.StrfSettings(edge=level)
    maps = planted(TUNED)
    half = np.sqrt(-2 * np.log(level))
    octaves = 2 * half * truth(TUNED, "sigma_octaves")
    np.testing.assert_allclose(measure(maps, "bandwidth", settings=settings), octaves, rtol=0.05)
    np.testing.assert_allclose(
        measure(maps, "temporal_width", settings=settings), 2 * half * truth(TUNED, "sigma_ms"), rtol=0.05
    )
    q = 1 / (2 ** (octaves / 2) - 2 ** (-octaves / 2))
    # the best frequency is exact to a band only
    np.testing.assert_allclose(measure(maps, "quality_factor", settings=settings), q, rtol=0.12)
    sign = truth(TUNED, "polarity")
    for of, kept in (("excitatory", sign > 0), ("inhibitory", sign < 0)):
        widths = measure(maps, f"bandwidth_{of}", settings=settings)
        np.testing.assert_allclose(widths[kept], octaves[kept], rtol=0.05)
        assert widths[~kept].isnull().all()


def test_widths_in_noise_stay_within_a_band_and_a_frame_on_the_median():
    maps = planted([TUNED[10]] * 200, noise=0.05)
    half = np.sqrt(2)
    assert abs(measure(maps, "bandwidth").median() - 2 * half * TUNED[10].sigma_octaves) <= BAND
    assert abs(measure(maps, "temporal_width").median() - 2 * half * TUNED[10].sigma_ms) <= FRAME


@pytest.mark.parametrize(("noise", "share"), [(0.0, 0.05), (0.05, 0.08), (0.1, 0.1)])
@pytest.mark.parametrize("octaves", [0.25, 0.4, 0.8])
def test_widths_of_the_energy_are_those_of_the_planted_lobe_in_noise(noise, share, octaves):
    milliseconds = 40 * octaves
    maps = planted([Gabor(1300.0, 90.0, sigma_octaves=octaves, sigma_ms=milliseconds)] * 40, noise)
    wide, long = measure(maps, "bandwidth_envelope"), measure(maps, "duration")
    assert abs(float(wide.median()) - np.sqrt(2) * octaves) <= max(share * np.sqrt(2) * octaves, 0.3 * BAND)
    assert abs(float(long.median()) - np.sqrt(2) * milliseconds) <= max(share * np.sqrt(2) * milliseconds, 0.3 * FRAME)
    assert np.abs(measure(maps, "latency_envelope") - 90.0).max() <= FRAME
    assert octaves_from(measure(maps, "best_frequency_envelope"), 1300.0).max() <= BAND
    if noise:
        # what the analytic envelope makes of it
        assert float(measure(maps, "duration_analytic").median()) > 1.3 * np.sqrt(2) * milliseconds


def test_envelope_widths_are_those_of_the_planted_envelope():
    # the envelope of a ripple is its Gaussian; its square has sd sigma / sqrt 2, cut where it falls under 5 %
    gabors = [Gabor(1000.0, 95.0, sigma_octaves=0.6, sigma_ms=22.0, scale=1.2, rate=rate) for rate in (-30.0, 30.0)]
    maps = planted(gabors)
    cut = np.sqrt(2 * np.log(20))
    density = np.exp(-0.5 * np.linspace(-cut, cut, 2001) ** 2)
    sd = np.sqrt((density * np.linspace(-cut, cut, 2001) ** 2).sum() / density.sum()) / np.sqrt(2)
    np.testing.assert_allclose(measure(maps, "duration_analytic"), 2 * sd * 22.0, rtol=0.05)
    np.testing.assert_allclose(measure(maps, "bandwidth_analytic"), 2 * sd * 0.6, rtol=0.05)
    np.testing.assert_allclose(measure(maps, "duration"), np.sqrt(2) * 22.0, rtol=0.05)
    np.testing.assert_allclose(measure(maps, "bandwidth_envelope"), np.sqrt(2) * 0.6, rtol=0.05)
    for share in (0.5, 0.1):
        width = 2 * np.sqrt(-np.log(share))
        np.testing.assert_allclose(measure(maps, f"duration_{100 * share:.0f}"), width * 22.0, rtol=0.05)
        np.testing.assert_allclose(measure(maps, f"bandwidth_{100 * share:.0f}"), width * 0.6, rtol=0.05)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_best_rate_and_scale_are_the_planted_ones_within_five_percent(noise):
    maps = planted(RIPPLES, noise)
    for found, expected in (
        (measure(maps, "best_rate"), np.abs(truth(RIPPLES, "rate"))),
        (measure(maps, "best_scale"), truth(RIPPLES, "scale")),
    ):
        within = np.abs(found / expected - 1) <= 0.05
        assert within.mean() >= (0.9 if noise == 0.1 else 1.0)


def test_modulation_transfer_functions_have_the_width_of_the_planted_gaussian():
    gabors = [Gabor(1300.0, 95.0, sigma_octaves=0.8, sigma_ms=30.0, scale=1.5, rate=40.0)]
    maps = planted(gabors)
    full = 2 * np.sqrt(-2 * np.log(0.7))
    np.testing.assert_allclose(measure(maps, "rate_bandwidth"), full / (2 * np.pi * 0.030), rtol=0.05)
    np.testing.assert_allclose(measure(maps, "scale_bandwidth"), full / (2 * np.pi * 0.8), rtol=0.05)
    np.testing.assert_allclose(measure(maps, "rate_centroid"), 40.0, rtol=0.05)
    np.testing.assert_allclose(measure(maps, "scale_centroid"), 1.5, rtol=0.05)
    assert measure(maps, "rate_class") == 1
    assert measure(maps, "scale_class") == 1
    blob = planted([Gabor()])
    assert measure(blob, "rate_class") == 0
    assert measure(blob, "scale_class") == 0
    assert measure(blob, "best_rate") == 0
    assert measure(blob, "best_scale") == 0


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_direction_selectivity_has_the_sign_of_the_planted_ripple(noise):
    found = measure(planted(RIPPLES, noise), "direction_selectivity").values
    rate, scale = truth(RIPPLES, "rate"), truth(RIPPLES, "scale")
    assert (np.sign(found) == np.sign(rate)).all()
    resolved = (np.abs(rate) >= 20) & (scale >= 0.8)
    assert np.abs(found[resolved]).min() > (0.95 if noise == 0 else 0.75)


def test_a_separable_ripple_has_no_direction():
    up, down = (Gabor(latency_ms=95.0, scale=1.0, rate=rate).at(FREQUENCY, LAG) for rate in (20.0, -20.0))
    assert abs(measure(labelled(up + down), "direction_selectivity")) < 1e-9


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
    assert measure(labelled(sweep_neuron), "direction_selectivity") * direction > 0.5
    ripple = Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=16.0 * direction).at(FREQUENCY, LAG)
    assert peak_response(ripple, direction) > 1.2 * peak_response(ripple, -direction)
    assert measure(labelled(ripple), "direction_selectivity") * direction > 0.8


def test_the_transfer_function_peaks_on_the_upward_side_for_an_upward_ripple():
    gabor = Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=20.0)
    transfer = measure(
        planted([gabor, Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=-20.0)]), "ripple_transfer_function"
    )
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
    values = measure(maps, "singular_values")
    np.testing.assert_allclose(values[:rank], planted_values, rtol=1e-9)
    np.testing.assert_allclose(values[rank:], 0.0, atol=1e-6)
    expected = 1 - planted_values[0] ** 2 / (planted_values**2).sum()
    np.testing.assert_allclose(measure(maps, "inseparability"), expected, atol=1e-9)
    noisy = maps + 0.01 * rng.standard_normal(maps.shape) / np.sqrt(34)
    np.testing.assert_allclose(measure(noisy, "inseparability"), expected, atol=0.02)


def test_balance_counts_the_energy_of_either_sign():
    values = np.zeros((3, 34, 40))
    values[0, 5, 5:7], values[0, 9, 9] = 1.0, -1.0
    values[1, 5, 5], values[1, 9, 9:13] = 1.0, -1.0
    values[2, 5, 5:9] = 2.0
    maps = labelled(values)
    np.testing.assert_allclose(measure(maps, "inhibition_excitation_ratio"), [0.5, -0.25, 0.0])
    np.testing.assert_allclose(measure(maps, "excitation_balance"), [1 / 3, -3 / 5, 1.0])


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("lobes", [1, 2, 3])
def test_onset_and_phase_class_read_the_planted_lobes(lobes, sign, noise):
    profile = sum((-1) ** k * 0.8**k * np.exp(-0.5 * ((LAG - 30 - 30 * k) / 8) ** 2) for k in range(lobes))
    tuning = np.exp(-0.5 * (np.log2(FREQUENCY / 1000) / 0.4) ** 2)
    rng = np.random.default_rng(lobes)
    maps = labelled(sign * tuning[:, None] * profile + noise * rng.standard_normal((20, 34, 40)))
    assert (measure(maps, "onset_class") == sign).all()
    assert (measure(maps, "phase_class") == lobes).all()


def test_two_channels_give_an_on_off_index():
    values = np.stack([2 * TUNED[0].at(FREQUENCY, LAG), TUNED[0].at(FREQUENCY, LAG)])
    maps = labelled(values).rename(neuron="channel").expand_dims(neuron=["n0"])
    np.testing.assert_allclose(measure(maps, "on_off_index"), (4 - 1) / (4 + 1))
    only_on = maps.where(maps.channel == "n0", 0.0)
    np.testing.assert_allclose(measure(only_on, "on_off_index"), 1.0)
    np.testing.assert_allclose(strf.strf_summaries(maps)["on_off_index"], 0.6)
    assert np.isnan(measure(0 * maps, "on_off_index"))
    with pytest.raises(ValueError, match="two channels"):
        measure(maps.isel(channel=[0]), "on_off_index")


@pytest.mark.parametrize("tau", [20.0, 40.0])
def test_memory_of_an_exponential_is_its_closed_form(tau):
    decay = np.exp(-LAG / tau)
    maps = labelled(np.outer(np.exp(-0.5 * np.linspace(-2, 2, 34) ** 2), decay))
    total = (1 - np.exp(-2 * 200 / tau)) / (1 - np.exp(-2 * 5 / tau))
    for share in (0.9, 0.99):
        frames = [
            k for k in range(40) if (1 - np.exp(-2 * 5 * (k + 1) / tau)) / (1 - np.exp(-10 / tau)) >= share * total
        ]
        assert measure(maps, f"memory_{100 * share:.0f}") == LAG[frames[0]]
    np.testing.assert_allclose(measure(maps, "oldest_share"), (decay[-4:] ** 2).sum() / (decay**2).sum())


def test_oldest_share_of_a_map_without_decay_is_a_tenth():
    np.testing.assert_allclose(measure(labelled(np.outer(np.arange(1, 35), np.ones(40))), "oldest_share"), 0.1)


def test_sparseness_of_a_flat_magnitude_is_zero_and_grows_with_concentration():
    flat = np.ones((34, 40))
    flat[::2] = -1
    wide, narrow = Gabor(sigma_octaves=1.0, sigma_ms=40), Gabor(sigma_octaves=0.2, sigma_ms=8)
    maps = labelled(np.stack([flat, wide.at(FREQUENCY, LAG), narrow.at(FREQUENCY, LAG)]))
    for kind in ("gini", "vinje_gallant"):
        found = measure(maps, f"sparseness_{kind}").values
        assert abs(found[0]) < 1e-12
        assert found[0] < found[1] < found[2] < 1


def test_signal_to_noise_rejects_pure_noise_less_than_a_field():
    field = planted([TUNED[0]] * 50, noise=0.1)
    weak = planted([TUNED[0]] * 50, noise=3.0)
    assert measure(field, "signal_to_noise").min() > 5 > measure(weak, "signal_to_noise").median()
    assert (measure(field, "significant") == 1).all()


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.1])
def test_the_best_ripple_and_its_velocity_are_the_planted_ones(noise):
    maps = planted(RIPPLES, noise)
    rate, scale = truth(RIPPLES, "rate"), truth(RIPPLES, "scale")
    resolved = (np.abs(rate) >= 20) & (scale >= 0.8)
    for name, expected in (("best_ripple_rate", rate), ("best_ripple_scale", scale), ("best_velocity", rate / scale)):
        found = measure(maps, name)
        assert (np.sign(found) == np.sign(expected))[np.abs(rate) >= 20].all()
        assert np.abs(found / expected - 1)[resolved].max() <= (0.05 if noise <= 0.05 else 0.1)
    blob = planted([Gabor()])
    assert measure(blob, "best_ripple_scale") == 0
    assert measure(blob, "best_velocity").isnull().all()


def test_quadrants_of_a_ripple_are_separable_and_those_of_two_crossed_ones_are_not():
    one = Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=20.0)
    other = Gabor(1300.0, 95.0, 0.9, 35.0, scale=1.6, rate=40.0)
    maps = labelled(np.stack([one.at(FREQUENCY, LAG), one.at(FREQUENCY, LAG) + other.at(FREQUENCY, LAG)]))
    assert measure(maps, "inseparability")[0] > 0.4
    assert measure(maps, "inseparability_upward")[0] < 0.02
    assert measure(maps, "inseparability_upward")[1] > 0.2


def test_power_has_the_centroid_and_the_cut_offs_of_the_planted_gaussian_in_noise():
    maps = planted([Gabor(1300.0, 95.0, sigma_octaves=0.8, sigma_ms=30.0, scale=1.0, rate=20.0)] * 20, 0.05)
    assert np.abs(measure(maps, "rate_centroid") / 20.0 - 1).max() < 0.05
    assert np.abs(measure(maps, "scale_centroid") - 1.0).max() < 0.05
    half = np.sqrt(np.log(2)) / (2 * np.pi * 0.030)  # the power of a Gaussian's transform falls to half there
    assert np.abs(measure(maps, "rate_low") - (20.0 - half)).max() < 1.0
    assert np.abs(measure(maps, "rate_high") - (20.0 + half)).max() < 1.0
    assert measure(maps, "rate_centroid_magnitude").min() > 25


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("scale", ["mel", "erb", "gammatone", "linear"])
def test_measures_in_octaves_are_the_planted_ones_on_other_axes(scale, noise):
    steps = np.linspace(0, 1, 48)
    frequency = {
        "mel": 700 * (np.exp(np.log(1 + 100 / 700) + steps * np.log((1 + 6400 / 700) / (1 + 100 / 700))) - 1),
        "erb": (np.exp(np.log(1 + 4.37e-3 * 100) + steps * np.log((1 + 4.37 * 6.4) / (1 + 0.437))) - 1) / 4.37e-3,
        # Slaney's centres, from high to low: ear's quality 9.26449, narrowest band 24.7 Hz
        "gammatone": -(9.26449 * 24.7)
        + (6400 + 9.26449 * 24.7) * ((100 + 9.26449 * 24.7) / (6400 + 9.26449 * 24.7)) ** steps,
        "linear": 300 + steps * 6000,
    }[scale]
    gabor = Gabor(1800.0, 95.0, 0.6, 35.0, scale=0.8, rate=20.0)
    maps = planted([gabor] * 20, noise, frequency=frequency)
    found = strf.strf_summaries(maps)
    assert "left_out" not in found.attrs
    assert "bands that are not even in octaves" in found["best_scale"].attrs["resampling"]
    assert "resampling" not in found["best_rate"].attrs
    assert np.abs(found["best_ripple_scale"] / 0.8 - 1).max() < 0.15
    assert np.abs(found["best_velocity"] / 25.0 - 1).max() < 0.15
    assert found["direction_selectivity"].min() > 0.8
    assert np.abs(found["bandwidth_envelope"] / (np.sqrt(2) * 0.6) - 1).max() < 0.2
    assert octaves_from(found["best_frequency_envelope"], 1800.0).max() < 0.15


@pytest.mark.parametrize("bands", [8, 16, 34])
def test_noise_is_significant_at_the_rate_that_is_named(bands):
    rng = np.random.default_rng(bands)
    noise = rng.standard_normal((1000, bands, 40))
    maps = labelled(noise, FREQUENCY[:bands])
    found = strf.strf_summaries(maps, ["significant", "onset_class", "polarity", "rate_class", "inseparable", "sparse"])
    margin = 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert 0.05 - margin <= (found["significant"] == 1).mean() <= 0.05 + margin
    assert 0.05 - margin <= (found["sparse"] == 1).mean() <= 0.05 + margin
    for name in ("onset_class", "polarity", "rate_class", "inseparable"):
        assert found[name].notnull().mean() <= 0.05 + margin, name
    decaying = labelled(noise * np.exp(-np.arange(40) / 6.0), FREQUENCY[:bands])
    assert (measure(decaying, "significant") == 1).mean() <= 0.05 + margin


def test_a_separable_map_in_noise_is_not_called_inseparable_and_two_ripples_are():
    blob = planted([Gabor(1300.0, 80.0, 0.4, 12.0)] * 400, noise=0.1)
    assert (measure(blob, "inseparable") == 1).mean() <= 0.08
    assert measure(blob, "inseparability").min() > 0.15
    assert np.abs(measure(blob, "inseparability_corrected")).max() < 0.12
    ripples = planted([Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=20.0)] * 40, noise=0.1)
    assert (measure(ripples, "inseparable") == 1).all()
    clean = float(measure(planted([Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=20.0)]), "inseparability")[0])
    assert np.abs(measure(ripples, "inseparability_corrected") - clean).max() < 0.05


def test_a_tenth_of_the_energy_outside_is_found_where_the_noise_is_faint():
    drifting = Gabor(1300.0, 95.0, 0.9, 35.0, scale=0.8, rate=2.0)
    assert 0.05 < float(measure(planted([drifting]), "inseparability")[0]) < 0.1
    assert (measure(planted([drifting] * 10, noise=0.005), "inseparable") == 1).all()
    still = Gabor(1300.0, 95.0, 0.9, 35.0)
    assert (measure(planted([still] * 10, noise=0.005), "inseparable") == 1).mean() <= 0.2


def test_what_compare_tests_by_default_is_not_moved_by_noise():
    gabors = [
        Gabor(bf, 95.0, 0.4, 20.0, scale=0.6, rate=rate, phase=phase)
        for bf, rate, phase in product((700.0, 1300.0, 2500.0), (-20.0, 20.0), (0.0, 1.0))
    ]
    clean = strf.strf_summaries(planted(gabors), STRF_COMPARED)
    noisy = strf.strf_summaries(planted(gabors * 20, 0.1), STRF_COMPARED)
    for name in STRF_COMPARED:
        one, other = clean[name].values, noisy[name].values.reshape(20, -1).mean(axis=0)
        if name in IN_OCTAVES:
            assert np.abs(np.log2(other / one)).max() <= 1.01 * BAND, name
        elif clean[name].attrs["units"] == "ms":
            assert np.abs(other - one).max() <= max(FRAME, 0.1 * np.abs(one).max()), name
        elif clean[name].attrs["units"] == "1":
            assert np.abs(other - one).max() <= 0.1, name
        else:
            assert np.abs(other / one - 1).max() <= 0.1, name


def test_correlation_width_of_a_gaussian_is_that_of_its_autocorrelation():
    # autocorrelation of a Gaussian of sd s falls to 1/e at a shift of 2 s, up to the mean of the overlapping entries
    maps = planted([Gabor(1300.0, 95.0, sigma_octaves=0.3, sigma_ms=12.0)])
    np.testing.assert_allclose(measure(maps, "temporal_correlation_width"), 24.0, rtol=0.05)
    np.testing.assert_allclose(measure(maps, "spectral_correlation_width"), 0.6, rtol=0.06)


def test_norm_and_units_follow_the_maps():
    maps = planted(TUNED[:2]).assign_attrs(units="spikes/s")
    np.testing.assert_allclose(measure(3 * maps, "norm"), 3 * np.sqrt((maps**2).sum(("frequency", "lag"))))
    assert measure(maps, "norm").attrs["units"] == "spikes/s"
    assert strf.strf_summaries(maps)["singular_values"].attrs["units"] == "spikes/s"


def test_scale_changes_nothing_but_the_norm_and_the_singular_values():
    maps = planted(RIPPLES[:6], noise=0.05)
    base = strf.strf_summaries(maps)
    for factor in (1e-30, 1e30, 1e-160):
        scaled = strf.strf_summaries(factor * maps)
        names = [name for name in base if name not in ("norm", "singular_values")]
        xr.testing.assert_allclose(scaled[names], base[names])
        np.testing.assert_allclose(scaled["norm"], factor * base["norm"])
