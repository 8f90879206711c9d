"""A causal filterbank that turns a waveform into a spectrogram with log-spaced bands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Samples between two readings of a band's level, which changes far more slowly than the sound.
STEP = 8
#: Level, in the waveform's unit, under which the log compression goes flat.
FLOOR = 0.01


def log_frequencies(low_hz: float, high_hz: float, count: int) -> NDArray[np.float64]:
    """Band centres in Hz, the same number of octaves apart."""
    if not 0.0 < low_hz < high_hz or count < 2:
        raise ValueError(
            f"{count} bands from {low_hz} to {high_hz} Hz are no frequency axis; a log axis needs two bands or more"
            " between two positive frequencies, the lower first; change the bounds or the count"
        )
    return np.geomspace(low_hz, high_hz, count)


def bandwidths(frequencies_hz: NDArray[np.floating]) -> NDArray[np.floating]:
    """Bandwidth in Hz of the human ear's filters (Glasberg & Moore 1990), but at least 60 Hz.

    The bound lets the lowest bands ring out within a kernel of 32 ms.
    """
    return np.maximum(24.7 * (4.37e-3 * np.asarray(frequencies_hz) + 1.0), 60.0)


def gammatone_kernels(frequencies_hz: NDArray[np.float64], audio_fs: int, width: int) -> NDArray[np.complex128]:
    """Complex impulse responses (band, tap) of fourth-order gammatone filters with unit gain at their centre.

    The real and the imaginary part are in quadrature, so that the magnitude of a filtered sound is the level of
    the band. Tap 0 is the present sample.
    """
    frequencies = np.asarray(frequencies_hz, dtype=float)
    if frequencies.ndim != 1 or frequencies.size == 0 or frequencies.max() >= audio_fs / 2:
        raise ValueError(
            f"bands at {frequencies.tolist()} Hz do not fit a sample rate of {audio_fs} Hz; no sound reaches a band at"
            " half the rate or above; give at least one band, and only bands below half the rate"
        )
    seconds = np.arange(width) / audio_fs
    exponent = -2.0 * np.pi * 1.019 * bandwidths(frequencies) + 2j * np.pi * frequencies
    kernels = seconds**3 * np.exp(exponent[:, None] * seconds)
    return kernels / np.abs(kernels).sum(axis=1, keepdims=True)


def log_spectrogram(
    waveform: NDArray[np.float64], kernels: NDArray[np.complex128], hop: int, step: int = STEP
) -> NDArray[np.float64]:
    """Log level (frequency, time) of each band in each frame.

    Frame ``t`` is the mean level over the samples ``t * hop`` to ``(t + 1) * hop`` of the filtered waveform, so it
    hears nothing after its own end. Samples after the last whole frame are left out.
    """
    n_frames = waveform.size // hop
    if n_frames < 1 or hop % step:
        raise ValueError(
            f"{waveform.size} samples in frames of {hop}, read every {step} samples, make no spectrogram; a frame needs"
            " all its samples and a whole number of readings; lengthen the sound, or let the step divide the hop"
        )
    size = 1 << (waveform.size + kernels.shape[1] - 2).bit_length()  # a power of two at least as long as the output
    filtered = np.fft.ifft(np.fft.fft(waveform, size) * np.fft.fft(kernels, size))[:, : n_frames * hop]
    levels = np.abs(filtered[:, step - 1 :: step]).reshape(len(kernels), n_frames, hop // step)
    return np.log(levels.mean(axis=2) + FLOOR)
