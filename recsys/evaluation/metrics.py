"""Ranking metrics, one value a user, by formulas that can be checked by hand.

For a user with the set T of relevant targets and the list r_1 .. r_k that was shown:
recall@k = |T in r_1..r_k| / |T|; hit rate@k = 1 if that count is above 0; MRR@k = 1 / rank of the first hit;
NDCG@k = sum over hits of 1 / log2(rank + 1), over the same sum for a list that starts with min(k, |T|) hits
(Järvelin and Kekäläinen, 2002, with binary gains).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recsys.types import BoolArray, Candidates, DoubleArray, IntArray, LongArray


def hits(candidates: Candidates, truth: sparse.csr_matrix, *, k: int) -> BoolArray:
    """(B, k) whether each place of the list holds a relevant target; False beyond the end of a list.

    Args:
        candidates: lists of B users.
        truth: (B, targets) CSR whose non-zeros are relevant.
        k: places to look at; lists shorter than k are padded with False.
    """
    width = min(k, candidates.ids.shape[1])
    ids = candidates.ids[:, :width].astype(np.int64)
    n = truth.shape[1]
    shown = np.arange(width) < candidates.counts[:, None]
    rows = np.repeat(np.arange(truth.shape[0], dtype=np.int64), np.diff(truth.indptr))
    relevant = rows * n + truth.indices
    found = np.isin(np.arange(len(ids), dtype=np.int64)[:, None] * n + ids, relevant) & shown
    return np.pad(found, ((0, 0), (0, k - width)))


def recall(found: BoolArray, n_relevant: IntArray | LongArray) -> DoubleArray:
    """(B,) recall@k from hits (B, k) and the number of relevant targets (B,), at least 1 each."""
    return np.asarray(found.sum(axis=1) / n_relevant, dtype=np.float64)


def hit_rate(found: BoolArray) -> DoubleArray:
    """(B,) hit rate@k from hits (B, k)."""
    return np.asarray(found.any(axis=1), dtype=np.float64)


def reciprocal_rank(found: BoolArray) -> DoubleArray:
    """(B,) MRR@k from hits (B, k)."""
    return np.asarray(found.any(axis=1) / (found.argmax(axis=1) + 1.0), dtype=np.float64)


def ndcg(found: BoolArray, n_relevant: IntArray | LongArray) -> DoubleArray:
    """(B,) NDCG@k from hits (B, k) and the number of relevant targets (B,), at least 1 each."""
    k = found.shape[1]
    discount = 1.0 / np.log2(np.arange(k) + 2.0)
    ideal = np.cumsum(discount)[np.minimum(n_relevant, k) - 1]
    return np.asarray(found @ discount / ideal, dtype=np.float64)


def coverage(candidates: Candidates, n_available: int, *, k: int) -> float:
    """Share of the available targets that anybody is shown in the first k places."""
    return len(np.unique(_shown(candidates, k))) / n_available


def novelty(candidates: Candidates, popularity: LongArray, *, k: int) -> float:
    """Mean of -log2 p(target) over all places shown, p its share of the interactions (add-one smoothed).

    Args:
        candidates: lists of B users.
        popularity: (targets,) interactions of each before the cut.
        k: places to look at.

    Zhou et al., 2010, "Solving the apparent diversity-accuracy dilemma of recommender systems".
    """
    share = (popularity + 1.0) / (popularity.sum() + len(popularity))
    shown = _shown(candidates, k)
    return float(-np.log2(share[shown]).mean()) if len(shown) else 0.0


def head_share(candidates: Candidates, popularity: LongArray, *, k: int) -> float:
    """Share of all places shown that go to the 1 % most popular targets (at least one target)."""
    n_head = max(1, round(len(popularity) * 0.01))
    head = np.zeros(len(popularity), dtype=bool)
    head[np.argsort(-popularity, kind="stable")[:n_head]] = True
    shown = _shown(candidates, k)
    return float(head[shown].mean()) if len(shown) else 0.0


def _shown(candidates: Candidates, k: int) -> IntArray:
    width = min(k, candidates.ids.shape[1])
    return candidates.ids[:, :width][np.arange(width) < candidates.counts[:, None]]
