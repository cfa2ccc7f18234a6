"""Why a room is shown to a user, in words, from the very features that it was ranked by."""

from __future__ import annotations

import numpy as np

from recsys.rooms.features import FEATURES
from recsys.types import FloatArray

#: Reasons in the order in which they are given, each with its feature and the least value that it takes.
REASONS: tuple[tuple[str, str, float], ...] = (
    ("you follow this streamer", "pair_relation", 1.0),
    ("you come back to this streamer", "pair_visits_ever", float(np.log1p(2))),
    ("you have visited this streamer", "pair_known", 1.0),
    ("you looked at the product on air", "air_met", float(np.log1p(0.1))),
    ("shows what you often look at", "air_category_share", 0.2),
    ("like what you often watch", "category_share", 0.2),
    ("busy now", "room_viewers", float(np.log1p(1))),
)
#: Of a room that none of them says anything of.
OTHERWISE = "live now"


def room_reasons(features: FloatArray) -> list[str]:
    """The first reason that holds for each of R rooms.

    Args:
        features: (R, F) of `recsys.rooms.features`, for one user.
    """
    reasons = np.full(len(features), OTHERWISE, dtype=object)
    for reason, name, least in reversed(REASONS):
        reasons[features[:, FEATURES.index(name)] >= np.float32(least)] = reason
    return list(reasons)
