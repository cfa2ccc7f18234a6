"""The second world's log in the publishers' own raw layouts, and its truth beside them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recsys.data.simulate.drift_world import DriftLog
from recsys.data.simulate.log import TIME
from recsys.data.simulate.params import stream
from recsys.data.simulate.truth import FOLDER
from recsys.data.sources.twitch import EPOCH_S, STEP_S
from recsys.types import LongArray

#: Ids of the three kinds lie apart, so that a mix-up shows.
_FIRST_ROOM, _FIRST_STREAMER = 1_000_000, 50_000


class Layout(StrEnum):
    """The raw layouts that the second world speaks."""

    KUAILIVE = "kuailive"
    TWITCH = "twitch"


def write_kuailive(out: Path, log: DriftLog) -> None:
    """Write the eight files of KuaiLive: ids are whole numbers, times Unix ms."""
    rng, users = stream(log.params.seed, "drift-kuailive"), log.params.users
    n = len(log.visit_user)

    def action(rows: np.ndarray, at_ms: LongArray) -> dict[str, Any]:
        return _action(log, log.visit_user[rows], log.visit_room[rows], at_ms)

    everyone = np.arange(n)
    _csv(out / "click.csv", action(everyone, log.visit_ms) | {"watch_live_time": log.visit_length_ms})
    _csv(out / "negative.csv", _action(log, log.passed_user, log.passed_room, log.passed_ms))
    for name, rate in (("like", 0.15), ("comment", 0.08), ("gift", 0.02)):
        rows = np.flatnonzero(rng.random(n) < rate)
        at_ms = log.visit_ms[rows] + (rng.random(len(rows)) * log.visit_length_ms[rows]).astype(np.int64)
        price = {"gift_price": np.round(np.exp(rng.normal(2, 1, len(rows))))} if name == "gift" else {}
        _csv(out / f"{name}.csv", action(rows, at_ms) | price)
    start_ms = _origin_ms(log, Layout.KUAILIVE) + log.room_start_ms
    rooms = np.arange(len(start_ms))
    _csv(
        out / "room.csv",
        {
            "p_date": pa.array(start_ms, TIME).cast(pa.date32()).cast(pa.string()),
            "live_id": _FIRST_ROOM + rooms,
            "streamer_id": _FIRST_STREAMER + log.room_streamer,
            "live_type": np.ones(len(rooms), np.int64),
            "start_timestamp": start_ms,
            "end_timestamp": _origin_ms(log, Layout.KUAILIVE) + log.room_end_ms,
            "live_content_category": log.streamer_vectors.argmax(axis=1)[log.room_streamer],
            "live_name_id": log.room_streamer,
        },
    )
    _csv(
        out / "user.csv",
        {
            "user_id": np.arange(users),
            "age": rng.choice(["18-23", "24-30", "31-40", "41-49", "50+"], users),
            "gender": rng.choice(["F", "M"], users),
            "country": np.full(users, "CN"),
        },
    )
    _csv(
        out / "streamer.csv",
        {
            "streamer_id": _FIRST_STREAMER + np.arange(log.params.streamers),
            "gender": rng.choice(["F", "M"], log.params.streamers),
            "age": rng.choice(["18-23", "24-30", "31-40"], log.params.streamers),
        },
    )


def write_twitch(out: Path, log: DriftLog) -> None:
    """Write 100k.csv: user, stream id, streamer name, start and stop in steps of ten minutes; no header."""
    step_ms = STEP_S * 1000
    streamer = log.room_streamer[log.visit_room]
    columns = {
        "user": log.visit_user,
        "stream": _FIRST_ROOM + log.visit_room,
        "streamer": pa.array([f"streamer_{s}" for s in streamer.tolist()]),
        "start": log.visit_ms // step_ms,
        # The last step in which the viewer was seen, counted as over, as the publisher does.
        "stop": np.maximum(-(-(log.visit_ms + log.visit_length_ms) // step_ms), log.visit_ms // step_ms + 1),
    }
    _csv(out / "100k.csv", columns, header=False)


def write_truth(out: Path, log: DriftLog, layout: Layout) -> None:
    """Write params, vectors, popularity (days, S) and the kept requests to `out`/truth.

    `at` in room_requests.parquet is the moment that `recsys import` gives to the visit that followed.
    """
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(log.params.model_dump_json(indent=2), encoding="utf-8")
    for name in ("user_vectors", "streamer_vectors", "popularity"):
        np.save(folder / f"{name}.npy", getattr(log, name), allow_pickle=False)
    rows = log.requests
    table = pa.table(
        {
            "request": rows["request"],
            "user_id": rows["user"].astype(np.int64),
            "at": pa.array(_origin_ms(log, layout) + rows["at_ms"], TIME),
            "room_id": _FIRST_ROOM + rows["room"].astype(np.int64),
            **{name: rows[name] for name in ("utility", "visits", "known", "chosen")},
        }
    )
    pq.write_table(table, folder / "room_requests.parquet", compression="zstd")


def _origin_ms(log: DriftLog, layout: Layout) -> int:
    return EPOCH_S * 1000 if layout is Layout.TWITCH else round(log.params.start.timestamp() * 1000)


def _action(log: DriftLog, user: np.ndarray, room: np.ndarray, at_ms: LongArray) -> dict[str, Any]:
    return {
        "user_id": user,
        "live_id": _FIRST_ROOM + room,
        "streamer_id": _FIRST_STREAMER + log.room_streamer[room],
        "timestamp": _origin_ms(log, Layout.KUAILIVE) + at_ms,
    }


def _csv(file: Path, columns: Mapping[str, Any], *, header: bool = True) -> None:
    options = pacsv.WriteOptions(include_header=header, quoting_style="needed")
    pacsv.write_csv(pa.table(dict(columns)), file, options)
