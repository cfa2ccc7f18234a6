"""What the model sees of each live room for one user: one function, for training, replay and serving."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.durations import DAY_US, HOUR_US, SECOND_US
from recsys.rooms.content import Content, LatestActions, latest_actions, pick, user_vector, vector_rows
from recsys.rooms.live_rooms import RoomCounter
from recsys.rooms.memory import NEVER_US, PairCounter
from recsys.rooms.state import ItemCounter, LiveState, StreamerCounter
from recsys.types import FloatArray, IntArray

#: Hours since something that never happened.
NEVER_H = 24.0 * 365
_PROFILE_HALF_LIFE_DAYS = 14.0

PAIR = (
    "pair_known",
    "pair_visits_short",
    "pair_visits_medium",
    "pair_visits_long",
    "pair_visits_ever",
    "pair_share",
    "pair_dwell",
    "pair_mean_dwell",
    "pair_bounces",
    "pair_purchases",
    "pair_engagement",
    "pair_relation",
    "pair_since",
    "pair_just_left",
    "pair_about_a_day",
    "pair_about_a_week",
    "pair_hour_of_day",
    "pair_is_latest",
    "pair_shown",
)
STREAMER = (
    "streamer_visits_hour",
    "streamer_visits_day",
    "streamer_visits_week",
    "streamer_momentum",
    "streamer_mean_dwell",
    "streamer_purchase_rate",
    "streamer_age",
)
#: A room's counters and the windows they are read over: half-lives of 30 s, 5 min and 1 h.
COUNTED = {
    "joins": RoomCounter.JOIN,
    "leaves": RoomCounter.LEAVE,
    "clicks": RoomCounter.CLICK,
    "carts": RoomCounter.CART,
    "purchases": RoomCounter.PURCHASE,
    "comments": RoomCounter.COMMENT,
    "gifts": RoomCounter.GIFT,
    "likes": RoomCounter.LIKE,
}
WINDOWS = {"now": 0, "minutes": 1, "hour": -1}
ROOM = (
    *(f"room_{name}_{window}" for name in COUNTED for window in WINDOWS),
    "room_viewers",
    "room_share",
    "room_age",
)
AIR = (
    "air_any",
    "air_minutes",
    "air_clicks",
    "air_carts",
    "air_talk",
    "air_purchases",
    "air_momentum",
    "air_potential",
    "air_price",
    "air_price_gap",
    "air_category_share",
    "air_met",
)
TASTE = ("category_share", "taste_streamer", "taste_item", "taste")
CONTEXT = (
    "user_visits_short",
    "user_visits_long",
    "user_since",
    "live_rooms",
    "hour_sin",
    "hour_cos",
    "weekday_sin",
    "weekday_cos",
    "weekend",
)
FEATURES: tuple[str, ...] = (*PAIR, *STREAMER, *ROOM, *AIR, *TASTE, *CONTEXT)


class _Columns:
    """Columns of the matrix by name, each written once."""

    def __init__(self, n: int) -> None:
        self.matrix = np.zeros((len(FEATURES), n), dtype=np.float32)
        self._place = {name: place for place, name in enumerate(FEATURES)}

    def __setitem__(self, name: str, values: npt.ArrayLike) -> None:
        self.matrix[self._place[name]] = values


def room_features(state: LiveState, content: Content, user: int, rows: IntArray, now_us: int) -> FloatArray:
    """(R, F) float32 of one user with R live rooms as of `now_us`; the columns are `FEATURES`, all finite.

    Args:
        state: advanced to `now_us`.
        content: what is known of products and streamers.
        user: user_idx; one that the state never saw is answered for like anybody new.
        rows: (R,) rows of `state.rooms`.
        now_us: microseconds since the epoch.
    """
    columns = _Columns(len(rows))
    actions = latest_actions(state, user, now_us)
    streamer = state.rooms.streamer_idx[rows]
    _pair(columns, state, user, streamer, now_us)
    _streamer(columns, state, streamer, now_us)
    _room(columns, state, rows, now_us)
    _air(columns, state, content, actions, rows, now_us)
    _taste(columns, state, content, user, actions, rows)
    _context(columns, state, user, now_us)
    return np.ascontiguousarray(columns.matrix.T)


def _pair(columns: _Columns, state: LiveState, user: int, streamer: IntArray, now_us: int) -> None:
    """The user with the streamer; all zero where they never met."""
    columns["pair_since"] = np.log1p(NEVER_H)
    columns["pair_shown"] = _shown(state, user, streamer, now_us)
    met, memory_rows = state.pairs.of_user(user)
    if len(met) == 0:
        return
    place_of = np.full(len(state.first_seen_us), -1, dtype=np.int64)
    place_of[met] = memory_rows
    place = place_of[streamer]
    rooms = np.flatnonzero(place >= 0)
    if len(rooms) == 0:
        return
    pair = place[rooms]
    sums = np.maximum(state.pairs.sums.read(pair, now_us), 0.0)
    last_us = state.pairs.last_us[pair]
    visited = last_us != NEVER_US
    since_h = np.where(visited, np.maximum(now_us - last_us, 0) / HOUR_US, NEVER_H)
    visits = sums[:, PairCounter.VISIT]
    of_user = float(state.users.read(slice(user, user + 1), now_us)[0, 0, -1])

    def put(name: str, values: npt.ArrayLike) -> None:
        column = np.zeros(len(streamer), dtype=np.float32)
        if name == "pair_since":
            column[:] = np.log1p(NEVER_H)
        column[rooms] = values
        columns[name] = column

    put("pair_known", visited)
    put("pair_visits_short", np.log1p(visits[:, 0]))
    put("pair_visits_medium", np.log1p(visits[:, 1]))
    put("pair_visits_long", np.log1p(visits[:, -1]))
    put("pair_visits_ever", np.log1p(state.pairs.visits[pair]))
    put("pair_share", visits[:, -1] / max(of_user, 1e-9))
    put("pair_dwell", np.log1p(sums[:, PairCounter.DWELL_S, -1] / 60))
    put("pair_mean_dwell", np.log1p(sums[:, PairCounter.DWELL_S, -1] / 60 / (visits[:, -1] + 0.5)))
    put("pair_bounces", sums[:, PairCounter.BOUNCE, -1] / (visits[:, -1] + 0.5))
    put("pair_purchases", np.log1p(sums[:, PairCounter.PURCHASE, -1]))
    put("pair_engagement", np.log1p(sums[:, PairCounter.ENGAGE, -1]))
    put("pair_relation", state.pairs.relation[pair])
    put("pair_since", np.log1p(since_h))
    put("pair_just_left", visited * np.exp(-since_h / 2))
    put("pair_about_a_day", visited * np.exp(-(((since_h - 24) / 4) ** 2)))
    put("pair_about_a_week", visited * np.exp(-(((since_h - 168) / 10) ** 2)))
    put("pair_hour_of_day", visited * np.cos(2 * np.pi * since_h / 24))
    put("pair_is_latest", visited & (last_us >= state.last_visit_us[user]))


def _shown(state: LiveState, user: int, streamer: IntArray, now_us: int) -> npt.ArrayLike:
    """How often each streamer was lately put before the user, newer showings counting more."""
    ring = state.shown
    if not 0 <= user < len(ring.count):
        return 0.0
    at_us = ring.at_us[user]
    old_us = now_us - int(state.params.shown_delay_s * SECOND_US)
    counted = (at_us != NEVER_US) & (at_us < old_us)
    weight = np.exp2(-(now_us - at_us[counted]) / (7.0 * DAY_US))
    total = np.bincount(ring.streamer_idx[user][counted], weights=weight, minlength=len(state.first_seen_us))
    return np.log1p(total[streamer])


def _streamer(columns: _Columns, state: LiveState, streamer: IntArray, now_us: int) -> None:
    sums = np.maximum(state.streamers.read(streamer, now_us), 0.0)
    visits = sums[:, StreamerCounter.VISIT]
    columns["streamer_visits_hour"] = np.log1p(visits[:, 0])
    columns["streamer_visits_day"] = np.log1p(visits[:, 1])
    columns["streamer_visits_week"] = np.log1p(visits[:, -1])
    columns["streamer_momentum"] = np.log((24 * visits[:, 0] + 1) / (visits[:, 1] + 1))
    columns["streamer_mean_dwell"] = np.log1p(sums[:, StreamerCounter.DWELL_S, -1] / 60 / (visits[:, -1] + 1))
    columns["streamer_purchase_rate"] = sums[:, StreamerCounter.PURCHASE, -1] / (visits[:, -1] + 5)
    first_us = state.first_seen_us[streamer]
    columns["streamer_age"] = np.log1p(np.maximum(now_us - np.minimum(first_us, now_us), 0) / HOUR_US)


def _room(columns: _Columns, state: LiveState, rows: IntArray, now_us: int) -> None:
    counters = np.log1p(np.maximum(state.rooms.counters.read(rows, now_us), 0.0))
    for name, column in COUNTED.items():
        for window, half_life in WINDOWS.items():
            columns[f"room_{name}_{window}"] = counters[:, column, half_life]
    viewers = np.maximum(state.rooms.viewers[rows], 0.0)
    columns["room_viewers"] = np.log1p(viewers)
    everybody = float(np.maximum(state.rooms.viewers[: len(state.rooms)], 0.0).sum())
    columns["room_share"] = np.log1p(100 * viewers / max(everybody, 1.0))
    columns["room_age"] = np.log1p(np.maximum(now_us - state.rooms.started_us[rows], 0) / HOUR_US)


def _air(
    columns: _Columns, state: LiveState, content: Content, actions: LatestActions, rows: IntArray, now_us: int
) -> None:
    """The product on air; all zero where there is none."""
    item = state.rooms.item_idx[rows]
    rooms = np.flatnonzero(item >= 0)
    if len(rooms) == 0:
        return
    item = item[rooms]

    def put(name: str, values: npt.ArrayLike) -> None:
        column = np.zeros(len(rows), dtype=np.float32)
        column[rooms] = values
        columns[name] = column

    put("air_any", 1.0)
    put("air_minutes", np.log1p(np.maximum(now_us - state.rooms.aired_us[rows[rooms]], 0) / (60 * SECOND_US)))
    counted = item < len(state.items)
    sums = np.zeros((len(item), len(ItemCounter), len(state.params.item_half_lives_h)))
    sums[counted] = np.maximum(state.items.read(item[counted], now_us), 0.0)
    for name, column in (
        ("air_clicks", ItemCounter.CLICK),
        ("air_carts", ItemCounter.CART),
        ("air_talk", ItemCounter.TALK),
        ("air_purchases", ItemCounter.PURCHASE),
    ):
        put(name, np.log1p(sums[:, column, 1]))
    put("air_momentum", np.log((7 * sums[:, :, 1].sum(axis=1) + 1) / (sums[:, :, -1].sum(axis=1) + 1)))
    potential = None if content.potential is None else content.potential.at(now_us)
    if potential is not None:
        put("air_potential", np.nan_to_num(pick(potential, item, np.nan)))
    price = pick(content.item_price, item, np.nan)
    put("air_price", np.nan_to_num(price))
    weight = np.exp2(-actions.age_days / _PROFILE_HALF_LIFE_DAYS)
    own_price = pick(content.item_price, actions.item_idx, np.nan)
    priced = np.isfinite(own_price)
    if priced.any():
        usual = float(weight[priced] @ own_price[priced] / max(weight[priced].sum(), 1e-9))
        put("air_price_gap", np.nan_to_num((price - usual) ** 2))
    if content.categories:
        share = _category_shares(content, weight, pick(content.item_category, actions.item_idx, -1))
        put("air_category_share", share[pick(content.item_category, item, -1)])
    met = (actions.item_idx[None, :] == item[:, None]) @ weight
    put("air_met", np.log1p(met))


def _category_shares(content: Content, weight: npt.NDArray[np.float64], category: IntArray) -> FloatArray:
    """(C + 1,) share of each category in what the user did; the last is 0, for no category."""
    n = len(content.categories)
    known = category >= 0
    total = np.bincount(category[known], weights=weight[known], minlength=n + 1)
    shares: FloatArray = (total / (1.0 + weight.sum())).astype(np.float32)
    return shares


def _taste(
    columns: _Columns, state: LiveState, content: Content, user: int, actions: LatestActions, rows: IntArray
) -> None:
    streamer = state.rooms.streamer_idx[rows]
    if content.categories:
        weight = np.exp2(-actions.age_days / _PROFILE_HALF_LIFE_DAYS)
        own = pick(content.streamer_category, actions.streamer_idx, -1)
        category = np.where(
            state.rooms.category[rows] >= 0,
            state.rooms.category[rows],
            pick(content.streamer_category, streamer, -1),
        )
        columns["category_share"] = _category_shares(content, weight, own)[category]
    if content.taste is None:
        return
    taste = content.taste
    vector = user_vector(taste, user, actions)
    # The products of all streamers at once are cheaper than gathering vectors where most are live.
    to_streamer = taste.streamer[vector_rows(streamer, taste.streamer)] @ vector
    to_item = taste.item[vector_rows(state.rooms.item_idx[rows], taste.item)] @ vector
    columns["taste_streamer"] = to_streamer
    columns["taste_item"] = to_item
    columns["taste"] = to_streamer + to_item


def _context(columns: _Columns, state: LiveState, user: int, now_us: int) -> None:
    """The same for every room: what it means is learnt together with the other features."""
    if 0 <= user < len(state.last_visit_us):
        visits = np.maximum(state.users.read(slice(user, user + 1), now_us)[0, 0], 0.0)
        columns["user_visits_short"] = np.log1p(visits[0])
        columns["user_visits_long"] = np.log1p(visits[-1])
        last_us = int(state.last_visit_us[user])
        since_h = NEVER_H if last_us == NEVER_US else max(now_us - last_us, 0) / HOUR_US
    else:
        since_h = NEVER_H
    columns["user_since"] = np.log1p(since_h)
    columns["live_rooms"] = np.log1p(len(state.rooms))
    day_part = 2 * np.pi * (now_us % DAY_US) / DAY_US
    columns["hour_sin"] = np.sin(day_part)
    columns["hour_cos"] = np.cos(day_part)
    weekday = int(now_us // DAY_US + 3) % 7  # 1970-01-01 was a Thursday
    columns["weekday_sin"] = np.sin(2 * np.pi * weekday / 7)
    columns["weekday_cos"] = np.cos(2 * np.pi * weekday / 7)
    columns["weekend"] = float(weekday >= 5)
