"""Events as one structured array while they are made, and the writer that turns them into the log."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.simulate.params import SimulationParams
from recsys.types import BEHAVIOURS, Behaviour, LongArray

#: Ids of -1, NaN numbers and a position of 0 are written as null.
EVENT = np.dtype(
    [
        ("time_ms", "i8"),
        ("event", "i1"),
        ("user", "i4"),
        ("item", "i4"),
        ("room", "i4"),
        ("streamer", "i4"),
        ("duration_s", "f4"),
        ("quantity", "f4"),
        ("amount", "f4"),
        ("position", "i2"),
        ("source", "i1"),
    ]
)
SOURCES: Final = ("feed", "follow", "shelf", "room", "cart")
TIME: Final = pa.timestamp("ms", tz="UTC")
EVENT_SCHEMA: Final = pa.schema(
    [
        ("user_id", pa.string()),
        ("event", pa.string()),
        ("timestamp", TIME),
        ("item_id", pa.string()),
        ("room_id", pa.string()),
        ("streamer_id", pa.string()),
        ("duration_s", pa.float32()),
        ("quantity", pa.float32()),
        ("amount", pa.float32()),
        ("position", pa.int16()),
        ("source", pa.string()),
        ("event_id", pa.string()),
        ("device_id", pa.string()),
        ("address_id", pa.string()),
    ]
)


def events(behaviour: Behaviour, time_ms: LongArray, **columns: Any) -> np.ndarray:
    """(N,) EVENT rows of one behaviour; columns that are not given are null."""
    rows = np.empty(len(time_ms), EVENT)
    for name, null in (("item", -1), ("room", -1), ("streamer", -1), ("position", 0), ("source", -1)):
        rows[name] = columns.pop(name, null)
    for name in ("duration_s", "quantity", "amount"):
        rows[name] = columns.pop(name, np.nan)
    rows["event"] = behaviour.code
    rows["time_ms"] = time_ms
    rows["user"] = columns.pop("user")
    if columns:
        raise TypeError(f"no such event columns: {sorted(columns)}")
    return rows


def ids(prefix: str, count: int) -> pa.Array:
    """The external ids of `count` things: u00000, u00001, ..."""
    width = max(5, len(str(count)))
    return pa.array([f"{prefix}{number:0{width}d}" for number in range(count)], pa.string())


def timestamps(params: SimulationParams, time_ms: LongArray) -> pa.Array:
    """UTC timestamps of moments given in ms since the start of the log."""
    origin = round(params.start.timestamp() * 1000)
    return pa.array(origin + np.asarray(time_ms, np.int64), TIME)


class EventLog:
    """Writes events.parquet day by day, in time order; holds back what lies in the future."""

    def __init__(self, path: Path, params: SimulationParams, *, rooms: int) -> None:
        self._path = path
        self._params = params
        self._ids = {
            "user": ids("u", params.users),
            "item": ids("i", params.items),
            "room": ids("r", rooms),
            "streamer": ids("s", params.streamers),
        }
        self._devices = _hashes(params.seed, "device", params.users * 2)
        # A tenth of the users share an address with somebody.
        self._addresses = _hashes(params.seed, "address", max(1, params.users * 9 // 10))
        self._pending: list[np.ndarray] = []
        self.written = 0

    def __enter__(self) -> EventLog:
        self._writer = pq.ParquetWriter(self._path, EVENT_SCHEMA, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def add(self, rows: np.ndarray) -> None:
        """Keep rows for the next flush that covers their time."""
        self._pending.append(rows)

    def flush(self, until_ms: int) -> None:
        """Write all rows before `until_ms`; no row before it may be added afterwards."""
        rows = np.concatenate([np.empty(0, EVENT), *self._pending])
        due = rows["time_ms"] < until_ms
        self._pending = [rows[~due]]
        rows = rows[due]
        rows = rows[np.lexsort((rows["event"], rows["user"], rows["time_ms"]))]
        if len(rows):
            self._writer.write_table(self._table(rows))
        self.written += len(rows)

    def _table(self, rows: np.ndarray) -> pa.Table:
        number = np.arange(self.written, self.written + len(rows), dtype=np.int64)
        user = rows["user"]
        ordered = np.isin(rows["event"], [Behaviour.PURCHASE.code, Behaviour.REFUND.code])
        # One day in eight a user is on their second device.
        day = rows["time_ms"] // 86_400_000
        device = user * 2 + ((day + user) % 8 == 0)
        columns = [
            self._ids["user"].take(pa.array(user)),
            pa.array([b.value for b in BEHAVIOURS], pa.string()).take(pa.array(rows["event"])),
            timestamps(self._params, rows["time_ms"]),
            *(
                self._ids[name].take(pa.array(rows[name], mask=rows[name] < 0))
                for name in ("item", "room", "streamer")
            ),
            *(
                pa.array(rows[name], pa.float32(), mask=np.isnan(rows[name]))
                for name in ("duration_s", "quantity", "amount")
            ),
            pa.array(rows["position"], pa.int16(), mask=rows["position"] == 0),
            pa.array(SOURCES, pa.string()).take(pa.array(rows["source"], mask=rows["source"] < 0)),
            pa.compute.binary_join_element_wise("e", pa.array(number).cast(pa.string()), ""),
            self._devices.take(pa.array(device)),
            self._addresses.take(pa.array(user % len(self._addresses), mask=~ordered)),
        ]
        return pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)


def _hashes(seed: int, kind: str, count: int) -> pa.Array:
    """Hashed ids, as a platform would hand out devices and addresses."""
    return pa.array(
        [hashlib.blake2b(f"{seed}/{kind}/{n}".encode(), digest_size=8).hexdigest() for n in range(count)],
        pa.string(),
    )
