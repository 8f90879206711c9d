"""Planted neurons whose receptive field moves with the sound, as a model and as its dynamic STRFs in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.demo.simulate import FRAME_MS, HIGH_HZ, LAGS, LOW_HZ, PlantedNeuron, Population, lags_ms, planted_strfs
from pipeline.gradients.encoding_model import AudioEncodingModel

#: How a planted neuron's response depends on its two kernels k and q (of norm 1, at right angles) and on the sound x.
Nonlinearity = Literal["linear-nonlinear", "energy", "gain-controlled", "two-state"]
#: Their names.
KINDS: tuple[Nonlinearity, ...] = get_args(Nonlinearity)

#: Time constant over which loudness is felt, in ms.
LOUDNESS_MS = 60.0

#: Slope and offset before the softplus of a linear-nonlinear neuron.
SLOPE, OFFSET = 2.0, -0.5


@dataclass(frozen=True)
class MovingPopulation:
    """Neurons of each kind of nonlinearity in turn, with two kernels each.

    Attributes
    ----------
    labels, kinds
        Name and nonlinearity of each neuron.
    kernels
        (neuron, 2, frequency, lag), lag 0 first, of norm 1 and at right angles to each other.
    """

    labels: tuple[str, ...]
    kinds: tuple[Nonlinearity, ...]
    kernels: NDArray[np.float64]


def plant_moving_population(frequencies_hz: NDArray[np.float64], n_neurons: int = 8, seed: int = 0) -> MovingPopulation:
    """Neurons whose kinds take turns, with Gabor kernels at best frequencies that tile the ear's range."""
    rng = np.random.default_rng([seed, 2])
    first, second = (_fields(frequencies_hz, n_neurons, rng, shift) for shift in (0.0, 0.5))
    # At right angles, and of norm 1 again, so that complexity and gain have closed forms.
    second = second - (first * second).sum(axis=(1, 2), keepdims=True) * first
    second /= np.linalg.norm(second, axis=(1, 2), keepdims=True)
    kinds = tuple(KINDS[index % len(KINDS)] for index in range(n_neurons))
    labels = tuple(f"m{index:02d}" for index in range(n_neurons))
    return MovingPopulation(labels, kinds, np.stack([first, second], axis=1))


def _fields(
    frequencies_hz: NDArray[np.float64], n_neurons: int, rng: np.random.Generator, shift_oct: float
) -> NDArray[np.float64]:
    """Gabors (neuron, frequency, lag) of norm 1, best frequencies in order, moved up by ``shift_oct``."""
    octaves = np.log2(HIGH_HZ / LOW_HZ)
    neurons = tuple(
        PlantedNeuron(
            label=f"m{index:02d}",
            site="site0",
            best_frequency_hz=float(LOW_HZ * 2 ** (octaves * (0.15 + 0.6 * (index + 0.5) / n_neurons) + shift_oct)),
            latency_ms=float(rng.uniform(25.0, 60.0)),
            bandwidth_oct=float(rng.uniform(0.6, 1.1)),
            duration_ms=float(rng.uniform(40.0, 60.0)),
            scale_cyc_oct=float(rng.uniform(0.3, 0.6)),
            rate_hz=float(rng.uniform(5.0, 9.0)),
            polarity=1,
            direction="none",
            noise=0.0,
        )
        for index in range(n_neurons)
    )
    return planted_strfs(Population(neurons, 0), frequencies_hz, lags_ms())


def loudness_weights(n_lags: int = LAGS, frame_ms: float = FRAME_MS) -> NDArray[np.float64]:
    """How much each lag counts to the loudness that a neuron feels; they sum to 1."""
    weights = np.exp(-np.arange(n_lags) * frame_ms / LOUDNESS_MS)
    return weights / weights.sum()


class MovingReadout(nn.Module):
    """Responses of planted neurons, each of its own kind; nothing in it is trained."""

    kernels: Tensor
    kind: Tensor
    loudness: Tensor

    def __init__(self, n_frequency_bands: int, n_lags: int, out_neurons: int) -> None:
        super().__init__()
        self.register_buffer("kernels", torch.zeros(out_neurons, 2, n_frequency_bands, n_lags))
        self.register_buffer("kind", torch.zeros(out_neurons, dtype=torch.int64))
        self.register_buffer("loudness", torch.from_numpy(loudness_weights(n_lags)).float())

    def plant(self, population: MovingPopulation) -> None:
        """Take the kernels and kinds of a population."""
        self.kernels.copy_(torch.from_numpy(population.kernels))
        self.kind.copy_(torch.tensor([KINDS.index(kind) for kind in population.kinds]))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Responses (batch, neuron, 1, time) to (batch, 1, frequency, time)."""
        first, second = (self._driven(spectrogram, which) for which in (0, 1))
        power = self._felt(spectrogram.square())
        level = self._felt(spectrogram)
        of_kind = (
            functional.softplus(SLOPE * first + OFFSET),
            first.square() + second.square(),
            first / (1.0 + power),
            torch.where(level > 0, first, second),
        )
        kind = self.kind[:, None]
        response = sum(torch.where(kind == index, one, 0.0) for index, one in enumerate(of_kind))
        assert isinstance(response, Tensor)
        return response.unsqueeze(2)

    def _driven(self, spectrogram: Tensor, which: int) -> Tensor:
        """What each neuron's kernel makes of the sound (batch, neuron, time)."""
        # conv2d correlates: the last tap meets the present frame.
        kernels = self.kernels[:, which : which + 1].flip(-1).to(spectrogram)
        return functional.conv2d(functional.pad(spectrogram, (kernels.shape[-1] - 1, 0)), kernels).squeeze(2)

    def _felt(self, spectrogram: Tensor) -> Tensor:
        """Recent mean over bands (batch, 1, time)."""
        recent = self.loudness.flip(-1).to(spectrogram)[None, None]
        padded = functional.pad(spectrogram.mean(dim=2), (recent.shape[-1] - 1, 0))
        return functional.conv1d(padded, recent)


class MovingModel(AudioEncodingModel):
    """The planted neurons of a `MovingPopulation` as a model."""

    readout: MovingReadout

    def __init__(self, n_frequency_bands: int, temporal_window_size: int, out_neurons: int = 1) -> None:
        super().__init__(n_frequency_bands, temporal_window_size, out_neurons)
        self.readout = MovingReadout(n_frequency_bands, temporal_window_size, out_neurons)


def planted_dynamic_strfs(
    population: MovingPopulation, spectrogram: NDArray[np.floating], skip: int = 0
) -> NDArray[np.float64]:
    """Dynamic STRFs (neuron, time, lag, frequency) of planted neurons, from their derivatives on paper.

    With a = k . x_t, b = q . x_t and the loudness e_t (mean square over bands, weights h over lags):

    - linear-nonlinear: sigmoid(SLOPE a + OFFSET) SLOPE k
    - energy: 2 a k + 2 b q
    - gain-controlled, a / (1 + e): k / (1 + e) - a / (1 + e)^2 de/dx, de/dx[f, l] = 2 h[l] x[f, t - l] / bands
    - two-state: k where the recent mean level is above 0, q elsewhere

    ``spectrogram``: (frequency, time), zero before it began. ``skip``: Frames left out at the start.
    """
    lags, bands = population.kernels.shape[3], population.kernels.shape[2]
    padded = np.concatenate([np.zeros((bands, lags - 1)), spectrogram], axis=1)
    seen = np.lib.stride_tricks.sliding_window_view(padded, lags, axis=1)[:, skip:, ::-1].transpose(1, 2, 0)
    weights = loudness_weights(lags)
    power = np.einsum("tlf,l->t", seen**2, weights) / bands
    level = np.einsum("tlf,l->t", seen, weights) / bands
    of_power = 2.0 * weights[:, None] * seen / bands  # d power / d x (time, lag, frequency)
    maps = []
    for kind, (first, second) in zip(population.kinds, population.kernels.transpose(0, 1, 3, 2), strict=True):
        a, b = (np.einsum("tlf,lf->t", seen, kernel)[:, None, None] for kernel in (first, second))
        if kind == "linear-nonlinear":
            maps.append(SLOPE / (1.0 + np.exp(-(SLOPE * a + OFFSET))) * first)
        elif kind == "energy":
            maps.append(2.0 * a * first + 2.0 * b * second)
        elif kind == "gain-controlled":
            felt = 1.0 + power[:, None, None]
            maps.append(first / felt - a / felt**2 * of_power)
        else:
            maps.append(np.where(level[:, None, None] > 0, first, second))
    return np.stack(maps)
