"""Eigenvalues and leading eigenvectors of symmetric matrices, by one reduction to tridiagonal form."""

import numpy as np
from scipy import linalg
from scipy.linalg import lapack

#: Beyond this size the reduction runs in single precision, and what is asked for is refined in double precision.
LARGE = 600
#: Residual of a refined eigenvector, relative to the largest eigenvalue; the eigenvalue's error is of its square.
RESIDUAL = 1e-6
#: Rounds of refinement at most.
ROUNDS = 20


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """Eigenvalues of a positive semi-definite matrix, largest first, those that are rounding alone as 0."""
    return _without_rounding(linalg.eigvalsh(matrix, check_finite=False)[::-1])


def leading(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """All eigenvalues of a positive semi-definite matrix, largest first, and the eigenvectors of the first ``count``.

    Beyond `LARGE` the eigenvalues after the first ``count`` carry single precision, relative to the largest.
    """
    size = len(matrix)
    count = min(count, size)
    if size <= LARGE:
        values, vectors = _reduced(matrix, count)
        return _without_rounding(values), vectors
    # A few more vectors than asked for, so that the gap behind the last one is wide enough for the refinement.
    values, vectors = _reduced(matrix.astype(np.float32), min(size, count + 10))
    refined, vectors = _refined(matrix, vectors.astype(np.float64), count)
    return np.concatenate([_without_rounding(refined), np.maximum(values[count:], 0.0)]), vectors


def _reduced(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and leading eigenvectors through Q T Q', T tridiagonal: T gives both, Q turns the vectors back."""
    size = len(matrix)
    if size == 1:
        return matrix[0].copy(), np.ones((1, 1), matrix.dtype)
    sytrd, lwork, ormqr = lapack.get_lapack_funcs(("sytrd", "sytrd_lwork", "ormqr"), (matrix,))
    work = int(lwork(size, lower=1)[0])
    reflectors, diagonal, beside, scales, info = sytrd(matrix, lower=1, lwork=work)
    if info:
        raise np.linalg.LinAlgError(f"the reduction to tridiagonal form ended with status {info}")
    diagonal, beside = diagonal.astype(np.float64), beside.astype(np.float64)
    values = linalg.eigvalsh_tridiagonal(diagonal, beside, check_finite=False)[::-1]
    _, inner = linalg.eigh_tridiagonal(
        diagonal, beside, select="i", select_range=(size - count, size - 1), check_finite=False
    )
    # Q leaves the first entry alone; on the others it acts as the reflectors below the diagonal's neighbour.
    vectors = np.asfortranarray(inner[:, ::-1], dtype=matrix.dtype)
    turned, _, info = ormqr("L", "N", reflectors[1:, :-1], scales, vectors[1:], max(1, 64 * count))
    if info:
        raise np.linalg.LinAlgError(f"turning the eigenvectors back ended with status {info}")
    return values, np.concatenate([vectors[:1], turned])


def _refined(matrix: np.ndarray, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues and eigenvectors in double precision, by subspace iteration from close vectors."""
    values = np.zeros(count)
    for _ in range(ROUNDS):
        basis = np.linalg.qr(vectors)[0]
        image = matrix @ basis
        ritz, inner = linalg.eigh(basis.T @ image, check_finite=False)
        values, inner = ritz[::-1][:count], inner[:, ::-1]
        rest = (image @ inner - (basis @ inner) * ritz[::-1])[:, :count]
        vectors = image @ inner
        if np.linalg.norm(rest, axis=0).max() <= RESIDUAL * max(values[0], np.finfo(float).tiny):
            break
    return values, (basis @ inner)[:, :count]


def _without_rounding(values: np.ndarray) -> np.ndarray:
    # A few times n eps of the largest is what the eigenvalues of a rank-one matrix scatter by.
    rounding = 8 * len(values) * np.finfo(np.float64).eps * max(values[0], 0.0)
    return np.where(values > rounding, values, 0.0)
