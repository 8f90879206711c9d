"""Recorded responses to spectrograms: one array per sound, with repeats or without."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.inputs.stimuli import StoredArray, collect_arrays, describe_arrays, read_array
from pipeline.plan.config import ConfigError

#: The axes of the responses to one sound.
AXES = ("(neuron, time)", "(neuron, repeat, time)")


def describe_recordings(path: str, names: Sequence[str]) -> tuple[StoredArray, ...]:
    """Shape and digest of the responses to each of the named sounds, in their order.

    Raises `ConfigError` as `read_recordings`, and if the file is not there.
    """
    found = describe_arrays([path], AXES)
    return tuple(found[name] for name in _all_there(path, found, names))


def read_recordings(path: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Responses (neuron, time) or (neuron, repeat, time) to the named sounds.

    ``path``: An .npz with one array for each sound, called as the sound is. Raises `ConfigError` if the file is no
    .npz, lacks a sound, or an array has other axes or a number that is not finite, and `OSError` if the file cannot be
    read, or is not there: trying again may help.
    """
    found = collect_arrays([path], read_array, AXES)
    return {name: found[name] for name in _all_there(path, found, names)}


def _all_there(path: str, found: dict[str, Any], names: Sequence[str]) -> Sequence[str]:
    missing = [name for name in names if name not in found]
    if missing:
        raise ConfigError(
            f"{path} has responses to {', '.join(list(found)[:8])}, but none to {', '.join(missing[:8])}; every sound"
            " needs its response, so save one under the sound's name, or leave the sound out of the stimuli"
        )
    return names
