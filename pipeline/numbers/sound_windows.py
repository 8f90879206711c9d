"""What a map lies over: a spectrogram cut into one window per frame."""

import numpy as np


def stimulus_windows(stimulus: np.ndarray, lags: int, frames: np.ndarray | None = None) -> np.ndarray:
    """What each frame's map lies over: windows (time, lag, frequency) of a spectrogram.

    Entry ``[t, l, f]`` is the spectrogram in band ``f``, ``l`` frames before frame ``frames[t]``, and 0 before the
    sound began.

    Parameters
    ----------
    stimulus
        Spectrogram (frequency, time).
    lags
        Frames of a window, lag 0 included.
    frames
        Frames of the sound that have a window; all of them by default.
    """
    stimulus = np.asarray(stimulus)
    frames = np.arange(stimulus.shape[1]) if frames is None else np.asarray(frames)
    earlier = np.concatenate([np.zeros((lags - 1, len(stimulus)), stimulus.dtype), stimulus.T])
    return earlier[frames[:, None] + (lags - 1) - np.arange(lags)]
