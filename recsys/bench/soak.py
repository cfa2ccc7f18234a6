"""Requests that go on while rooms end, products sell out and bundles are swapped: `recsys bench soak`.

What is gone is noted after the report of it has returned, and taken back before the product is reported in
stock again. So an answer that names something which was noted before the request began, and is noted by the
same report still when it is there, is wrong.

That an answer is of one bundle is seen by probes: one user, of whom nothing is reported, asks for products of
a fixed list, which never sell out. Whichever bundle answers, the answer must be that of this bundle alone.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from statistics import median

import faiss
import numpy as np
from pydantic import Field

from recsys.bench.timing import Goal, Row
from recsys.bench.workers import memory_mb
from recsys.bench.world import WorldParams, write_world
from recsys.errors import ConfigError
from recsys.types import Behaviour, Event, ExternalId, Params, Progress
from serving import Recommender
from serving.answer import Answer, NotServed, RequestError
from serving.loaded import LoadedBundle

_STREAMERS = 10
_PROBED = 100
_COMPLAINTS = 10
#: A pitch asks for as many lists as the room has viewers, and is asked for by hosts, who are few.
_PITCHED_EVERY = 50


class SoakParams(Params):
    """How long, and how hard.

    Attributes:
        minutes: that it lasts.
        every_s: seconds from one swap to the next.
        threads: of requests.
        k: products or rooms a request.
        live: rooms that are live at a time.
        sold_out: products that are sold out at a time; then the first is back in stock.
        warm_up: share of the time after which the memory must stay as it is.
    """

    minutes: float = Field(default=10.0, gt=0)
    every_s: float = Field(default=2.0, gt=0)
    threads: int = Field(default=2, ge=1)
    k: int = Field(default=20, ge=1)
    live: int = Field(default=20, ge=1)
    sold_out: int = Field(default=100, ge=1)
    warm_up: float = Field(default=0.2, gt=0, lt=1)

    @property
    def turns(self) -> int:
        """Swaps in all."""
        return max(10, round(60 * self.minutes / self.every_s))


@dataclass(frozen=True)
class SoakReport:
    """What came of it.

    Attributes:
        rows: the table.
        complaints: the first few failed or wrong answers, in words.
    """

    rows: list[Row]
    complaints: list[str]


def write_two_worlds(folder: Path, world: WorldParams) -> list[Path]:
    """Two synthetic bundles with the same ids, made by a process that ends: it needs torch."""
    worlds = [world.model_copy(update={"seed": world.seed + n}) for n in range(2)]
    paths = [folder / f"world-{one.seed}" for one in worlds]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as maker:
        list(maker.map(write_world, paths, worlds))
    return paths


def soak(
    bundles: Sequence[Path], params: SoakParams = SoakParams(), *, progress: Progress | None = None
) -> SoakReport:
    """Asks and reports at once, for as long as told.

    Args:
        bundles: that are swapped, in turn.
        params: how long, and how hard.
        progress: called as progress(done, total, text).

    Raises:
        BundleRefused: one of the bundles is not fit to answer.
        ConfigError: fewer than two bundles, or two of one version.
    """
    faiss.omp_set_num_threads(1)
    scene = _Scene(bundles, params)
    asking = [threading.Thread(target=scene.ask, args=(seed,)) for seed in range(params.threads)]
    for thread in asking:
        thread.start()
    try:
        memory = scene.disturb(progress)
    finally:
        scene.over.set()
        for thread in asking:
            thread.join()
    return SoakReport(_rows(scene, memory), scene.complaints)


class _Scene:
    """The recommender, what is true of it, and what went wrong."""

    def __init__(self, bundles: Sequence[Path], params: SoakParams) -> None:
        opened = {path: LoadedBundle.open(path, max_bytes=1 << 40) for path in bundles}
        self.versions = [loaded.version for loaded in opened.values()]
        if len(set(self.versions)) < 2 or len(set(self.versions)) < len(bundles):
            raise ConfigError(f"bundles of versions {self.versions}: give two or more, each of its own")
        self.params = params
        self.over = threading.Event()
        self.complaints: list[str] = []
        self.counts: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._counting = threading.Lock()
        self._bundles = list(bundles)
        first = opened[self._bundles[0]]
        catalogue = first.catalogue
        self._as_of_s = catalogue.as_of_us / 1e6
        self._began_s = time.monotonic()
        self.recommender = Recommender(first, clock=self._clock)
        rng = np.random.default_rng(0)
        in_stock = rng.permutation(
            np.flatnonzero(first.in_stock.has(np.arange(first.n_items, dtype=np.int32)))
        )
        probed = min(_PROBED, len(in_stock) // 2)
        self._probed = [catalogue.items.one(int(item)) for item in in_stock[:probed]]
        self._items = [catalogue.items.one(int(item)) for item in in_stock[probed:]]
        self._users = [catalogue.users.one(int(user)) for user in rng.permutation(len(catalogue.users))]
        self._probe = self._users.pop()
        self._expected = {
            loaded.version: self._probed_by(Recommender(loaded, clock=self._clock))
            for loaded in opened.values()
        }
        # Replaced whole: a request keeps what it saw.
        self._sold_out: Mapping[ExternalId, int] = {}
        self._ended: frozenset[ExternalId] = frozenset()
        self._live: deque[str] = deque()
        self._numbers = count()
        for _ in range(params.live):
            self._start_room()

    # -- requests -------------------------------------------------------------------------------------------

    def ask(self, seed: int) -> None:
        """Requests and events of all kinds, one after the other, until it is over."""
        rng = np.random.default_rng(seed + 1)
        kinds = (self._products, self._filtered, self._probes, self._rooms, self._lists, self._acts)
        for turn in count():
            for kind in kinds if turn % _PITCHED_EVERY else (*kinds, self._pitched):
                self._tried(kind, rng)
            if self.over.is_set():
                return

    def _tried(self, kind: Callable[[np.random.Generator], None], rng: np.random.Generator) -> None:
        try:
            kind(rng)
        except Exception:  # noqa: BLE001 - whatever it is, it is a failed request
            self._complain("failed", traceback.format_exc())

    def _products(self, rng: np.random.Generator) -> None:
        self._checked(lambda: self.recommender.products(self._user(rng), k=self.params.k))

    def _filtered(self, rng: np.random.Generator) -> None:
        allow = [self._items[place] for place in rng.integers(0, len(self._items), 200).tolist()]
        self._checked(
            lambda: self.recommender.products(
                self._user(rng),
                k=self.params.k,
                allow=allow,
                deny=allow[:5],
                max_per_category=5,
                diversity=0.2,
            )
        )

    def _probes(self, _: np.random.Generator) -> None:
        began = time.perf_counter()
        answer = self._probed_by(self.recommender)
        self._count("probes", time.perf_counter() - began)
        if answer != self._expected.get(answer.version):
            self._complain("mixed", f"no answer of {answer.version!r} alone: {answer}")

    def _rooms(self, rng: np.random.Generator) -> None:
        self._checked(lambda: self.recommender.rooms(self._user(rng), k=self.params.k))

    def _lists(self, rng: np.random.Generator) -> None:
        item = self._items[int(rng.integers(len(self._items)))]
        self._checked(lambda: self.recommender.similar(item, k=self.params.k))
        try:
            self._checked(lambda: self.recommender.hot(k=self.params.k))
        except NotServed:
            return  # a bundle without a hot list

    def _pitched(self, rng: np.random.Generator) -> None:
        room = self._live[-1]  # of the newest, so that it is live for long
        try:
            self._checked(lambda: self.recommender.next_products(room, k=5))
        except RequestError:
            if room not in self._ended:
                raise

    def _acts(self, rng: np.random.Generator) -> None:
        at = datetime.fromtimestamp(self._clock(), UTC) - timedelta(milliseconds=1)
        item = self._items[int(rng.integers(len(self._items)))]
        self.recommender.observe(Event(self._user(rng), Behaviour.VIEW, at, item_id=item))
        self.recommender.observe(Event(self._user(rng), Behaviour.ENTER, at, room_id=self._live[-1]))
        self._count("events")

    def _checked(self, ask: Callable[[], Answer]) -> None:
        sold_out, ended = self._sold_out, self._ended
        began = time.perf_counter()
        answer = ask()
        self._count("answers", time.perf_counter() - began)
        if answer.version not in self._expected:
            self._complain("mixed", f"version {answer.version!r}")
        for id_ in _named(answer):
            report = sold_out.get(id_)
            if id_ in ended or (report is not None and self._sold_out.get(id_) == report):
                self._complain("gone", f"{id_!r} was gone before the request began: {answer}")

    def _probed_by(self, recommender: Recommender) -> Answer:
        return recommender.products(self._probe, k=self.params.k, allow=self._probed, now=self._as_of_s)

    def _user(self, rng: np.random.Generator) -> ExternalId:
        return self._users[int(rng.integers(len(self._users)))]

    # -- reports --------------------------------------------------------------------------------------------

    def disturb(self, progress: Progress | None) -> list[float]:
        """Ends a room, sells out a product and swaps the bundle, over and over; MB resident after each."""
        memory = []
        for turn in range(self.params.turns):
            ends_s = time.monotonic() + self.params.every_s
            self._start_room()
            self._end_room()
            self._sell_out(turn)
            self.recommender.swap(self._bundles[(turn + 1) % len(self._bundles)])
            self._count("swaps")
            memory.append(memory_mb(private=False))
            if progress is not None:
                progress(turn + 1, self.params.turns, "swaps")
            time.sleep(max(0.0, ends_s - time.monotonic()))
        return memory

    def _start_room(self) -> None:
        number = next(self._numbers)
        room = f"soak room {number}"
        self.recommender.room_started(room, f"soak streamer {number % _STREAMERS}")
        self.recommender.on_air(room, self._items[number % len(self._items)])
        self._live.append(room)

    def _end_room(self) -> None:
        room = self._live.popleft()
        self.recommender.room_ended(room)
        self._ended |= {room}

    def _sell_out(self, turn: int) -> None:
        """What somebody would be shown first, and then no more."""
        shown = self.recommender.products(self._users[turn % len(self._users)], k=self.params.k).ids
        item = next((id_ for id_ in shown if id_ not in self._probed), None)
        if len(self._sold_out) >= self.params.sold_out:
            first = next(iter(self._sold_out))
            self._sold_out = {id_: at for id_, at in self._sold_out.items() if id_ != first}
            self.recommender.stock_changed(first, 5)
        if item is not None:
            self.recommender.stock_changed(item, 0)
            self._sold_out = {**self._sold_out, item: turn}

    # -- notes ----------------------------------------------------------------------------------------------

    def _clock(self) -> float:
        """The time goes on from the bundle's moment."""
        return self._as_of_s + 1.0 + time.monotonic() - self._began_s

    def _count(self, what: str, seconds: float | None = None) -> None:
        with self._counting:
            self.counts[what] += 1
            if seconds is not None and len(self.seconds) < 1_000_000:
                self.seconds.append(seconds)

    def _complain(self, what: str, how: str) -> None:
        with self._counting:
            self.counts[what] += 1
            if len(self.complaints) < _COMPLAINTS:
                self.complaints.append(f"{what}: {how}")


def _named(answer: Answer) -> Iterator[ExternalId]:
    """Every product and room that an answer names."""
    for entry in answer:
        yield entry.id
        if (on_air := entry.facts.get("item_id")) is not None:
            yield on_air


def _rows(scene: _Scene, memory: list[float]) -> list[Row]:
    counts, none = scene.counts, Goal(most=0.0)
    cut = max(1, round(len(memory) * scene.params.warm_up))
    warm, after = memory[cut : cut + max(1, len(memory) // 10)], memory[cut:]
    ms = 1e3 * np.array(scene.seconds)
    return [
        Row("requests", counts["answers"] + counts["probes"]),
        Row("events", counts["events"]),
        Row("swaps", counts["swaps"]),
        Row("requests failed", counts["failed"], goal=none),
        Row("answers that name what was gone before", counts["gone"], goal=none),
        Row("answers that are not of one bundle", counts["mixed"], goal=none),
        Row("answers held against those of each bundle alone", counts["probes"], goal=Goal(least=1.0)),
        Row("request: p50, ms", float(np.percentile(ms, 50))),
        Row("request: p99, ms", float(np.percentile(ms, 99))),
        Row("resident, most after the warm-up, MB", max(after), median(warm), Goal(times_most=1.05)),
    ]
