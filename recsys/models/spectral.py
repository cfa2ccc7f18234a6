"""The smooth part of who turned to what: singular vectors of the interactions, scaled by how many each has.

Of a graph with adjacency D_u^-1/2 X D_t^-1/2 they are the low frequencies: targets that share users lie near.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import svds

from recsys.types import FloatArray


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
    """(targets, d) float32, d = min(factors, what the matrix can have)."""
    most = min(matrix.shape)
    if matrix.nnz == 0:
        return np.zeros((matrix.shape[1], 1), dtype=np.float32)
    if most <= max(2, factors):  # the iterative solver wants fewer vectors than rows
        _, values, vt = np.linalg.svd(matrix.toarray(), full_matrices=False)
        kept = values > 1e-6 * values.max()
        return np.ascontiguousarray(vt[kept][:factors].T, dtype=np.float32)
    start = np.random.default_rng(seed).standard_normal(most).astype(np.float32)
    _, _, vt = svds(matrix, k=factors, v0=start)
    return np.ascontiguousarray(vt[::-1].T, dtype=np.float32)


def directions(interactions: sparse.csr_matrix, dim: int, seed: int) -> FloatArray | None:
    """(targets, dim) float32 of length 1: where each target lies by the first singular vectors, all alike.

    The singular values are left out: by them a few directions are nearly all of a vector, and a training that
    began so came to worse towers than one from vectors drawn at random.

    Zero for a target that nobody touched. None where the log has too few users or targets for so many
    dimensions.
    """
    if min(interactions.shape) <= dim:
        return None
    vectors = right_singular_vectors(normalised(interactions)[0], dim, seed)
    # What the solver leaves of a target without a user is noise, which must not be blown up to a length of 1.
    touched = np.bincount(interactions.indices, minlength=interactions.shape[1]) > 0
    length = np.linalg.norm(vectors, axis=1)
    found: FloatArray = vectors * (inverse(length) * touched)[:, None]
    return found
