"""One adapter per public data set: from the files its publisher gives out to the log tables.

`import_source("retailrocket", Path("raw"), Path("logs"))` reads what it finds below `raw` and writes `logs`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from recsys.data.schema import TABLES
from recsys.data.sources.completejourney import COMPLETEJOURNEY
from recsys.data.sources.job import ImportJob, Source
from recsys.data.sources.kuailive import KUAILIVE
from recsys.data.sources.kuairand import KUAIRAND
from recsys.data.sources.onlineretail import ONLINERETAIL
from recsys.data.sources.raw import assign, scan
from recsys.data.sources.retailrocket import RETAILROCKET
from recsys.data.sources.tafeng import TAFENG
from recsys.data.sources.taobao import TAOBAO
from recsys.data.sources.twitch import TWITCH
from recsys.errors import DataError

__all__ = ["SOURCES", "ImportSummary", "Source", "import_source"]

SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        COMPLETEJOURNEY,
        KUAILIVE,
        KUAIRAND,
        ONLINERETAIL,
        RETAILROCKET,
        TAFENG,
        TAOBAO,
        TWITCH,
    )
}

#: Written last into every imported folder; says that the folder is ours to replace.
MARK = "import.json"


@dataclass(frozen=True)
class ImportSummary:
    """What an import wrote and what it left out.

    Attributes:
        source: the data set's name.
        out: the folder of log tables.
        rows: log table -> rows written.
        skipped: raw table -> reason -> rows left out.
        ignored: files below RAW that hold no table of the data set.
    """

    source: str
    out: Path
    rows: Mapping[str, int]
    skipped: Mapping[str, Mapping[str, int]]
    ignored: tuple[Path, ...]


def import_source(
    name: str, raw: Path | None, out: Path, *, progress: Callable[[str], None] | None = None
) -> ImportSummary:
    """Writes a public data set's raw files as log tables, and says how many rows of each.

    The tables are written beside `out` under a temporary name and renamed at the end: an import that is
    killed leaves `out` as it was.

    Args:
        name: a key of `SOURCES`.
        raw: a raw file, or a folder that is searched with its subfolders. None is allowed for a data set that
            is installed as a Python package.
        out: the folder of log tables to make. One that an earlier import made is replaced.
        progress: told in a few words, now and then, what is being done.

    Raises:
        DataError: the name is unknown, a needed file is not there or cannot be read, no row is usable, or
            `out` holds something that no import wrote.
    """
    source = SOURCES.get(name)
    if source is None:
        raise DataError(f"no data set is called {name!r}; known are {', '.join(SOURCES)}")
    if raw is None:
        if source.installed is None:
            raise DataError(f"{name}: give the folder of its raw files, to be had from {source.homepage}")
        raw = source.installed()
    _check_replaceable(out)
    files = scan(raw)
    matches = assign(raw, files, source.layouts)
    known = {match.file.path for found in matches.values() for match in found}
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.importing-", dir=out.parent))
    try:
        job = ImportJob(matches, folder, progress or (lambda _: None))
        try:
            source.convert(job)
        except duckdb.Error as error:
            raise DataError(f"{raw}: the import of {name} failed: {error}") from error
        finally:
            job.close()
        ignored = tuple(file.path for file in files if file.path not in known)
        summary = ImportSummary(name, out, dict(job.rows), job.skipped, ignored)
        mark = {"source": name, "licence": source.licence, "rows": summary.rows, "skipped": summary.skipped}
        (job.tables / MARK).write_text(json.dumps(mark, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            out.rename(folder / "replaced")
        job.tables.rename(out)
    finally:
        shutil.rmtree(folder)
    return summary


def _check_replaceable(out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file; name a folder for the log tables")
    names = {path.name for path in out.iterdir()}
    ours = {MARK, "events"} | {f"{table}.parquet" for table in TABLES}
    if names and (MARK not in names or names - ours):
        strange = ", ".join(sorted(names - ours)) or f"no {MARK}"
        raise DataError(f"{out} is not a folder that an import wrote ({strange}); name another, or remove it")
