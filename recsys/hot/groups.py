"""Which items belong together: by category, other columns of the catalogue, words of the title."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from scipy import sparse

from recsys.data.dataset import Entities
from recsys.data.titles import says_something, title_words
from recsys.types import IntArray

#: A group of fewer items than this tells nothing about its kind.
MIN_ITEMS = 3
#: Other text columns of the catalogue used as groups.
MAX_COLUMNS = 2
MAX_WORDS = 3_000
#: What the kind of a group by another column begins with: the column's name is the log's own.
COLUMN = "column "


def memberships(items: Entities, *, rows: int | None = None) -> dict[str, sparse.csr_matrix]:
    """Kind of group -> (n, groups) float32 CSR; each row sums to 1, or is empty where nothing is known.

    Args:
        items: the catalogue.
        rows: n; by default as many as there are items, and more are empty: of items not known yet.
    """
    found = _memberships(items)
    if rows is None:
        return found
    return {
        kind: sparse.vstack(
            [matrix, sparse.csr_matrix((rows - len(items), matrix.shape[1]), dtype=matrix.dtype)], "csr"
        )
        for kind, matrix in found.items()
    }


def _memberships(items: Entities) -> dict[str, sparse.csr_matrix]:
    found: dict[str, sparse.csr_matrix] = {}
    category = _texts(items, "category")
    if category is not None:
        _add(found, "category", category)
    skip = {"category", "title"}
    others = [
        (name, texts)
        for name in items.table.column_names
        if name not in skip and (texts := _texts(items, name)) is not None
    ]
    scored = []
    for name, texts in others:
        distinct = len({text for text in texts if text})
        if 2 <= distinct <= len(texts) / MIN_ITEMS:
            scored.append((-distinct, name, texts))
    for _, name, texts in sorted(scored, key=lambda entry: entry[:2])[:MAX_COLUMNS]:
        joint = (
            texts
            if category is None
            else [
                f"{text}\x1f{kind or ''}" if text else None
                for text, kind in zip(texts, category, strict=True)
            ]
        )
        _add(found, f"{COLUMN}{name}", joint)
    title = _texts(items, "title")
    if title is not None:
        words = _words(title)
        if words.nnz:
            found["title"] = words
    return found


def category_codes(items: Entities) -> IntArray:
    """(n,) int32 code of each item's category, a place in `category_names`; items without one share one."""
    return _categories(items)[1]


def category_names(items: Entities) -> tuple[str, ...]:
    """The categories in the order of their codes; an empty name for items without one."""
    return _categories(items)[0]


def _categories(items: Entities) -> tuple[tuple[str, ...], IntArray]:
    category = _texts(items, "category")
    if category is None:
        return ("",), np.zeros(len(items), dtype=np.int32)
    names, codes = np.unique(np.array([text or "" for text in category]), return_inverse=True)
    return tuple(names.tolist()), codes.astype(np.int32)


def _texts(items: Entities, name: str) -> list[str | None] | None:
    column = items.column(name)
    if column is None or not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    return None if column.null_count == len(column) else column.to_pylist()


def _add(found: dict[str, sparse.csr_matrix], kind: str, texts: list[str | None]) -> None:
    counts = Counter(text for text in texts if text)
    names = {text: code for code, text in enumerate(sorted(t for t, n in counts.items() if n >= MIN_ITEMS))}
    rows = [row for row, text in enumerate(texts) if text in names]
    if not rows:
        return
    columns = [names[text] for text in texts if text in names]
    data = np.ones(len(rows), dtype=np.float32)
    found[kind] = sparse.csr_matrix((data, (rows, columns)), shape=(len(texts), len(names)))


def _words(titles: list[str | None]) -> sparse.csr_matrix:
    """Words of the titles that say something, weighted by their rarity."""
    bags = [title_words(title) if title else [] for title in titles]
    counts = Counter(word for bag in bags for word in bag)
    common = [word for word, n in counts.most_common(MAX_WORDS) if says_something(n, len(titles))]
    names = {word: code for code, word in enumerate(sorted(common))}
    rows, columns, weights = [], [], []
    for row, bag in enumerate(bags):
        for word in bag:
            if word in names:
                rows.append(row)
                columns.append(names[word])
                weights.append(np.log(len(titles) / counts[word]))
    matrix = sparse.csr_matrix(
        (np.array(weights, dtype=np.float32), (rows, columns)), shape=(len(titles), max(len(names), 1))
    )
    total = np.asarray(matrix.sum(axis=1)).ravel()
    scale = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    return sparse.csr_matrix(sparse.diags(scale.astype(np.float32)) @ matrix)
