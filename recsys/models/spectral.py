"""The smooth part of who turned to what: singular vectors of the interactions, scaled by how many each has.

Of a graph with adjacency D_u^-1/2 X D_t^-1/2 they are the low frequencies: targets that share users lie near.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from recsys.types import FloatArray

#: Singular values below this share of the largest are what rounding leaves of 0, for the solver works with
#: their squares in float32.
_NOISE = 1e-3


def inverse(values: FloatArray | npt.NDArray[np.float64]) -> FloatArray:
    """1 / value, 0 where the value is 0."""
    out = np.zeros(len(values), dtype=np.float32)
    np.divide(1.0, values, out=out, where=values > 0, casting="same_kind")
    return out


def normalised(interactions: sparse.csr_matrix) -> tuple[sparse.csr_matrix, FloatArray]:
    """D_u^-1/2 X D_t^-1/2 as float32 CSR, and D_t^1/2 (targets,) float32; D are sums of rows and columns."""
    root = np.sqrt(np.asarray(interactions.sum(axis=0)).ravel()).astype(np.float32)
    user_root = np.sqrt(np.asarray(interactions.sum(axis=1)).ravel())
    scaled = sparse.diags(inverse(user_root)) @ interactions @ sparse.diags(inverse(root))
    return sparse.csr_matrix(scaled, dtype=np.float32), root


def right_singular_vectors(matrix: sparse.csr_matrix, factors: int, seed: int) -> FloatArray:
    """(targets, d) float32, d = min(factors, the matrix's rank): what is beyond that is noise."""
    if matrix.nnz == 0:
        return np.zeros((matrix.shape[1], 1), dtype=np.float32)
    if min(matrix.shape) <= max(2, factors):  # the iterative solver wants fewer vectors than rows
        return _of_the_smaller_side(matrix, factors)
    start = np.random.default_rng(seed).standard_normal(min(matrix.shape)).astype(np.float32)
    # The stubs of scipy 1.17 know "v" alone, which its code does not.
    _, values, vt = svds(matrix, k=factors, v0=start, return_singular_vectors="vh")  # type: ignore[arg-type]
    kept = values > _NOISE * values.max()
    return np.ascontiguousarray(vt[kept][::-1].T, dtype=np.float32)


def _of_the_smaller_side(matrix: sparse.csr_matrix, factors: int) -> FloatArray:
    """The same by the products of the smaller side with itself: the larger one is never made dense."""
    exact = matrix.astype(np.float64)
    of_targets = matrix.shape[1] <= matrix.shape[0]
    squares, vectors = np.linalg.eigh((exact.T @ exact if of_targets else exact @ exact.T).toarray())
    kept = np.flatnonzero(squares > _NOISE**2 * squares.max())[::-1][:factors]
    if of_targets:
        return np.ascontiguousarray(vectors[:, kept], dtype=np.float32)
    return np.ascontiguousarray(exact.T @ (vectors[:, kept] / np.sqrt(squares[kept])), dtype=np.float32)


def directions(interactions: sparse.csr_matrix, dim: int, seed: int) -> FloatArray | None:
    """(targets, dim) float32 of length 1: where each target lies by the first singular vectors, all alike.

    The singular values are left out: by them a few directions are nearly all of a vector, and a training that
    began so came to worse towers than one from vectors drawn at random.

    Zero for a target that nobody touched. None where the log does not have so many dimensions.
    """
    if min(interactions.shape) <= dim:
        return None
    vectors = right_singular_vectors(normalised(interactions)[0], dim, seed)
    if vectors.shape[1] < dim:
        return None
    # What the solver leaves of a target without a user is noise, which must not be blown up to a length of 1.
    touched = np.bincount(interactions.indices, minlength=interactions.shape[1]) > 0
    length = np.linalg.norm(vectors, axis=1)
    found: FloatArray = vectors * (inverse(length) * touched)[:, None]
    return found
