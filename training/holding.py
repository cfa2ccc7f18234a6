"""Who is in the segments that are held to some categories, as the log's users say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc

from recsys.data.dataset import Dataset
from recsys.data.ids import id_key, id_keys
from recsys.errors import DataError
from recsys.held import Held, HoldParams


def held_users(dataset: Dataset, params: Mapping[str, HoldParams]) -> Held:
    """Who is in which segment.

    Raises:
        DataError: the users have no column of that name; nobody is let out of a segment by that.
    """
    members = np.zeros((len(params), len(dataset.users)), dtype=bool)
    for place, (name, hold) in enumerate(params.items()):
        if hold.column is None:
            continue
        column = dataset.users.column(hold.column)
        if column is None:
            raise DataError(
                f"{dataset.path}: hold.{name} reads the column {hold.column!r} of users, there is none"
            )
        wanted = id_keys([id_key(value) for value in hold.values])
        found = pc.fill_null(pc.is_in(id_keys(column), value_set=wanted), False)
        members[place] = found.to_numpy(zero_copy_only=False)
    return Held({name: hold.categories for name, hold in params.items()}, members)
