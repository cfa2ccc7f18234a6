"""Training examples: what the model would have seen at a visit, of the room entered and of the others."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.durations import DAY_US, SECOND_US
from recsys.rooms.content import Content
from recsys.rooms.events import EventBatch
from recsys.rooms.features import FEATURES, room_features
from recsys.rooms.log_feed import LogFeed
from recsys.rooms.memory import NEVER_US
from recsys.rooms.outcomes import outcomes
from recsys.rooms.params import StateParams
from recsys.rooms.state import LiveState
from recsys.types import BoolArray, FloatArray, IntArray, LongArray, Params, Progress

#: Rooms shown this long before a visit were the choice that the user had.
_PAGE_US = 60 * SECOND_US
#: Age of an action that is none: its weight is 0, and so is the gradient of its half-life.
NO_ACTION_DAYS = 1e6
_REPORT = 500


class ExampleParams(Params):
    """Which visits become examples, against how many rooms, and how much each counts.

    Attributes:
        visits: most visits taken, at random.
        share: the last part of the log's time from which they are taken; before it the state fills.
        rooms: most rooms of one example: the one entered, those shown and passed over, and others live then.
        negatives: `live` takes the other rooms as they were; `any` gives them the streamers of any rooms the
            log has shown by then, live or not, which is what not to do and is here to be measured.
        bounced: weight of a visit that was a short exit, as one entered; any other has weight 1.
        buy_wait_s: a purchase this long after the visit began still came of it.
        seed: of the choice of visits and rooms.
    """

    visits: int = Field(default=40_000, ge=1)
    share: float = Field(default=0.7, gt=0, le=1)
    rooms: int = Field(default=48, ge=2)
    negatives: Literal["live", "any"] = "live"
    bounced: float = Field(default=0.7, ge=0)
    buy_wait_s: float = Field(default=3600.0, ge=0)
    seed: int = 0


@dataclass(frozen=True)
class RoomExamples:
    """E visits with C places for rooms each, in time order; the room entered is in place 0.

    Attributes:
        at_us: (E,) int64.
        user_idx: (E,) int32.
        weight: (E,) float32.
        stayed: (E,) float32 in [0, 1), how long the visit was: see `recsys.rooms.outcomes`; NaN for unknown.
        bought: (E,) float32, 1 where the user bought in the room soon after, else 0; NaN for unknown.
        mask: (E, C) whether a place holds a room.
        features: (E, C, F) float32, the taste columns zero; zero where `mask` is False.
        streamer_idx, item_idx: (E, C) int32 of the rooms, -1 for none.
        read_streamer, read_item: (E, L) int32 the user's latest actions, -1 for none.
        read_behaviour: (E, L) int8; read_age_days: (E, L) float32, `NO_ACTION_DAYS` for none.
    """

    at_us: LongArray
    user_idx: IntArray
    weight: FloatArray
    stayed: FloatArray
    bought: FloatArray
    mask: BoolArray
    features: FloatArray
    streamer_idx: IntArray
    item_idx: IntArray
    read_streamer: IntArray
    read_item: IntArray
    read_behaviour: npt.NDArray[np.int8]
    read_age_days: FloatArray

    def __len__(self) -> int:
        return len(self.at_us)

    def where(self, rows: BoolArray | LongArray | slice) -> RoomExamples:
        """The examples that a mask, an index array or a slice picks."""
        return RoomExamples(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def collect_examples(
    dataset: Dataset,
    content: Content,
    state_params: StateParams,
    params: ExampleParams,
    *,
    progress: Progress | None = None,
) -> RoomExamples:
    """Replay the log once and write down what was known at a sample of its visits, strictly before each.

    The state is the very one of serving, and so are the features. A visit of a room that was not known to be
    live, or with no other room live, is no example.

    Args:
        dataset: the log as of the moment of training.
        content: the catalogue; its taste is not used.
        state_params: of the state.
        params: which visits and rooms.
        progress: called as progress(visits done, visits, text).
    """
    rng = np.random.default_rng(params.seed)
    feed = LogFeed(dataset, content.category_code)
    events = feed.events
    visits = _sample(events, state_params, params, rng)
    came_to = outcomes(events, visits, state_params, dataset.as_of_us, params.buy_wait_s)
    weights = np.where(came_to.dwell_s < state_params.bounce_s, params.bounced, 1.0)
    state, plain = LiveState(state_params), replace(content, taste=None)
    c, width = params.rooms, state_params.history
    rows = _empty(len(visits), c, width)
    made = 0
    for done, visit in enumerate(visits.tolist(), 1):
        at_us, user = int(events.timestamp_us[visit]), int(events.user_idx[visit])
        feed.advance(state, at_us)
        entered = state.rooms.row(int(events.room_idx[visit]))
        if entered >= 0 and len(state.rooms) > 1:
            rooms = _candidates(state, user, entered, at_us, c, rng)
            n = len(rooms)
            of_rooms = state.rooms.streamer_idx[rooms]
            if params.negatives == "any":
                state.rooms.streamer_idx[rooms[1:]] = _any_streamers(state, at_us, n - 1, rng)
            rows.at_us[made], rows.user_idx[made], rows.weight[made] = at_us, user, weights[done - 1]
            rows.stayed[made], rows.bought[made] = came_to.stayed[done - 1], came_to.bought[done - 1]
            rows.mask[made, :n] = True
            rows.features[made, :n] = room_features(state, plain, user, rooms, at_us)
            rows.streamer_idx[made, :n] = state.rooms.streamer_idx[rooms]
            rows.item_idx[made, :n] = state.rooms.item_idx[rooms]
            state.rooms.streamer_idx[rooms] = of_rooms
            _read(state, user, at_us, rows, made)
            made += 1
        if progress is not None and (done % _REPORT == 0 or done == len(visits)):
            progress(done, len(visits), "visits replayed")
    return rows.where(slice(0, made))


def _sample(
    events: EventBatch, state_params: StateParams, params: ExampleParams, rng: np.random.Generator
) -> LongArray:
    """Rows of the visits that become examples, in time order."""
    if len(events) == 0:
        return np.zeros(0, dtype=np.int64)
    first, last = int(events.timestamp_us[0]), int(events.timestamp_us[-1])
    from_us = last - round((last - first) * params.share)
    is_visit = (events.behaviour == state_params.visit.code) & (events.room_idx >= 0)
    visits = np.flatnonzero(is_visit & (events.timestamp_us >= from_us))
    if len(visits) > params.visits:
        visits = np.sort(rng.choice(visits, params.visits, replace=False))
    return visits


def _candidates(
    state: LiveState, user: int, entered: int, at_us: int, most: int, rng: np.random.Generator
) -> IntArray:
    """Rows of live rooms: the one entered, those just shown and passed over, and others at random."""
    others = np.delete(np.arange(len(state.rooms), dtype=np.int32), entered)
    if len(others) >= most:
        ring = state.shown
        page = np.zeros(0, dtype=np.int32)
        if user < len(ring.count):
            page = ring.streamer_idx[user][ring.at_us[user] >= at_us - _PAGE_US]
        shown = np.isin(state.rooms.streamer_idx[others], page)
        order = np.argsort(rng.random(len(others)) - shown, kind="stable")
        others = others[order[: most - 1]]
    return np.concatenate([np.array([entered], dtype=np.int32), others])


def _any_streamers(state: LiveState, at_us: int, n: int, rng: np.random.Generator) -> IntArray:
    known = np.flatnonzero(state.first_seen_us <= at_us)
    return rng.choice(known, n).astype(np.int32)


def _read(state: LiveState, user: int, at_us: int, rows: RoomExamples, place: int) -> None:
    if user < len(state.actions.count):
        ring = state.actions
        rows.read_streamer[place] = ring.streamer_idx[user]
        rows.read_item[place] = ring.item_idx[user]
        rows.read_behaviour[place] = ring.behaviour[user]
        known = ring.at_us[user] != NEVER_US
        rows.read_age_days[place, known] = np.maximum(at_us - ring.at_us[user][known], 0) / DAY_US


def _empty(n: int, c: int, width: int) -> RoomExamples:
    return RoomExamples(
        at_us=np.zeros(n, dtype=np.int64),
        user_idx=np.zeros(n, dtype=np.int32),
        weight=np.zeros(n, dtype=np.float32),
        stayed=np.full(n, np.nan, dtype=np.float32),
        bought=np.full(n, np.nan, dtype=np.float32),
        mask=np.zeros((n, c), dtype=bool),
        features=np.zeros((n, c, len(FEATURES)), dtype=np.float32),
        streamer_idx=np.full((n, c), -1, dtype=np.int32),
        item_idx=np.full((n, c), -1, dtype=np.int32),
        read_streamer=np.full((n, width), -1, dtype=np.int32),
        read_item=np.full((n, width), -1, dtype=np.int32),
        read_behaviour=np.zeros((n, width), dtype=np.int8),
        read_age_days=np.full((n, width), NO_ACTION_DAYS, dtype=np.float32),
    )
