"""The bundle: what was written comes back, and anything else is refused before a parser sees it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import recsys.bundle as bundle_module
from recsys.bundle import MANIFEST, BundleRefused, Reason, Section, open_bundle, write_bundle
from recsys.errors import BundleError


def sections() -> dict[str, Section]:
    rng = np.random.default_rng(5)
    return {
        "core": Section(
            arrays={"item_vectors": rng.normal(size=(40, 8)).astype(np.float32)},
            tables={"items": pa.table({"item_id": [f"i {n}, 蘋果" for n in range(40)]})},
            blobs={"items.faiss": bytes(range(256))},
            meta={"nprobe": 4},
        ),
        "neighbours": Section(
            arrays={
                "indptr": np.arange(41, dtype=np.int64),
                "score": np.r_[np.nan, np.ones(39)].astype(np.float32),
                "empty": np.zeros((0, 8), dtype=np.float32),
            },
            may_be_nan=frozenset({"score"}),
        ),
    }


def write(path: Path, **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "sections": sections(),
        "config": {"seed": 1},
        "metrics": {"ndcg@20": 0.25},
        "model_version": "v1",
        "mlflow_run_id": "run",
        "extra": {"report.md": b"# what was tried"},
    }
    return write_bundle(path, **{**arguments, **changes})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write(tmp_path / "bundle")


def reseal(path: Path, **changes: Any) -> None:
    """Rewrites the manifest as its own writer would, with some fields changed: an attacker's best effort."""
    manifest = json.loads((path / MANIFEST).read_bytes())
    del manifest["sha256"]
    (path / MANIFEST).write_bytes(bundle_module._sealed({**manifest, **changes}))


def entry(content: bytes) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def files_with(path: Path, **entries: dict[str, Any]) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((path / MANIFEST).read_bytes())["files"]
    return {**files, **entries}


def reason(path: Path, **options: Any) -> Reason:
    with pytest.raises(BundleRefused) as refused:
        open_bundle(path, **options)
    assert isinstance(refused.value, BundleError)
    return refused.value.reason


def test_what_was_written_comes_back(bundle: Path) -> None:
    opened = open_bundle(bundle)
    wanted = sections()

    assert (opened.model_version, opened.mlflow_run_id) == ("v1", "run")
    assert (opened.config, opened.metrics) == ({"seed": 1}, {"ndcg@20": 0.25})
    assert bytes(opened.extra["report.md"]) == b"# what was tried"
    assert set(opened.sections) == set(wanted)
    assert "core" in opened
    assert "rooms" not in opened
    for name, section in wanted.items():
        got = opened.section(name)
        assert set(got.arrays) == set(section.arrays)
        for array_name, array in section.arrays.items():
            assert got.arrays[array_name].dtype == array.dtype
            np.testing.assert_array_equal(got.arrays[array_name], array)
        assert {key: bytes(value) for key, value in got.blobs.items()} == section.blobs
        assert {key: table.to_pydict() for key, table in got.tables.items()} == {
            key: table.to_pydict() for key, table in section.tables.items()
        }
        assert got.meta == section.meta
    with pytest.raises(BundleRefused, match="no section 'rooms'; it has core, neighbours"):
        opened.section("rooms")
    with pytest.raises(KeyError):
        opened.section("core").blobs["other.onnx"]


def test_main_parts_lie_at_the_root_under_their_own_names(bundle: Path) -> None:
    assert sorted(str(file.relative_to(bundle)) for file in bundle.rglob("*") if file.is_file()) == [
        "item_vectors.npy",
        "items.faiss",
        "items.parquet",
        "manifest.json",
        "neighbours/empty.npy",
        "neighbours/indptr.npy",
        "neighbours/score.npy",
        "report.md",
    ]


def test_arrays_are_read_only(bundle: Path) -> None:
    vectors = open_bundle(bundle).section("core").arrays["item_vectors"]
    with pytest.raises(ValueError, match="read-only"):
        vectors[0, 0] = 1.0


def test_a_link_to_a_bundle_may_be_opened(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "CURRENT").symlink_to(bundle)
    assert open_bundle(tmp_path / "CURRENT").path == bundle.resolve()


def test_a_bundle_is_never_written_over(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    with pytest.raises(BundleRefused) as refused:
        write(bundle, model_version="v2")
    assert refused.value.reason is Reason.EXISTS
    assert (bundle / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("section", "why"),
    [
        (Section(arrays={"item_vectors": np.array([[1.0, np.nan]])}), Reason.NOT_FINITE),
        (Section(arrays={"item_vectors": np.array([1.0, -np.inf])}), Reason.NOT_FINITE),
        (
            Section(arrays={"score": np.array([np.nan, np.inf])}, may_be_nan=frozenset({"score"})),
            Reason.NOT_FINITE,
        ),
        (Section(arrays={"names": np.array(["a", object()], dtype=object)}), Reason.ARRAY),
        (Section(arrays={"../names": np.zeros(1)}), Reason.UNSAFE_PATH),
        (Section(blobs={"model.pkl": b""}), Reason.UNSAFE_PATH),
        (Section(blobs={"manifest.json": b""}), Reason.UNSAFE_PATH),
    ],
)
def test_what_a_bundle_may_not_hold_is_not_written(tmp_path: Path, section: Section, why: Reason) -> None:
    with pytest.raises(BundleRefused) as refused:
        write(tmp_path / "bundle", sections={"core": section})
    assert refused.value.reason is why
    assert list(tmp_path.iterdir()) == []


def test_large_finite_numbers_are_no_reason_to_refuse(tmp_path: Path) -> None:
    big = np.full(1000, 3e38, dtype=np.float32)  # their sum overflows
    path = write(tmp_path / "bundle", sections={"core": Section(arrays={"big": big})})
    np.testing.assert_array_equal(open_bundle(path).section("core").arrays["big"], big)


# -- a writer that dies -------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the process ending: nothing may catch it and go on."""


def steps_of_writing(path: Path, monkeypatch: pytest.MonkeyPatch, *, die_at: int | None) -> int:
    """Writes a bundle and counts its system calls of writing, dying at the given one."""
    done = 0

    def counted(call: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            if done == die_at:
                raise Killed
            done += 1
            return call(*args, **kwargs)

        return step

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", counted(os.fsync))
        patched.setattr(Path, "rename", counted(Path.rename))
        patched.setattr(Path, "open", counted(Path.open))
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process cleans nothing up
        write(path)
    return done


def test_a_writer_killed_at_any_step_leaves_no_bundle_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = steps_of_writing(tmp_path / "whole", monkeypatch, die_at=None)
    assert steps > 20
    outcomes = []
    for step in range(steps):
        path = tmp_path / f"killed_{step}"
        with pytest.raises(Killed):
            steps_of_writing(path, monkeypatch, die_at=step)
        outcomes.append(path.exists())
        if path.exists():
            assert open_bundle(path).model_version == "v1"
    # Only after the renaming, while the parent is being synced, is there anything, and then all of it.
    assert outcomes == [False] * (steps - 1) + [True]


def test_a_failed_writer_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


# -- damage -------------------------------------------------------------------------------------------------


def all_files(bundle: Path) -> list[Path]:
    return sorted(file for file in bundle.rglob("*") if file.is_file())


def test_truncation_is_refused(bundle: Path) -> None:
    for file in all_files(bundle):
        content = file.read_bytes()
        for length in (0, len(content) // 2, len(content) - 1):
            file.write_bytes(content[:length])
            assert reason(bundle) in {Reason.SIZE, Reason.MANIFEST}
        file.write_bytes(content)
    assert open_bundle(bundle).model_version == "v1"


#: What a flipped bit in the manifest may look like: a changed value, or a changed name of a field or file.
MANIFEST_DAMAGE = {Reason.MANIFEST, Reason.FORMAT, Reason.UNSAFE_PATH}


def test_every_bit_flip_is_refused_before_anything_is_parsed(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("a parser was handed a damaged bundle")

    monkeypatch.setattr(bundle_module, "_read_array", never)
    monkeypatch.setattr("recsys.bundle.pq.ParquetFile", never)
    rng = np.random.default_rng(11)
    for file in all_files(bundle):
        content = file.read_bytes()
        for place in rng.integers(0, len(content) * 8, 100).tolist():
            damaged = bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            file.write_bytes(damaged)
            assert reason(bundle) in ({Reason.HASH} if file.name != MANIFEST else MANIFEST_DAMAGE)
        file.write_bytes(content)


def test_swapped_files_are_refused(bundle: Path) -> None:
    one, other = bundle / "neighbours/indptr.npy", bundle / "neighbours/score.npy"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert reason(bundle) in {Reason.SIZE, Reason.HASH}


def test_a_missing_file_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "items.faiss").unlink()
    assert reason(bundle) is Reason.MISSING
    (bundle / MANIFEST).unlink()
    assert reason(bundle) is Reason.MISSING
    assert reason(tmp_path / "nowhere") is Reason.MISSING


# -- attacks: the manifest is whole and its hashes are right -------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../secret.npy",
        "/etc/secret.npy",
        "a/../../secret.npy",
        "a/b/c.npy",
        "secret.pkl",
        "",
        "..",
        "A.npy\n",
    ],
)
def test_file_names_that_leave_the_bundle_are_refused(bundle: Path, name: str) -> None:
    (bundle.parent / "secret.npy").write_bytes(b"secret")
    reseal(bundle, files=files_with(bundle, **{name: entry(b"secret")}))
    assert reason(bundle) is Reason.UNSAFE_PATH


@pytest.mark.parametrize("linked", ["items.faiss", "neighbours"])
def test_links_are_refused(bundle: Path, tmp_path: Path, linked: str) -> None:
    (bundle / linked).rename(tmp_path / "elsewhere")
    (bundle / linked).symlink_to(tmp_path / "elsewhere")
    assert reason(bundle) is Reason.UNSAFE_PATH


def test_a_pipe_is_refused_and_not_waited_for(bundle: Path) -> None:
    (bundle / "items.faiss").unlink()
    os.mkfifo(bundle / "items.faiss")
    assert reason(bundle) is Reason.UNSAFE_PATH


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


def test_a_pickle_in_the_folder_is_never_opened(bundle: Path, tmp_path: Path) -> None:
    planted = bundle / "model.pkl"
    planted.write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    os.chmod(planted, 0)
    assert open_bundle(bundle).model_version == "v1"
    assert not (tmp_path / "ran").exists()


def test_a_pickle_inside_an_array_file_is_never_loaded(bundle: Path, tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.array([Payload(tmp_path / "ran")], dtype=object), allow_pickle=True)
    replace(bundle, "item_vectors.npy", file.getvalue())
    assert reason(bundle) is Reason.ARRAY
    assert not (tmp_path / "ran").exists()


def replace(bundle: Path, name: str, content: bytes) -> None:
    (bundle / name).write_bytes(content)
    reseal(bundle, files=files_with(bundle, **{name: entry(content)}))


def header(shape: tuple[int, ...], descr: str = "<f4", *, fortran: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": fortran, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        header((1 << 60, 8)) + bytes(64),
        header((1 << 60, 1 << 60)) + bytes(64),
        header((-1, -4)) + bytes(16),
        header((4,)) + bytes(15),
        header((4,)) + bytes(17),
        header((2, 2), fortran=True) + bytes(16),
        header((4,), "<c8") + bytes(32),
        header((4,), "<U1") + bytes(16),
        header((4,), "<M8[s]") + bytes(32),
        header((1,))[:20],
        b"",
        b"not an array at all",
        b"\x93NUMPY\x09\x00" + bytes(100),
    ],
)
def test_array_headers_that_lie_are_refused(bundle: Path, content: bytes) -> None:
    replace(bundle, "item_vectors.npy", content)
    assert reason(bundle) is Reason.ARRAY


def test_nan_in_vectors_is_refused(bundle: Path) -> None:
    vectors = np.ones((40, 8), dtype=np.float32)
    vectors[39, 7] = np.nan
    file = io.BytesIO()
    np.save(file, vectors)
    replace(bundle, "item_vectors.npy", file.getvalue())
    assert reason(bundle) is Reason.NOT_FINITE


def test_mixed_versions_are_refused(bundle: Path) -> None:
    parts = json.loads((bundle / MANIFEST).read_bytes())["sections"]
    parts["neighbours"]["model_version"] = "v0"
    reseal(bundle, sections=parts)
    assert reason(bundle) is Reason.MIXED


def test_an_unknown_format_is_refused(bundle: Path) -> None:
    reseal(bundle, format_version=2)
    assert reason(bundle) is Reason.FORMAT


def test_sizes_are_capped(bundle: Path) -> None:
    total = sum(file.stat().st_size for file in all_files(bundle) if file.name != MANIFEST)
    assert open_bundle(bundle, max_bytes=total).model_version == "v1"
    assert reason(bundle, max_bytes=total - 1) is Reason.SIZE
    reseal(bundle, files=files_with(bundle, **{"items.faiss": {"size": 1 << 60, "sha256": "0" * 64}}))
    assert reason(bundle) is Reason.SIZE


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"format_version": 1}',
        b'{"format_version": 1, "files": 3}',
    ],
)
def test_a_manifest_that_is_none_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    assert reason(bundle) is Reason.MANIFEST


@pytest.mark.parametrize(
    "broken",
    [
        {"size": -1, "sha256": ""},
        {"size": True, "sha256": ""},
        {"size": "9", "sha256": ""},
        {"size": 9},
        None,
    ],
)
def test_a_file_entry_that_is_none_is_refused(bundle: Path, broken: Any) -> None:
    reseal(bundle, files=files_with(bundle, **{"items.faiss": broken}))
    assert reason(bundle) is Reason.MANIFEST


@pytest.mark.parametrize("field", ["sections", "model_version", "created_at", "extra", "config", "metrics"])
def test_a_manifest_without_a_field_is_refused(bundle: Path, field: str) -> None:
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    del manifest["sha256"], manifest[field]
    (bundle / MANIFEST).write_bytes(bundle_module._sealed(manifest))
    assert reason(bundle) is Reason.MANIFEST
