"""Published sequences as the log that the engine reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare

LAST_DAY = np.datetime64("2020-01-01", "us")


def as_dataset(sequences: Path, folder: Path) -> Dataset:
    """The log of a file of one user a line, who is followed by their items, oldest first.

    The file has no times. They are taken to be a day apart, the last ones all on one day, so that whoever is
    asked for the last does so a day after their latest event.

    Args:
        sequences: the file.
        folder: an empty one, for the log and the Dataset.
    """
    users, items, days_ago = [], [], []
    for line in sequences.read_text().splitlines():
        user, *sequence = line.split()
        users += [user] * len(sequence)
        items += sequence
        days_ago += range(len(sequence) - 1, -1, -1)
    moments = LAST_DAY - np.array(days_ago) * np.timedelta64(1, "D")
    events = {
        "user_id": users,
        "item_id": items,
        "event": ["click"] * len(users),
        "timestamp": pa.array(moments, pa.timestamp("us", tz="UTC")),
    }
    (folder / "logs").mkdir()
    pq.write_table(pa.table(events), folder / "logs" / "events.parquet")
    prepare(folder / "logs", folder / "dataset")
    return Dataset.load(folder / "dataset")
