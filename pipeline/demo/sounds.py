"""Synthetic sounds with the loudness changes, pitch and glides of natural ones."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]

#: Bands of the noise, and the fastest wandering of their levels, in Hz.
NOISE_BANDS, FASTEST_HZ = 16, 40.0


def natural_clip(rng: np.random.Generator, seconds: float, audio_fs: int) -> Samples:
    """One clip of unit root mean square: modulated noise, harmonic complexes and frequency sweeps.

    The noise is a sum of bands whose levels wander with a 1/f modulation spectrum, as in natural sound scenes;
    voices (harmonic complexes with a gliding pitch) and logarithmic sweeps in both directions lie over it.
    """
    n_samples = round(seconds * audio_fs)
    if n_samples < 1:
        raise ValueError(
            f"a clip of {seconds} s at {audio_fs} Hz holds no sample; nothing can be heard in it; ask for a longer clip"
        )
    clip = _modulated_noise(rng, n_samples, audio_fs)
    for _ in range(rng.poisson(3.0 * seconds)):
        _add(clip, rng, _voice(rng, audio_fs))
    for _ in range(rng.poisson(5.0 * seconds)):
        _add(clip, rng, _sweep(rng, audio_fs))
    return clip / np.sqrt(np.mean(clip**2))


def _modulated_noise(rng: np.random.Generator, n_samples: int, audio_fs: int) -> Samples:
    """Noise in log-spaced bands, each with its own slowly wandering level in dB."""
    edges = np.geomspace(90.0, 0.49 * audio_fs, NOISE_BANDS + 1)
    frequencies = np.fft.rfftfreq(n_samples, 1.0 / audio_fs)
    spectrum = np.fft.rfft(rng.standard_normal(n_samples))
    noise = np.zeros(n_samples)
    for low, high in itertools.pairwise(edges):
        inside = (frequencies >= low) & (frequencies < high)
        band = np.fft.irfft(np.where(inside, spectrum, 0.0), n_samples)
        level_db = 8.0 * _pink_walk(rng, n_samples, audio_fs)
        # Equal level per octave is the 1/f spectrum of natural scenes.
        noise += band / (band.std() + 1e-12) * 10.0 ** (level_db / 20.0)
    return noise / np.sqrt(NOISE_BANDS)


def _pink_walk(rng: np.random.Generator, n_samples: int, audio_fs: int) -> Samples:
    """Gaussian process of unit variance with a 1/f power spectrum up to `FASTEST_HZ`."""
    frequencies = np.fft.rfftfreq(n_samples, 1.0 / audio_fs)
    weights = np.zeros_like(frequencies)
    audible = (frequencies > 0) & (frequencies <= FASTEST_HZ)
    weights[audible] = frequencies[audible] ** -0.5
    n = frequencies.size
    walk = np.fft.irfft(weights * (rng.standard_normal(n) + 1j * rng.standard_normal(n)), n_samples)
    return walk / (walk.std() + 1e-12)


def _voice(rng: np.random.Generator, audio_fs: int) -> Samples:
    """A harmonic complex of 80 to 400 Hz with gliding pitch, a formant and its own envelope."""
    n_samples = round(rng.uniform(0.08, 0.4) * audio_fs)
    pitch = rng.uniform(80.0, 400.0) * 2.0 ** np.linspace(0.0, rng.uniform(-0.5, 0.5), n_samples)
    phase = 2.0 * np.pi * np.cumsum(pitch) / audio_fs
    formant = 2.0 ** rng.uniform(np.log2(300.0), np.log2(3000.0))
    sound = np.zeros(n_samples)
    for harmonic in range(1, int(0.47 * audio_fs / pitch.max()) + 1):
        octaves = np.log2(harmonic * pitch.mean() / formant)
        sound += (0.15 + np.exp(-0.5 * (octaves / 0.6) ** 2)) * np.sin(harmonic * phase + rng.uniform(0.0, 2.0 * np.pi))
    return _enveloped(rng, sound, audio_fs, loudness=1.5)


def _sweep(rng: np.random.Generator, audio_fs: int) -> Samples:
    """A tone that glides up or down at 2 to 30 octaves per second."""
    low, high = 120.0, 0.46 * audio_fs
    octaves = rng.uniform(0.5, np.log2(high / low))
    n_samples = max(round(octaves / rng.uniform(2.0, 30.0) * audio_fs), round(0.04 * audio_fs))
    start = low * 2.0 ** rng.uniform(0.0, np.log2(high / low) - octaves)
    track = start * 2.0 ** np.linspace(0.0, octaves, n_samples)
    if rng.random() < 0.5:
        track = track[::-1]
    return _enveloped(rng, np.sin(2.0 * np.pi * np.cumsum(track) / audio_fs), audio_fs, loudness=1.5)


def _enveloped(rng: np.random.Generator, sound: Samples, audio_fs: int, loudness: float) -> Samples:
    """The sound at a random level, with ramps of 3 to 20 ms at both ends."""
    ramp = min(round(rng.uniform(0.003, 0.02) * audio_fs), sound.size // 2)
    envelope = np.ones(sound.size)
    envelope[:ramp] = np.sin(np.linspace(0.0, np.pi / 2.0, ramp)) ** 2
    envelope[sound.size - ramp :] = envelope[:ramp][::-1]
    level = loudness * 10.0 ** (rng.normal(0.0, 6.0) / 20.0)
    return level * sound * envelope / (np.sqrt(np.mean(sound**2)) + 1e-12)


def _add(clip: Samples, rng: np.random.Generator, sound: Samples) -> None:
    """Mix a sound into the clip from a random instant on, cut where the clip ends."""
    start = int(rng.integers(0, clip.size))
    stop = min(start + sound.size, clip.size)
    clip[start:stop] += sound[: stop - start]
