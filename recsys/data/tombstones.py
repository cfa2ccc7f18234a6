"""Forgotten people: a list beside the bundles that every load, prepare and log compaction obeys.

One line a person: the SHA-256 of the id's text and the moment. The id itself is not kept. Lines are only ever
appended, each in one write, so that several processes can write and a reader sees whole lines.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

from recsys.data.ids import id_key
from recsys.errors import DataError
from recsys.types import ExternalId

FILE = "forgotten.txt"
_DIGEST_LENGTH = 64


def tombstone(user_id: ExternalId) -> str:
    """What stands for a person on the list: the SHA-256 of the id's text, in hex."""
    return hashlib.sha256(id_key(user_id).encode("utf-8", "surrogatepass")).hexdigest()


def forget(folder: Path, user_id: ExternalId, *, at: datetime | None = None) -> str:
    """Puts a person on the list of `folder`, durably, and returns the tombstone; once more does no harm."""
    mark = tombstone(user_id)
    put_on_list(folder, mark, at=at)
    return mark


def put_on_list(folder: Path, mark: str, *, at: datetime | None = None) -> None:
    """Puts a tombstone on the list of `folder`, durably."""
    line = f"{mark} {(at or datetime.now(UTC)).isoformat()}\n".encode()
    descriptor = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forgotten(folder: Path) -> frozenset[str]:
    """The tombstones of everybody on the list of `folder`; none where there is no list.

    Raises:
        DataError: a line that is no tombstone. Nobody may come back because a list was damaged.
    """
    path = folder / FILE
    if not path.exists():
        return frozenset()
    marks = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        mark = line.split(" ", 1)[0]
        if len(mark) != _DIGEST_LENGTH or set(mark) - set("0123456789abcdef"):
            raise DataError(f"{path}, line {number}: {line[:80]!r} is no tombstone; restore the file")
        marks.append(mark)
    return frozenset(marks)
