"""Builds the FAISS index of a catalogue: exact for a small one, inverted lists with 8-bit codes beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from pydantic import Field

from recsys.errors import ModelError
from recsys.types import FloatArray, IntArray, Params

_ROWS_AT_ONCE = 1 << 16


class IndexParams(Params):
    """How the index is built.

    Attributes:
        exact_up_to: a catalogue of at most so many items is scanned whole, which takes a millisecond.
        recall: share of the true best `recall_at` items that a search without filters must find.
        recall_at: the depth at which recall is measured.
        lists_per_sqrt: lists = this x sqrt(items), rounded to a power of two: 4,096 at a million items.
        training_points_per_list: how many vectors a centroid is learnt from.
        calibration_queries: how many searches the number of lists to read is chosen by.
        seed: of the sample and of the centroids.
    """

    exact_up_to: int = Field(default=50_000, ge=0)
    recall: float = Field(default=0.97, gt=0, le=1)
    recall_at: int = Field(default=100, ge=1)
    lists_per_sqrt: float = Field(default=4.0, gt=0)
    training_points_per_list: int = Field(default=64, ge=1)
    calibration_queries: int = Field(default=200, ge=1)
    seed: int = 0


@dataclass(frozen=True)
class BuiltIndex:
    """An index as bytes.

    Attributes:
        data: what `faiss.read_index` reads.
        nprobe: how many lists a search without filters reads; 0 for an exact index.
    """

    data: bytes | memoryview
    nprobe: int


def build_index(
    vectors: FloatArray, *, queries: FloatArray | None = None, params: IndexParams | None = None
) -> BuiltIndex:
    """The index of (n, d) float32 vectors by inner product.

    Args:
        vectors: (n, d) float32, all finite.
        queries: (q, d) float32 vectors of users, by which the number of lists to read is calibrated; the
            items' own vectors where there are none.
        params: how it is built.

    Raises:
        ModelError: vectors of another shape, or not finite.
    """
    params = params or IndexParams()
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ModelError(f"vectors have shape {vectors.shape}: (items, dimensions) is needed")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ModelError(f"the vector of item {row} is not finite: the model's training diverged")
    n, d = vectors.shape
    if n <= params.exact_up_to:
        exact = faiss.IndexFlatIP(d)
        exact.add(vectors)
        return BuiltIndex(faiss.serialize_index(exact).tobytes(), 0)
    n_lists = max(1, min(2 ** round(np.log2(params.lists_per_sqrt * np.sqrt(n))), n // 2))
    rng = np.random.default_rng(params.seed)
    index: Any = faiss.index_factory(d, f"IVF{n_lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = params.seed
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = params.training_points_per_list
    sample = rng.choice(n, min(n, n_lists * params.training_points_per_list), replace=False)
    index.train(vectors[np.sort(sample)])
    for start in range(0, n, _ROWS_AT_ONCE):
        index.add(vectors[start : start + _ROWS_AT_ONCE])
    usable = vectors if queries is None else queries[queries.any(axis=1)].astype(np.float32)
    asked = usable[rng.choice(len(usable), min(len(usable), params.calibration_queries), replace=False)]
    nprobe = _calibrate(index, vectors, np.ascontiguousarray(asked), params) if len(asked) else n_lists
    return BuiltIndex(faiss.serialize_index(index).tobytes(), nprobe)


def with_more(built: BuiltIndex, vectors: FloatArray) -> BuiltIndex:
    """The index with (m, d) float32 vectors added behind those that are there; its lists stay as they are."""
    index: Any = faiss.deserialize_index(np.frombuffer(built.data, dtype=np.uint8).copy())
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return BuiltIndex(faiss.serialize_index(index).tobytes(), built.nprobe)


def _calibrate(index: Any, vectors: FloatArray, queries: FloatArray, params: IndexParams) -> int:
    """The least number of lists with which the searches reach the recall."""
    k = min(params.recall_at, len(vectors))
    exact = _exact(vectors, queries, k)

    def enough(nprobe: int) -> bool:
        index.nprobe = nprobe
        found = index.search(queries, k)[1]
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True))
        return hits >= params.recall * exact.size

    few, many = 0, 1  # `few` lists are too few
    while many < index.nlist and not enough(many):
        few, many = many, min(2 * many, index.nlist)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return int(many)


def _exact(vectors: FloatArray, queries: FloatArray, k: int) -> IntArray:
    """(q, k) ids of the best k by a full scan, in blocks that fit in memory."""
    scores = np.full((len(queries), 0), 0.0, dtype=np.float32)
    ids = np.zeros((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        block = queries @ vectors[start : start + _ROWS_AT_ONCE].T
        scores = np.concatenate([scores, block], axis=1)
        ids = np.concatenate(
            [ids, np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)], axis=1
        )
        if scores.shape[1] > k:
            best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            scores, ids = np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)
    return ids.astype(np.int32)
