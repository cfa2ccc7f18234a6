"""Where preparation runs: DuckDB on one machine, Spark on a cluster. The expressions are the same."""

from __future__ import annotations

import shutil
import tempfile
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


class Engine(Protocol):
    """Reads part files as an Ibis table, and writes an expression to one Parquet file."""

    def read(self, files: Sequence[Path], *, csv: bool) -> ir.Table:
        """The part files of one table, joined by column name; the columns of a CSV are text."""

    def write(self, table: ir.Table, path: Path) -> None:
        """One Parquet file with the rows in the order that the expression gives them."""

    def close(self) -> None:
        """Let go of files and memory."""


class DuckDBEngine:
    """One machine: works out of core, spilling to `scratch`."""

    def __init__(self, scratch: Path) -> None:
        import ibis

        self._connection = ibis.duckdb.connect(temp_directory=str(scratch))
        self._connection.raw_sql("SET TimeZone = 'UTC'")
        self._connection.raw_sql("SET enable_progress_bar = false")  # it would write into our own output

    def read(self, files: Sequence[Path], *, csv: bool) -> ir.Table:
        """See `Engine`."""
        names = [str(file) for file in files]
        if csv:
            table: ir.Table = self._connection.read_csv(
                names,
                header=True,
                all_varchar=True,
                union_by_name=True,
                delim=",",
                quote='"',
                escape='"',
                null_padding=True,
            )
        else:
            table = self._connection.read_parquet(names, union_by_name=True)
        return table

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
        names = [str(file) for file in files]
        reader = self._session.read
        if csv:
            # Part files may hold other columns, or the same ones in another order.
            parts = [reader.csv(name, header=True, multiLine=True, escape='"') for name in names]
            frame = parts[0]
            for part in parts[1:]:
                frame = frame.unionByName(part, allowMissingColumns=True)
        else:
            frame = reader.option("mergeSchema", "true").parquet(*names)
        self._views += 1
        frame.createOrReplaceTempView(f"recsys_raw_{self._views}")
        table: ir.Table = self._connection.table(f"recsys_raw_{self._views}")
        return table

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


def open_engine(name: EngineName, scratch: Path) -> Engine:
    """The engine of that name, with a folder for what it spills.

    Raises:
        DataError: no such engine, or its package is not installed.
    """
    if name == "duckdb":
        return DuckDBEngine(scratch)
    if name == "spark":
        return SparkEngine(scratch)
    raise DataError(f"engine {name!r}: choose duckdb or spark")
