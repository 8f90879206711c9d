"""A small auditory population whose receptive fields are known because they were planted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.demo.ear import gammatone_kernels, log_frequencies, log_spectrogram
from pipeline.demo.sounds import natural_clip

#: Samples per second of the demo's sounds.
AUDIO_FS = 8000
#: Width of a frame of its spectrograms, in ms and in samples.
FRAME_MS = 10.0
HOP = 80
#: Frames of a planted kernel.
LAGS = 20
#: Bands of the ear that the population hears through.
EAR_BANDS = 24
LOW_HZ, HIGH_HZ = 160.0, 3600.0
#: Samples of one of its filters.
KERNEL_TAPS = 256
#: Neurons of one site.
NEURONS_PER_SITE = 2

Direction = Literal["up", "down", "none"]


@dataclass(frozen=True)
class PlantedNeuron:
    """Neuron driven through a Gabor in log frequency and lag, whose largest entry lies at (best frequency, latency)."""

    label: str
    #: Recording site, shared with the neurons of neighbouring best frequency.
    site: str
    best_frequency_hz: float
    latency_ms: float
    #: Full widths at half maximum of the Gaussian envelopes.
    bandwidth_oct: float
    duration_ms: float
    #: Spectral and temporal modulation of the carrier.
    scale_cyc_oct: float
    rate_hz: float
    #: +1 where energy at the centre excites, -1 where it inhibits.
    polarity: Literal[1, -1]
    #: Sweep that drives an excitatory neuron best: ``up`` in frequency, ``down``, or ``none`` for both alike.
    direction: Direction
    #: Standard deviation of the response's noise, in units of the standard deviation of its noiseless part.
    noise: float


@dataclass(frozen=True)
class Population:
    """Planted neurons and the seed that drew them."""

    neurons: tuple[PlantedNeuron, ...]
    seed: int

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(neuron.label for neuron in self.neurons)


@dataclass(frozen=True)
class Recording:
    """What the population heard and answered, clip by clip.

    ``spectrograms`` (clip, frequency, time) are z-scored per band over the recording, so that zero is the mean sound.
    ``responses`` (clip, neuron, time) have unit variance per neuron; ``noiseless`` are the same without the noise.
    ``waveforms`` (clip, sample) have a peak below full scale.
    """

    audio_fs: int
    frame_ms: float
    frequencies_hz: NDArray[np.float64]
    waveforms: NDArray[np.float32]
    spectrograms: NDArray[np.float32]
    responses: NDArray[np.float32]
    noiseless: NDArray[np.float32]


def plant_population(n_neurons: int = 16, seed: int = 0) -> Population:
    """Neurons whose best frequencies tile the ear's range; every fourth is inhibitory, directions take turns."""
    if n_neurons < 1:
        raise ValueError(f"a population of {n_neurons} neurons has no receptive field to plant; ask for one or more")
    return Population(tuple(_draw_neurons(n_neurons, np.random.default_rng([seed, 0]))), seed)


def _draw_neurons(n_neurons: int, rng: np.random.Generator) -> Iterator[PlantedNeuron]:
    octaves = np.log2(HIGH_HZ / LOW_HZ)
    places = (np.arange(n_neurons) + rng.uniform(0.2, 0.8, n_neurons)) / n_neurons
    directions: tuple[Direction, ...] = ("up", "none", "down")
    for index, place in enumerate(places):
        yield PlantedNeuron(
            label=f"n{index:02d}",
            site=f"site{index // NEURONS_PER_SITE}",
            best_frequency_hz=float(LOW_HZ * 2.0 ** (octaves * (0.08 + 0.84 * place))),
            latency_ms=float(rng.uniform(15.0, 65.0)),
            bandwidth_oct=float(rng.uniform(0.6, 1.3)),
            duration_ms=float(rng.uniform(35.0, 70.0)),
            scale_cyc_oct=float(rng.uniform(0.3, 0.7)),
            rate_hz=float(rng.uniform(5.0, 10.0)),
            polarity=-1 if index % 4 == 3 else 1,
            direction=directions[index % 3],
            noise=float(rng.uniform(0.4, 0.8)),
        )


def planted_strfs(
    population: Population, frequencies_hz: NDArray[np.float64], lags_ms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Receptive fields (neuron, frequency, lag) on any grid; lag 0 first, positive is excitatory, unit norm each."""
    fields = np.stack([_gabor(neuron, frequencies_hz, lags_ms) for neuron in population.neurons])
    return fields / np.linalg.norm(fields, axis=(1, 2), keepdims=True)


def _gabor(
    neuron: PlantedNeuron, frequencies_hz: NDArray[np.float64], lags_ms: NDArray[np.float64]
) -> NDArray[np.float64]:
    octaves = np.log2(np.asarray(frequencies_hz, dtype=float) / neuron.best_frequency_hz)[:, None]
    delay = (np.asarray(lags_ms, dtype=float) - neuron.latency_ms)[None, :]
    envelope = _half_maximum(octaves, neuron.bandwidth_oct) * _half_maximum(delay, neuron.duration_ms)
    spectral = 2.0 * np.pi * neuron.scale_cyc_oct * octaves
    temporal = 2.0 * np.pi * neuron.rate_hz * delay / 1000.0
    # A larger lag is an earlier time: in an upward sweep the low frequency comes first, so octaves and lag run against
    # each other, and the phase along the ridge is their sum.
    carrier = {
        "up": np.cos(spectral + temporal),
        "down": np.cos(spectral - temporal),
        "none": np.cos(spectral) * np.cos(temporal),
    }[neuron.direction]
    return neuron.polarity * envelope * carrier


def _half_maximum(distance: NDArray[np.float64], full_width: float) -> NDArray[np.float64]:
    """Gaussian of height 1 that falls to 1/2 at half of ``full_width`` from its centre."""
    return 0.5 ** ((2.0 * distance / full_width) ** 2)


def lags_ms(n_lags: int = LAGS, frame_ms: float = FRAME_MS) -> NDArray[np.float64]:
    """Lag axis in ms, 0 first."""
    return np.arange(n_lags, dtype=np.float64) * frame_ms


def heard_clips(population: Population, n_clips: int, clip_seconds: float) -> Recording:
    """Recording of the population as it hears new clips of synthetic natural sound.

    Each response is a softplus of the planted receptive field's output, plus Gaussian noise.
    """
    if n_clips < 1:
        raise ValueError(f"a recording of {n_clips} clips holds no sound to learn from; ask for one clip or more")
    rng = np.random.default_rng([population.seed, 1])
    waveforms = np.stack([natural_clip(rng, clip_seconds, AUDIO_FS) for _ in range(n_clips)])
    waveforms *= 0.95 / np.abs(waveforms).max()
    frequencies = log_frequencies(LOW_HZ, HIGH_HZ, EAR_BANDS)
    kernels = gammatone_kernels(frequencies, AUDIO_FS, KERNEL_TAPS)
    levels = np.stack([log_spectrogram(waveform, kernels, HOP) for waveform in waveforms])
    spectrograms = _standardised(levels)
    drive = _standardised(filter_spectrograms(planted_strfs(population, frequencies, lags_ms()), spectrograms))
    rate = _standardised(np.logaddexp(0.0, 2.0 * drive - 0.5))
    noise = np.array([neuron.noise for neuron in population.neurons])[:, None]
    responses = rate + noise * rng.standard_normal(rate.shape)
    spread = np.sqrt(1.0 + noise**2)
    single = np.float32
    return Recording(
        audio_fs=AUDIO_FS,
        frame_ms=FRAME_MS,
        frequencies_hz=frequencies,
        waveforms=waveforms.astype(single),
        spectrograms=spectrograms.astype(single),
        responses=(responses / spread).astype(single),
        noiseless=(rate / spread).astype(single),
    )


def filter_spectrograms(strfs: NDArray[np.float64], spectrograms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Causal output (clip, neuron, time) of receptive fields (neuron, frequency, lag) on (clip, frequency, time)."""
    n_frames = spectrograms.shape[2]
    output = np.zeros((spectrograms.shape[0], strfs.shape[0], n_frames))
    for lag in range(min(strfs.shape[2], n_frames)):
        output[:, :, lag:] += np.einsum("nf,cft->cnt", strfs[:, :, lag], spectrograms[:, :, : n_frames - lag])
    return output


def _standardised(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero mean and unit variance per row over clips and time."""
    return (values - values.mean(axis=(0, 2), keepdims=True)) / (values.std(axis=(0, 2), keepdims=True) + 1e-12)
