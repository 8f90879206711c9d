"""STRFs fitted to responses by ridge regression, one decomposition of the sounds for any number of neurons."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from scipy import linalg

from pipeline.numbers.correlation import correlation
from pipeline.numbers.prediction.spectrograms import HeardFrames

#: Penalties that are tried, relative to the mean variance of a stimulus entry times the number of frames.
PENALTIES = tuple(10.0 ** np.linspace(-5.0, 3.0, 13))

#: Where there is one sound only, it is cut into so many parts, each left out once.
PARTS_OF_ONE_SOUND = 5

#: Eigenvalues below this share of the largest are rounding: nothing was heard along their directions.
UNHEARD = 1e-13

#: Most bytes of the factors of `RidgeBasis` that are kept from one fit to the next.
KEPT_BYTES = 2**29


@dataclass(frozen=True)
class RidgeBasis:
    """The sounds as ridge regression needs them, decomposed once: X'X = V diag(values) V' for centred windows X.

    Attributes
    ----------
    windows
        The windows of the sounds.
    mean
        Mean of each entry over all frames; the fit has an intercept, which is not penalised.
    values, vectors
        Eigenvalues and eigenvectors of the centred scatter matrix, of the directions in which the sounds change.
    penalties
        Penalties in the units of the eigenvalues, smallest first.
    folds
        Rows that are left out together: those of one sound.
    """

    windows: HeardFrames
    mean: np.ndarray
    values: np.ndarray
    vectors: np.ndarray
    penalties: np.ndarray
    folds: tuple[slice, ...]

    @cached_property
    def projected(self) -> np.ndarray:
        """The centred windows in the eigenvectors' basis (frame, direction)."""
        return (self.windows.values - self.mean) @ self.vectors

    def left_out(self, at: int) -> list[tuple[np.ndarray, bool]]:
        """For the penalty at a position, the factor of I - H over each fold, where H maps responses to predictions.

        The residual of rows S in a fit without them is (I - H[S, S])^-1 times their residual in the fit with them, so
        that no fold needs a decomposition of its own (Golub, Heath & Wahba 1979, for one row).
        """
        kept = self._kept.get(at)
        if kept is None:
            kept = [self._factor(fold, self.penalties[at]) for fold in self.folds]
            size = sum((fold.stop - fold.start) ** 2 * 8 for fold in self.folds)
            if size * len(self.penalties) <= KEPT_BYTES:
                self._kept[at] = kept
        return kept

    def _factor(self, fold: slice, penalty: float) -> tuple[np.ndarray, bool]:
        part = self.projected[fold]
        # The unpenalised intercept adds 1 / n to every entry of H.
        hat = (part / (self.values + penalty)) @ part.T + 1.0 / len(self.projected)
        return linalg.cho_factor(np.eye(len(hat)) - hat, check_finite=False)

    @cached_property
    def _kept(self) -> dict[int, list[tuple[np.ndarray, bool]]]:
        return {}


@dataclass(frozen=True)
class FittedStrf:
    """STRFs of some neurons, fitted to their responses.

    Attributes
    ----------
    maps
        Change in the response per unit of the stimulus (neuron, frequency, lag), lag 0 first.
    intercept
        Response to a stimulus of zeros (neuron).
    r
        Correlation of each response with its prediction, every sound predicted by a fit without it (neuron); NaN where
        either side is constant. The penalty was chosen on the same predictions.
    penalty
        The penalty of each neuron, in the units of the sum of squares of a stimulus entry.
    """

    maps: np.ndarray
    intercept: np.ndarray
    r: np.ndarray
    penalty: np.ndarray


def ridge_basis(windows: HeardFrames, penalties: Sequence[float] = PENALTIES) -> RidgeBasis:
    """The decomposition of some sounds on which every fit to responses to them rests.

    Parameters
    ----------
    windows
        The sounds, cut for maps of the lags to be fitted.
    penalties
        Penalties to choose from, relative to the mean eigenvalue of the stimulus' scatter matrix.

    Raises
    ------
    ValueError
        If the sounds do not change, or there are no positive penalties.
    """
    relative = np.sort(np.asarray(penalties, dtype=np.float64))
    if not len(relative) or relative[0] <= 0:
        raise ValueError(
            "penalties must be positive numbers, since the sounds leave directions unseen; give some above 0"
        )
    mean = windows.values.mean(axis=0)
    centred = windows.values - mean
    scale = np.square(centred).sum() / centred.shape[1]
    if not scale > 0:
        raise ValueError("the sounds do not change over time, so no STRF can be fitted to them; give other sounds")
    return RidgeBasis(windows, mean, *_decomposed(centred), relative * scale, _folds(windows))


def _decomposed(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of X'X above rounding; of fewer frames than entries by way of XX', X'u / sqrt(a)."""
    few = centred.shape[0] < centred.shape[1]
    values, vectors = linalg.eigh(centred @ centred.T if few else centred.T @ centred, check_finite=False)
    heard = values > UNHEARD * values[-1]
    values, vectors = values[heard], vectors[:, heard]
    return values, centred.T @ (vectors / np.sqrt(values)) if few else vectors


def fit_strf(basis: RidgeBasis, responses: np.ndarray, penalty: float | None = None) -> FittedStrf:
    """STRFs that minimise |y - X w - b|^2 + penalty |w|^2, each neuron's penalty by cross-validation over sounds.

    Parameters
    ----------
    basis
        The sounds, from `ridge_basis`.
    responses
        Responses (neuron, frame) at the rows of the windows.
    penalty
        One penalty for all neurons, instead of the best of those in the basis.

    Raises
    ------
    ValueError
        If the responses have another number of frames than the sounds, or are not finite.
    """
    responses = np.asarray(responses, dtype=np.float64)
    if responses.ndim != 2 or responses.shape[1] != len(basis.windows.values) or not np.isfinite(responses).all():
        raise ValueError(
            f"the responses have the shape {responses.shape} or entries that are not finite, but the sounds have"
            f" {len(basis.windows.values)} frames; give finite numbers (neuron, frame)"
        )
    if penalty is not None:
        basis = RidgeBasis(basis.windows, basis.mean, basis.values, basis.vectors, np.array([penalty]), basis.folds)
    means = responses.mean(axis=1, keepdims=True)
    along = (responses - means) @ basis.projected  # y' X V
    residuals = _left_out_residuals(basis, responses - means, along)
    best = np.einsum("pnt,pnt->pn", residuals, residuals).argmin(axis=0)
    penalties = basis.penalties[best]
    weights = (along / (basis.values + penalties[:, None])) @ basis.vectors.T
    chosen = responses - residuals[best, np.arange(len(responses))]
    return FittedStrf(
        maps=weights.reshape(-1, *basis.windows.shape),
        intercept=means[:, 0] - weights @ basis.mean,
        r=correlation(chosen, responses),
        penalty=penalties,
    )


def _left_out_residuals(basis: RidgeBasis, centred: np.ndarray, along: np.ndarray) -> np.ndarray:
    """What each sound's responses differ by from the fit without it (penalty, neuron, frame)."""
    # The fits with all sounds, of every penalty in one product.
    shrunk = along / (basis.values + basis.penalties[:, None, None])
    fitted = shrunk.reshape(-1, len(basis.values)) @ basis.projected.T
    residuals = np.subtract(centred, fitted.reshape(len(basis.penalties), *centred.shape))
    for at, of_penalty in enumerate(residuals):
        for fold, factor in zip(basis.folds, basis.left_out(at), strict=True):
            of_penalty[:, fold] = linalg.cho_solve(factor, of_penalty[:, fold].T, check_finite=False).T
    return residuals


def _folds(windows: HeardFrames) -> tuple[slice, ...]:
    if len(windows.sounds) > 1:
        return windows.sounds
    edges = np.linspace(0, len(windows.values), min(PARTS_OF_ONE_SOUND, len(windows.values)) + 1).astype(int)
    return tuple(slice(int(a), int(b)) for a, b in pairwise(edges))
