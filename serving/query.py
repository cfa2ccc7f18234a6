"""From a fresh history to the user's vector: the query tower in ONNX Runtime, or the closed form of ALS."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as onnx_errors

from recsys.bundle import BundleRefused, Reason
from recsys.data.histories import HistoryBatch
from recsys.durations import DAY_US, SECOND_US
from recsys.models.fold_in import FoldIn
from recsys.product_sections import FoldInQuery, TowerQuery, Vectors
from recsys.types import FloatArray, LongArray

#: ONNX Runtime's errors have no common base.
_ONNX_ERRORS = (
    onnx_errors.Fail,
    onnx_errors.InvalidArgument,
    onnx_errors.InvalidGraph,
    onnx_errors.InvalidProtobuf,
    onnx_errors.NotImplemented,
    onnx_errors.RuntimeException,
)


class Query(Protocol):
    """Gives the vector of one user."""

    def vector(self, history: HistoryBatch, at_us: LongArray, user_idx: int) -> FloatArray:
        """(d,) float32 of a user with history (1, L) at the moment `at_us` (1,); index -1 is unknown."""
        ...


class TowerVector:
    """The query tower in ONNX Runtime, on one thread.

    Args:
        query: graph and profiles.
        item_vectors: (n, d) float32 that histories are gathered from.

    Raises:
        BundleRefused: ONNX Runtime cannot read the graph, or it takes other inputs.
    """

    def __init__(self, query: TowerQuery, item_vectors: FloatArray) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                bytes(query.onnx), options, providers=["CPUExecutionProvider"]
            )
        except _ONNX_ERRORS as error:
            raise BundleRefused(
                Reason.CONTENT, f"user_tower.onnx: ONNX Runtime refuses it: {error}"
            ) from error
        inputs = {entry.name for entry in self._session.get_inputs()}
        if inputs != {"history", "behaviour", "age_s", "mask", "profile"}:
            raise BundleRefused(Reason.CONTENT, f"user_tower.onnx takes {sorted(inputs)}: train again")
        self._length = query.length
        self._profiles = query.profiles
        self._item_vectors = item_vectors
        self._nobody = np.zeros((1, item_vectors.shape[1]), dtype=np.float32)

    def vector(self, history: HistoryBatch, at_us: LongArray, user_idx: int) -> FloatArray:
        """(d,) float32 vector of one user; index -1 is one of whom nothing but the history is known."""
        kept = min(self._length, history.mask.shape[1])

        def last(values: np.ndarray[Any, Any], dtype: type[np.generic]) -> np.ndarray[Any, Any]:
            """(1, length), a short history at the right end; `np.pad` takes ten times as long."""
            row = np.zeros((1, self._length), dtype=dtype)
            row[:, self._length - kept :] = values[:, values.shape[1] - kept :]
            return row

        mask = last(history.mask, np.bool_)
        age_s = mask * ((at_us[:, None] - last(history.timestamp_us, np.int64)) / SECOND_US)
        profile = self._profiles[user_idx][None] if user_idx >= 0 else self._nobody
        (vectors,) = self._session.run(
            None,
            {
                "history": self._item_vectors[last(history.target_idx, np.int32)],
                "behaviour": last(history.behaviour, np.int64),
                "age_s": age_s.astype(np.float32),
                "mask": mask,
                "profile": np.ascontiguousarray(profile),
            },
        )
        vector: FloatArray = vectors[0]
        return vector


class FoldInVector:
    """The closed form of ALS over the history's confidences."""

    def __init__(self, query: FoldInQuery, item_vectors: FloatArray) -> None:
        self._solver = FoldIn(item_vectors, query.gram, query.alpha)
        self._weights = query.weights

    def vector(self, history: HistoryBatch, at_us: LongArray, user_idx: int) -> FloatArray:
        """(d,) float32 vector of one user, zero for a history that says nothing."""
        mask = history.mask[0]
        unknown = np.full(len(mask), np.nan, dtype=np.float32)
        duration_s = unknown if history.duration_s is None else history.duration_s[0]
        age_days = np.maximum(at_us[0] - history.timestamp_us[0], 0) / DAY_US
        confidence = self._weights.weigh(history.behaviour[0], duration_s, age_days) * mask
        says = confidence > 0
        items, place = np.unique(history.target_idx[0][says], return_inverse=True)
        if not len(items):
            return np.zeros(self._solver.gram.shape[0], dtype=np.float32)
        total = np.bincount(place, weights=confidence[says]).astype(np.float32)
        return self._solver.vector(items, total)


def query_of(vectors: Vectors) -> Query | None:
    """How fresh histories become vectors, or None where the model has no way."""
    if isinstance(vectors.query, TowerQuery):
        return TowerVector(vectors.query, vectors.item_vectors)
    if isinstance(vectors.query, FoldInQuery):
        return FoldInVector(vectors.query, vectors.item_vectors)
    return None
