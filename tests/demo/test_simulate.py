"""The planted population is what it says it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo.ear import gammatone_kernels, log_frequencies, log_spectrogram
from pipeline.demo.simulate import (
    AUDIO_FS,
    HOP,
    PlantedNeuron,
    Population,
    filter_spectrograms,
    heard_clips,
    lags_ms,
    plant_population,
    planted_strfs,
)
from pipeline.demo.sounds import natural_clip

FINE_HZ = np.geomspace(100.0, 3900.0, 400)
FINE_MS = np.arange(0.0, 200.0, 0.5)


def planted(**changes) -> Population:
    values = {
        "label": "n",
        "site": "s",
        "best_frequency_hz": 1000.0,
        "latency_ms": 60.0,
        "bandwidth_oct": 1.0,
        "duration_ms": 60.0,
        "scale_cyc_oct": 0.6,
        "rate_hz": 8.0,
        "polarity": 1,
        "direction": "none",
        "noise": 0.5,
    }
    return Population((PlantedNeuron(**(values | changes)),), seed=0)


def sweep_spectrogram(octaves_per_second: float, frequencies: np.ndarray, n_frames: int = 60) -> np.ndarray:
    """Levels (1, frequency, time) of a tone that passes 1 kHz in the middle frame."""
    track = octaves_per_second * 0.01 * (np.arange(n_frames) - n_frames // 2)
    octaves = np.log2(frequencies / 1000.0)
    return np.exp(-0.5 * ((octaves[:, None] - track[None, :]) / 0.15) ** 2)[None]


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_planted_field_is_largest_at_its_best_frequency_and_latency_with_its_polarity(seed):
    population = plant_population(16, seed)
    for neuron, field in zip(population.neurons, planted_strfs(population, FINE_HZ, FINE_MS), strict=True):
        band, lag = np.unravel_index(np.abs(field).argmax(), field.shape)
        assert abs(np.log2(FINE_HZ[band] / neuron.best_frequency_hz)) < 0.01
        assert abs(FINE_MS[lag] - neuron.latency_ms) <= 0.5
        assert np.sign(field[band, lag]) == neuron.polarity


def test_widths_of_the_envelope_are_full_widths_at_half_maximum():
    population = planted(scale_cyc_oct=0.0, rate_hz=0.0)
    offsets = np.array([-0.5, 0.0, 0.5])
    (spectral,) = planted_strfs(population, 1000.0 * 2.0**offsets, np.array([60.0]))
    (temporal,) = planted_strfs(population, np.array([1000.0]), np.array([30.0, 60.0, 90.0]))
    np.testing.assert_allclose(spectral[:, 0] / spectral[1, 0], [0.5, 1.0, 0.5])
    np.testing.assert_allclose(temporal[0] / temporal[0, 1], [0.5, 1.0, 0.5])


def test_an_upward_neuron_answers_an_upward_sweep_more_than_a_downward_one_and_the_reverse():
    frequencies, lags = np.geomspace(250.0, 4000.0, 40), np.arange(20) * 10.0
    rate = 8.0 / 0.6  # the velocity of the carrier, octaves per second
    response = {
        direction: [
            filter_spectrograms(
                planted_strfs(planted(direction=direction), frequencies, lags), sweep_spectrogram(speed, frequencies)
            ).max()
            for speed in (rate, -rate)
        ]
        for direction in ("up", "down", "none")
    }
    assert response["up"][0] > 1.5 * response["up"][1]
    assert response["down"][1] > 1.5 * response["down"][0]
    assert response["none"][0] == pytest.approx(response["none"][1], rel=0.05)


def test_both_polarities_and_all_directions_are_planted_over_the_range():
    neurons = plant_population().neurons
    assert {neuron.polarity for neuron in neurons} == {1, -1}
    assert {neuron.direction for neuron in neurons} == {"up", "down", "none"}
    best = [neuron.best_frequency_hz for neuron in neurons]
    assert best == sorted(best)
    assert np.log2(best[-1] / best[0]) > 3.0
    assert len({neuron.label for neuron in neurons}) == len(neurons) == 16


def test_a_seed_fixes_population_and_recording():
    first, again, other = (heard_clips(plant_population(3, seed), 2, 0.5) for seed in (4, 4, 5))
    for name in ("waveforms", "spectrograms", "responses"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert np.abs(getattr(first, name) - getattr(other, name)).max() > 0.1
    assert plant_population(3, 4) == plant_population(3, 4) != plant_population(3, 5)


def test_a_recording_is_standardised_and_its_sound_below_full_scale():
    recording = heard_clips(plant_population(), 4, 1.0)
    np.testing.assert_allclose(recording.spectrograms.mean(axis=(0, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(recording.spectrograms.std(axis=(0, 2)), 1.0, atol=1e-4)
    np.testing.assert_allclose(recording.responses.var(axis=(0, 2)), 1.0, atol=0.35)
    assert np.abs(recording.waveforms).max() == pytest.approx(0.95)
    assert recording.waveforms.shape == (4, AUDIO_FS)
    assert recording.spectrograms.shape == (4, 24, 100)
    assert recording.responses.shape == recording.noiseless.shape == (4, 16, 100)


def test_the_noise_is_what_each_neuron_says():
    population = plant_population()
    recording = heard_clips(population, 6, 2.0)
    for index, neuron in enumerate(population.neurons):
        noiseless = recording.noiseless[:, index]
        assert (recording.responses[:, index] - noiseless).std() / noiseless.std() == pytest.approx(
            neuron.noise, rel=0.1
        )


def test_filtering_equals_a_direct_sum_over_bands_and_lags():
    rng = np.random.default_rng(0)
    strfs, spectrograms = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 3, 9))
    direct = np.zeros((2, 2, 9))
    for clip, neuron, frame, band, lag in np.ndindex(2, 2, 9, 3, 4):
        if frame >= lag:
            direct[clip, neuron, frame] += strfs[neuron, band, lag] * spectrograms[clip, band, frame - lag]
    np.testing.assert_allclose(filter_spectrograms(strfs, spectrograms), direct)


@settings(deadline=None)
@given(frame=st.integers(0, 9), seed=st.integers(0, 1000))
def test_a_frame_of_the_spectrogram_hears_nothing_after_its_end(frame, seed):
    rng = np.random.default_rng(seed)
    kernels = gammatone_kernels(log_frequencies(200.0, 3000.0, 4), AUDIO_FS, 64)
    sound = rng.standard_normal(10 * HOP)
    changed = sound.copy()
    changed[(frame + 1) * HOP :] = rng.standard_normal(10 * HOP - (frame + 1) * HOP)
    before, after = log_spectrogram(sound, kernels, HOP), log_spectrogram(changed, kernels, HOP)
    np.testing.assert_allclose(after[:, : frame + 1], before[:, : frame + 1], atol=1e-9)
    if frame < 9:
        assert np.abs(after[:, frame + 1 :] - before[:, frame + 1 :]).max() > 1e-3


def test_a_tone_is_loudest_in_its_own_band():
    frequencies = log_frequencies(200.0, 3200.0, 17)
    kernels = gammatone_kernels(frequencies, AUDIO_FS, 256)
    for band in (0, 5, 11, 16):
        tone = np.sin(2.0 * np.pi * frequencies[band] * np.arange(AUDIO_FS // 2) / AUDIO_FS)
        assert log_spectrogram(tone, kernels, HOP)[:, 10:].mean(axis=1).argmax() == band


def test_natural_clips_have_unit_power_and_more_slow_than_fast_modulation():
    clip = natural_clip(np.random.default_rng(0), 4.0, AUDIO_FS)
    assert np.mean(clip**2) == pytest.approx(1.0)
    kernels = gammatone_kernels(log_frequencies(160.0, 3600.0, 24), AUDIO_FS, 256)
    levels = log_spectrogram(clip, kernels, HOP)
    power = np.abs(np.fft.rfft(levels - levels.mean(axis=1, keepdims=True), axis=1)).mean(axis=0) ** 2
    rates = np.fft.rfftfreq(levels.shape[1], 0.01)
    slow, fast = power[(rates > 0.5) & (rates < 5.0)].mean(), power[(rates > 20.0) & (rates < 40.0)].mean()
    assert slow > 3.0 * fast


@pytest.mark.parametrize(
    ("refused", "says"),
    [
        (lambda: plant_population(0), "ask for one or more"),
        (lambda: heard_clips(plant_population(1), 0, 1.0), "ask for one clip or more"),
        (lambda: natural_clip(np.random.default_rng(0), 0.0, AUDIO_FS), "longer clip"),
        (lambda: log_frequencies(500.0, 100.0, 8), "change the bounds"),
        (lambda: log_frequencies(100.0, 500.0, 1), "change the bounds"),
        (lambda: gammatone_kernels(np.array([4000.0]), AUDIO_FS, 64), "below half the rate"),
        (lambda: gammatone_kernels(np.array([]), AUDIO_FS, 64), "at least one band"),
        (lambda: log_spectrogram(np.zeros(10), np.ones((1, 8), complex), HOP), "lengthen the sound"),
        (lambda: log_spectrogram(np.zeros(100), np.ones((1, 8), complex), 50, 8), "let the step divide the hop"),
    ],
)
def test_wrong_input_is_refused_with_what_to_do(refused, says):
    with pytest.raises(ValueError, match=says):
        refused()


def test_lags_start_at_the_present_frame():
    np.testing.assert_array_equal(lags_ms(3, 10.0), [0.0, 10.0, 20.0])
