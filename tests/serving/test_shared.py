"""Several processes that answer from one state, over a real redis-server that comes and goes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from recsys.types import Behaviour, Event
from serving.recommender import Recommender
from tests.serving.conftest import AS_OF, CLOCK_S, MakeBundle, item_id, load, user_id
from tests.serving.redis_server import RedisServer, skip_without_redis
from tests.serving.test_rooms import sections_with_rooms

skip_without_redis()

from serving.redis_log import RedisLog  # noqa: E402
from serving.reports import ItemReport, Message, Observed, encode  # noqa: E402
from serving.shared import SharedParams, SharedState  # noqa: E402

KNOWN = user_id(0)
QUICK = SharedParams(block_s=0.02, most_backoff_s=0.05, timeout_s=5.0)


@pytest.fixture
def redis(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # a socket's path must be short
        server = RedisServer(Path(folder), keep=getattr(request, "param", False))
        server.start()
        yield server
        server.kill()


Join = Callable[..., tuple[Recommender, SharedState]]


@pytest.fixture
def join(make_bundle: MakeBundle, redis: RedisServer) -> Iterator[Join]:
    """`join()`: one more process, as far as the state is concerned."""
    path = make_bundle(sections=sections_with_rooms())
    joined: list[SharedState] = []

    def one(params: SharedParams = QUICK, **options: Any) -> tuple[Recommender, SharedState]:
        recommender = load(path)
        joined.append(SharedState(recommender, redis.url, params=params, **options).start())
        return recommender, joined[-1]

    yield one
    for shared in joined:
        shared.stop(timeout_s=0.2)


def viewed(user: int, item: int, *, minutes: float = 1.0, **fields: Any) -> Event:
    at = AS_OF + timedelta(minutes=minutes)
    return Event(user, Behaviour.VIEW, at, item_id=item_id(item), **fields)


def level(*states: SharedState) -> None:
    """Everything reported so far is known everywhere."""
    eventually(lambda: not any(state.stats().waiting for state in states))
    for state in states:
        assert state.wait_until_level(20)


def eventually(holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def answers(recommender: Recommender) -> list[Any]:
    rooms = recommender.rooms(KNOWN, k=9, explore=False)
    return [
        recommender.products(KNOWN, k=60),
        rooms.ids,
        [entry.facts for entry in rooms],
        recommender.hot().ids,
    ]


def test_what_is_reported_to_one_is_known_to_all(join: Join) -> None:
    (one, of_one), (other, of_other) = join(), join()
    before = answers(one)
    one.room_started("a", "s-2", category="dance")
    one.on_air("a", item_id(4))
    other.observe(viewed(KNOWN, 10))
    other.observe(Event("someone", Behaviour.ENTER, AS_OF + timedelta(minutes=2), room_id="a"))
    one.stock_changed(item_id(7), 0)
    other.item_listed(item_id(8), listed=False)
    other.item_blocked(item_id(11))
    one.room_ended("r-1")
    level(of_one, of_other)
    assert answers(one) == answers(other) != before
    assert one.rooms(KNOWN).ids == ["a"]
    assert other.rooms(KNOWN).entries[0].facts == {"streamer_id": "s-2", "item_id": item_id(4)}
    assert not {item_id(7), item_id(8), item_id(11)} & set(one.products("nobody", k=60).ids)
    other.off_air("a")
    level(of_one, of_other)
    assert one.rooms(KNOWN).entries[0].facts["item_id"] is None
    stats = of_one.stats()
    assert (stats.connected, stats.lost, stats.unreadable, stats.gaps) == (True, 0, 0, 0)
    assert stats.stale_s < 20


def test_a_process_that_starts_late_knows_what_the_others_know(join: Join) -> None:
    one, of_one = join()
    one.room_started("a", "s-2")
    one.observe(viewed(KNOWN, 10))
    one.stock_changed(item_id(7), 0)
    level(of_one)
    late, of_late = join()
    level(of_late)
    assert answers(late) == answers(one)


def test_a_process_goes_on_from_its_place(join: Join) -> None:
    (one, of_one), (other, of_other) = join(), join()
    one.observe(viewed(KNOWN, 10))
    level(of_one, of_other)
    place, applied = of_other.position, of_other.stats().applied
    of_other.stop()
    one.observe(viewed(KNOWN, 20, minutes=2))
    one.stock_changed(item_id(7), 0)
    level(of_one)
    assert of_other.position == place
    of_other.start()
    level(of_other)
    assert answers(other) == answers(one)
    assert of_other.stats().applied - applied == 2
    assert of_other.stats().gaps == 0


def test_a_place_that_was_trimmed_loses_events_and_no_stock_or_room(join: Join) -> None:
    (one, of_one), (other, of_other) = join(), join()
    one.stock_changed(item_id(3), 0)
    level(of_one, of_other)
    of_other.stop()
    one.stock_changed(item_id(7), 0)
    one.room_started("a", "s-2")
    level(of_one)
    log = RedisLog(of_one._url, name="recsys", max_messages=1, max_subjects=9, timeout_s=5)
    log._redis.xtrim("{recsys}:reports", maxlen=0, approximate=False)
    one.observe(viewed(KNOWN, 10))
    level(of_one)
    of_other.start()
    level(of_other)
    assert of_other.stats().gaps == 1
    assert item_id(7) not in other.products("nobody", k=60).ids
    assert set(other.rooms(KNOWN).ids) == {"a", "r-1"}
    log.close()


@pytest.mark.parametrize("redis", [True], indirect=True, ids=["kept on disk"])
def test_redis_gone_and_back_with_what_it_held(join: Join, redis: RedisServer) -> None:
    (one, of_one), (other, of_other) = join(), join()
    one.stock_changed(item_id(3), 0)
    level(of_one, of_other)
    redis.kill()
    eventually(lambda: not of_one.stats().connected and not of_other.stats().connected)
    for n in range(20):
        one.stock_changed(item_id(7), n)
        one.observe(viewed(KNOWN, 10, minutes=1 + n))
        assert one.products(KNOWN).ids  # requests go on
    one.stock_changed(item_id(7), 0)
    # Of one product only the latest waits, beside what may be under way.
    assert of_one.stats().waiting in (21, 22)
    first = of_other.stats().stale_s
    time.sleep(0.05)
    assert of_other.stats().stale_s > first
    redis.start()
    eventually(lambda: of_one.stats().connected and of_other.stats().connected)
    level(of_one, of_other)
    assert answers(one) == answers(other)
    assert item_id(7) not in other.products("nobody", k=60).ids
    assert (of_one.stats().lost, of_other.stats().gaps) == (0, 0)


def test_redis_back_and_empty_is_told_again_what_is_settled(join: Join, redis: RedisServer) -> None:
    (one, of_one), (_, of_other) = join(), join()
    one.stock_changed(item_id(7), 0)
    one.room_started("a", "s-2")
    one.forget(user_id(5))
    level(of_one, of_other)
    redis.kill()
    eventually(lambda: not of_one.stats().connected)
    redis.start()
    eventually(lambda: of_one.stats().connected)
    level(of_one, of_other)
    late, of_late = join()
    level(of_late)
    assert item_id(7) not in late.products("nobody", k=60).ids
    assert set(late.rooms(KNOWN).ids) == {"a", "r-1"}
    assert late.products(user_id(5)).fallback == "popular: unknown user"
    assert of_one.stats().gaps == 1


def test_without_redis_from_the_start_all_is_local_and_bounded(join: Join, redis: RedisServer) -> None:
    redis.kill()
    few = SharedParams(block_s=0.02, most_backoff_s=0.05, max_waiting_events=5, max_subjects=3)
    one, of_one = join(few)
    for n in range(20):
        one.observe(viewed(KNOWN, 10, minutes=1 + n))
        one.stock_changed(item_id(n), 0)
    stats = of_one.stats()
    assert stats.waiting <= 8 + 8  # in the box, and taken out of it to be sent
    assert stats.lost + stats.waiting == 40
    assert not stats.connected
    assert stats.stale_s == float("inf")
    assert item_id(19) not in one.products("nobody", k=60).ids
    assert not of_one.wait_until_level(0.01)


def test_what_is_written_twice_or_overtaken_or_broken_changes_nothing(join: Join, redis: RedisServer) -> None:
    (one, of_one), (other, of_other) = join(), join()
    now_us = round(time.time() * 1e6)
    seen = Observed(viewed(KNOWN, 10))
    entered = Observed(Event(KNOWN, Behaviour.ENTER, AS_OF + timedelta(minutes=1), room_id="r-1"))
    messages = [
        encode(Message("x", 1, now_us, seen)),
        encode(Message("x", 2, now_us, entered)),
        encode(Message("x", 4, now_us + 9, ItemReport(item_id(7), units=0.0))),
        encode(Message("x", 3, now_us, ItemReport(item_id(7), units=4.0))),
    ]
    for content in (*messages, *messages[::-1], b"", b"nonsense", b'["y",1,1,"ended",{"room_id":null}]'):
        redis.client().xadd("{recsys}:reports", {"m": content})
    redis.client().xadd("{recsys}:reports", {"other": "field"})
    level(of_one, of_other)
    assert answers(one) == answers(other)
    assert item_id(7) not in one.products("nobody", k=60).ids
    stats = of_one.stats()
    assert (stats.applied, stats.repeated, stats.without_effect, stats.unreadable) == (3, 2, 3, 4)
    assert len(one._journal.events) == 1


def test_the_future_of_a_wrong_clock_does_not_last(join: Join, redis: RedisServer) -> None:
    one, of_one = join(SharedParams(block_s=0.02, future_tolerance_s=0.0))
    ahead_us = round((time.time() + 86_400) * 1e6)
    wrong = Message("x", 1, ahead_us, ItemReport(item_id(7), units=4.0))
    redis.client().xadd("{recsys}:reports", {"m": encode(wrong)})
    level(of_one)
    time.sleep(0.001)
    right = Message("y", 1, round(time.time() * 1e6), ItemReport(item_id(7), units=0.0))
    redis.client().xadd("{recsys}:reports", {"m": encode(right)})
    level(of_one)
    assert item_id(7) not in one.products("nobody", k=60).ids


def test_a_forgotten_person_is_forgotten_everywhere_and_in_the_stream(
    join: Join, redis: RedisServer, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    (one, of_one), (other, of_other) = join(), join()
    other.observe(viewed(KNOWN, 10))
    other.observe(viewed(user_id(3), 11))
    level(of_one, of_other)
    one.forget(KNOWN)
    level(of_one, of_other)
    for recommender in (one, other):
        assert recommender.products(KNOWN).fallback == "popular: unknown user"
    left = [fields[b"m"] for _, fields in redis.client().xrange("{recsys}:reports")]
    assert sum(b'"user_id":1000' in content and b"observed" in content for content in left) == 0
    assert sum(b'"user_id":1003' in content for content in left) == 1


def test_the_stream_is_bounded_in_length_and_age(join: Join, redis: RedisServer) -> None:
    one, of_one = join(SharedParams(block_s=0.02, max_messages=100, max_subjects=50))
    for n in range(600):
        one.stock_changed(f"unknown {n}", n)
        if n % 100 == 0:
            level(of_one)
    level(of_one)
    client = redis.client()
    assert client.xlen("{recsys}:reports") < 400
    assert client.hlen("{recsys}:latest") == client.zcard("{recsys}:order") == 50
    log = RedisLog(redis.url, name="recsys", max_messages=9, max_subjects=9, timeout_s=5)
    log.trim(before_ms=round((time.time() + 60) * 1000))
    assert client.xlen("{recsys}:reports") == 0
    log.close()


def test_the_later_report_stays_in_what_is_settled(redis: RedisServer) -> None:
    log = RedisLog(redis.url, name="recsys", max_messages=9, max_subjects=9, timeout_s=5)
    later = Message("a", 2, 20, ItemReport("i", units=0.0))
    log.append([later])
    log.append([Message("b", 1, 10, ItemReport("i", units=9.0))])
    assert log.settled() == [encode(later)]
    log.close()


def test_metrics_say_how_old_the_news_is(join: Join) -> None:
    pytest.importorskip("fastapi", reason="the extra `edge` is not installed")
    from serving.edge import create_app
    from tests.serving.test_edge import Client

    one, of_one = join()
    level(of_one)
    metrics = Client(create_app(one, shared=of_one)).get("/metrics").text
    assert "recsys_shared_connected 1.0" in metrics
    assert "recsys_shared_stale_s 0." in metrics


def test_a_url_that_is_none_is_refused_at_once(make_bundle: MakeBundle) -> None:
    with pytest.raises(ValueError, match="scheme"):
        SharedState(load(make_bundle()), "localhost:6379")


FORKED = """
import os, sys, time
from serving import Recommender
from serving.shared import SharedState, SharedParams
bundle, url = sys.argv[1:]
recommender = Recommender.load(bundle, clock=lambda: {clock_s})
params = SharedParams(block_s=0.02)

def sold_out(item):
    return item not in recommender.products("nobody", k=60).ids

def eventually(holds):
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "too long"
        time.sleep(0.01)

with SharedState(recommender, url, params=params) as shared:
    recommender.stock_changed("i-01", 0)
    to_child, to_parent = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            assert sold_out("i-01")
            recommender.stock_changed("i-02", 0)
            assert os.read(to_child[0], 1) == b"g"
            eventually(lambda: sold_out("i-03"))
            assert shared.stats().connected
            shared.stop()
            os._exit(0)
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    eventually(lambda: sold_out("i-02"))
    recommender.stock_changed("i-03", 0)
    os.write(to_child[1], b"g")
    assert os.waitpid(child, 0)[1] == 0
    assert shared.wait_until_level(30)
    recommender.stock_changed("i-04", 0)
    eventually(lambda: not shared.stats().waiting)
"""


def test_a_forked_process_follows_by_itself(make_bundle: MakeBundle, redis: RedisServer) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED.format(clock_s=CLOCK_S), str(make_bundle()), redis.url],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
