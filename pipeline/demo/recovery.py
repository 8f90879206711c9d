"""Recovered maps compared with the receptive fields that were planted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pipeline.demo.simulate import Population, planted_strfs


@dataclass(frozen=True)
class Recovery:
    """One neuron's planted numbers beside those read from its map; NaN where the map shows nothing.

    The recovered best frequency and latency are those of the map's largest absolute entry, so they lie on the map's
    grid; the sign of that entry is ``recovered_polarity``. ``correlation`` is Pearson's, between the map and the
    planted receptive field on the same grid.
    """

    neuron: str
    planted_best_frequency_hz: float
    recovered_best_frequency_hz: float
    planted_latency_ms: float
    recovered_latency_ms: float
    planted_polarity: int
    recovered_polarity: float
    correlation: float


def recovery(
    population: Population, maps: ArrayLike, frequencies_hz: ArrayLike, lags_ms: ArrayLike
) -> tuple[Recovery, ...]:
    """One row per neuron, in the population's order.

    Parameters
    ----------
    population
        The planted truth.
    maps
        Gradmaps (neuron, frequency, lag), the neurons in the population's order, lag 0 first, positive excitatory.
    frequencies_hz, lags_ms
        The maps' axes; the planted fields are evaluated on them.

    Raises
    ------
    ValueError
        If the maps' shape does not fit the population and the axes.
    """
    maps, frequencies, lags = (np.asarray(values, dtype=float) for values in (maps, frequencies_hz, lags_ms))
    expected = (len(population.neurons), frequencies.size, lags.size)
    if maps.shape != expected:
        raise ValueError(
            f"maps have the shape {maps.shape}, but population and axes make {expected} (neuron, frequency, lag);"
            " neurons would be compared with the wrong truth; give the maps in that order, with their axes"
        )
    planted = planted_strfs(population, frequencies, lags)
    rows = []
    for neuron, field, gradmap in zip(population.neurons, planted, maps, strict=True):
        frequency, latency, sign = _peak(gradmap, frequencies, lags)
        rows.append(
            Recovery(
                neuron=neuron.label,
                planted_best_frequency_hz=neuron.best_frequency_hz,
                recovered_best_frequency_hz=frequency,
                planted_latency_ms=neuron.latency_ms,
                recovered_latency_ms=latency,
                planted_polarity=neuron.polarity,
                recovered_polarity=sign,
                correlation=_correlation(field, gradmap),
            )
        )
    return tuple(rows)


def _peak(gradmap: np.ndarray, frequencies: np.ndarray, lags: np.ndarray) -> tuple[float, float, float]:
    """Frequency, lag and sign of the largest absolute entry."""
    if not np.isfinite(gradmap).all() or not gradmap.any():
        return float("nan"), float("nan"), float("nan")
    band, lag = np.unravel_index(np.abs(gradmap).argmax(), gradmap.shape)
    return float(frequencies[band]), float(lags[lag]), float(np.sign(gradmap[band, lag]))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    spread = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / spread) if spread > 0 else float("nan")
