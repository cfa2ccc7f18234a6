"""What one request costs where 10,000 rooms are live, and what the live state takes in memory.

    OMP_NUM_THREADS=1 python experiments/rooms_speed.py [--rooms 10000]

Every counter, pair and vector is read afresh for each request; both stages run, on one core. The model's
weights are random, because its speed does not depend on them. Beside it, in the same run, stands a reference:
one dense (rooms x features) @ (features x 32) product of numpy, which is the least that scoring every room by
the network would cost with all features given.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import lightgbm as lgb
import numpy as np

from recsys.durations import HOUR_US
from recsys.models.trees import Trees
from recsys.rooms.content import Content, Taste
from recsys.rooms.events import EventBatch
from recsys.rooms.features import FEATURES
from recsys.rooms.live_rooms import COLUMNS
from recsys.rooms.memory import Recent
from recsys.rooms.network import RoomNetwork
from recsys.rooms.scorer import RoomScorer
from recsys.rooms.state import LiveState
from recsys.rooms.trees_training import TreeParams
from recsys.types import BEHAVIOURS, FloatArray

STREAMERS, ITEMS, CATEGORIES, DIMENSIONS = 50_000, 100_000, 20, 24
EVENTS, USERS, REQUESTS = 500_000, 2_000, 1_000
NOW_US = 1_750_000_000_000_000


def world(rooms: int, rng: np.random.Generator) -> LiveState:
    """A state with so many live rooms, each with a product on air, after an hour of events."""
    state = LiveState()
    for room in range(rooms):
        state.room_started(room, int(rng.integers(STREAMERS)), NOW_US - HOUR_US, category=room % CATEGORIES)
        state.on_air(room, int(rng.integers(ITEMS)), NOW_US - HOUR_US // 60)
    room = rng.integers(0, rooms, EVENTS).astype(np.int32)
    state.observe_many(
        EventBatch(
            timestamp_us=np.sort(NOW_US - rng.integers(1, HOUR_US, EVENTS)),
            behaviour=rng.integers(0, len(BEHAVIOURS), EVENTS).astype(np.int8),
            user_idx=rng.integers(0, USERS, EVENTS).astype(np.int32),
            streamer_idx=state.rooms.streamer_idx[room],
            room_idx=room,
            item_idx=np.full(EVENTS, -1, dtype=np.int32),
            on_air_idx=state.rooms.item_idx[room],
            duration_s=np.full(EVENTS, 30.0, dtype=np.float32),
        )
    )
    state.advance(NOW_US)
    return state


def random_scorer(state: LiveState, rng: np.random.Generator) -> RoomScorer:
    """Both stages with random weights, of the sizes that training gives them."""

    def draw(*shape: int) -> FloatArray:
        return rng.normal(0, 0.1, shape).astype(np.float32)

    f, d = len(FEATURES), DIMENSIONS
    taste = Taste(
        streamer=draw(STREAMERS + 1, d),
        read_streamer=draw(STREAMERS + 1, d),
        item=draw(ITEMS + 1, d),
        read_item=draw(ITEMS + 1, d),
        user=draw(USERS + 1, d),
        weight=np.ones(len(BEHAVIOURS), np.float32),
        half_life_days=20.0,
    )
    content = Content(
        categories=tuple(str(code) for code in range(CATEGORIES)),
        item_category=rng.integers(0, CATEGORIES, ITEMS).astype(np.int32),
        item_price=draw(ITEMS),
        streamer_category=rng.integers(0, CATEGORIES, STREAMERS).astype(np.int32),
        taste=taste,
    )
    weights = np.ones(3, np.float32)
    network = RoomNetwork(
        draw(f), np.ones(f, np.float32), draw(f, 3), draw(f, 32), draw(32), draw(32, 3), draw(3), weights
    )
    return RoomScorer(
        state.params,
        content,
        network=network,
        trees=Trees.of(random_trees(rng)),
        shortlist_weights=np.ones(4, np.float32),
    )


def random_trees(rng: np.random.Generator) -> lgb.Booster:
    """Trees as many and as large as training grows them, of noise."""
    params = TreeParams()
    features = rng.normal(size=(20_000, len(FEATURES)))
    rows = lgb.Dataset(features, label=rng.random(20_000) < 0.05, group=[50] * 400)
    settings = {"objective": "rank_xendcg", "num_leaves": params.leaves, "verbose": -1}
    return lgb.train(settings, rows, params.rounds)


def timed(work: Callable[[int], object], n: int) -> np.ndarray:
    """(n,) milliseconds of each call."""
    took = np.empty(n)
    for call in range(n):
        begin = time.perf_counter()
        work(call)
        took[call] = 1e3 * (time.perf_counter() - begin)
    return took


def ring_bytes(ring: Recent) -> int:
    """Bytes of one user's ring."""
    columns = ("streamer_idx", "item_idx", "behaviour", "at_us", "count")
    return sum(getattr(ring, name)[:1].nbytes for name in columns)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rooms", type=int, default=10_000)
    rooms = parser.parse_args().rooms
    rng = np.random.default_rng(0)
    state = world(rooms, rng)
    scorer = random_scorer(state, rng)
    x, w = rng.random((rooms, len(FEATURES)), np.float32), rng.random((len(FEATURES), 32), np.float32)
    work = {
        "reference: one dense product": lambda call: x @ w,
        "rank, both stages": lambda call: scorer.rank(state, call % USERS, NOW_US + call, k=10),
        "rank, unknown user": lambda call: scorer.rank(state, -1, NOW_US + call, k=10),
    }
    for one in work.values():
        timed(one, 20)
    took = {name: timed(one, REQUESTS) for name, one in work.items()}
    base = float(np.median(next(iter(took.values()))))
    for name, ms in took.items():
        p50, p99 = np.percentile(ms, [50, 99])
        print(f"{name:30s} p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  {p50 / base:5.1f} x the reference")
    n, live = len(state.rooms), state.rooms
    room_bytes = sum(getattr(live, name)[:n].nbytes for name in COLUMNS) + live.counters.values[:n].nbytes
    room_bytes += sum(part.nbytes for part in live.audience.to_parts(n).values())
    user_bytes = ring_bytes(state.actions) + ring_bytes(state.shown) + state.users.values[:1].nbytes + 8
    pairs = max(len(state.pairs), 1)
    pair_bytes = sum(part.nbytes for part in state.pairs.to_parts().values()) / pairs
    print(f"{room_bytes / n:.0f} bytes a live room, {user_bytes} a user, {pair_bytes:.0f} a pair in arrays")


if __name__ == "__main__":
    main()
