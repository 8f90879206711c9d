"""Names, units and values of the axes that every map is laid out on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

T = TypeVar("T")

#: The label or value of each position of an axis.
Labels = Sequence[str] | Sequence[float] | Sequence[int]

#: Attributes of each coordinate, in the CF manner.
AXIS_ATTRIBUTES: dict[str, dict[str, str]] = {
    "checkpoint": {"long_name": "checkpoint", "description": "trained model, labelled by its id"},
    "neuron": {
        "long_name": "neuron",
        "description": "output of the model, labelled with the recording's id; text, also where that is a number:"
        ' sel(neuron="3") takes the one called 3, isel(neuron=3) the fourth',
    },
    "frequency": {"long_name": "frequency", "units": "Hz", "description": "centre of the band"},
    "channel": {"long_name": "channel", "description": "channel after the prefilter"},
    "lag": {
        "long_name": "lag",
        "units": "ms",
        "description": "time before the frame of the objective; 0 is the newest frame, positive lags lie earlier",
    },
    "stimulus": {"long_name": "stimulus", "description": "sound around which the gradient was taken"},
    "waveform_lag": {
        "long_name": "lag",
        "units": "ms",
        "description": "time before the last sample of the objective's frame; 0 is the newest, positive is earlier",
    },
}


def mel_from_hz(frequency_hz: np.ndarray | float) -> np.ndarray:
    """Mel value of a frequency: 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    return 2595.0 * np.log10(1.0 + np.asarray(frequency_hz, dtype=float) / 700.0)


def hz_from_mel(mel: np.ndarray | float) -> np.ndarray:
    """Frequency in Hz of a mel value; the inverse of `mel_from_hz`."""
    return 700.0 * (10.0 ** (np.asarray(mel, dtype=float) / 2595.0) - 1.0)


def band_centres_hz(minimum: float, maximum: float, count: int, scale: str) -> tuple[float, ...]:
    """Centre frequencies of ``count`` bands from ``minimum`` to ``maximum`` Hz, both included.

    ``scale``: ``"log"`` (equal ratios), ``"linear"`` (equal differences) or ``"mel"``. For ``"mel"`` the limits are the
    outer edges of triangular filters, as mel filterbanks are specified, and the centres are the inner points of an even
    grid of ``count + 2`` mel values.
    """
    if scale == "log":
        centres = np.geomspace(minimum, maximum, count)
    elif scale == "linear":
        centres = np.linspace(minimum, maximum, count)
    elif scale == "mel":
        centres = hz_from_mel(np.linspace(mel_from_hz(minimum), mel_from_hz(maximum), count + 2))[1:-1]
    else:
        raise ValueError(f"scale {scale!r} is not known, so the bands have no place; use 'log', 'linear' or 'mel'")
    return tuple(float(centre) for centre in centres)


def lag_ms(lags: int, frame_ms: float) -> np.ndarray:
    """Lag of each frame of a map in ms: 0 first, older frames positive."""
    return np.arange(lags) * frame_ms


def waveform_lag_ms(samples: int, sample_rate: float) -> np.ndarray:
    """Lag of each audio sample of a map in ms: 0 first, older samples positive."""
    return np.arange(samples) * (1000.0 / sample_rate)


def samples_in(window_ms: float, sample_rate: float) -> int:
    """Number of audio samples in a window of ``window_ms``."""
    return round(window_ms * sample_rate / 1000.0)


@dataclass(frozen=True)
class Axis:
    """One axis of a map: the kind of axis it is, the label or value of each position, and what these are."""

    #: The kind of axis: ``stimulus`` also where the cube calls it ``speech_stimulus``.
    name: str
    values: Labels
    #: What the values are; left out for the axes of `AXIS_ATTRIBUTES`.
    long_name: str = ""
    units: str = ""
    #: Further coordinates along the axis, called ``<axis>_<label>``.
    labels: Mapping[str, Labels] = field(default_factory=dict)
    #: How much lies at each position, as the frames that are heard of each stimulus; no part of what the axis is.
    extents: tuple[int, ...] = field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.values)

    def attributes(self) -> dict[str, str]:
        """What a reader is told of the axis."""
        known = AXIS_ATTRIBUTES.get(self.name, {"long_name": self.name})
        own = {"long_name": self.long_name, "units": self.units}
        return {**known, **{key: text for key, text in own.items() if text}}


def as_array(values: Labels) -> np.ndarray:
    """Labels or numbers as an array; text as objects, which Zarr format 3 stores as strings of any length."""
    if len(values) and isinstance(values[0], str):
        return np.array(list(values), dtype=object)
    return np.asarray(values)


@dataclass(frozen=True)
class Block:
    """A run of neighbouring positions on one axis, ``start`` included and ``stop`` not."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def slice(self) -> slice:
        """The positions as a slice."""
        return slice(self.start, self.stop)

    def of(self, labels: Sequence[T]) -> Sequence[T]:
        """The labels at these positions."""
        return labels[self.start : self.stop]


def blocks(size: int, length: int) -> list[Block]:
    """An axis of ``size`` positions cut into blocks of ``length``; the last one may be shorter."""
    return [Block(start, min(start + length, size)) for start in range(0, size, length)]
