"""Swapping bundles under way: a good one is taken whole, a bad one is refused and the old one goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import serving.loaded
from recsys.bundle import BundleRefused, Reason, Section
from recsys.errors import DataError
from recsys.pointer import point_to, pointed_to
from serving.answer import RequestError
from serving.reload import Follower
from tests.serving.conftest import N_ITEMS, MakeBundle, item_id, load, make_sections, user_id

KNOWN = user_id(0)


def changed(sections: dict[str, Section], name: str, **arrays: np.ndarray[Any, Any]) -> dict[str, Section]:
    old = sections[name]
    new = Section({**old.arrays, **arrays}, old.tables, old.blobs, old.meta, old.may_be_nan)
    return {**sections, name: new}


def rolled_vectors() -> dict[str, Section]:
    sections = make_sections()
    return changed(sections, "core", item_vectors=np.roll(sections["core"].arrays["item_vectors"], 1, axis=0))


def fewer_user_vectors() -> dict[str, Section]:
    sections = make_sections()
    return changed(sections, "core", user_vectors=sections["core"].arrays["user_vectors"][:-1])


def neighbour_out_of_range() -> dict[str, Section]:
    sections = make_sections()
    ids = sections["neighbours_co_visitation"].arrays["ids"].copy()
    ids[5] = N_ITEMS
    return changed(sections, "neighbours_co_visitation", ids=ids)


def history_cut_wrongly() -> dict[str, Section]:
    sections = make_sections()
    indptr = sections["core"].arrays["history_indptr"].copy()
    indptr[3] = indptr[-1]
    return changed(sections, "core", history_indptr=indptr)


def source_missing() -> dict[str, Section]:
    sections = make_sections()
    del sections["returns"]
    return sections


def tower_that_is_none() -> dict[str, Section]:
    sections = make_sections()
    core = sections["core"]
    blobs = {**core.blobs, "user_tower.onnx": b"no graph"}
    return {**sections, "core": Section(core.arrays, core.tables, blobs, core.meta, core.may_be_nan)}


def index_that_is_none() -> dict[str, Section]:
    sections = make_sections()
    core = sections["core"]
    blobs = {**core.blobs, "items.faiss": b"no index, and of no known kind"}
    return {**sections, "core": Section(core.arrays, core.tables, blobs, core.meta, core.may_be_nan)}


def hot_item_out_of_range() -> dict[str, Section]:
    sections = make_sections()
    table = sections["hot"].tables["hot"]
    table = table.set_column(0, "item_idx", pa.array([7, 12, 59, N_ITEMS], pa.int32()))
    return {**sections, "hot": Section(tables={"hot": table}, meta=sections["hot"].meta)}


def no_core() -> dict[str, Section]:
    sections = make_sections()
    del sections["core"]
    return sections


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (rolled_vectors, Reason.MIXED),
        (fewer_user_vectors, Reason.CONTENT),
        (neighbour_out_of_range, Reason.CONTENT),
        (history_cut_wrongly, Reason.CONTENT),
        (source_missing, Reason.CONTENT),
        (tower_that_is_none, Reason.CONTENT),
        (index_that_is_none, Reason.CONTENT),
        (hot_item_out_of_range, Reason.CONTENT),
        (no_core, Reason.CONTENT),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_the_old_bundle_goes_on(
    make_bundle: MakeBundle, bad: Callable[[], dict[str, Section]], why: Reason
) -> None:
    recommender = load(make_bundle("good"))
    before = recommender.products(KNOWN)
    with pytest.raises(BundleRefused) as refused:
        recommender.swap(make_bundle("bad", sections=bad()))
    assert refused.value.reason is why
    assert recommender.products(KNOWN) == before
    with pytest.raises(RequestError, match="no bundle before"):
        recommender.rollback()


def test_a_damaged_bundle_is_refused(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle("good"))
    bad = make_bundle("bad", seed=1)
    with (bad / "items.faiss").open("r+b") as file:
        file.seek(100)
        file.write(b"x")
    with pytest.raises(BundleRefused) as refused:
        recommender.swap(bad)
    assert refused.value.reason is Reason.HASH
    assert recommender.version == "good"


def test_memory_that_runs_out_during_a_swap_leaves_the_old_bundle(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = load(make_bundle("v1"))
    path = make_bundle("v2", seed=1)

    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(serving.loaded, "read_popular", exhausted)
        with pytest.raises(MemoryError):
            recommender.swap(path)
    assert recommender.version == "v1"
    assert recommender.products(KNOWN).ids
    assert recommender.swap(path) == "v2"


def test_swap_and_roll_back(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle("v1"))
    first = recommender.products(KNOWN)
    assert recommender.swap(make_bundle("v2", seed=1)) == "v2"
    second = recommender.products(KNOWN)
    assert (first.version, second.version) == ("v1", "v2")
    assert first.ids != second.ids
    assert recommender.rollback() == "v1"
    assert recommender.products(KNOWN) == first
    recommender.stock_changed(item_id(30), 0)
    assert recommender.rollback() == "v2"
    assert item_id(30) not in recommender.products("nobody", k=N_ITEMS).ids
    recommender.stock_changed(item_id(30), 1)
    assert recommender.products(KNOWN) == second


def test_requests_during_swaps_are_each_of_one_version_and_never_fail(make_bundle: MakeBundle) -> None:
    paths = [make_bundle("v0", seed=0), make_bundle("v1", seed=1)]
    expected = {path.name: load(path).products(KNOWN, k=10) for path in paths}
    assert expected["v0"].ids != expected["v1"].ids
    recommender = load(paths[0])
    begin = threading.Barrier(3)
    sold_out: list[str] = []

    def ask() -> int:
        begin.wait()
        for _ in range(150):
            gone = set(sold_out)
            answer = recommender.products(KNOWN, k=10)
            assert not gone & set(answer.ids)
            if not sold_out:
                assert answer == expected[answer.version]
        return 150

    def disturb() -> int:
        begin.wait()
        for n in range(20):
            recommender.swap(paths[(n + 1) % 2])
            if n >= 10:
                item = item_id(3 * (n - 10))
                recommender.stock_changed(item, 0)
                sold_out.append(item)
        return 20

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(work).result for work in (ask, ask, disturb)]
        assert [result() for result in done] == [150, 150, 20]
    assert recommender.counts["answered"] == 300


# -- the pointer --------------------------------------------------------------------------------------------


def test_a_follower_takes_what_the_pointer_names(make_bundle: MakeBundle) -> None:
    first, second = make_bundle("v1"), make_bundle("v2", seed=1)
    folder = first.parent
    recommender = load(first)
    follower = Follower(recommender, folder)
    assert not follower.check()  # no pointer yet
    assert isinstance(follower.last_error, BundleRefused)
    point_to(folder, "v1")
    assert not follower.check()
    point_to(folder, "v2")
    assert follower.check()
    assert recommender.version == "v2"
    assert not follower.check()
    (folder / "CURRENT").unlink()
    (folder / "CURRENT").symlink_to(first)
    assert follower.check()
    assert recommender.version == "v1"
    assert second.exists()


def test_a_follower_refuses_a_bad_bundle_once(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = make_bundle("good"), make_bundle("bad", seed=1)
    (bad / "items.faiss").write_bytes(b"")
    recommender = load(good)
    tried = []
    swap = recommender.swap

    def noted(path: Path | str) -> str:
        tried.append(path)
        return swap(path)

    monkeypatch.setattr(recommender, "swap", noted)
    follower = Follower(recommender, good.parent)
    point_to(good.parent, "bad")
    for _ in range(3):
        assert not follower.check()
    assert len(tried) == 1
    assert isinstance(follower.last_error, BundleRefused)
    assert recommender.version == "good"
    shutil.copytree(good, good.parent / "next")
    point_to(good.parent, "next")
    assert follower.check()
    assert follower.last_error is None


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "", ".", "..", "a/b", "a\0b"])
def test_a_pointer_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "CURRENT").write_text(name)
    with pytest.raises(BundleRefused) as refused:
        pointed_to(tmp_path)
    assert refused.value.reason is Reason.UNSAFE_PATH


def test_a_follower_rereads_the_forgotten(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    point_to(path.parent, path.name)
    one, other = load(path), load(path)
    one.forget(KNOWN)
    Follower(other, path.parent).check()
    assert other.products(KNOWN).fallback == "popular: unknown user"


def test_a_damaged_list_of_the_forgotten_is_an_error(make_bundle: MakeBundle) -> None:
    path = make_bundle()
    (path.parent / "forgotten.txt").write_text("half a li")
    with pytest.raises(DataError, match="line 1"):
        load(path)


def test_watching_runs_until_it_is_stopped(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_bundle("v1")
    point_to(path.parent, make_bundle("v2", seed=1).name)
    recommender = load(path)
    swapped = threading.Event()
    swap = recommender.swap

    def noted(to: Path | str) -> str:
        version = swap(to)
        swapped.set()
        return version

    monkeypatch.setattr(recommender, "swap", noted)
    with recommender.watch(path.parent, interval_s=0.01):
        assert swapped.wait(30)
    assert recommender.version == "v2"


FORKED = """
import os, sys, time
from pathlib import Path
from recsys.pointer import point_to
from serving import Recommender

first, second = map(Path, sys.argv[1:])
point_to(first.parent, first.name)
recommender = Recommender.load(first)

def follows():
    end = time.monotonic() + 30
    while recommender.version != second.name:
        assert time.monotonic() < end
        time.sleep(0.01)

with recommender.watch(first.parent, interval_s=0.01):
    child = os.fork()
    if child == 0:
        try:
            follows()
            os._exit(0)
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    point_to(first.parent, second.name)
    follows()
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_watches_by_itself(make_bundle: MakeBundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(make_bundle("v1")), str(make_bundle("v2", seed=1))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
