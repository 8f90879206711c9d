"""What chance gives: mean correlations of sets of maps that have no neuron of their own in common."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from scipy import fft

#: Null sets behind each neuron of a group, at the least: a lone reliable neuron can then pass the correction.
SETS_PER_NEURON = 50

#: Pairs of maps of different neurons from which their common part is told.
PAIRS = 5000


def mean_correlation(rows: np.ndarray) -> float:
    """Mean of the K (K - 1) / 2 correlations of standardised rows (map, entry): (|sum|^2 - K) / (K (K - 1))."""
    k = len(rows)
    return float((np.square(rows.sum(axis=0)).sum() - k) / (k * (k - 1)))


def of_other_neurons(
    rows: np.ndarray, valid: np.ndarray, neurons: np.ndarray, n_null: int, rng: np.random.Generator
) -> dict[int, np.ndarray]:
    """Sorted mean correlations of sets of maps, one of each checkpoint, that do not all belong to one neuron.

    A map keeps its checkpoint and all that it holds there: where its energy lies, how smooth it is, what all neurons
    of that checkpoint share. Only that the maps of a set belong to one neuron is lost: if it means nothing, a
    neuron's own set is one of these by chance. All sets where there are few, random ones otherwise.

    Parameters
    ----------
    rows
        Standardised maps (checkpoint, donor, entry).
    valid
        Which of them count (checkpoint, donor).
    neurons
        Which checkpoints count for each neuron that is to be tested (neuron, checkpoint).
    n_null
        Sets at least.

    Returns
    -------
    One array for each number of maps that a neuron has; empty where there are not two donors.
    """
    patterns = Counter(tuple(np.flatnonzero(row).tolist()) for row in neurons)
    found: dict[int, np.ndarray] = {}
    for k in sorted({len(pattern) for pattern in patterns if len(pattern) > 1}):
        alike = {pattern: count for pattern, count in sorted(patterns.items()) if len(pattern) == k}
        wanted = max(n_null, SETS_PER_NEURON * sum(alike.values()))
        parts = [
            _sets(rows, valid, pattern, -(-wanted * count // sum(alike.values())), rng)
            for pattern, count in alike.items()
        ]
        found[k] = np.sort(np.concatenate(parts))
    return found


def _sets(
    rows: np.ndarray, valid: np.ndarray, checkpoints: Sequence[int], wanted: int, rng: np.random.Generator
) -> np.ndarray:
    donors, k = np.flatnonzero(valid[list(checkpoints)].all(axis=0)), len(checkpoints)
    d = donors.size
    if d < 2:
        return np.zeros(0)
    if d**k <= 2 * wanted:
        every = np.array(list(product(range(d), repeat=k)))
        steps = [every[start : start + d] for start in range(0, len(every), d)]
    else:
        steps = [np.stack([rng.permutation(d) for _ in range(k)], axis=1) for _ in range(-(-wanted // d))]
    values = []
    for step in steps:
        step = step[(step != step[:, :1]).any(axis=1)]
        total = sum(rows[c, donors[step[:, j]]] for j, c in enumerate(checkpoints))
        if len(step):
            values.append((np.square(total).sum(axis=1, dtype=np.float64) - k) / (k * (k - 1)))
    return np.concatenate(values)


def of_different_neurons(rows: np.ndarray, valid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Correlations of pairs of maps, of two checkpoints and two neurons: what all neurons have in common.

    Parameters
    ----------
    rows, valid
        As in `of_other_neurons`.
    """
    checkpoints, d = rows.shape[:2]
    pairs = list(combinations(range(checkpoints), 2))
    values = []
    for first, second in rng.permuted(pairs, axis=0).tolist() if pairs else []:
        turn = rng.permutation(d)
        # every neuron once, against the one that comes a random distance after it
        other = np.roll(turn, int(rng.integers(1, d)) if d > 1 else 0)
        kept = valid[first, turn] & valid[second, other] & (turn != other)
        values.append((rows[first, turn[kept]] * rows[second, other[kept]]).sum(axis=1, dtype=np.float64))
        if sum(map(len, values)) > PAIRS:
            break
    return np.concatenate(values) if values else np.zeros(0)


def permuted(rows: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Mean correlations after the entries of every map are permuted: smoothness and place of the energy are lost."""
    return np.array([mean_correlation(rng.permuted(rows, axis=1)) for _ in range(n)])


def shifted(rows: np.ndarray, shape: Sequence[int], n: int, rng: np.random.Generator) -> np.ndarray:
    """Mean correlations for ``n`` draws of one circular shift per map, read off all circular cross-correlations."""
    k = len(rows)
    axes = tuple(range(1, len(shape) + 1))
    spectra = fft.fftn(rows.reshape(k, *shape), axes=axes)
    shifts = np.stack([rng.integers(size, size=(n, k)) for size in shape])
    total = np.zeros(n)
    for i in range(k - 1):
        # one map against all later ones, so that memory holds K, not K^2, surfaces
        surfaces = fft.ifftn(spectra[i].conj() * spectra[i + 1 :], axes=axes).real
        relative = (shifts[:, :, i, None] - shifts[:, :, i + 1 :]) % np.array(shape)[:, None, None]
        total += surfaces[(np.arange(k - i - 1), *relative)].sum(axis=1)
    return total / (k * (k - 1) / 2)
