"""A small log of live rooms that a person can follow, and events by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np
import pytest

from recsys.data.dataset import to_us
from recsys.rooms.events import EventBatch
from recsys.types import Behaviour

Rows = list[dict[str, Any]]


def us(text: str) -> int:
    """Microseconds since the epoch of an hour:minute:second of 2026-03-02, a Monday."""
    return to_us(datetime.fromisoformat(f"2026-03-02T{text}"))


def batch(*rows: tuple[Behaviour, int, dict[str, float]]) -> EventBatch:
    """A batch of (behaviour, moment, user=, streamer=, room=, item=, on_air=, duration_s=)."""

    def column(name: str) -> np.ndarray:
        return np.array([about.get(name, -1) for _, _, about in rows], dtype=np.int32)

    return EventBatch(
        timestamp_us=np.array([at for _, at, _ in rows], dtype=np.int64),
        behaviour=np.array([behaviour.code for behaviour, _, _ in rows], dtype=np.int8),
        user_idx=column("user"),
        streamer_idx=column("streamer"),
        room_idx=column("room"),
        item_idx=column("item"),
        on_air_idx=column("on_air"),
        duration_s=np.array([about.get("duration_s", np.nan) for _, _, about in rows], dtype=np.float32),
    )


@pytest.fixture
def evening() -> dict[str, Rows]:
    """Three streamers on one evening; Ann always watches s1, Ben s2, and s3 is watched by nobody."""

    def at(time: str) -> str:
        return f"2026-03-02T{time}"

    def event(user: str, name: str, time: str, room: str, **more: Any) -> dict[str, Any]:
        return {"user_id": user, "event": name, "timestamp": at(time), "room_id": room, **more}

    return {
        "events": [
            event("ann", "enter", "10:00:00", "r1"),
            event("ann", "view", "10:00:00", "r1", duration_s=600.0),
            event("ben", "enter", "10:05:00", "r2"),
            event("ben", "view", "10:05:00", "r2", duration_s=20.0),
            event("ben", "cart", "10:05:10", "r2", item_id="i2"),
            event("ann", "enter", "20:10:00", "r4"),
            event("ann", "view", "20:10:00", "r4", duration_s=300.0),
            event("ben", "enter", "20:20:00", "r5"),
        ],
        "rooms": [
            {"room_id": "r1", "streamer_id": "s1", "started_at": at("09:30:00"), "ended_at": at("11:00:00")},
            {"room_id": "r2", "streamer_id": "s2", "started_at": at("09:30:00"), "ended_at": at("11:00:00")},
            {"room_id": "r3", "streamer_id": "s3", "started_at": at("20:00:00"), "ended_at": at("21:00:00")},
            {"room_id": "r4", "streamer_id": "s1", "started_at": at("20:00:00"), "ended_at": at("21:00:00")},
            {"room_id": "r5", "streamer_id": "s2", "started_at": at("20:00:00"), "ended_at": at("22:00:00")},
        ],
        "showcases": [
            {"room_id": "r1", "item_id": "i1", "started_at": at("09:40:00"), "ended_at": at("10:30:00")},
            {"room_id": "r5", "item_id": "i2", "started_at": at("20:05:00"), "ended_at": at("20:15:00")},
            {"room_id": "r5", "item_id": "i1", "started_at": at("20:15:00"), "ended_at": at("20:30:00")},
        ],
        "items": [
            {"item_id": "i1", "category": "tea", "price": 20.0},
            {"item_id": "i2", "category": "shoes", "price": 200.0},
        ],
    }
