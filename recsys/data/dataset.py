"""The Dataset: what a log says as of a moment, in the dense arrays that models work in.

`recsys.data.prepare` writes one to a folder; here it is read. Rows are in the order in which they became
known, so what was known at an earlier moment is a prefix of every table: `Dataset.until` cuts there, and
nothing that happened later can move an index or a number.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import sparse

from recsys.data.behaviours import BehaviourWeights
from recsys.data.histories import Histories
from recsys.data.ids import IdMap
from recsys.durations import DAY_US, SECOND_US
from recsys.errors import DataError
from recsys.types import BEHAVIOURS, Behaviour, BoolArray, FloatArray, IntArray, LongArray, Target

if TYPE_CHECKING:
    import ibis.expr.types as ir
    import numpy.typing as npt

FORMAT_VERSION = 1
MANIFEST = "dataset.json"
#: Bytes that queries may hold before they spill to disk: as much as the log itself takes here.
QUERY_MEMORY_PER_EVENT = 50
QUERY_MEMORY_LEAST = 2**30


def to_us(moment: datetime) -> int:
    """Microseconds since the epoch; a moment without a time zone is UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * SECOND_US)


def from_us(moment_us: int) -> datetime:
    """The UTC moment that lies `moment_us` microseconds after the epoch."""
    return datetime.fromtimestamp(moment_us / SECOND_US, tz=UTC)


@dataclass(frozen=True)
class Events:
    """N events in time order, one array a column. An index of -1 means that the event has none.

    Attributes:
        timestamp_us: (N,) int64 microseconds since the epoch, ascending; the start of a view.
        behaviour: (N,) int8, `Behaviour.code`.
        user_idx, item_idx, room_idx, streamer_idx: (N,) int32.
        duration_s: (N,) float32 seconds of a view; NaN where unknown or not over yet.
        quantity: (N,) float32 units of a purchase or refund; NaN elsewhere.
        amount: (N,) float64 in the log's currency; NaN where there is none.
        position: (N,) float32 place in the list that was shown; NaN where not logged.
    """

    timestamp_us: LongArray
    behaviour: npt.NDArray[np.int8]
    user_idx: IntArray
    item_idx: IntArray
    room_idx: IntArray
    streamer_idx: IntArray
    duration_s: FloatArray
    quantity: FloatArray
    amount: npt.NDArray[np.float64]
    position: FloatArray

    def __len__(self) -> int:
        return len(self.timestamp_us)

    def where(self, mask: BoolArray | LongArray | slice) -> Events:
        """The events that a mask, an index array or a slice picks."""
        return Events(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})

    def target_idx(self, target: Target) -> IntArray:
        """(N,) int32 index of what the event is about: the product, or the room's streamer."""
        return self.item_idx if target is Target.ITEM else self.streamer_idx

    def is_any(self, behaviours: Iterable[Behaviour]) -> BoolArray:
        """(N,) whether the event is one of these behaviours."""
        table = np.zeros(len(BEHAVIOURS), dtype=bool)
        table[[behaviour.code for behaviour in behaviours]] = True
        return table[self.behaviour]


@dataclass(frozen=True)
class Entities:
    """Users, items, rooms or streamers: their ids and, row by row in index order, what is known of them.

    Attributes:
        ids: external id <-> dense index.
        table: one row an entity: the contract's columns that the log had, then its own feature columns.
        known_at_us: (n,) int64 microseconds, ascending; the least int64 where it was always known.
    """

    ids: IdMap
    table: pa.Table
    known_at_us: LongArray

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> pa.Array | None:
        """(n,) the column, or None where the log has no such column."""
        return self.table[name].combine_chunks() if name in self.table.column_names else None

    def known(self, before_us: int) -> Entities:
        """The entities known before that moment."""
        return self.first(int(np.searchsorted(self.known_at_us, before_us, side="left")))

    def first(self, n: int) -> Entities:
        """The n that were known first."""
        return Entities(self.ids.prefix(n), self.table.slice(0, n), self.known_at_us[:n])


@dataclass(frozen=True)
class Dataset:
    """What a log says, as of a moment: only rows strictly before `as_of_us` are there.

    Attributes:
        path: the folder that it was read from.
        as_of_us: microseconds since the epoch; everything here was known before it.
        users, items, rooms, streamers: ids and features.
        events: the interactions, in time order.
        showcases: room_idx, item_idx, started_at, ended_at (null: still on air).
        promotions: item_idx, started_at, ended_at and what else the log says, announced before `as_of_us`.
        manifest: what `prepare` wrote down: counts, quarantine, fingerprint.
    """

    path: Path
    as_of_us: int
    users: Entities
    items: Entities
    rooms: Entities
    streamers: Entities
    events: Events
    showcases: pa.Table
    promotions: pa.Table
    manifest: Mapping[str, Any]

    @classmethod
    def load(cls, path: Path | str, *, as_of: datetime | None = None) -> Dataset:
        """Read a prepared folder, as of a moment (UTC; by default the end of its log).

        Raises:
            DataError: the folder is no Dataset, or one of another version.
        """
        whole = cls.whole(path)
        return whole.until(whole.as_of_us if as_of is None else to_us(as_of))

    @classmethod
    def whole(cls, path: Path | str) -> Dataset:
        """Read all that a prepared folder holds, ends of rooms after the log's own included.

        For a replay, which keeps its own clock and asks at moments after the last event too; never to train.

        Raises:
            DataError: the folder is no Dataset, or one of another version.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)

        def entities(kind: str) -> Entities:
            table = pq.read_table(folder / f"{kind}s.parquet")
            ids = IdMap(
                table[f"{kind}_id"].combine_chunks().cast(pa.string()),
                pa.type_for_alias(manifest["id_types"][kind]),
            )
            known_at = pc.fill_null(pc.cast(table["known_at"], pa.int64()), np.iinfo(np.int64).min)
            return Entities(
                ids, table.drop_columns([f"{kind}_id", f"{kind}_idx", "known_at"]), known_at.to_numpy()
            )

        return cls(
            path=folder,
            as_of_us=int(manifest["as_of_us"]),
            users=entities("user"),
            items=entities("item"),
            rooms=entities("room"),
            streamers=entities("streamer"),
            events=_read_events(folder / "events.parquet"),
            showcases=pq.read_table(folder / "showcases.parquet"),
            promotions=pq.read_table(folder / "promotions.parquet"),
            manifest=manifest,
        )

    @property
    def as_of(self) -> datetime:
        """The moment, UTC, before which everything here was known."""
        return from_us(self.as_of_us)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the prepared tables: the same log prepared the same way has the same one."""
        return str(self.manifest["fingerprint"])

    @property
    def days(self) -> float:
        """The log's length, from its first event to `as_of_us`; a second at least."""
        return max(self.as_of_us - int(self.events.timestamp_us[0]), SECOND_US) / DAY_US

    def until(self, as_of_us: int) -> Dataset:
        """The Dataset as it was at an earlier moment, microseconds since the epoch.

        Raises:
            DataError: nothing had happened yet.
        """
        as_of_us = min(as_of_us, self.as_of_us)
        n = int(np.searchsorted(self.events.timestamp_us, as_of_us, side="left"))
        if n == 0:
            moment = f"{from_us(as_of_us):%Y-%m-%d %H:%M:%S} UTC"
            raise DataError(f"{self.path}: no event before {moment}; choose a later moment")
        events = self.events.where(slice(0, n))
        length_us = np.nan_to_num(events.duration_s.astype(np.float64)) * SECOND_US
        over_us = events.timestamp_us + length_us.astype(np.int64)
        watching = np.isfinite(events.duration_s) & (over_us >= as_of_us)
        events = replace(events, duration_s=np.where(watching, np.float32(np.nan), events.duration_s))
        rooms = self.rooms.known(as_of_us)
        known_from = pc.coalesce(self.promotions["announced_at"], self.promotions["started_at"])
        return replace(
            self,
            as_of_us=as_of_us,
            users=self.users.known(as_of_us),
            items=self.items.known(as_of_us),
            rooms=replace(rooms, table=_hide_ends(rooms.table, as_of_us)),
            streamers=self.streamers.known(as_of_us),
            events=events,
            showcases=_hide_ends(_before(self.showcases, self.showcases["started_at"], as_of_us), as_of_us),
            promotions=_before(self.promotions, known_from, as_of_us),
        )

    def entities(self, target: Target) -> Entities:
        """What is recommended: the products, or the streamers whose rooms are."""
        return self.items if target is Target.ITEM else self.streamers

    def personalised(self) -> BoolArray:
        """(users,) False for those who have opted out; a user of whom the log says nothing has not."""
        column = self.users.column("personalised")
        if column is None:
            return np.ones(len(self.users), dtype=bool)
        flags: BoolArray = pc.fill_null(column.cast(pa.bool_()), True).to_numpy(zero_copy_only=False)
        return flags

    def settle(self, weights: BehaviourWeights) -> BehaviourWeights:
        """The weights with a half-life of `auto` as of this log's length."""
        return weights.settled(self.days)

    def interactions(self, target: Target, weights: BehaviourWeights) -> sparse.csr_matrix:
        """Summed confidence of every user with every target: (users, targets) float32 CSR, no stored zero."""
        confidence = self.settle(weights).of(self.events, self.as_of_us)
        index = self.events.target_idx(target)
        rows = (index >= 0) & (confidence > 0)
        cells = (confidence[rows], (self.events.user_idx[rows], index[rows]))
        return sparse.csr_matrix(cells, shape=(len(self.users), len(self.entities(target))))

    def done(self, target: Target, behaviours: Iterable[Behaviour]) -> sparse.csr_matrix:
        """Which user did one of these behaviours with which target: (users, targets) float32 CSR of ones."""
        index = self.events.target_idx(target)
        rows = (index >= 0) & self.events.is_any(behaviours)
        shape = (len(self.users), len(self.entities(target)))
        ones = np.ones(int(rows.sum()), dtype=np.float32)
        matrix = sparse.csr_matrix((ones, (self.events.user_idx[rows], index[rows])), shape=shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix

    def histories(self, target: Target, behaviours: Iterable[Behaviour] | None = None) -> Histories:
        """What each user did with which target, oldest first; by default everything but impressions."""
        wanted = set(BEHAVIOURS) - {Behaviour.IMPRESSION} if behaviours is None else behaviours
        index = self.events.target_idx(target)
        rows = np.flatnonzero((index >= 0) & self.events.is_any(wanted))
        order = rows[np.argsort(self.events.user_idx[rows], kind="stable")]
        return Histories(
            indptr=np.searchsorted(self.events.user_idx[order], np.arange(len(self.users) + 1)).astype(
                np.int64
            ),
            target_idx=index[order],
            behaviour=self.events.behaviour[order],
            timestamp_us=self.events.timestamp_us[order],
            duration_s=self.events.duration_s[order],
        )

    def counts(self) -> dict[Behaviour, int]:
        """How many events of each behaviour there are; behaviours that do not occur are left out."""
        counts = np.bincount(self.events.behaviour, minlength=len(BEHAVIOURS))
        return {behaviour: int(counts[behaviour.code]) for behaviour in BEHAVIOURS if counts[behaviour.code]}

    @cached_property
    def _connection(self) -> Any:
        import ibis

        scratch = tempfile.mkdtemp(prefix="recsys-")
        connection = ibis.duckdb.connect(temp_directory=scratch)
        weakref.finalize(connection, shutil.rmtree, scratch, ignore_errors=True)
        connection.raw_sql("SET enable_progress_bar = false")
        most = max(QUERY_MEMORY_LEAST, QUERY_MEMORY_PER_EVENT * len(self.events))
        connection.raw_sql(f"SET memory_limit = '{most}B'")
        return connection

    def relation(self, name: str) -> ir.Table:
        """A prepared table as an Ibis expression on DuckDB, for work that should stay out of core.

        Args:
            name: events, items, users, rooms, streamers, showcases or promotions. Times are naive UTC
                timestamps; `behaviour` is the event's name; only rows known before `as_of` are there.
        """
        import ibis

        table = self._connection.read_parquet(str(self.path / f"{name}.parquet"))
        as_of = ibis.literal(self.as_of.replace(tzinfo=None))
        if name == "events":
            over = table.timestamp + (table.duration_s.cast("float64") * SECOND_US).cast("int64").as_interval(
                "us"
            )
            known = table.filter(table.timestamp < as_of)
            return known.mutate(duration_s=ibis.ifelse(over < as_of, table.duration_s, ibis.null("float32")))
        if name in ("rooms", "showcases"):
            start = table.known_at if name == "rooms" else table.started_at
            known = table.filter((start < as_of) | start.isnull())
            return known.mutate(
                ended_at=ibis.ifelse(table.ended_at < as_of, table.ended_at, ibis.null("timestamp"))
            )
        if name == "promotions":
            return table.filter(ibis.coalesce(table.announced_at, table.started_at) < as_of)
        return table.filter((table.known_at < as_of) | table.known_at.isnull())


def _before(table: pa.Table, time: pa.ChunkedArray, before_us: int) -> pa.Table:
    return table.filter(pc.less(pc.cast(time, pa.int64()), before_us))


def _hide_ends(table: pa.Table, as_of_us: int) -> pa.Table:
    """The table with every `ended_at` at or after the moment unknown, as it was then."""
    ended = table["ended_at"]
    known = pc.if_else(pc.less(pc.cast(ended, pa.int64()), as_of_us), ended, pa.scalar(None, ended.type))
    return table.set_column(table.column_names.index("ended_at"), "ended_at", known)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"{folder} is no Dataset: {MANIFEST} is missing; run `recsys prepare LOGS --out {folder}`"
        )
    manifest: dict[str, Any] = json.loads(path.read_text())
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path}: format_version {manifest.get('format_version')!r}, this engine reads {FORMAT_VERSION}; "
            "run `recsys prepare` again"
        )
    return manifest


def _read_events(path: Path) -> Events:
    """Column by column, what is read given back: a log is held once, not as Arrow and as arrays."""

    def read(name: str) -> pa.ChunkedArray:
        return pq.read_table(path, columns=[name])[name]

    def column(name: str, dtype: Any, missing: float) -> Any:
        return pc.fill_null(read(name).cast(pa.from_numpy_dtype(dtype)), missing).to_numpy()

    names = read("behaviour").combine_chunks().dictionary_encode()
    codes = np.array([Behaviour(name).code for name in names.dictionary.to_pylist()], dtype=np.int8)
    events = Events(
        timestamp_us=read("timestamp").cast(pa.int64()).to_numpy(),
        behaviour=codes[names.indices.to_numpy()],
        **{name: column(name, np.int32, -1) for name in ("user_idx", "item_idx", "room_idx", "streamer_idx")},
        **{name: column(name, np.float32, np.nan) for name in ("duration_s", "quantity", "position")},
        amount=column("amount", np.float64, np.nan),
    )
    pa.default_memory_pool().release_unused()
    return events
