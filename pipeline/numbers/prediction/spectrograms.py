"""Spectrograms cut into the windows that maps lie over."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.numbers.sound_windows import stimulus_windows


@dataclass(frozen=True)
class HeardFrames:
    """What a map with some lags lies over, at the frames of several sounds that are late enough.

    Attributes
    ----------
    values
        One row per frame (frame, frequency x lag), lag 0 first within a band, in double precision.
    sounds
        For each sound, the rows that belong to it.
    frames
        For each sound, the frames of the sound that its rows stand for.
    shape
        Bands and lags of a window.
    """

    values: np.ndarray
    sounds: tuple[slice, ...]
    frames: tuple[np.ndarray, ...]
    shape: tuple[int, int]

    def of(self, responses: Sequence[np.ndarray]) -> np.ndarray:
        """Responses (neuron, frame) at the rows, from one array (neuron, time) per sound.

        Raises
        ------
        ValueError
            If there is not one array per sound, or one is too short for its sound.
        """
        if len(responses) != len(self.frames):
            raise ValueError(
                f"there are responses to {len(responses)} sounds, but {len(self.frames)} sounds; each response belongs"
                " to one sound, so give as many"
            )
        for response, frames in zip(responses, self.frames, strict=True):
            if np.ndim(response) != 2 or np.shape(response)[1] <= frames[-1]:
                raise ValueError(
                    f"a response has the shape {np.shape(response)}, but its sound has frames up to {frames[-1]}; give"
                    " (neuron, time) with one entry per frame"
                )
        picked = [np.asarray(one, dtype=np.float64)[:, at] for one, at in zip(responses, self.frames, strict=True)]
        return np.concatenate(picked, axis=1)


def windows_of(spectrograms: Sequence[np.ndarray], lags: int, skip: int | None = None) -> HeardFrames:
    """Windows of several spectrograms (frequency, time).

    Parameters
    ----------
    spectrograms
        One array per sound, all with the same bands.
    lags
        Frames of a window, lag 0 included.
    skip
        Frames left out at the start of each sound. By default ``lags - 1``, so that no window reaches to before the
        sound; frames that are not skipped see zeros there.

    Raises
    ------
    ValueError
        If bands differ, or a sound has no frame left.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.prediction import windows_of
    >>> windows_of([np.arange(5.0)[None]], lags=3).values
    array([[2., 1., 0.],
           [3., 2., 1.],
           [4., 3., 2.]])
    """
    skip = lags - 1 if skip is None else skip
    bands = {len(one) for one in spectrograms}
    if len(bands) != 1:
        raise ValueError(
            f"the sounds have {sorted(bands)} bands, so one map cannot lie over all of them; give one count"
        )
    parts, slices, frames, start = [], [], [], 0
    for number, one in enumerate(spectrograms):
        count = one.shape[1] - skip
        if count < 1:
            raise ValueError(
                f"sound {number} has {one.shape[1]} frames, of which {skip} are skipped, so none is left to predict;"
                " give longer sounds or fewer lags"
            )
        frames.append(np.arange(skip, one.shape[1]))
        seen = stimulus_windows(np.asarray(one, dtype=np.float64), lags, frames[-1])
        parts.append(seen.transpose(0, 2, 1).reshape(count, -1))
        slices.append(slice(start, start + count))
        start += count
    return HeardFrames(np.concatenate(parts), tuple(slices), tuple(frames), (bands.pop(), lags))
