"""Where preparation runs: DuckDB on one machine, Spark on a cluster. The expressions are the same."""

from __future__ import annotations

import csv as csv_format
import gzip
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError

if TYPE_CHECKING:
    import ibis.expr.types as ir

EngineName = Literal["duckdb", "spark"]
#: Rows of one row group: small enough to read a few columns of a time range without the rest.
ROW_GROUP = 1 << 18
#: Column of a CSV's table for lines that cannot be split into the header's columns: the line, whose cells
#: are null; null for every other row.
UNREADABLE_LINE = "unreadable_line"


class Engine(Protocol):
    """Reads part files as an Ibis table, and writes an expression to one Parquet file."""

    def read(self, files: Sequence[Path], *, csv: bool) -> ir.Table:
        """The part files of one table, joined by column name.

        The columns of a CSV are text, and `UNREADABLE_LINE` is among them.

        Raises:
            DataError: a CSV without a header, or with one that names a column twice.
        """

    def write(self, table: ir.Table, path: Path) -> None:
        """One Parquet file with the rows in the order that the expression gives them."""

    def close(self) -> None:
        """Let go of files and memory."""


class DuckDBEngine:
    """One machine: works out of core, spilling to `scratch`; `memory` is the most it holds, as 4GB."""

    def __init__(self, scratch: Path, memory: str | None = None) -> None:
        import duckdb
        import ibis

        self._scratch = scratch
        self._csv_files = 0
        self._connection = ibis.duckdb.connect(temp_directory=str(scratch))
        self._connection.raw_sql("SET TimeZone = 'UTC'")
        self._connection.raw_sql("SET enable_progress_bar = false")  # it would write into our own output
        if memory is not None:
            if memory.strip().startswith("-"):  # to DuckDB that is no limit
                raise DataError(f"memory {memory!r}: write it as 4GB or 800MB")
            try:
                self._connection.raw_sql(f"SET memory_limit = {_quoted(memory)}")
            except duckdb.Error as error:
                raise DataError(f"memory {memory!r}: write it as 4GB or 800MB") from error

    def read(self, files: Sequence[Path], *, csv: bool) -> ir.Table:
        """See `Engine`."""
        if csv:
            files = [part for file in files for part in self._from_csv(file)]
        table: ir.Table = self._connection.read_parquet([str(file) for file in files], union_by_name=True)
        return table

    def _from_csv(self, file: Path) -> tuple[Path, Path]:
        """The file as Parquet: its rows, and its unreadable lines."""
        self._csv_files += 1
        rows = self._scratch / f"csv_{self._csv_files}_rows.parquet"
        lines = self._scratch / f"csv_{self._csv_files}_lines.parquet"
        columns = ", ".join(f"{_quoted(name)}: 'VARCHAR'" for name in csv_header(file))
        # The dialect is given, not guessed: the guess takes an uneven row of a small file for its header.
        dialect = "auto_detect=false, header=true, delim=',', quote='\"', escape='\"'"
        query = self._connection.con.execute
        query(
            f"COPY (SELECT *, NULL::VARCHAR AS {UNREADABLE_LINE} FROM read_csv({_quoted(str(file))}, "
            f"columns={{{columns}}}, {dialect}, store_rejects=true)) TO {_quoted(str(rows))} (FORMAT parquet)"
        )
        query(
            f"COPY (SELECT DISTINCT ON (line) csv_line AS {UNREADABLE_LINE} FROM reject_errors "
            f"ORDER BY line) TO {_quoted(str(lines))} (FORMAT parquet)"
        )
        query("DROP TABLE reject_errors; DROP TABLE reject_scans")
        return rows, lines

    def write(self, table: ir.Table, path: Path) -> None:
        """See `Engine`."""
        self._connection.to_parquet(table, path, compression="zstd", row_group_size=ROW_GROUP)

    def close(self) -> None:
        """See `Engine`."""
        self._connection.disconnect()


class SparkEngine:
    """A cluster, or Spark's local mode. Times are read and written as UTC."""

    def __init__(self, scratch: Path) -> None:
        try:
            from pyspark.sql import SparkSession
        except ImportError as error:
            raise DataError(
                "engine spark: the package pyspark is missing; install live-commerce-recsys[spark]"
            ) from error
        import ibis

        self._scratch = scratch
        self._session: Any = (
            SparkSession.builder.appName("recsys prepare")
            .config("spark.sql.session.timeZone", "UTC")
            .config("spark.sql.ansi.enabled", "true")
            .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
            .getOrCreate()
        )
        self._connection = ibis.pyspark.connect(self._session)
        self._views = 0

    def read(self, files: Sequence[Path], *, csv: bool) -> ir.Table:
        """See `Engine`."""
        if csv:
            # Part files may hold other columns, or the same ones in another order.
            parts = [self._from_csv(file) for file in files]
            frame = parts[0]
            for part in parts[1:]:
                frame = frame.unionByName(part, allowMissingColumns=True)
        else:
            frame = self._session.read.option("mergeSchema", "true").parquet(*map(str, files))
        self._views += 1
        frame.createOrReplaceTempView(f"recsys_raw_{self._views}")
        table: ir.Table = self._connection.table(f"recsys_raw_{self._views}")
        return table

    def _from_csv(self, file: Path) -> Any:
        from pyspark.sql import functions
        from pyspark.sql.types import StringType, StructField, StructType

        names = csv_header(file)
        frame = self._session.read.csv(
            str(file),
            header=True,
            enforceSchema=True,
            multiLine=True,
            escape='"',
            schema=StructType([StructField(name, StringType()) for name in (*names, UNREADABLE_LINE)]),
            mode="PERMISSIVE",
            columnNameOfCorruptRecord=UNREADABLE_LINE,
        )
        # What could be split of an unreadable line is no value of any column.
        readable = frame[UNREADABLE_LINE].isNull()
        cells = [functions.when(readable, frame[f"`{name}`"]).alias(name) for name in names]
        return frame.select(*cells, UNREADABLE_LINE)

    def write(self, table: ir.Table, path: Path) -> None:
        """See `Engine`."""
        folder = Path(tempfile.mkdtemp(dir=self._scratch)) / "parts"
        self._connection.to_parquet(table, folder)
        parts = sorted(folder.glob("*.parquet"))
        # Spark's times are instants; ours are naive UTC, as DuckDB writes them.
        schema = pa.schema(
            [
                field.with_type(pa.timestamp("us")) if pa.types.is_timestamp(field.type) else field
                for field in pq.read_schema(parts[0])
            ]
        )
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for part in parts:
                for batch in pq.ParquetFile(part).iter_batches(ROW_GROUP):
                    writer.write_batch(batch.cast(schema))
        shutil.rmtree(folder.parent)

    def close(self) -> None:
        """See `Engine`. The session stays: it belongs to the process, not to one preparation."""
        for view in range(1, self._views + 1):
            self._session.catalog.dropTempView(f"recsys_raw_{view}")


def open_engine(name: EngineName, scratch: Path, *, memory: str | None = None) -> Engine:
    """The engine of that name, with a folder for what it spills.

    Raises:
        DataError: no such engine, its package is not installed, or `memory` is no amount that it can take.
    """
    if name == "duckdb":
        return DuckDBEngine(scratch, memory)
    if memory is not None:
        raise DataError(f"memory {memory!r}: Spark's is set where Spark is, as spark.driver.memory")
    if name == "spark":
        return SparkEngine(scratch)
    raise DataError(f"engine {name!r}: choose duckdb or spark")


def csv_header(file: Path) -> list[str]:
    """The names of a CSV's columns, from its first line.

    Raises:
        DataError: the file is empty, is no UTF-8 text, or a name is empty or there twice.
    """
    opened = gzip.open if file.name.endswith(".gz") else open
    try:
        # Text is read in blocks: what is broken below the header is no fault of the header.
        with opened(file, "rt", encoding="utf-8-sig", errors="replace", newline="") as text:
            names = next(csv_format.reader(text), [])
    except (csv_format.Error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: the header cannot be read: {error}") from error
    if any("\ufffd" in name for name in names):
        raise DataError(f"{file}: the header is not UTF-8 text: {', '.join(names)}")
    if not any(names):
        raise DataError(f"{file}: the first line is empty; it must name the columns")
    name, times = Counter(name.lower() for name in names).most_common(1)[0]
    if "" in names or times > 1:
        # To the engines upper and lower case are one.
        low = [other.lower() for other in names]
        fault = "has no name" if "" in names else f"is also column {low.index(name) + 1}, {name!r}"
        place = names.index("") if "" in names else len(low) - 1 - low[::-1].index(name)
        raise DataError(f"{file}: column {place + 1} of the header {fault}")
    return names


def _quoted(text: str) -> str:
    """A literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
