"""A vector for a user from history alone, by the closed form of ALS: numpy only, for the request path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.types import FloatArray, IntArray


@dataclass(frozen=True)
class FoldIn:
    """Solves for a user's vector with the targets' vectors held fixed.

    x = (Y'Y + Y_h' (C - I) Y_h + lambda I)^-1 Y_h' c, with Y_h the vectors of the history's targets and
    c = alpha x confidence (Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets",
    2008).

    Attributes:
        target_vectors: Y, (targets, d) float32; may be a memory map.
        gram: Y'Y + lambda I, (d, d) float32.
        alpha: what a confidence is multiplied by.
    """

    target_vectors: FloatArray
    gram: FloatArray
    alpha: float

    @classmethod
    def of(cls, target_vectors: FloatArray, *, alpha: float, regularization: float) -> FoldIn:
        """Prepares the part that all users share."""
        d = target_vectors.shape[1]
        gram = target_vectors.T @ target_vectors + regularization * np.eye(d, dtype=np.float32)
        return cls(target_vectors, gram.astype(np.float32), alpha)

    def vector(self, target_idx: IntArray, confidence: FloatArray) -> FloatArray:
        """(d,) float32 vector of a user whose history is (L,) distinct targets with (L,) confidences."""
        history = self.target_vectors[target_idx]
        c = (self.alpha * np.asarray(confidence, dtype=np.float32)).astype(np.float32)
        solution = np.linalg.solve(self.gram + (history.T * (c - 1.0)) @ history, history.T @ c)
        return solution.astype(np.float32)
