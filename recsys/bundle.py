"""The bundle: what training hands to serving. A directory, written whole or not at all, never changed after.

A bundle is named sections; each section is arrays (.npy), tables (.parquet), blobs (.onnx, .faiss, .json) and
a JSON-able `meta`. What a section must hold is its owner's business; here it is made sure that what is read
is, byte for byte, what was written. Nothing is unpickled, and no parser sees a byte before its file's hash
has been compared.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import mmap
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from recsys.errors import BundleError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
#: The section whose files lie at the root of the bundle, under the names that the design gives them.
CORE = "core"
#: Most bytes of a whole bundle that `open_bundle` accepts unless told otherwise: 64 GiB.
MAX_BYTES = 64 << 30
MAX_MANIFEST_BYTES = 16 << 20

_BLOB_SUFFIXES = (".onnx", ".faiss", ".json")
_EXTRA_SUFFIXES = (".json", ".csv", ".txt", ".md", ".html", ".yaml")
_SUFFIXES = (".npy", ".parquet", *_BLOB_SUFFIXES, *_EXTRA_SUFFIXES)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FILE = re.compile(r"(?:[a-z][a-z0-9_]{0,63}/)?[a-z][a-z0-9_]{0,63}\.[a-z]{2,8}")
_CHUNK = 1 << 22

T = TypeVar("T")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), strict=True)


class _File(_Strict):
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class _SectionEntry(_Strict):
    model_version: str
    files: list[str]
    meta: dict[str, Any]
    may_be_nan: list[str]


class _Manifest(_Strict):
    """The fields of manifest.json, all required; `sha256` is of the manifest without it."""

    format_version: int
    model_version: str = Field(min_length=1)
    created_at: AwareDatetime = Field(strict=False)
    config: dict[str, Any]
    metrics: dict[str, Any]
    mlflow_run_id: str | None
    sections: dict[str, _SectionEntry]
    extra: list[str]
    files: dict[str, _File]
    sha256: str


class Reason(StrEnum):
    """Why a bundle was refused."""

    MISSING = "missing"  # no such directory, no manifest, or a file that the manifest names is not there
    MANIFEST = "manifest"  # the manifest cannot be read, or is not what was written
    FORMAT = "format"  # a format version that this engine does not know
    UNSAFE_PATH = "unsafe_path"  # a file name that leaves the bundle, or a link
    SIZE = "size"  # a file of another size than the manifest's, or more than the cap
    HASH = "hash"  # a file whose content is not what was written
    MIXED = "mixed"  # parts of different model versions
    ARRAY = "array"  # an array whose header and size disagree, or of a type that is not allowed
    NOT_FINITE = "not_finite"  # NaN or infinity among numbers that must be finite
    CONTENT = "content"  # the parts do not fit each other: counts, dimensions, a table's columns
    EXISTS = "exists"  # a bundle is never written over


class BundleRefused(BundleError):
    """A bundle was refused before use; `reason` says why in one word, the message names file and value."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Section:
    """One part of a bundle, to be written or as it was read.

    Attributes:
        arrays: name -> array of bool, integer or float32/64; read back memory-mapped and read-only.
        tables: name -> Arrow table.
        blobs: file name with its suffix (.onnx, .faiss, .json) -> bytes.
        meta: JSON-able facts that the owner needs to read the rest.
        may_be_nan: names of the float arrays that may hold NaN (never infinity); all others must be finite.
    """

    arrays: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    blobs: Mapping[str, bytes | memoryview] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    may_be_nan: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Bundle:
    """A bundle that was checked whole.

    Attributes:
        path: its directory, links resolved.
        model_version: the one version of all its parts.
        created_at: when it was written, UTC.
        config: the resolved configuration of the training run.
        metrics: name -> value.
        mlflow_run_id: the run that wrote it, None where tracking was off.
        sections: name -> section; arrays are memory-mapped, tables and blobs are read when asked for.
        extra: file name -> bytes of what came along unread: reports, tables.
    """

    path: Path
    model_version: str
    created_at: datetime
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    mlflow_run_id: str | None
    sections: Mapping[str, Section]
    extra: Mapping[str, bytes | memoryview]

    def __contains__(self, section: str) -> bool:
        return section in self.sections

    def section(self, name: str) -> Section:
        """The section of that name.

        Raises:
            BundleRefused: the bundle has none.
        """
        if name not in self.sections:
            have = ", ".join(sorted(self.sections))
            raise BundleRefused(Reason.CONTENT, f"{self.path} has no section {name!r}; it has {have}")
        return self.sections[name]


def write_bundle(
    path: Path | str,
    *,
    sections: Mapping[str, Section],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    model_version: str,
    mlflow_run_id: str | None = None,
    extra: Mapping[str, bytes] = MappingProxyType({}),
    created_at: datetime | None = None,
) -> Path:
    """Writes a bundle and returns its path; until the last step, the renaming, there is nothing at `path`.

    Args:
        path: the directory to make; its parent is made too. A bundle is never written over.
        sections: what to write. Files of the section "core" lie at the root, of others in a folder each.
        config: the resolved configuration, JSON-able.
        metrics: JSON-able.
        model_version: of all parts.
        mlflow_run_id: the run that it comes from.
        extra: file name (.json, .csv, .txt, .md, .html, .yaml) -> bytes, kept at the root and hashed.
        created_at: now, unless given.

    Raises:
        BundleRefused: something at `path` already, a name or type that a bundle does not hold, NaN in numbers
            that must be finite.
    """
    target = Path(path)
    if target.exists() or target.is_symlink():
        raise BundleRefused(
            Reason.EXISTS, f"{target} exists; a bundle is never written over: name a new path"
        )
    if not model_version:
        raise BundleRefused(Reason.MIXED, "model_version is empty: give each bundle a version of its own")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".writing", dir=target.parent))
    try:
        files: dict[str, dict[str, Any]] = {}
        entries: dict[str, dict[str, Any]] = {}
        for name, section in sections.items():
            if not _NAME.fullmatch(name):
                raise BundleRefused(
                    Reason.UNSAFE_PATH, f"section {name!r}: a name is a-z, 0-9 and _, as in item_vectors"
                )
            contents = dict(_files_of(name, section))
            for file, write in contents.items():
                if file in files:
                    raise BundleRefused(Reason.CONTENT, f"section {name!r}: {file} is there already")
                files[file] = _write_file(building, file, write)
            entries[name] = {
                "model_version": model_version,
                "files": sorted(contents),
                "meta": dict(section.meta),
                "may_be_nan": sorted(section.may_be_nan),
            }
        for file, content in extra.items():
            if not _FILE.fullmatch(file) or "/" in file or not file.endswith(_EXTRA_SUFFIXES):
                raise BundleRefused(
                    Reason.UNSAFE_PATH,
                    f"extra file {file!r}: a name is a-z, 0-9 and _ with one of {', '.join(_EXTRA_SUFFIXES)}",
                )
            if file in files or file == MANIFEST:
                raise BundleRefused(Reason.CONTENT, f"extra file {file!r} is there already")
            files[file] = _write_file(building, file, _writes_bytes(content))
        manifest = {
            "format_version": FORMAT_VERSION,
            "model_version": model_version,
            "created_at": (created_at or datetime.now(UTC)).astimezone(UTC).isoformat(),
            "config": dict(config),
            "metrics": dict(metrics),
            "mlflow_run_id": mlflow_run_id,
            "sections": entries,
            "extra": sorted(extra),
            "files": files,
        }
        _write_file(building, MANIFEST, _writes_bytes(_sealed(manifest)))
        for folder in {(building / file).parent for file in files} | {building}:
            _sync_folder(folder)
        building.rename(target)
        _sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return target


def open_bundle(path: Path | str, *, max_bytes: int = MAX_BYTES) -> Bundle:
    """The bundle at `path`, after every file that its manifest names has been checked against its hash.

    Files that the manifest does not name are never opened.

    Args:
        path: the bundle's directory, or a link to it.
        max_bytes: the most that all its files together may take.

    Raises:
        BundleRefused: with the reason; nothing of the bundle was handed to a parser but the manifest.
    """
    root = Path(path).resolve()
    manifest = _read_manifest(root)
    contents = _checked_contents(root, manifest.files, max_bytes)
    return Bundle(
        path=root,
        model_version=manifest.model_version,
        created_at=manifest.created_at,
        config=manifest.config,
        metrics=manifest.metrics,
        mlflow_run_id=manifest.mlflow_run_id,
        sections=MappingProxyType(
            {name: _read_section(root, name, entry, contents) for name, entry in manifest.sections.items()}
        ),
        extra=MappingProxyType({name: contents[name] for name in manifest.extra}),
    )


# -- writing ------------------------------------------------------------------------------------------------

_Write = Callable[[BinaryIO], None]


def _writes_bytes(content: bytes | memoryview) -> _Write:
    def write(file: BinaryIO) -> None:
        file.write(content)

    return write


def _files_of(name: str, section: Section) -> Iterator[tuple[str, _Write]]:
    """Every file of a section: its path in the bundle and what writes it."""
    folder = "" if name == CORE else f"{name}/"

    def path(file: str) -> str:
        if not _FILE.fullmatch(file) or "/" in file:
            raise BundleRefused(Reason.UNSAFE_PATH, f"section {name!r}: {file!r} is no name for a file")
        return folder + file

    for array_name, array in section.arrays.items():
        _check_array(f"section {name!r}, array {array_name!r}", array, nan=array_name in section.may_be_nan)
        yield path(f"{array_name}.npy"), _writes_array(array)
    for table_name, table in section.tables.items():
        yield path(f"{table_name}.parquet"), _writes_table(table)
    for blob_name, blob in section.blobs.items():
        if not blob_name.endswith(_BLOB_SUFFIXES) or (folder + blob_name) == MANIFEST:
            raise BundleRefused(
                Reason.UNSAFE_PATH,
                f"section {name!r}: blob {blob_name!r} must end with {', '.join(_BLOB_SUFFIXES)}",
            )
        yield path(blob_name), _writes_bytes(blob)


def _writes_array(array: np.ndarray[Any, Any]) -> _Write:
    return lambda file: npy.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _writes_table(table: pa.Table) -> _Write:
    return lambda file: pq.write_table(table, file)


def _write_file(root: Path, name: str, write: _Write) -> dict[str, Any]:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _canonical(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    """The manifest with the hash of its own other fields in it, so that no bit of it can turn unnoticed."""
    return _canonical({**manifest, "sha256": hashlib.sha256(_canonical(manifest)).hexdigest()})


# -- reading ------------------------------------------------------------------------------------------------


def _read_manifest(root: Path) -> _Manifest:
    path = root / MANIFEST
    content = bytes(_mapped(root, MANIFEST, MAX_MANIFEST_BYTES))
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BundleRefused(Reason.MANIFEST, f"{path} is no JSON: {error}") from error
    if not isinstance(fields, dict) or "format_version" not in fields:
        raise BundleRefused(Reason.MANIFEST, f"{path} has no format_version: this is no bundle's manifest")
    if fields["format_version"] != FORMAT_VERSION:
        raise BundleRefused(
            Reason.FORMAT,
            f"{path}: format_version {fields['format_version']!r}, this engine reads {FORMAT_VERSION}; "
            "write the bundle again with `recsys train`",
        )
    try:
        manifest = _Manifest.model_validate(fields)
        as_written = _sealed({key: value for key, value in fields.items() if key != "sha256"})
    except ValueError as error:  # pydantic's ValidationError is one
        raise BundleRefused(Reason.MANIFEST, f"{path}: {error}") from error
    for name in manifest.files:
        if not _FILE.fullmatch(name) or not name.endswith(_SUFFIXES):
            raise BundleRefused(Reason.UNSAFE_PATH, f"{path} names {name!r}, which is no file of a bundle")
    if as_written != content:
        raise BundleRefused(Reason.MANIFEST, f"{path} was changed after it was written")
    for name, section in manifest.sections.items():
        if section.model_version != manifest.model_version:
            raise BundleRefused(
                Reason.MIXED,
                f"{path}: section {name!r} is of version {section.model_version!r}, "
                f"the bundle of {manifest.model_version!r}; do not put bundles together by hand",
            )
    for name in (
        *manifest.extra,
        *(name for section in manifest.sections.values() for name in section.files),
    ):
        if name not in manifest.files:
            raise BundleRefused(Reason.MANIFEST, f"{path}: {name!r} has no size and hash under `files`")
    return manifest


def _checked_contents(root: Path, files: Mapping[str, _File], max_bytes: int) -> dict[str, memoryview]:
    total = sum(file.size for file in files.values())
    if total > max_bytes:
        raise BundleRefused(
            Reason.SIZE,
            f"{root} has {total} bytes, more than max_bytes={max_bytes}; raise the cap to read it",
        )
    contents = {name: _mapped(root, name, file.size, exact=True) for name, file in files.items()}
    for name, content in contents.items():
        if hashlib.sha256(content).hexdigest() != files[name].sha256:
            raise BundleRefused(
                Reason.HASH, f"{root / name} is damaged: its SHA-256 is not the manifest's; copy it again"
            )
    return contents


def _mapped(root: Path, name: str, size: int, *, exact: bool = False) -> memoryview:
    """The file's bytes, mapped. All reading goes through this map: what was hashed is what is used."""
    path = root / name
    try:
        for part in (path, path.parent) if path.parent != root else (path,):
            if part.is_symlink():
                raise BundleRefused(Reason.UNSAFE_PATH, f"{part} is a link: a bundle holds its own files")
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise BundleRefused(Reason.MISSING, f"{path} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise BundleRefused(Reason.UNSAFE_PATH, f"{path} is no plain file")
        if status.st_size > size or (exact and status.st_size != size):
            at_most = "" if exact else "at most "
            raise BundleRefused(
                Reason.SIZE, f"{path} has {status.st_size} bytes, expected {at_most}{size}; copy it again"
            )
        if status.st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)


class _Lazy(Mapping[str, T], Generic[T]):
    """A mapping that reads a value each time it is asked for."""

    def __init__(self, names: list[str], read: Callable[[str], T]) -> None:
        self._names = names
        self._read = read

    def __getitem__(self, name: str) -> T:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read_section(root: Path, name: str, entry: _SectionEntry, contents: Mapping[str, memoryview]) -> Section:
    folder = "" if name == CORE else f"{name}/"
    may_be_nan = frozenset(entry.may_be_nan)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    tables, blobs = [], []
    for file in entry.files:
        stem, _, suffix = file.removeprefix(folder).partition(".")
        if suffix == "npy":
            arrays[stem] = _read_array(root / file, contents[file])
            _check_array(str(root / file), arrays[stem], nan=stem in may_be_nan)
        elif suffix == "parquet":
            tables.append(stem)
        else:
            blobs.append(f"{stem}.{suffix}")

    def table(stem: str) -> pa.Table:
        # ParquetFile, not pq.read_table: the latter imports pandas where it is installed. By the thread that
        # asks: Arrow's own would stay in the process, for reads (a million ids: 0.1 s) that are no faster.
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(contents[f"{folder}{stem}.parquet"])))
        return file.read(use_threads=False)

    return Section(
        arrays=MappingProxyType(arrays),
        tables=_Lazy(tables, table),
        blobs=_Lazy(blobs, lambda blob: contents[folder + blob]),
        meta=entry.meta,
        may_be_nan=may_be_nan,
    )


def _read_array(path: Path, content: memoryview) -> np.ndarray[Any, Any]:
    """A read-only array over the mapped bytes, after its header was held against the file's size."""
    header = io.BytesIO(content[: 1 << 16])
    try:
        version = npy.read_magic(header)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(header)
    except ValueError as error:
        raise BundleRefused(Reason.ARRAY, f"{path} is no .npy file: {error}") from error
    if dtype.hasobject or dtype.kind not in "biuf" or fortran:
        raise BundleRefused(Reason.ARRAY, f"{path}: dtype {dtype} (Fortran order: {fortran}) is not allowed")
    declared = math.prod(shape) * dtype.itemsize  # Python integers: a header cannot make this overflow
    if any(n < 0 for n in shape) or declared != len(content) - header.tell():
        raise BundleRefused(
            Reason.ARRAY,
            f"{path}: its header claims shape {shape} of {dtype}, {declared} bytes; there are "
            f"{len(content) - header.tell()}",
        )
    array = np.frombuffer(content, dtype=dtype, offset=header.tell()) if declared else np.empty(0, dtype)
    return array.reshape(shape)


def _check_array(where: str, array: np.ndarray[Any, Any], *, nan: bool) -> None:
    if array.dtype.kind not in "biuf":
        raise BundleRefused(
            Reason.ARRAY, f"{where}: dtype {array.dtype} is not allowed, only bool and numbers"
        )
    if array.dtype.kind != "f":
        return
    flat = array.reshape(-1)
    for start in range(0, len(flat), _CHUNK):
        chunk = flat[start : start + _CHUNK]
        with np.errstate(over="ignore", invalid="ignore"):
            if math.isfinite(chunk.sum()):
                continue  # NaN and infinity survive a sum: five times as fast as a look at each number
        wrong = np.isinf(chunk) if nan else ~np.isfinite(chunk)
        if wrong.any():
            at = int(wrong.argmax())
            raise BundleRefused(
                Reason.NOT_FINITE, f"{where}: element {start + at} of {array.shape} is {chunk[at]}"
            )
