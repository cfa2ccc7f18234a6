"""Published interaction matrices as the log that the engine reads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.types import Behaviour

FIRST = datetime(2020, 1, 1, tzinfo=UTC)


def as_dataset(done: Mapping[Behaviour, sparse.csr_matrix], folder: Path) -> Dataset:
    """The log of users x items matrices without times: each behaviour's pairs, a day after the one before.

    Args:
        done: by behaviour, in the order in which users come to them; non-zeros are pairs.
        folder: an empty one, for the log and the Dataset.
    """
    (folder / "logs").mkdir()
    tables = []
    for day, (behaviour, matrix) in enumerate(done.items()):
        pairs = matrix.tocoo()
        moment = pa.array([FIRST + timedelta(days=day)] * pairs.nnz, pa.timestamp("us", tz="UTC"))
        events = {"user_id": pairs.row, "item_id": pairs.col, "timestamp": moment}
        tables.append(pa.table(events | {"event": [behaviour.value] * pairs.nnz}))
        n_items = matrix.shape[1]
    pq.write_table(pa.concat_tables(tables), folder / "logs" / "events.parquet")
    pq.write_table(pa.table({"item_id": np.arange(n_items)}), folder / "logs" / "items.parquet")
    prepare(folder / "logs", folder / "dataset")
    return Dataset.load(folder / "dataset")


def in_index(matrix: sparse.csr_matrix, dataset: Dataset) -> sparse.csr_matrix:
    """The matrix by the indices of the Dataset, which knows no user without an event: theirs are left out."""
    users, items = (
        entities.ids.index(np.arange(n))
        for entities, n in zip((dataset.users, dataset.items), matrix.shape, strict=True)
    )
    pairs = matrix.tocoo()
    row, column = users[pairs.row], items[pairs.col]
    known = row >= 0
    shape = (len(dataset.users), len(dataset.items))
    return sparse.csr_matrix((pairs.data[known], (row[known], column[known])), shape=shape)
