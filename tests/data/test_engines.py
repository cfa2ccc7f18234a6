"""DuckDB and Spark run the same expressions and write the same rows."""

from __future__ import annotations

import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from recsys.data.prepare import prepare
from tests.conftest import write_logs
from tests.data.test_dataset import FUTURE, PAST

pytest.importorskip("pyspark", reason="the optional extra [spark] is not installed")

TABLES = ("users", "items", "rooms", "streamers", "events", "showcases", "promotions")


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark's local mode needs a JDK: no java found")
@pytest.mark.filterwarnings("ignore")  # PySpark warns about the pandas and Arrow beside it
@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_both_engines_write_the_same_rows(tmp_path, monkeypatch, kind):
    from pyspark.sql import SparkSession

    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    small = {"spark.sql.shuffle.partitions": "1", "spark.ui.enabled": "false", "spark.log.level": "ERROR"}
    builder = SparkSession.builder.master("local[1]")
    for key, value in small.items():
        builder = builder.config(key, value)
    builder.getOrCreate()
    logs = write_logs(tmp_path / "logs", **{name: PAST[name] + FUTURE[name] for name in PAST})
    events = pq.read_table(logs / "events.parquet").to_pandas()
    events = pd.concat([events, events.head(1).assign(event="no such event")])
    if kind == "csv":
        (logs / "events.parquet").unlink()
        events.to_csv(logs / "events.csv", index=False)
        with (logs / "events.csv").open("a") as file:
            file.write("too,few,cells\n" + "," * len(events.columns) + "one too many\n")
    else:
        events.to_parquet(logs / "events.parquet", index=False)
    summaries = [prepare(logs, tmp_path / engine, engine=engine) for engine in ("duckdb", "spark")]
    for table in TABLES:
        duckdb, spark = (
            pq.read_table(tmp_path / engine / f"{table}.parquet") for engine in ("duckdb", "spark")
        )
        assert sorted(duckdb.column_names) == sorted(spark.column_names)
        assert duckdb.to_pylist() == spark.select(duckdb.column_names).to_pylist(), table
    faults = [{fault.reason: fault.rows for fault in summary.quarantined} for summary in summaries]
    assert faults[0] == faults[1]
    assert sum(faults[0].values()) == (3 if kind == "csv" else 1)
    assert summaries[0].fingerprint == summaries[1].fingerprint
