"""The list of forgotten people: durable, additive, and never silently short."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recsys.data.tombstones import FILE, forget, forgotten, tombstone
from recsys.errors import DataError


def test_the_forgotten_are_listed_without_their_ids(tmp_path: Path) -> None:
    assert forgotten(tmp_path) == frozenset()
    forget(tmp_path, "客人, 7")
    forget(tmp_path, 1007)
    assert forgotten(tmp_path) == {tombstone("客人, 7"), tombstone("1007")}
    assert tombstone(1007.0) == tombstone("1007") != tombstone("01007")
    assert "客人" not in (tmp_path / FILE).read_text()


def test_many_writers_lose_no_line(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda user: forget(tmp_path, user), [user % 50 for user in range(200)]))
    assert forgotten(tmp_path) == {tombstone(user) for user in range(50)}
    assert len((tmp_path / FILE).read_text().splitlines()) == 200


@pytest.mark.parametrize("damage", ["", "x" * 64, "ab12 2026-01-01"])
def test_a_damaged_list_is_an_error_that_names_the_line(tmp_path: Path, damage: str) -> None:
    forget(tmp_path, 1)
    with (tmp_path / FILE).open("a") as file:
        file.write(damage + "\n")
    with pytest.raises(DataError, match=r"forgotten.txt, line 2: "):
        forgotten(tmp_path)
