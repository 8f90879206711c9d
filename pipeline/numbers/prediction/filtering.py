"""Maps as linear filters: what they predict, and how alike two of them are on real sounds."""

import numpy as np

from pipeline.numbers.correlation import correlation
from pipeline.numbers.prediction.spectrograms import HeardFrames


def filter_r(maps: np.ndarray, windows: HeardFrames, responses: np.ndarray) -> np.ndarray:
    """Pearson correlation of each neuron's response with what its map, as a linear filter, makes of the sounds.

    1 for a linear model's own map, less where the response is not linear in the sound. NaN where the map or the
    response does not change.

    Parameters
    ----------
    maps
        Maps (neuron, frequency, lag), lag 0 first.
    windows
        The sounds, cut for maps of these lags.
    responses
        Responses (neuron, frame) at the rows of the windows.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.prediction import filter_r, windows_of
    >>> sound = np.array([[0.0, 1.0, -2.0, 0.5, 3.0]])
    >>> windows = windows_of([sound], lags=1)
    >>> filter_r(np.full((1, 1, 1), 2.0), windows, 2 * sound + 1)
    array([1.])
    """
    flat = _flat(maps, windows)
    return correlation(flat @ windows.values.T, np.asarray(responses, dtype=np.float64))


def stimulus_weighted_r(one: np.ndarray, other: np.ndarray, windows: HeardFrames) -> np.ndarray:
    """Correlation of what two maps of each neuron make of the sounds.

    Where sounds leave directions unseen, two maps that differ there predict the same, and a plain cosine between them
    is low although neither is wrong.

    Parameters
    ----------
    one, other
        Maps (neuron, frequency, lag).
    windows
        The sounds, cut for maps of these lags.
    """
    return correlation(_flat(one, windows) @ windows.values.T, _flat(other, windows) @ windows.values.T)


def ceiling(repeats: np.ndarray) -> np.ndarray:
    """Highest correlation that any prediction can reach with the mean of noisy repeats, for each neuron.

    From the mean correlation c between repeats, by the formula of Spearman and Brown: the mean of R repeats
    correlates with the noise-free response as sqrt(R c / (1 + (R - 1) c)). NaN for a single repeat, or where the
    repeats do not agree (c not above 0).

    Parameters
    ----------
    repeats
        Responses (neuron, repeat, frame).

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline.numbers.prediction import ceiling
    >>> ceiling(np.array([[[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]]))
    array([1.])
    """
    repeats = np.asarray(repeats, dtype=np.float64)
    count = repeats.shape[1]
    if count < 2:
        return np.full(len(repeats), np.nan)
    first, second = np.triu_indices(count, 1)
    agreement = correlation(repeats[:, first], repeats[:, second]).mean(axis=1)
    with np.errstate(invalid="ignore"):
        of_mean = count * agreement / (1 + (count - 1) * agreement)
        return np.where(agreement > 0, np.sqrt(np.maximum(of_mean, 0.0)), np.nan)


def _flat(maps: np.ndarray, windows: HeardFrames) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 3 or maps.shape[1:] != windows.shape:
        raise ValueError(
            f"maps have the shape {maps.shape}, but the windows of the sounds have {windows.shape[0]} bands and"
            f" {windows.shape[1]} lags; give maps (neuron, frequency, lag) over the same"
        )
    return maps.reshape(len(maps), -1)
