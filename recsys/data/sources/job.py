"""One import under way: raw files staged in DuckDB on disk, rows screened and counted, tables written.

Nothing here holds a table in memory. Text files are staged with every column as text, because a reader that
guesses would turn `007` into 7; numbers and times are read by the adapters' SQL, and ids keep their spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from recsys.data.schema import TABLES, Kind
from recsys.data.sources.raw import Layout, Match, check_packed
from recsys.errors import DataError

#: Raw files larger than this together give a folder of event part files instead of one.
SPLIT_BYTES = 1 << 30

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
_UNCLOSED = ("UNQUOTED VALUE", "LINE SIZE OVER MAXIMUM")
_SQL_TYPE = {Kind.TIME: "TIMESTAMPTZ", Kind.NUMBER: "DOUBLE", Kind.TEXT: "VARCHAR", Kind.FLAG: "BOOLEAN"}


def from_epoch_s(column: str) -> str:
    """SQL: whole seconds since 1970 as a UTC time; NULL if unreadable."""
    return f"TRY(make_timestamptz(TRY_CAST({column} AS BIGINT) * 1000000))"


def from_epoch_ms(column: str) -> str:
    """SQL: whole milliseconds since 1970 as a UTC time; NULL if unreadable."""
    return f"TRY(make_timestamptz(TRY_CAST({column} AS BIGINT) * 1000))"


def from_text(column: str, *formats: str) -> str:
    """SQL: a UTC time from ISO 8601 text, a native timestamp or one of the strptime formats; else NULL."""
    iso = f"TRY_CAST({column} AS TIMESTAMPTZ)"
    if not formats:
        return iso
    listed = ", ".join(_quoted(form) for form in formats)
    return f"coalesce(TRY_CAST(try_strptime(CAST({column} AS VARCHAR), [{listed}]) AS TIMESTAMPTZ), {iso})"


@dataclass
class ImportJob:
    """What an adapter works with.

    Attributes:
        matches: layout name -> the files that have it.
        folder: a folder of the job's own, for the staged rows and the tables.
        progress: told in a few words what is being done.
        rows: table -> rows written so far.
        skipped: raw table -> reason -> rows left out so far.
    """

    matches: Mapping[str, list[Match]]
    folder: Path
    progress: Callable[[str], None]
    rows: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tables = self.folder / "tables"
        self.tables.mkdir()
        self._staged: dict[str, str] = {}
        files = (match.file.path for matches in self.matches.values() for match in matches)
        self._split = sum(path.stat().st_size for path in files) > SPLIT_BYTES
        self._con = duckdb.connect(str(self.folder / "stage.duckdb"))
        for setting, value in (
            ("TimeZone", "UTC"),
            ("temp_directory", str(self.folder / "spill")),
            ("autoinstall_known_extensions", "false"),
            ("enable_progress_bar", "false"),
        ):
            self._con.execute(f"SET {setting} = {_quoted(value)}")

    def close(self) -> None:
        """Lets go of the staging database."""
        self._con.close()

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query: for the few small facts that an adapter has to know."""
        rows: list[tuple[Any, ...]] = self._con.execute(sql).fetchall()
        return rows

    def view(self, name: str, select: str) -> str:
        """Names a query, so that another can read from it."""
        self._con.execute(f"CREATE VIEW {name} AS {select}")
        return name

    def raw(self, layout: Layout) -> str:
        """The SQL name of the rows of every file with a layout, staged at the first call.

        It has the layout's columns (text, or a Parquet file's own types; NULL where a file lacks an optional
        one) and, if the layout asks, the files' extras. Without a file it is empty: adapters need no branch.
        """
        if layout.name not in self._staged:
            parts = [self._stage(layout, match, n) for n, match in enumerate(self.matches[layout.name])]
            nothing = ", ".join(f"NULL::VARCHAR AS {_name(name)}" for name in layout.names)
            union = " UNION ALL BY NAME ".join(f"FROM {part}" for part in parts)
            select = self._with_numbers(layout, union) if union else f"SELECT {nothing} WHERE false"
            self._staged[layout.name] = self.view(f"raw_{layout.name}", select)
        return self._staged[layout.name]

    def screen(self, layout: Layout, select: str, checks: Mapping[str, str]) -> str:
        """The rows of a query that no check condemns, as a view; the others are counted by reason.

        Args:
            layout: the raw table that the rows are of; the summary counts under its name.
            select: one row for each raw row.
            checks: reason -> SQL condition on the query's columns that is true where a row cannot be used.
                A row is counted under the first that holds.
        """
        cases = " ".join(f"WHEN {check} THEN {_quoted(reason)}" for reason, check in checks.items())
        judged = self.view(f"judged_{layout.name}", f"SELECT *, CASE {cases} END AS reason FROM ({select})")
        for reason, count in self.query(
            f"SELECT reason, count(*) FROM {judged} WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1"
        ):
            self._skip(layout, reason, count)
        return self.view(
            f"good_{layout.name}", f"SELECT * EXCLUDE (reason) FROM {judged} WHERE reason IS NULL"
        )

    def id_type(self, column: str, *relations: str) -> str:
        """The SQL type under which an id comes back as it was spelled, the same in each of the relations.

        An integer type stays. Text is BIGINT only if every value is the integer's canonical spelling.
        """
        types = set()
        for relation in relations:
            (kind,) = [row[1] for row in self.query(f"DESCRIBE SELECT {column} FROM {relation}")]
            if kind not in _INTEGERS and self.query(
                f"SELECT 1 FROM {relation} WHERE {column} IS NOT NULL LIMIT 1"
            ):
                types.add("VARCHAR" if self._spelled(f"CAST({column} AS VARCHAR)", relation) else "BIGINT")
            elif kind in _INTEGERS:
                types.add(kind)
        if "VARCHAR" in types or not types:
            return "VARCHAR"
        return str(types.pop()) if len(types) == 1 else "BIGINT"

    def write(self, table: str, select: str) -> None:
        """Writes a log table, with the contract's types; one without rows is left out.

        Raises:
            DataError: the events are empty.
        """
        self.progress(f"Writing {table}")
        contract = TABLES[table]
        columns = []
        for name, *_ in self.query(f"DESCRIBE {select}"):
            column = contract.column(name)
            kind = _SQL_TYPE.get(column.kind) if column else None
            columns.append(f"CAST({_name(name)} AS {kind}) AS {_name(name)}" if kind else _name(name))
        options = "FORMAT parquet, COMPRESSION zstd"
        target = self.tables / f"{table}.parquet"
        if table == "events" and self._split:
            target = self.tables / table
            options += ", FILE_SIZE_BYTES '512MB', FILENAME_PATTERN 'part-{i}'"
        [(count,)] = self.query(
            f"COPY (SELECT {', '.join(columns)} FROM ({select})) TO {_quoted(target)} ({options})"
        )
        if count:
            self.rows[table] = count
        elif table == "events":
            raise DataError(f"no row of the raw files gives an event; left out: {self.skipped or 'nothing'}")
        else:
            target.unlink()

    def _stage(self, layout: Layout, match: Match, number: int) -> str:
        path, part = match.file.path, f"{layout.name}_{number}"
        self.progress(f"Reading {path.name}")
        if path.suffix.lower() == ".gz":
            check_packed(path)
        try:
            if match.file.delimiter is None:
                columns = self._columns(layout, match, [_name(name) for name in match.file.columns])
                return self.view(part, self._select(layout, columns, f"read_parquet({_quoted(path)})"))
            return self._stage_text(layout, match, part)
        except duckdb.Error as error:
            raise DataError(f"{path}: cannot be read ({error}); download or unpack it again") from error

    def _stage_text(self, layout: Layout, match: Match, part: str) -> str:
        file = match.file
        width = len(file.columns) if match.header else len(layout.fields)
        names = [f"c{n}" for n in range(width)]
        columns = self._columns(layout, match, names)
        struct = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
        for encoding in ("utf-8", "latin-1"):
            reader = (
                f"read_csv({_quoted(file.path)}, columns = {{{struct}}}, auto_detect = false,"
                f" header = {match.header}, delim = {_quoted(file.delimiter)}, quote = '\"', escape = '\"',"
                f" encoding = '{encoding}', store_rejects = true, rejects_limit = 0,"
                f" rejects_table = 'rejected_{part}', rejects_scan = 'scan_{part}')"
            )
            self._con.execute(f"CREATE OR REPLACE TABLE {part} AS {self._select(layout, columns, reader)}")
            rejected = self.query(
                f"SELECT error_type::VARCHAR, count(DISTINCT line), min(line) FROM rejected_{part}"
                " GROUP BY 1 ORDER BY 1"
            )
            self._con.execute(f"DROP TABLE rejected_{part}; DROP TABLE scan_{part}")
            if all(kind != "INVALID ENCODING" for kind, *_ in rejected):
                break
        for kind, count, line in rejected:
            if kind in _UNCLOSED:
                raise DataError(f"{file.path}, line {line}: a quoted value is never closed; repair that line")
            self._skip(layout, f"malformed line: {kind.lower()}", count)
        return part

    def _columns(self, layout: Layout, match: Match, own: list[str]) -> dict[str, str]:
        """The staged table's column -> the SQL that reads it from the file, whose own columns are given."""
        columns = dict.fromkeys(layout.names, "NULL::VARCHAR")
        columns |= {name: own[place] for name, place in match.positions.items()}
        if layout.extras and match.header:
            used = set(match.positions.values())
            for place, name in enumerate(match.file.columns):
                if place not in used:
                    columns.setdefault(_snake(name) or f"column_{place}", own[place])
        return columns

    def _select(self, layout: Layout, columns: Mapping[str, str], source: str) -> str:
        listed = ", ".join(f"{sql} AS {_name(name)}" for name, sql in columns.items())
        select = f"SELECT {listed} FROM {source}"
        return f"FROM ({select}) WHERE {layout.where}" if layout.where else select

    def _spelled(self, text: str, relation: str) -> bool:
        """Whether some value of a text column would not come back the same from an integer."""
        changes = f"CAST(TRY_CAST({text} AS BIGINT) AS VARCHAR) IS DISTINCT FROM {text}"
        return bool(self.query(f"SELECT 1 FROM {relation} WHERE {text} IS NOT NULL AND {changes} LIMIT 1"))

    def _with_numbers(self, layout: Layout, select: str) -> str:
        """The query with its extras as numbers where every value is a number in its canonical spelling."""
        described = self.query(f"DESCRIBE {select}")
        extras = [name for name, kind, *_ in described if name not in layout.names and kind == "VARCHAR"]
        if not extras:
            return select
        spellings = {"BIGINT": r"0|-?[1-9]\d{0,17}", "DOUBLE": r"-?(0|[1-9]\d*)(\.\d+)?"}
        tests = [(name, kind, spelling) for name in extras for kind, spelling in reversed(spellings.items())]
        columns = ", ".join(f"bool_and(regexp_full_match({_name(name)}, '{s}'))" for name, _, s in tests)
        [flags] = self.query(f"SELECT {columns} FROM ({select})")
        types = {name: kind for (name, kind, _), holds in zip(tests, flags, strict=True) if holds}
        numbers = ", ".join(f"CAST({_name(name)} AS {kind}) AS {_name(name)}" for name, kind in types.items())
        return f"SELECT * REPLACE ({numbers}) FROM ({select})" if numbers else select

    def _skip(self, layout: Layout, reason: str, count: int) -> None:
        counts = self.skipped.setdefault(layout.name, {})
        counts[reason] = counts.get(reason, 0) + count


@dataclass(frozen=True)
class Source:
    """A public data set that can be imported.

    Attributes:
        name: what `recsys import` calls it.
        description: one line about it.
        licence: the publisher's terms, in a few words.
        homepage: where a user downloads it.
        layouts: the tables that its raw files hold.
        convert: writes the log tables of a job.
        installed: finds the raw files of a source that comes as a Python package.
    """

    name: str
    description: str
    licence: str
    homepage: str
    layouts: tuple[Layout, ...]
    convert: Callable[[ImportJob], None]
    installed: Callable[[], Path] | None = None


def _quoted(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _snake(name: str) -> str:
    return re.sub(r"\W+", "_", name.strip()).strip("_").lower()
