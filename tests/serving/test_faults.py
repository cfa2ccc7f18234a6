"""What goes wrong around a serving process, and what it does: the old bundle goes on, whole."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import recsys.bundle as bundle_module
from recsys.bundle import MANIFEST, BundleRefused, Reason, Section
from recsys.index import IndexParams
from recsys.pointer import point_to
from recsys.types import Behaviour, Event
from serving.recommender import Recommender
from serving.reload import Follower
from tests.serving.conftest import (
    AS_OF,
    CLOCK_S,
    MakeBundle,
    item_id,
    load,
    make_sections,
    mean_tower,
    user_id,
)

KNOWN = user_id(0)


def run_script(script: str, *arguments: object) -> None:
    """Runs it in a process of its own, with CLOCK_S as the tests' clock."""
    done = subprocess.run(
        [sys.executable, "-c", f"CLOCK_S = {CLOCK_S}\n{script}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def replaced(bundle: Path, name: str, content: bytes) -> None:
    """Puts another file in, its hash made right: what an attacker or a broken writer would leave."""
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    del manifest["sha256"]
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (bundle / MANIFEST).write_bytes(bundle_module._sealed(manifest))


# -- a writer that is killed --------------------------------------------------------------------------------

#: Writes the bundle v2 beside v1 and has CURRENT name it, in a process that is killed before its n-th step.
KILLED = """
import os, signal, sys
from pathlib import Path
from recsys.bundle import open_bundle, write_bundle
from recsys.pointer import point_to, pointed_to

source, folder = map(Path, sys.argv[1:])
new = open_bundle(source)
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")

def publish(die_at):
    step = 0
    def count():
        nonlocal step
        if step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        step += 1
    sync = os.fsync
    def counted_sync(descriptor):
        count()
        sync(descriptor)
    os.fsync = counted_sync
    sys.addaudithook(lambda event, _: count() if event in STEPS else None)
    write_bundle(folder / "v2", sections=new.sections, config={}, metrics={}, model_version="v2")
    point_to(folder, "v2")
    os._exit(0)

seen, die_at, status = [], 0, -1
while status:
    child = os.fork()
    if child == 0:
        publish(die_at)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    current = open_bundle(pointed_to(folder)).model_version
    whole = (folder / "v2").exists()
    if whole:
        assert open_bundle(folder / "v2").model_version == "v2"
    seen.append((current, whole))
    if status:
        point_to(folder, "v1")
        if whole:
            (folder / "v2").rename(folder / f"done-{die_at}")
    die_at += 1
assert seen[-1] == ("v2", True), seen
killed = seen[:-1]
assert len(killed) > 60, len(killed)
# First nothing is there, then the bundle, then what names it: each once and for all.
assert killed == sorted(killed), killed
assert ("v1", False) in killed and ("v1", True) in killed, killed
"""


def test_kill_9_at_every_step_of_writing_shows_the_old_bundle_or_the_new(make_bundle: MakeBundle) -> None:
    old = make_bundle("v1")
    source = make_bundle("source", seed=1)
    point_to(old.parent, "v1")
    run_script(KILLED, source, old.parent)
    recommender = load(old)
    assert Follower(recommender, old.parent).check()  # what is left of the killed does not disturb
    assert recommender.version == "v2"


# -- files that are not what they were ----------------------------------------------------------------------


def flips(bundle: Path, times: int) -> Iterator[None]:
    """One bit of one file of the bundle is another, as often as told; each file has its share."""
    files = sorted(file for file in bundle.rglob("*") if file.is_file())
    rng = np.random.default_rng(7)
    for n in range(times):
        file = files[n % len(files)]
        content = file.read_bytes()
        place = int(rng.integers(8 * len(content)))
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        yield
        file.write_bytes(content)


def test_a_thousand_bit_flips_are_refused_before_faiss_or_onnx_read(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = load(make_bundle("v1"))
    before = recommender.products(KNOWN)
    new = make_bundle("v2", seed=1)

    def never(*_: object, **__: object) -> None:
        pytest.fail("a damaged bundle was handed on")

    refused = 0
    with monkeypatch.context() as patched:
        for reader in ("read_index", "ZeroCopyIOReader", "deserialize_index"):
            patched.setattr(faiss, reader, never)
        patched.setattr(onnxruntime, "InferenceSession", never)
        for _ in flips(new, 1_000):
            with pytest.raises(BundleRefused):
                recommender.swap(new)
            refused += 1
        assert recommender.products(KNOWN) == before
    assert refused == 1_000
    assert recommender.swap(new) == "v2"


@pytest.mark.parametrize("name", ["items.faiss", "item_vectors.npy", "user_tower.onnx", "items.parquet"])
def test_a_file_of_another_bundle_is_refused(make_bundle: MakeBundle, name: str) -> None:
    recommender = load(make_bundle("v1"))
    new, other = make_bundle("v2", seed=1), make_bundle("v3", seed=2, n_items=50)
    (new / name).write_bytes((other / name).read_bytes() + b"\0" * (name == "user_tower.onnx"))
    with pytest.raises(BundleRefused) as refused:
        recommender.swap(new)
    assert refused.value.reason in {Reason.SIZE, Reason.HASH}
    assert recommender.version == "v1"


def test_an_index_of_another_version_is_refused_though_its_hash_is_right(make_bundle: MakeBundle) -> None:
    recommender = load(make_bundle("v1"))
    new, other = make_bundle("v2", seed=1), make_bundle("v3", seed=2)
    replaced(new, "items.faiss", (other / "items.faiss").read_bytes())
    with pytest.raises(BundleRefused) as refused:
        recommender.swap(new)
    assert refused.value.reason is Reason.MIXED
    assert recommender.version == "v1"


@pytest.mark.parametrize("index", [None, IndexParams(exact_up_to=10)], ids=["exact", "lists"])
@pytest.mark.parametrize("claimed", [1 << 60, (1 << 63) - 1, -1, 61])
def test_an_index_that_claims_more_vectors_than_it_has_is_refused(
    make_bundle: MakeBundle, index: IndexParams | None, claimed: int
) -> None:
    recommender = load(make_bundle("v1"))
    new = make_bundle("v2", seed=1, index=index)
    content = bytearray((new / "items.faiss").read_bytes())
    assert struct.unpack_from("<q", content, 8) == (60,)  # after the kind and the dimensions
    struct.pack_into("<q", content, 8, claimed)
    replaced(new, "items.faiss", bytes(content))
    with pytest.raises(BundleRefused):
        recommender.swap(new)
    assert recommender.version == "v1"


def tower_of(value: float) -> bytes:
    """The query tower, its vector multiplied by a value."""
    model = onnx.load_from_string(mean_tower(20))
    add = model.graph.node[-1]
    add.output[0] = "sum"
    model.graph.node.append(onnx.helper.make_node("Mul", ["sum", "by"], ["user"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.float32), "by"))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_a_query_that_is_not_finite_is_answered_by_the_other_sources(
    make_bundle: MakeBundle, value: float
) -> None:
    sections = make_sections()
    core = sections["core"]
    blobs = {**core.blobs, "user_tower.onnx": tower_of(value)}
    sections["core"] = Section(core.arrays, core.tables, blobs, core.meta, core.may_be_nan)
    recommender = load(make_bundle(sections=sections))
    viewed = Event(KNOWN, Behaviour.VIEW, AS_OF + timedelta(minutes=1), item_id=item_id(10))
    recommender.observe(viewed)  # from now on the tower is asked
    answer = recommender.products(KNOWN, k=10)
    assert len(answer) == 10
    assert np.isfinite([entry.score for entry in answer]).all()
    assert "two_tower" not in {entry.source for entry in answer}


# -- a swap that takes long, or too much --------------------------------------------------------------------


def test_a_slow_disk_holds_up_neither_requests_nor_reports(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = load(make_bundle("v1"))
    new = make_bundle("v2", seed=1)
    reading, released = threading.Event(), threading.Event()
    checked = bundle_module._checked_contents

    def slowly(*arguments: Any) -> Any:
        reading.set()
        assert released.wait(60)
        return checked(*arguments)

    monkeypatch.setattr(bundle_module, "_checked_contents", slowly)
    swapping = threading.Thread(target=recommender.swap, args=(new,))
    swapping.start()
    assert reading.wait(60)
    # Were any of these to wait for the disk, the test would hang here.
    first = recommender.products(KNOWN, k=5)
    assert first.version == "v1"
    recommender.stock_changed(first.ids[0], 0)
    recommender.room_started("a", "s-1")
    recommender.forget(user_id(3))
    assert first.ids[0] not in recommender.products(KNOWN, k=5).ids
    released.set()
    swapping.join(60)
    assert recommender.version == "v2"
    assert first.ids[0] not in recommender.products(KNOWN, k=60).ids
    assert "a" in recommender.rooms(KNOWN).ids
    assert recommender.products(user_id(3)).fallback == "popular: unknown user"


#: A swap to a bundle that does not fit into the memory that the process may use, then to one that does.
TOO_LARGE = """
import resource, sys
from pathlib import Path
from recsys.pointer import point_to
from serving import Recommender
from serving.reload import Follower

first, large, next_ = map(Path, sys.argv[1:])
recommender = Recommender.load(first, clock=lambda: CLOCK_S)
follower = Follower(recommender, first.parent)
before = recommender.products(1000)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), resource.RLIM_INFINITY))
point_to(first.parent, large.name)
assert not follower.check()
assert isinstance(follower.last_error, (MemoryError, OSError)), follower.last_error
assert recommender.products(1000) == before
recommender.stock_changed("i-01", 0)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
point_to(first.parent, next_.name)
assert follower.check(), follower.last_error
assert recommender.version == next_.name
assert "i-01" not in recommender.products(1000, k=60).ids
"""


def test_a_bundle_beyond_the_memory_is_left_and_the_old_one_goes_on(make_bundle: MakeBundle) -> None:
    sections = make_sections(seed=1)
    sections["ballast"] = Section(arrays={"zeros": np.zeros(1 << 24, dtype=np.float32)})  # 64 MiB
    run_script(
        TOO_LARGE,
        make_bundle("v1"),
        make_bundle("large", sections=sections),
        make_bundle("v2", seed=1),
    )


#: Swaps to and fro: what is resident after the first 30 stays.
SWAPPED = """
import sys
from pathlib import Path
from serving import Recommender

paths = sys.argv[1:]
recommender = Recommender.load(paths[0], clock=lambda: CLOCK_S)

def swap(times):
    for n in range(times):
        recommender.swap(paths[(n + 1) % 2])
        recommender.products(1000)
        recommender.rooms(1000)
    return int(Path("/proc/self/statm").read_text().split()[1])

warm = swap(30)
after = swap(100)
assert after <= 1.05 * warm, (warm, after)
"""


def test_a_hundred_swaps_leave_the_memory_as_it_was(make_bundle: MakeBundle) -> None:
    run_script(SWAPPED, make_bundle("v1"), make_bundle("v2", seed=1))


#: The threads that a load, requests and a swap leave behind: none, so that nothing of them can fail to start
#: near the limit of the memory, be lost in a fork, or be in the way at the end of a process.
THREADS = """
import os, sys
from serving import Recommender

before = len(os.listdir("/proc/self/task"))
recommender = Recommender.load(sys.argv[1], clock=lambda: CLOCK_S)
recommender.products(1000)
recommender.rooms(1000)
recommender.swap(sys.argv[2])
recommender.products(1000)
assert len(os.listdir("/proc/self/task")) == before
"""


def test_no_thread_is_left_by_a_load_or_a_request(make_bundle: MakeBundle) -> None:
    run_script(THREADS, make_bundle("v1"), make_bundle("v2", seed=1))


# -- forks --------------------------------------------------------------------------------------------------

#: As `gunicorn --preload` does: the bundle is loaded, warmed and asked, and then come the workers.
PRELOADED = """
import os, sys, threading
from serving import Recommender

first, second = sys.argv[1:]
recommender = Recommender.load(first, clock=lambda: CLOCK_S)
before = recommender.products(1000)
workers = []
for _ in range(3):
    child = os.fork()
    if child:
        workers.append(child)
        continue
    try:
        answers = []
        asking = [threading.Thread(target=lambda: answers.append(recommender.products(1000))) for _ in "12"]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert answers == [before, before], answers
        recommender.stock_changed(before.ids[0], 0)
        assert before.ids[0] not in recommender.products(1000).ids
        recommender.swap(second)
        assert recommender.products(1000).version != before.version
        os._exit(0)
    except BaseException as error:
        print("worker:", repr(error), file=sys.stderr, flush=True)
        os._exit(1)
assert all(os.waitpid(worker, 0)[1] == 0 for worker in workers)
assert recommender.products(1000) == before
"""


def test_workers_forked_from_a_warm_process_answer_each_for_itself(make_bundle: MakeBundle) -> None:
    run_script(PRELOADED, make_bundle("v1"), make_bundle("v2", seed=1))


# -- a follower that meets the unexpected -------------------------------------------------------------------


def test_whatever_a_bundle_raises_a_follower_goes_on(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = load(make_bundle("v1"))
    folder = make_bundle("v2", seed=1).parent
    follower = Follower(recommender, folder)

    def no_memory(*_: object, **__: object) -> None:
        raise RuntimeError("std::bad_alloc")  # how FAISS and ONNX Runtime may say so

    point_to(folder, "v2")
    with monkeypatch.context() as patched:
        patched.setattr("serving.loaded.VectorSource", no_memory)
        assert not follower.check()
    assert "bad_alloc" in str(follower.last_error)
    assert recommender.products(KNOWN).version == "v1"
    make_bundle("v3", seed=1)
    point_to(folder, "v3")
    assert follower.check()


def test_a_roll_back_lasts_until_the_pointer_moves(make_bundle: MakeBundle) -> None:
    recommender: Recommender = load(make_bundle("v1"))
    folder = make_bundle("v2", seed=1).parent
    follower = Follower(recommender, folder)
    point_to(folder, "v2")
    assert follower.check()
    recommender.rollback()
    assert not follower.check()
    assert recommender.version == "v1"
    make_bundle("v3", seed=1)
    point_to(folder, "v3")
    assert follower.check()
    point_to(folder, "v2")  # by somebody's wish, this time
    assert follower.check()
    assert recommender.version == "v2"
    assert item_id(59) not in recommender.products(KNOWN, k=60).ids
