"""What is known of products and streamers before anything happens: categories, prices, learnt vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from recsys.durations import DAY_US
from recsys.rooms.memory import NEVER_US
from recsys.rooms.potential import Potential
from recsys.rooms.state import LiveState
from recsys.types import FloatArray, IntArray


@dataclass(frozen=True)
class Taste:
    """Learnt vectors: a user is the decayed mean of what they did lately, plus who they are.

    With the user's latest actions j on streamer s_j with product i_j, behaviour b_j, age t_j in days:

        u = sum_j w_j (read_streamer[s_j] + read_item[i_j]) / (1 + sum_j w_j) + user[u],
        w_j = weight[b_j] 2^(-t_j / half_life_days)

    and the affinity is <u, streamer[s]> to a streamer and <u, item[i]> to the product on air.

    Attributes:
        streamer, read_streamer: (S + 1, d) float32; the last row stands for streamers of no number here.
        item, read_item: (I + 1, d) float32; the last row is all zero, for no product and unknown ones.
        user: (U + 1, d) float32 by what the users table says of them; the last row for unknown users.
        weight: (behaviours,) float32.
        half_life_days: of an action.
    """

    streamer: FloatArray
    read_streamer: FloatArray
    item: FloatArray
    read_item: FloatArray
    user: FloatArray
    weight: FloatArray
    half_life_days: float


@dataclass(frozen=True)
class Content:
    """The catalogue as rooms need it.

    Attributes:
        categories: the names of C categories; their codes are the places here.
        item_category: (I,) int32 codes, -1 where unknown.
        item_price: (I,) float32 ln(price), centred and scaled over the catalogue; NaN where unknown.
        streamer_category: (S,) int32 codes, -1 where unknown.
        potential: hot-item potential of the products; None where there is none.
        taste: learnt vectors; None before they are learnt.
    """

    categories: tuple[str, ...]
    item_category: IntArray
    item_price: FloatArray
    streamer_category: IntArray
    potential: Potential | None = None
    taste: Taste | None = None

    @property
    def category_code(self) -> Mapping[str, int]:
        """Code of each category's name."""
        return {name: code for code, name in enumerate(self.categories)}


N = TypeVar("N", np.int32, np.float32)


def pick(values: npt.NDArray[N], rows: IntArray, missing: float) -> npt.NDArray[N]:
    """(N,) values at rows (N,), `missing` where a row is negative or past the end."""
    picked = np.full(len(rows), missing, dtype=values.dtype)
    inside = (rows >= 0) & (rows < len(values))
    picked[inside] = values[rows[inside]]
    return picked


def vector_rows(rows: IntArray, table: FloatArray) -> IntArray:
    """Rows of a table whose last row stands for everything that it does not know."""
    last = len(table) - 1
    return np.where((rows >= 0) & (rows < last), rows, last)


@dataclass(frozen=True)
class LatestActions:
    """One user's latest actions (M,), M as many as there are, and the weight of each as of now."""

    streamer_idx: IntArray
    item_idx: IntArray
    behaviour: npt.NDArray[np.int8]
    age_days: npt.NDArray[np.float64]


def latest_actions(state: LiveState, user: int, now_us: int) -> LatestActions:
    """What `user` did lately, in no particular order; nothing for a user who is not known."""
    ring = state.actions
    if not 0 <= user < len(ring.count):
        none = np.zeros(0, dtype=np.int32)
        return LatestActions(none, none, none.astype(np.int8), np.zeros(0))
    filled = ring.at_us[user] != NEVER_US
    age_days = np.maximum(now_us - ring.at_us[user][filled], 0) / DAY_US
    return LatestActions(
        ring.streamer_idx[user][filled], ring.item_idx[user][filled], ring.behaviour[user][filled], age_days
    )


def user_vector(taste: Taste, user: int, actions: LatestActions) -> FloatArray:
    """(d,) float32 the user's vector as of now; see `Taste`."""
    weight = taste.weight[actions.behaviour] * np.exp2(-actions.age_days / taste.half_life_days)
    read = taste.read_streamer[vector_rows(actions.streamer_idx, taste.read_streamer)]
    read = read + taste.read_item[vector_rows(actions.item_idx, taste.read_item)]
    own = taste.user[user] if 0 <= user < len(taste.user) - 1 else taste.user[-1]
    vector: FloatArray = (weight @ read / (1.0 + np.abs(weight).sum()) + own).astype(np.float32)
    return vector
