"""What every import promises, whatever the source: finding files, ids as spelt, all or nothing."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.data.schema import TABLES
from recsys.data.sources import SOURCES, import_source, job
from recsys.errors import DataError
from tests.data.sources.conftest import Imported, tables

HEADER = "timestamp,visitorid,event,itemid,transactionid\n"
ROW = "1433221332117,257597,view,355908,\n"


def _raw(folder: Path, text: str = HEADER + ROW, name: str = "raw/events.csv") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_source_says_what_it_is() -> None:
    assert set(SOURCES) == {
        *("retailrocket", "kuairand", "kuailive", "twitch"),
        *("taobao", "completejourney", "onlineretail", "tafeng"),
    }
    assert all(source.description and source.licence and source.homepage for source in SOURCES.values())


def test_unknown_source_and_missing_raw_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'netflix'; known are .*retailrocket"):
        import_source("netflix", tmp_path, tmp_path / "logs")
    with pytest.raises(DataError, match=r"taobao: give the folder of its raw files, to be had from https"):
        import_source("taobao", None, tmp_path / "logs")
    with pytest.raises(DataError, match="no such file or folder"):
        import_source("taobao", tmp_path / "nowhere", tmp_path / "logs")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_wrong_folder_names_what_was_sought_and_found(name: str, tmp_path: Path) -> None:
    raw = _raw(tmp_path, "colour,taste\nred,sour\n", "raw/fruit.csv").parent
    with pytest.raises(DataError) as caught:
        import_source(name, raw, tmp_path / "logs")
    assert "fruit.csv (colour, taste)" in str(caught.value)
    required = [layout for layout in SOURCES[name].layouts if layout.required]
    assert required
    assert all(column in str(caught.value) for layout in required for column in layout.columns)
    assert not (tmp_path / "logs").exists()


def test_a_folder_without_readable_files_is_refused(tmp_path: Path) -> None:
    raw = _raw(tmp_path, "x", "raw/online_retail_II.xlsx").parent
    with pytest.raises(DataError, match=r"found online_retail_II\.xlsx.*save spreadsheets as CSV"):
        import_source("onlineretail", raw, tmp_path / "logs")


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("delimiter", "name"), [(",", "x.csv.gz"), ("\t", "deep/down/y.tsv"), (";", "z.txt")]
)
def test_files_are_known_by_columns_not_names(
    delimiter: str, name: str, line_end: str, tmp_path: Path
) -> None:
    text = (HEADER + ROW).replace("visitorid", " Visitor ID").replace(",", delimiter).replace("\n", line_end)
    path = _raw(tmp_path, "", f"raw/{name}")
    path.write_bytes(
        gzip.compress(text.encode()) if name.endswith(".gz") else b"\xef\xbb\xbf" + text.encode()
    )
    summary = import_source("retailrocket", tmp_path / "raw", tmp_path / "logs")
    assert summary.rows == {"events": 1}
    [row] = tables(tmp_path / "logs")["events"]
    assert (row["user_id"], row["event"], row["item_id"]) == (257597, "view", 355908)


@pytest.mark.parametrize(
    ("spelt", "expected"),
    [
        (["7", "-12"], [7, -12]),
        (["007", "12"], ["007", "12"]),
        (["7.0", "12"], ["7.0", "12"]),
        (["99999999999999999999", "1"], ["99999999999999999999", "1"]),
        (["王 小,姐 🛒", " 5"], ["王 小,姐 🛒", " 5"]),
    ],
)
def test_ids_keep_their_spelling(spelt: list[str], expected: list[object], tmp_path: Path) -> None:
    lines = "".join(f'1433221332117,"{user}",view,355908,\n' for user in spelt)
    import_source("retailrocket", _raw(tmp_path, HEADER + lines), tmp_path / "logs")
    assert [row["user_id"] for row in tables(tmp_path / "logs")["events"]] == expected


def test_an_id_has_one_type_in_every_table(imported: Callable[..., Imported]) -> None:
    found, _ = imported(
        "retailrocket",
        {
            "e.csv": HEADER + ROW,
            "p.csv": "timestamp,itemid,property,value\n1433221332117,0355908,790,n2.500\n",
        },
    )
    assert [row["item_id"] for row in found["events"]] == ["355908"]
    assert [row["item_id"] for row in found["items"]] == ["0355908"]


def test_latin_1_text_is_read(tmp_path: Path) -> None:
    header = "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n"
    line = "1,A,GIFT £1,1,2010-12-01 08:26:00,1,7,Curaçao\n"
    path = _raw(tmp_path, "")
    path.write_bytes((header + line).encode("latin-1"))
    import_source("onlineretail", path, tmp_path / "logs")
    found = tables(tmp_path / "logs")
    assert found["items"][0]["title"] == "GIFT £1"
    assert found["users"][0]["region"] == "Curaçao"


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = _raw(tmp_path, HEADER + ROW + '1433221332117,"1,view,2,\n' + ROW)
    with pytest.raises(DataError, match=r"events\.csv, line 3: a quoted value is never closed"):
        import_source("retailrocket", path, tmp_path / "logs")
    packed = path.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress((HEADER + ROW * 5000).encode())[:-100])
    with pytest.raises(DataError, match=r"events\.csv\.gz: cannot be read"):
        import_source("retailrocket", packed, tmp_path / "logs")
    broken = path.with_suffix(".parquet")
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"events\.parquet: cannot be read"):
        import_source("retailrocket", broken, tmp_path / "logs")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["raw"]


def test_one_table_packed_twice_is_refused(tmp_path: Path) -> None:
    path = _raw(tmp_path)
    path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match="look like one table twice"):
        import_source("retailrocket", path.parent, tmp_path / "logs")


def test_no_usable_row_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    path = _raw(tmp_path, HEADER + "never,1,view,2,\n")
    with pytest.raises(DataError, match=r"no row .* gives an event; left out: .*timestamp is not a number"):
        import_source("retailrocket", path, tmp_path / "logs")


def test_our_own_folder_is_replaced_and_no_other(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    import_source("retailrocket", _raw(tmp_path, HEADER + ROW * 2), logs)
    import_source("retailrocket", _raw(tmp_path), logs)
    assert len(tables(logs)["events"]) == 1
    (logs / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not a folder that an import wrote \(notes\.txt\)"):
        import_source("retailrocket", tmp_path / "raw", logs)
    with pytest.raises(DataError, match="is a file"):
        import_source("retailrocket", tmp_path / "raw", logs / "notes.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs", "raw"]


def test_a_failed_import_leaves_the_earlier_one(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    import_source("retailrocket", _raw(tmp_path), logs)
    before = (logs / "events.parquet").read_bytes()
    with pytest.raises(DataError):
        import_source("retailrocket", _raw(tmp_path, HEADER), logs)
    assert (logs / "events.parquet").read_bytes() == before


def test_a_large_log_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "SPLIT_BYTES", 0)
    told: list[str] = []
    path = _raw(tmp_path, HEADER + ROW * 3)
    summary = import_source("retailrocket", path, tmp_path / "logs", progress=told.append)
    parts = sorted((tmp_path / "logs" / "events").iterdir())
    assert [part.name for part in parts] == ["part-0.parquet"]
    assert pq.read_table(parts[0]).num_rows == summary.rows["events"] == 3
    assert told[:2] == ["Reading events.csv", "Writing events"]


def test_event_columns_are_the_contracts(imported: Callable[..., Imported]) -> None:
    found, _ = imported("retailrocket", {"e.csv": HEADER + ROW})
    assert all(TABLES["events"].column(name) for name in found["events"][0])
