"""What visits of rooms came to, as far as the log knows at its end: their length, and whether one bought."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.durations import SECOND_US
from recsys.rooms.events import EventBatch
from recsys.rooms.params import StateParams
from recsys.types import Behaviour, FloatArray, LongArray


@dataclass(frozen=True)
class Outcomes:
    """What V visits came to; NaN for what is not known.

    Attributes:
        dwell_s: (V,) float32 seconds watched.
        stayed: (V,) float32 dwell / (dwell + m), m the median of the visits: 0 for none at all, 1/2 for a
            visit of the usual length, and little more for one of ten times the usual than for one of five.
        bought: (V,) float32 1 or 0.
    """

    dwell_s: FloatArray
    stayed: FloatArray
    bought: FloatArray


def outcomes(
    events: EventBatch, visits: LongArray, state: StateParams, as_of_us: int, buy_wait_s: float
) -> Outcomes:
    """Read off the log what its visits came to.

    Args:
        events: the log in time order.
        visits: (V,) rows of visits of rooms.
        state: what is a visit, and what tells its length.
        as_of_us: the log's end; a view that was not over by then has no length yet.
        buy_wait_s: a purchase this long after the visit began still came of it; what a visit later than that
            before the end comes to is not known yet.
    """
    if state.length == "view" or state.leave is None:
        dwell_s = _view_s(events, visits, as_of_us)
    else:
        dwell_s = _until_left_s(events, visits, state.visit, state.leave)
    usual = np.nanmedian(dwell_s) if np.isfinite(dwell_s).any() else 0.0
    stayed = dwell_s / np.maximum(dwell_s + usual, 1e-9)
    return Outcomes(
        dwell_s, stayed.astype(np.float32), _bought(events, visits, as_of_us, int(buy_wait_s * SECOND_US))
    )


def _view_s(events: EventBatch, visits: LongArray, as_of_us: int) -> FloatArray:
    """(V,) length of the view that the user began at the visit's moment."""
    dwell_s = np.full(len(visits), np.nan, dtype=np.float32)
    over_us = events.timestamp_us + np.nan_to_num(events.duration_s).astype(np.float64) * SECOND_US
    is_view = (events.behaviour == Behaviour.VIEW.code) & np.isfinite(events.duration_s)
    views = np.flatnonzero(is_view & (over_us < as_of_us))
    if not len(views):
        return dwell_s
    _, place = np.unique(events.timestamp_us, return_inverse=True)
    key = place.astype(np.int64) * (int(events.user_idx.max()) + 1) + events.user_idx
    order = views[np.argsort(key[views], kind="stable")]
    found = order[np.minimum(np.searchsorted(key[order], key[visits]), len(order) - 1)]
    same = (key[found] == key[visits]) & (events.room_idx[found] == events.room_idx[visits])
    dwell_s[same] = events.duration_s[found[same]]
    return dwell_s


def _until_left_s(events: EventBatch, visits: LongArray, visit: Behaviour, leave: Behaviour) -> FloatArray:
    """(V,) from the visit to the user's next leaving of the room, unless they come to it again before."""
    in_room = events.room_idx >= 0
    left = _next(events, visits, np.flatnonzero((events.behaviour == leave.code) & in_room))
    # A visit at the very moment of this one is this one.
    again = _next(events, visits, np.flatnonzero((events.behaviour == visit.code) & in_room), later=True)
    at_us = events.timestamp_us
    dwell_s = np.full(len(visits), np.nan, dtype=np.float32)
    known = (left >= 0) & ((again < 0) | (at_us[left] <= at_us[again]))
    dwell_s[known] = (at_us[left[known]] - at_us[visits[known]]) / SECOND_US
    return dwell_s


def _bought(events: EventBatch, visits: LongArray, as_of_us: int, wait_us: int) -> FloatArray:
    """(V,) whether the user bought in the room at the visit's moment or up to `wait_us` after it."""
    sales = np.flatnonzero((events.behaviour == Behaviour.PURCHASE.code) & (events.room_idx >= 0))
    sale, at_us = _next(events, visits, sales), events.timestamp_us
    bought = ((sale >= 0) & (at_us[sale] - at_us[visits] <= wait_us)).astype(np.float32)
    # Those who have bought by then are no fair sample of those who will have.
    bought[at_us[visits] + wait_us >= as_of_us] = np.nan
    return bought


def _next(events: EventBatch, visits: LongArray, rows: LongArray, *, later: bool = False) -> LongArray:
    """(V,) the first of `rows` of the visit's user and room at its moment or after it, -1 for none.

    Args:
        events: the log.
        visits: (V,) rows.
        rows: (N,) rows to look among.
        later: not at its moment.
    """
    both = np.concatenate([rows, visits])
    pair = events.user_idx[both].astype(np.int64) << 32 | events.room_idx[both].astype(np.int64)
    _, pair = np.unique(pair, return_inverse=True)
    moments, place = np.unique(events.timestamp_us[both], return_inverse=True)
    key = pair.astype(np.int64) * len(moments) + place
    n = len(rows)
    order = np.argsort(key[:n], kind="stable")
    at = np.searchsorted(key[:n][order], key[n:], side="right" if later else "left")
    found = np.full(len(visits), -1, dtype=np.int64)
    has = np.flatnonzero(at < n)
    same = pair[order[at[has]]] == pair[n + has]
    found[has[same]] = rows[order[at[has[same]]]]
    return found
