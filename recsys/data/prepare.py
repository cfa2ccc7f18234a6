"""Logs -> Dataset: validate, quarantine, number the ids, and write what models read.

Everything is one set of Ibis expressions, so that it runs out of core on DuckDB and in place on Spark. Ids
are numbered in the order in which they became known: what happens later cannot change an earlier number.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.checks import REASON, check, owner_of_line
from recsys.data.dataset import FORMAT_VERSION, MANIFEST, to_us
from recsys.data.engine import ROW_GROUP, UNREADABLE_LINE, Engine, EngineName, open_engine
from recsys.data.logs import RawTable, read_logs, typed
from recsys.data.schema import TABLES, Kind
from recsys.data.tombstones import forgotten, tombstone
from recsys.durations import DAY_US
from recsys.errors import DataError

if TYPE_CHECKING:
    import ibis.expr.types as ir

Progress = Callable[[str], None]
KINDS = ("user", "item", "room", "streamer")
#: Columns of the numbering's own: no feature is likely to be named so.
_ID, _AT, _FIRST, _OWN, _LISTED = (f"recsys:{name}" for name in ("id", "at", "first_at", "own_at", "listed"))


@dataclass(frozen=True)
class Quarantined:
    """Rows of one table that break the contract for one reason."""

    table: str
    reason: str
    rows: int
    example: str


@dataclass(frozen=True)
class Unmatched:
    """A table of which no id occurs anywhere else in the log: most likely the two are spelt differently.

    Attributes:
        table: items, users, rooms or streamers.
        rows: good rows of it, none of which says anything of what the log is about.
        example: an id of the table.
        elsewhere: one of the rest of the log.
    """

    table: str
    rows: int
    example: str
    elsewhere: str


@dataclass(frozen=True)
class PrepareSummary:
    """What `prepare` did.

    Attributes:
        path: the Dataset's folder; rows that were not used are in its folder `quarantine`.
        rows: good rows by table.
        entities: how many users, items, rooms and streamers there are.
        behaviours: events of each name.
        first, last: times of the first and the last event, UTC.
        quarantined: what was left out, and why.
        unmatched: tables that say nothing of what the log is about.
        dropped_columns: feature columns of types that no model reads, as table.column.
        fingerprint: SHA-256 over what was written.
    """

    path: Path
    rows: Mapping[str, int]
    entities: Mapping[str, int]
    behaviours: Mapping[str, int]
    first: datetime
    last: datetime
    quarantined: tuple[Quarantined, ...]
    unmatched: tuple[Unmatched, ...]
    dropped_columns: tuple[str, ...]
    fingerprint: str


def prepare(
    logs: Path | str,
    out: Path | str,
    *,
    engine: EngineName = "duckdb",
    memory: str | None = None,
    until: datetime | None = None,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Write the Dataset of a log. It appears whole under `out`, or not at all.

    Args:
        logs: folder with the tables of the log contract.
        out: folder to write; a Dataset that is there is replaced, anything else is left alone. People on the
            list of tombstones beside it are left out: see `recsys.data.tombstones`.
        engine: where to compute.
        memory: most that DuckDB holds before it spills to disk beside `out`, as 4GB; by default four fifths
            of the machine's. Spark has its own setting.
        until: leave out what was not known before this moment (UTC).
        now: events after it have not happened and are quarantined; by default the present.
        progress: called with the name of each stage.

    Raises:
        DataError: a table or column is missing, empty, or all quarantine; or `out` is something else.
    """
    logs, out = Path(logs), Path(out)
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is no Dataset: choose another --out, or remove it")
    say = progress or (lambda _: None)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: its folder cannot be made: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as work:
        scratch, built = Path(work) / "scratch", Path(work) / "dataset"
        scratch.mkdir()
        (built / "quarantine").mkdir(parents=True)
        running = open_engine(engine, scratch, memory=memory)
        try:
            summary = _build(logs, out, built, scratch, running, until, now or datetime.now(UTC), say)
        except duckdb.OutOfMemoryException as error:
            raise DataError(
                f"{logs}: {memory or 'four fifths of this memory'} is too little even when spilling to disk; "
                f"give prepare more memory ({_first_lines(str(error))})"
            ) from error
        except duckdb.Error as error:
            raise DataError(f"{logs}: a table cannot be read: {_first_lines(str(error))}") from error
        finally:
            running.close()
        _put_in_place(built, out, Path(work) / "replaced")
    return summary


def _put_in_place(built: Path, out: Path, replaced: Path) -> None:
    """Give a new Dataset its name; the one that had it goes away only after that."""
    if not out.exists():
        built.rename(out)
        return
    out.rename(replaced)
    try:
        built.rename(out)
    except OSError:
        replaced.rename(out)
        raise


def _build(
    logs: Path,
    out: Path,
    built: Path,
    scratch: Path,
    engine: Engine,
    until: datetime | None,
    now: datetime,
    say: Progress,
) -> PrepareSummary:
    say("reading")
    raw = _without_forgotten(read_logs(logs, engine), forgotten(out.parent))
    now_naive = now.astimezone(UTC).replace(tzinfo=None) if now.tzinfo is not None else now
    tables: dict[str, ir.Table] = {}
    rows: dict[str, int] = {}
    quarantined: list[Quarantined] = []
    dropped: list[str] = []
    for name, raw_table in raw.items():
        say(f"checking {name}")
        checked = check(raw_table, now=now_naive)
        good, bad = scratch / f"{name}.parquet", built / "quarantine" / f"{name}.parquet"
        engine.write(checked.good, good)
        engine.write(checked.bad, bad)
        faults = _faults(name, bad)
        quarantined += faults
        dropped += [f"{name}.{column}" for column in checked.dropped]
        rows[name] = pq.ParquetFile(good).metadata.num_rows
        _refuse_nothing(raw_table, rows[name], faults)
        if not faults:
            bad.unlink()
        tables[name] = engine.read([good], csv=False)
    for name, schema in TABLES.items():
        if name not in tables:
            tables[name] = _absent(schema.name, scratch, engine)
    if until is not None:
        limit = ibis.literal(until.astimezone(UTC).replace(tzinfo=None) if until.tzinfo else until)
        tables["events"] = tables["events"].filter(tables["events"].timestamp < limit)
    say("numbering ids")
    entities, unmatched = _number_ids(tables, rows, built, engine)
    say("ordering events")
    _write_events(tables, entities, built, engine)
    _write_spans(tables, entities, built, engine)
    events = built / "events.parquet"
    if pq.ParquetFile(events).metadata.num_rows == 0:
        raise DataError(
            f"{raw['events'].source}: no event before {until:%Y-%m-%d %H:%M:%S}; choose a later --until"
        )
    rows["events"] = pq.ParquetFile(events).metadata.num_rows
    say("fingerprint")
    first, last, end = _span(events)
    summary = PrepareSummary(
        path=out,
        rows=rows,
        entities={kind: pq.ParquetFile(built / f"{kind}s.parquet").metadata.num_rows for kind in KINDS},
        behaviours=dict(_counts(events, "behaviour").most_common()),
        first=first,
        last=last,
        quarantined=tuple(quarantined),
        unmatched=tuple(unmatched),
        dropped_columns=tuple(dropped),
        fingerprint=_fingerprint(built),
    )
    as_of_us = to_us(until) if until is not None else min(to_us(end), to_us(last) + DAY_US) + 1
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "as_of_us": as_of_us,
        "id_types": {kind: _id_type(raw, kind) for kind in KINDS},
        **{key: value for key, value in asdict(summary).items() if key != "path"},
        "first": first.isoformat(),
        "last": last.isoformat(),
    }
    (built / MANIFEST).write_text(json.dumps(manifest, indent=1))
    return summary


def _without_forgotten(raw: dict[str, RawTable], marks: frozenset[str]) -> dict[str, RawTable]:
    """The tables without the rows of people on the list of tombstones, quarantine included."""
    if not marks:
        return raw
    kept = dict(raw)
    for name in ("events", "users"):
        if name not in raw:
            continue
        data = raw[name].data
        user_id = typed(data["user_id"], Kind.ID)
        gone = _listed(user_id, marks)
        if gone:
            data = data.filter(user_id.isnull() | user_id.notin(gone))
        if UNREADABLE_LINE in data.columns:
            line = data[UNREADABLE_LINE]
            # Whose line it is cannot be read, so it may be theirs; but in `users` a consent hangs on it.
            told = ibis.null("string")
            if name == "users" and data.columns[0] == "user_id":
                owner = owner_of_line(line)
                told = ibis.ifelse(owner.notin(_listed(owner, marks)), owner + ",", told)
            withheld = ibis.coalesce(told, ibis.literal("")) + "withheld"
            data = data.mutate(**{UNREADABLE_LINE: ibis.ifelse(line.isnull(), ibis.null("string"), withheld)})
        kept[name] = replace(raw[name], data=data)
    return kept


def _listed(ids: ir.StringColumn, marks: frozenset[str]) -> list[str]:
    """Those of the ids that are on the list."""
    known = ids.name("id").as_table().distinct().to_pyarrow()["id"].to_pylist()
    return [value for value in known if value is not None and tombstone(value) in marks]


def _first_lines(text: str) -> str:
    """The engine's own words without its advice: which file, which line, what is wrong."""
    return " ".join(text.partition("Possible")[0].split())[:400]


def _faults(name: str, bad: Path) -> list[Quarantined]:
    counted = _counts(bad, REASON)
    if not counted:
        return []
    whole = pq.ParquetFile(bad)
    examples: dict[str, str] = {}
    for batch in whole.iter_batches(4096):
        for row in batch.to_pylist():
            reason = row.pop(REASON)
            if reason not in examples:
                examples[reason] = ", ".join(
                    f"{key}={value!r}" for key, value in row.items() if value is not None
                )
        if len(examples) == len(counted):
            break
    ordered = sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))
    return [Quarantined(name, reason, rows, examples[reason]) for reason, rows in ordered]


def _counts(path: Path, column: str) -> Counter[str]:
    """How often each text is in a column, read a batch at a time."""
    counts: Counter[str] = Counter()
    for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP, columns=[column]):
        for entry in pc.value_counts(batch.column(0)).to_pylist():
            counts[entry["values"]] += int(entry["counts"])
    return counts


def _refuse_nothing(raw: RawTable, good: int, faults: list[Quarantined]) -> None:
    """A table of which nothing is left is refused, but for an empty one that the log could do without."""
    if good:
        return
    if faults:
        worst = faults[0]
        found = f"{worst.rows} times: {worst.reason} ({worst.example})"
        raise DataError(f"{raw.source}: every row breaks the contract; {found}")
    if raw.schema.name == "events":
        raise DataError(f"{raw.source}: the table is empty; there is nothing to learn from")


def _absent(name: str, scratch: Path, engine: Engine) -> ir.Table:
    """An empty table in the place of an optional one that the log lacks."""
    types = {Kind.TIME: pa.timestamp("us"), Kind.NUMBER: pa.float64(), Kind.FLAG: pa.bool_()}
    schema = pa.schema(
        [(column.name, types.get(column.kind, pa.string())) for column in TABLES[name].columns]
    )
    path = scratch / f"{name}.parquet"
    pq.write_table(schema.empty_table(), path)
    return engine.read([path], csv=False)


def _number_ids(
    tables: Mapping[str, ir.Table], rows: Mapping[str, int], built: Path, engine: Engine
) -> tuple[dict[str, ir.Table], list[Unmatched]]:
    """Write users, items, rooms and streamers in index order; returns them with their `<kind>_idx`.

    And those of the tables, of so many rows, that have no id in common with the rest of the log.
    """
    events, rooms = tables["events"], tables["rooms"]
    showcases, promotions = tables["showcases"], tables["promotions"]
    announced = ibis.coalesce(promotions.announced_at, promotions.started_at)
    of_event = _with_streamer(events, rooms)
    # Every row that shows that an id exists, and when it did.
    shown = {
        "user": [_shown(events, events.user_id, events.timestamp)],
        "item": [
            _shown(events, events.item_id, events.timestamp),
            _shown(showcases, showcases.item_id, showcases.started_at),
            _shown(promotions, promotions.item_id, announced),
        ],
        "room": [
            _shown(events, events.room_id, events.timestamp),
            _shown(showcases, showcases.room_id, showcases.started_at),
        ],
        "streamer": [
            _shown(of_event, of_event.streamer_id, of_event.timestamp),
            _shown(rooms, ibis.coalesce(rooms.streamer_id, rooms.room_id), rooms.started_at),
        ],
    }
    begins = {"item": tables["items"].listed_at, "room": rooms.started_at}
    numbered, unmatched = {}, []
    for kind in KINDS:
        table, key = tables[f"{kind}s"], f"{kind}_id"
        seen = ibis.union(*shown[kind]) if len(shown[kind]) > 1 else shown[kind][0]
        first = seen.filter(seen[_ID].notnull()).group_by(_ID).aggregate(**{_FIRST: seen[_AT].min()})
        own = table.mutate(**{_OWN: begins.get(kind, ibis.null("timestamp")), _LISTED: True})
        both = first.outer_join(own, first[_ID] == own[key])
        if rows.get(f"{kind}s"):
            of_both = (both[_ID].notnull() & both[key].notnull()).sum()
            found = both.aggregate(of_both=of_both, own=both[key].min(), elsewhere=both[_ID].min())
            (counted,) = found.to_pyarrow().to_pylist()
            if not counted["of_both"] and counted["elsewhere"] is not None:
                unmatched.append(
                    Unmatched(f"{kind}s", rows[f"{kind}s"], counted["own"], counted["elsewhere"])
                )
        # A row of a catalogue without a date says that the thing was there all along; a room's row does not.
        always = both[_LISTED].fill_null(False) & both[_OWN].isnull() & (kind != "room")
        known_at = ibis.ifelse(always, ibis.null("timestamp"), ibis.least(both[_FIRST], both[_OWN]))
        features = {name: both[name] for name in table.columns if name != key}
        result = both.select(**{key: ibis.coalesce(both[_ID], both[key])}, known_at=known_at, **features)
        order = [result.known_at.isnull().desc(), result.known_at, result[key]]
        index = ibis.row_number().over(ibis.window(order_by=order)).cast("int32")
        path = built / f"{kind}s.parquet"
        engine.write(result.mutate(**{f"{kind}_idx": index}).order_by(f"{kind}_idx"), path)
        numbered[kind] = engine.read([path], csv=False)
    return numbered, unmatched


def _shown(table: ir.Table, ids: ir.Column, at: ir.Column) -> ir.Table:
    return table.select(**{_ID: ids, _AT: at})


def _with_streamer(events: ir.Table, rooms: ir.Table) -> ir.Table:
    """The events, those in a room with a streamer: their own, else the room's, else the room itself."""
    owner = rooms.select(room_key=rooms.room_id, owner_id=ibis.coalesce(rooms.streamer_id, rooms.room_id))
    joined = events.left_join(owner, events.room_id == owner.room_key)
    streamer_id = ibis.coalesce(joined.streamer_id, joined.owner_id, joined.room_id)
    return joined.mutate(streamer_id=streamer_id).drop("room_key", "owner_id")


def _indexed(table: ir.Table, entities: Mapping[str, ir.Table], kinds: tuple[str, ...]) -> ir.Table:
    """The table with `<kind>_idx` in the place of `<kind>_id`; null where a row has none."""
    for kind in kinds:
        ids = entities[kind].select(key=entities[kind][f"{kind}_id"], idx=entities[kind][f"{kind}_idx"])
        joined = table.left_join(ids, table[f"{kind}_id"] == ids.key)
        table = joined.mutate(**{f"{kind}_idx": joined.idx}).drop("key", "idx", f"{kind}_id")
    return table


def _write_events(
    tables: Mapping[str, ir.Table], entities: Mapping[str, ir.Table], built: Path, engine: Engine
) -> None:
    events = _indexed(_with_streamer(tables["events"], tables["rooms"]), entities, KINDS)
    single = ("duration_s", "quantity", "position")
    events = events.select(
        "timestamp",
        *(f"{kind}_idx" for kind in KINDS),
        "amount",
        "source",
        "device_id",
        "address_id",
        behaviour=events.event,
        **{name: events[name].cast("float32") for name in single},
    )
    # Every column takes part, so that rows of one moment have one order on any engine.
    order = ("timestamp", "user_idx", "behaviour", "item_idx", "room_idx", "streamer_idx")
    rest = (*single, "amount", "source", "device_id", "address_id")
    engine.write(events.order_by([*order, *rest]), built / "events.parquet")


def _write_spans(
    tables: Mapping[str, ir.Table], entities: Mapping[str, ir.Table], built: Path, engine: Engine
) -> None:
    showcases = _indexed(tables["showcases"], entities, ("room", "item"))
    engine.write(showcases.order_by(["started_at", "room_idx", "item_idx"]), built / "showcases.parquet")
    promotions = _indexed(tables["promotions"], entities, ("item",))
    engine.write(promotions.order_by(["started_at", "item_idx", "ended_at"]), built / "promotions.parquet")


def _id_type(raw: Mapping[str, RawTable], kind: str) -> str:
    """The type that ids of this kind come back with: that of the first table that has them."""
    key = f"{kind}_id"
    found = [table.id_types[key] for table in raw.values() if key in table.id_types]
    # Text anywhere: an id may be spelt "007". Floats beside integers: integers that had gaps.
    if not found or "string" in found:
        return "string"
    return next(kind for kind in ("uint64", "int64", "double") if kind in found)


def _span(events: Path) -> tuple[datetime, datetime, datetime]:
    """Times of the first and the last event, and the moment when the last view was over: UTC."""
    con = ibis.duckdb.connect()
    table = con.read_parquet(str(events))
    length = ibis.coalesce(table.duration_s, 0).cast("float64") * 1_000_000
    over = table.timestamp + length.cast("int64").as_interval("us")
    row = table.aggregate(first=table.timestamp.min(), last=table.timestamp.max(), end=over.max())
    found = row.to_pyarrow().to_pylist()[0]
    con.disconnect()
    first, last, end = (found[name].replace(tzinfo=UTC) for name in ("first", "last", "end"))
    return first, last, end


def _fingerprint(built: Path) -> str:
    """SHA-256 over the rows, column by column, so that it does not depend on how a file is laid out."""
    digest = hashlib.sha256()
    for path in sorted(built.glob("*.parquet")):
        file = pq.ParquetFile(path)
        for name in sorted(file.schema_arrow.names):
            column = hashlib.sha256()
            for batch in file.iter_batches(columns=[name]):
                values = batch.column(0)
                column.update(pc.is_valid(values).to_numpy(zero_copy_only=False).tobytes())
                if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
                    column.update("\0".join(pc.fill_null(values, "").to_pylist()).encode())
                    column.update(b"\0")
                else:
                    column.update(values.drop_null().to_numpy(zero_copy_only=False).tobytes())
            digest.update(f"{path.name}:{name}:{column.hexdigest()}".encode())
    return digest.hexdigest()
