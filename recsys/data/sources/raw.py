"""Raw files of a publisher, found by their columns whatever they are called.

A `Layout` says which columns a table has; `assign` gives every file below a folder to the layout that it
fits. Only the head of a file is read here: the rows are DuckDB's work (`recsys.data.sources.job`).
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")

_DELIMITERS = ",\t;|"
_HEAD_BYTES = 1 << 16
_HEAD_LINES = 10
_BLOCK_BYTES = 1 << 20
_COLUMNS_SHOWN = 12
_FILES_SHOWN = 8


@dataclass(frozen=True)
class Layout:
    """How the publisher lays out one table.

    Attributes:
        name: what messages and the summary call the table.
        columns: the columns that a file must have to be this table. `a|b` are two spellings of one column,
            called `a` in SQL. Case, spaces and punctuation do not count.
        optional: columns that are used if there, and NULL if not.
        fields: for a file without a header line: (column, regular expression of its values), in file order.
        required: the import cannot do without the table.
        extras: whether the file's further columns are features, kept under their own names.
        word: part of the file's name; asked for only where several layouts have the same columns.
        where: SQL condition on the columns; other rows are not even staged.
    """

    name: str
    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    required: bool = False
    extras: bool = False
    word: str | None = None
    where: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every column that the staged table has, by its first spelling."""
        return tuple(column.split("|")[0] for column in (*self.columns, *self.optional))

    def __str__(self) -> str:
        text = f"{self.name} ({', '.join(self.columns)})"
        return f"{text} or, without a header, {len(self.fields)} fields" if self.fields else text


@dataclass(frozen=True)
class RawFile:
    """One file and what its head shows.

    Attributes:
        path: where it lies.
        columns: names in its first line or its Parquet schema.
        delimiter: between the fields of a text file; None for Parquet.
        lines: the first lines of a text file, split into fields.
    """

    path: Path
    columns: tuple[str, ...]
    delimiter: str | None = None
    lines: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    @property
    def stem(self) -> str:
        """The path without the ending that says how the file is packed."""
        return re.sub(r"\.(csv|tsv|txt|parquet)(\.gz)?$", "", str(self.path), flags=re.IGNORECASE)

    def __str__(self) -> str:
        shown = ", ".join(self.columns[:_COLUMNS_SHOWN])
        return f"{self.path.name} ({shown}{', …' if len(self.columns) > _COLUMNS_SHOWN else ''})"


@dataclass(frozen=True)
class Match:
    """A file that fits a layout.

    Attributes:
        file: the file.
        header: whether its first line names the columns.
        positions: the layout's column -> its place in the file, from 0.
    """

    file: RawFile
    header: bool
    positions: Mapping[str, int]


def scan(raw: Path) -> list[RawFile]:
    """The readable files at or below a path, in the order of their paths.

    Raises:
        DataError: the path is not there, or holds no file of a kind that is read.
    """
    if not raw.exists():
        raise DataError(f"{raw}: no such file or folder; give the folder of the publisher's raw files")
    paths = sorted(path for path in raw.rglob("*") if path.is_file()) if raw.is_dir() else [raw]
    files = [_head(path) for path in paths if path.name.lower().endswith(SUFFIXES)]
    if not files:
        seen = ", ".join(path.name for path in paths[:_FILES_SHOWN]) or "nothing"
        raise DataError(
            f"{raw}: no raw file of the kinds {', '.join(SUFFIXES)}; found {seen}."
            " Unpack archives, and save spreadsheets as CSV, one file a sheet"
        )
    return files


def assign(raw: Path, files: Iterable[RawFile], layouts: Sequence[Layout]) -> dict[str, list[Match]]:
    """Gives each file to the layout that it fits best: the one that asks for the most columns.

    Returns:
        Layout name -> its files; files that fit no layout are left out.

    Raises:
        DataError: a required layout has no file, two files are copies of one table, or layouts with the same
            columns cannot be told apart by the file's name.
    """
    files = list(files)
    found: dict[str, list[Match]] = {layout.name: [] for layout in layouts}
    for file in files:
        matches = [(layout, match) for layout in layouts if (match := _match(file, layout))]
        if not matches:
            continue
        most = max(len(layout.columns) for layout, _ in matches)
        best = [(layout, match) for layout, match in matches if len(layout.columns) == most]
        if len(best) > 1:
            words = [layout.word or layout.name for layout, _ in best]
            best = [
                (o, m) for (o, m), word in zip(best, words, strict=True) if word in file.path.name.lower()
            ]
            if len(best) != 1:
                raise DataError(
                    f"{file.path}: its columns ({', '.join(file.columns)}) fit {', '.join(words)} alike;"
                    " name the file after the one that it is"
                )
        layout, match = best[0]
        for other in found[layout.name]:
            if other.file.stem == file.stem:
                raise DataError(
                    f"{other.file.path} and {file.path} look like one table twice; keep one of them"
                )
        found[layout.name].append(match)
    missing = [layout for layout in layouts if layout.required and not found[layout.name]]
    if missing:
        seen = "; ".join(str(file) for file in files[:_FILES_SHOWN])
        more = f"; and {len(files) - _FILES_SHOWN} more" if len(files) > _FILES_SHOWN else ""
        raise DataError(
            f"{raw}: no file has the columns of {' nor of '.join(map(str, missing))}. Found: {seen}{more}"
        )
    return found


def check_packed(path: Path) -> None:
    """Reads a gzip file to its end: DuckDB takes one that was cut off for a shorter file, and says nothing.

    Raises:
        DataError: the file is cut off or damaged.
    """
    try:
        with gzip.open(path, "rb") as stream:
            while stream.read(_BLOCK_BYTES):
                continue
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read ({error}); download or unpack it again")


def _match(file: RawFile, layout: Layout) -> Match | None:
    own = {_plain(name): place for place, name in reversed(list(enumerate(file.columns)))}
    positions = {}
    for column in (*layout.columns, *layout.optional):
        spellings = column.split("|")
        place = next((own[_plain(spelling)] for spelling in spellings if _plain(spelling) in own), None)
        if place is not None:
            positions[spellings[0]] = place
        elif column in layout.columns:
            break
    else:
        return Match(file, header=True, positions=positions)
    patterns = [pattern for _, pattern in layout.fields]
    if patterns and any(_fits(line, patterns) for line in file.lines):
        return Match(
            file, header=False, positions={name: place for place, (name, _) in enumerate(layout.fields)}
        )
    return None


def _fits(line: Sequence[str], patterns: Sequence[str]) -> bool:
    return len(line) == len(patterns) and all(map(re.fullmatch, patterns, line))


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _head(path: Path) -> RawFile:
    try:
        if path.suffix.lower() == ".parquet":
            return RawFile(path, tuple(pq.read_schema(path).names))
        opener = gzip.open if path.suffix.lower() == ".gz" else open
        with opener(path, "rb") as stream:
            text = stream.read(_HEAD_BYTES).decode("utf-8-sig", errors="replace")
    except (OSError, EOFError, zlib.error, pa.ArrowInvalid) as error:
        raise _unreadable(path, error) from error
    rows = text.splitlines()[:_HEAD_LINES]
    if not rows:
        return RawFile(path, ())
    delimiter = max(_DELIMITERS, key=rows[0].count)
    lines = tuple(tuple(fields) for fields in csv.reader(rows, delimiter=delimiter))
    return RawFile(path, lines[0] if lines else (), delimiter, lines)
