"""For new items: the older items most like them by content, and what those did at the same age."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import sparse

from recsys.hot.demand_features import Features
from recsys.hot.panel import Panel
from recsys.hot.params import TargetParams
from recsys.hot.windows import Samples
from recsys.types import FloatArray, IntArray, LongArray

#: An item is new for so many days after its first sign of life.
NEW_DAYS = 28
#: Forerunners looked at of each item.
FORERUNNERS = 10
#: Items there from the log's first days on may be of any age.
AGE_UNKNOWN_DAYS = 14
_CHUNK = 1_000


def first_days(panel: Panel) -> IntArray:
    """(n,) int32 day of each item's first sign of life; -1 where it may lie before the log."""
    first = panel.first_day_of
    return np.where(first < AGE_UNKNOWN_DAYS, -1, first).astype(np.int32)


def forerunners(
    asked: IntArray, born: IntArray, memberships: Mapping[str, sparse.csr_matrix], *, older_by: int
) -> IntArray:
    """(m, FORERUNNERS) int32 items like each of the asked (m,), most alike first; -1 for none.

    Of the same category where there are categories; the more alike, the larger the sum of the cosines of
    their other columns and titles; of the equally alike the later born.

    Args:
        asked: item_idx whose first day is known.
        born: (n,) from `first_days`.
        memberships: groups of the n items.
        older_by: least days between the first days of an item and of its forerunner.
    """
    found = np.full((len(asked), FORERUNNERS), -1, dtype=np.int32)
    contents = [_unit_rows(matrix) for kind, matrix in memberships.items() if kind != "category"]
    category = _categories(len(born), memberships.get("category"))
    known = np.flatnonzero(born >= 0)
    known = known[np.argsort(born[known], kind="stable")].astype(np.int32)
    pools = {name: known[places] for name, places in _places(category[known]).items()}
    for name, rows in _places(category[asked]).items():
        pool = pools[name]  # it holds the asked themselves
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            items = asked[part]
            likeness = np.zeros((len(items), len(pool)), dtype=np.float32)
            for content in contents:
                likeness += (content[items] @ content[pool].T).toarray()
            # Born later counts for less than any likeness does; the pool is in that order.
            likeness += np.linspace(0, 1e-4, len(pool), dtype=np.float32)
            likeness[born[pool][None, :] > (born[items] - older_by)[:, None]] = -np.inf
            wanted = min(FORERUNNERS, len(pool))
            best = np.argpartition(-likeness, wanted - 1, axis=1)[:, :wanted]
            best = np.take_along_axis(
                best, np.argsort(-np.take_along_axis(likeness, best, 1), axis=1, kind="stable"), 1
            )
            real = np.isfinite(np.take_along_axis(likeness, best, 1))
            found[part, :wanted] = np.where(real, pool[best], -1)
    return found


def at_the_same_age(
    panel: Panel, target: TargetParams, samples: Samples, memberships: Mapping[str, sparse.csr_matrix]
) -> Features:
    """What forerunners sold in the horizon's days at a new item's age, and what it sold so far against them.

    A forerunner is so much older that its horizon at that age had ended before the origin. NaN for items that
    are not new, and where there is no forerunner. Empty where no item is new.
    """
    born = first_days(panel)
    age = samples.origin - born[samples.item_idx]
    new = np.flatnonzero((born[samples.item_idx] >= 0) & (age >= 0) & (age <= NEW_DAYS))
    if not len(new):
        return {}
    items, place = np.unique(samples.item_idx[new], return_inverse=True)
    ahead = target.horizon_last_day + 1
    older = forerunners(items, born, memberships, older_by=ahead)[place]
    known = older >= 0
    life = Samples(
        np.maximum(older, 0).ravel().astype(np.int32),
        np.where(known, born[np.maximum(older, 0)] + age[new][:, None], 0).ravel().astype(np.int32),
    )
    units = panel.running("demand")

    def total(first: int, end: int) -> FloatArray:
        return units.total(life, first, end).reshape(older.shape)

    so_far = units.total(samples.at(new), -NEW_DAYS, 0)
    found: Features = {}
    for name, values in {
        "forerunners_ahead": np.log1p(total(target.horizon_first_day, ahead)),
        "over_forerunners": np.log1p(so_far)[:, None] - np.log1p(total(-NEW_DAYS, 0)),
    }.items():
        column = np.full(len(samples), np.nan, dtype=np.float32)
        column[new] = _mean(values, known)
        found[name] = column
    return found


def _mean(values: npt.NDArray[np.float32], known: npt.NDArray[np.bool_]) -> FloatArray:
    count = known.sum(axis=1)
    mean = np.where(known, values, 0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan).astype(np.float32)


def _unit_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    return sparse.csr_matrix(sparse.diags(scale.astype(np.float32)) @ matrix)


def _categories(n: int, category: sparse.csr_matrix | None) -> LongArray:
    """(n,) the category of each item, -1 for none; one for all where there are no categories."""
    if category is None:
        return np.zeros(n, dtype=np.int64)
    of = np.full(n, -1, dtype=np.int64)
    has = np.flatnonzero(np.diff(category.indptr))
    of[has] = category.indices[category.indptr[has]]
    return of


def _places(of: LongArray) -> dict[int, npt.NDArray[np.intp]]:
    """Value -> where it stands in `of`, ascending."""
    order = np.argsort(of, kind="stable")
    names, start = np.unique(of[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, start[1:]), strict=True))
