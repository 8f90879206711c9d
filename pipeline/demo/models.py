"""The small encoding models that the demo trains; each is rebuilt from plain numbers alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.demo.ear import FLOOR, STEP, bandwidths, log_frequencies
from pipeline.gradients.encoding_model import AudioEncodingModel


class LearnableFilterbank(nn.Module):
    """A front-end that hears the waveform through band filters which are trained with the model.

    Strictly causal: frame ``t`` depends on the samples before ``(t + 1) * hop`` only. Filters start as gammatones
    on a log frequency axis; the magnitude of their output is averaged over the frame, compressed by a logarithm and
    standardised with the constants that :meth:`calibrate` measures, so that zero stands for the mean level.
    """

    level_mean: Tensor
    level_std: Tensor

    def __init__(
        self, out_channels: int, audio_fs: int, hop: int, low_hz: float, high_hz: float, taps: int = 256
    ) -> None:
        super().__init__()
        if hop % STEP or taps < STEP:
            raise ValueError(
                f"frames of {hop} samples and filters of {taps} taps cannot be read every {STEP} samples; a frame must"
                f" hold whole readings; choose a hop that is a multiple of {STEP}, and {STEP} taps or more"
            )
        self.out_channels = out_channels
        self.audio_fs = audio_fs
        self.hop = hop
        centres = torch.from_numpy(log_frequencies(low_hz, high_hz, out_channels)).float()
        self.taps = taps
        self.log_centre = nn.Parameter(centres.log())
        self.log_bandwidth = nn.Parameter(torch.from_numpy(bandwidths(centres.numpy())).float().log())
        self.log_floor = nn.Parameter(torch.full((out_channels, 1), FLOOR).log())
        self.register_buffer("level_mean", torch.zeros(out_channels, 1))
        self.register_buffer("level_std", torch.ones(out_channels, 1))

    def forward(self, waveform: Tensor) -> Tensor:
        """Spectrogram (batch, 1, frequency, time) of waveforms (batch, 1, sample)."""
        levels = (self._log_levels(waveform) - self.level_mean) / self.level_std
        return levels.unsqueeze(1)

    def _log_levels(self, waveform: Tensor) -> Tensor:
        if waveform.ndim != 3 or waveform.shape[1] != 1 or waveform.shape[2] % self.hop or not waveform.shape[2]:
            raise ValueError(
                f"waveforms of shape {tuple(waveform.shape)} are not (batch, 1, sample) with whole frames of {self.hop}"
                " samples; the samples of a broken frame would be heard by no response; cut or pad the sound"
            )
        padded = functional.pad(waveform, (self.taps - STEP, 0))
        real, imaginary = functional.conv1d(padded, self._kernels(waveform.dtype), stride=STEP).chunk(2, dim=1)
        # The small constant keeps the slope of the magnitude finite where a band is silent.
        magnitude = torch.sqrt(real**2 + imaginary**2 + 1e-10)
        levels = functional.avg_pool1d(magnitude, self.hop // STEP)
        return torch.log(levels + self.log_floor.exp())

    def _kernels(self, dtype: torch.dtype) -> Tensor:
        """Gammatones (band, 1, tap), cosine phase then sine phase, with unit gain at their centre.

        Worked out in double precision: after hundreds of cycles a single-precision phase is wrong in the fifth digit.
        """
        # conv1d correlates: the last tap meets the present sample.
        taps = torch.arange(self.taps, device=self.log_centre.device, dtype=torch.float64).flip(0)
        seconds = taps / self.audio_fs
        decay = 2.0 * math.pi * 1.019 * self.log_bandwidth.double().exp()
        envelope = seconds**3 * torch.exp(-decay[:, None] * seconds)
        envelope = envelope / envelope.sum(dim=1, keepdim=True)
        phase = 2.0 * math.pi * self.log_centre.double().exp()[:, None] * seconds
        return torch.cat([envelope * phase.cos(), envelope * phase.sin()]).unsqueeze(1).to(dtype)

    @torch.no_grad()
    def calibrate(self, waveforms: Tensor) -> None:
        """Measure the mean and the spread of every band's level over the given waveforms (batch, 1, sample)."""
        levels = self._log_levels(waveforms)
        self.level_mean.copy_(levels.mean(dim=(0, 2)).unsqueeze(1))
        self.level_std.copy_(levels.std(dim=(0, 2)).unsqueeze(1) + 1e-6)


class KernelReadout(nn.Module):
    """One spectro-temporal kernel per neuron, followed by a softplus: a linear-nonlinear neuron."""

    def __init__(self, n_channels: int, n_frequency_bands: int, n_lags: int, out_neurons: int) -> None:
        super().__init__()
        # Small random weights, as a start at zero would make the seeds alike.
        self.kernel = nn.Parameter(0.01 * torch.randn(out_neurons, n_channels, n_frequency_bands, n_lags))
        self.bias = nn.Parameter(torch.zeros(out_neurons))
        self.scale = nn.Parameter(torch.ones(out_neurons))
        self.offset = nn.Parameter(torch.full((out_neurons,), -0.7))

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Responses (batch, neuron, 1, time) to (batch, channel, frequency, time)."""
        padded = functional.pad(spectrogram, (self.kernel.shape[-1] - 1, 0))
        drive = functional.conv2d(padded, self.kernel, self.bias)
        return _column(self.scale) * functional.softplus(drive) + _column(self.offset)


class RecurrentCore(nn.Module):
    """A gated recurrent unit that reads short stretches of the spectrogram, frame by frame."""

    def __init__(self, n_inputs: int, hidden: int, stretch: int) -> None:
        super().__init__()
        self.stretch = nn.Conv1d(n_inputs, hidden, stretch)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Features (batch, hidden, 1, time) of (batch, channel, frequency, time)."""
        past = functional.pad(spectrogram.flatten(1, 2), (self.stretch.kernel_size[0] - 1, 0))
        states, _ = self.gru(self.stretch(past).transpose(1, 2))
        return states.transpose(1, 2).unsqueeze(2)


class FrameReadout(nn.Module):
    """A weighted sum of the features of one frame per neuron."""

    def __init__(self, n_features: int, out_neurons: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_features, out_neurons)

    def forward(self, features: Tensor) -> Tensor:
        """Responses (batch, neuron, 1, time) to features (batch, feature, 1, time)."""
        return self.linear(features.movedim(1, -1)).movedim(-1, 1)


class LinearNonlinearModel(AudioEncodingModel):
    """A kernel and a softplus per neuron."""

    def __init__(self, n_frequency_bands: int, temporal_window_size: int, out_neurons: int = 1) -> None:
        super().__init__(n_frequency_bands, temporal_window_size, out_neurons)
        self.readout = KernelReadout(self.C_in, n_frequency_bands, temporal_window_size, out_neurons)


class RecurrentModel(AudioEncodingModel):
    """A gated recurrent unit shared by all neurons."""

    def __init__(
        self,
        n_frequency_bands: int,
        temporal_window_size: int,
        out_neurons: int = 1,
        hidden: int = 32,
        stretch: int = 8,
    ) -> None:
        super().__init__(n_frequency_bands, temporal_window_size, out_neurons)
        self.core = RecurrentCore(self.C_in * n_frequency_bands, hidden, stretch)
        self.readout = FrameReadout(hidden, out_neurons)


class WaveformModel(AudioEncodingModel):
    """A linear-nonlinear model behind a learnable filterbank: it hears the waveform itself."""

    def __init__(
        self,
        n_frequency_bands: int,
        temporal_window_size: int,
        out_neurons: int = 1,
        audio_fs: int = 8000,
        hop: int = 80,
        low_hz: float = 160.0,
        high_hz: float = 3600.0,
    ) -> None:
        front_end = LearnableFilterbank(n_frequency_bands, audio_fs, hop, low_hz, high_hz)
        super().__init__(n_frequency_bands, temporal_window_size, out_neurons, wav2spec=front_end)
        self.readout = KernelReadout(self.C_in, n_frequency_bands, temporal_window_size, out_neurons)


def _column(per_neuron: Tensor) -> Tensor:
    """(neuron,) as (neuron, 1, 1), to meet responses (batch, neuron, 1, time)."""
    return per_neuron[:, None, None]
