"""What serving costs beside a bare search of the same index, in the same run: `recsys bench serve`."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from recsys.bench.clients import Clients, exact_best, item_id
from recsys.bench.timing import Goal, Row, timed
from recsys.bench.workers import measure_workers
from recsys.bench.world import WorldParams, write_world
from recsys.bundle import MANIFEST
from recsys.errors import ConfigError
from recsys.types import IntArray, Params, Progress
from serving.bitmap import Bitmap

#: Shares of the products that requests allow.
SHARES = (0.9, 0.3, 0.1, 0.03, 0.01, 0.001)
#: Recall of the bare search, without filters, that its number of lists is chosen by.
RECALL = 0.95

_STAGES = (
    "world",
    "import",
    "load",
    "products",
    "observe",
    "filters",
    "groups",
    "stock",
    "implicit",
    "workers",
)


class BenchParams(Params):
    """How much is measured.

    Attributes:
        k: products a request.
        calls: requests of each kind.
        judged: requests of each kind that are held against an exact search.
        seconds: that each measurement of requests a second lasts.
    """

    k: int = 100
    calls: int = 2_000
    judged: int = 100
    seconds: float = 2.0


def bench_serve(
    world: WorldParams,
    params: BenchParams = BenchParams(),
    *,
    keep: Path | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Every row of the table; the reference is FAISS by itself on the index of the same bundle.

    Times are of the wall clock, on one thread where nothing else is said. Calls of what is compared take
    turns, so that whatever else the machine does falls on both.

    Args:
        world: the synthetic catalogue.
        params: how much is measured.
        keep: folder of the bundle, used again if it is there; None is a temporary one.
        progress: called as progress(done, total, text).

    Raises:
        ConfigError: `keep` holds another world.
    """

    def tell(stage: str) -> None:
        if progress is not None:
            progress(_STAGES.index(stage), len(_STAGES), stage)

    faiss.omp_set_num_threads(1)
    tell("world")
    with threadpool_limits(1, user_api="blas"), _bundle(world, keep) as path:
        tell("import")
        rows = _imports()
        tell("load")
        rows += _load(path)
        clients = Clients.of(path, k=params.k)
        nprobe, recall = _smallest_nprobe(clients, params)
        rows += [Row("faiss, lists read", nprobe), Row("faiss, recall without filters", recall)]
        tell("products")
        rows += _products(clients, nprobe, params)
        tell("observe")
        rows += _observe(clients, params)
        tell("filters")
        rows += _filters(clients, nprobe, params)
        tell("groups")
        rows += _groups(clients, nprobe, params)
        tell("stock")
        rows += _stock(clients, params)
        tell("implicit")
        rows += _implicit(clients, params)
        del clients
        tell("workers")
        rows += _workers(path, nprobe, params)
    return rows


@contextmanager
def _bundle(world: WorldParams, keep: Path | None) -> Iterator[Path]:
    """The bundle of the world, made by a process that ends, for it imports torch."""
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        path = keep if keep is not None else Path(folder) / "bundle"
        if not path.exists():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as maker:
                maker.submit(write_world, path, world).result()
        held = json.loads((path / MANIFEST).read_text())["config"].get("world")
        if held != world.model_dump(mode="json"):
            raise ConfigError(f"{path} holds the world {held}, not {world}: name another folder")
        yield path


def _imports() -> list[Row]:
    """A fresh process that imports serving, beside one that imports its five libraries."""
    libraries = "numpy, pyarrow, pyarrow.parquet, pydantic, faiss, onnxruntime"
    (seconds, mb), (base_seconds, base_mb) = _by_turns("import serving", f"import {libraries}", 5)
    return [
        Row("import of serving, s", seconds, base_seconds, Goal(most=1.0, aim="0.4")),
        Row("import of serving, MB", mb, base_mb, Goal(most=125.0, aim="105")),
    ]


def _load(path: Path) -> list[Row]:
    """`Recommender.load` in a fresh process, beside hashing the same files."""
    load = f"from serving import Recommender; begin = time.perf_counter(); Recommender.load({str(path)!r})"
    files = [str(path / name) for name in json.loads((path / MANIFEST).read_text())["files"]]
    digest = f"import hashlib; [hashlib.file_digest(open(name, 'rb'), 'sha256') for name in {files!r}]"
    (ours, _), (base, _) = _by_turns(load, digest, 5)
    return [Row("load of the bundle, hashes checked, s", ours, base, Goal(most=3.0, aim="1"))]


def _by_turns(ours: str, base: str, times: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Medians of what `_run` gives of two pieces of code, run by turns."""
    figures = np.array([(_run(ours), _run(base)) for _ in range(times)])
    (seconds, mb), (base_seconds, base_mb) = np.median(figures, axis=0).tolist()
    return (seconds, mb), (base_seconds, base_mb)


def _run(code: str) -> tuple[float, float]:
    """Seconds that the code took, or its part after it sets `begin` anew, and MB resident at its end."""
    script = (
        f"import time; begin = time.perf_counter()\n{code}\nseconds = time.perf_counter() - begin\n"
        "status = open('/proc/self/status').read().split('VmRSS:')[1]\n"
        "print(seconds, int(status.split()[0]) * 1024 / 1e6)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    seconds, mb = done.stdout.split()
    return float(seconds), float(mb)


def _smallest_nprobe(clients: Clients, params: BenchParams) -> tuple[int, float]:
    """The fewest lists with which the bare index reaches the recall without filters, and that recall."""
    index = clients.bare_index(0)
    everything = np.ones(len(clients.vectors), dtype=bool)
    queries = clients.queries[[clients.user(call) for call in range(params.judged)]]
    best = [exact_best(clients.vectors, query, everything, params.k) for query in queries]

    def recall(nprobe: int) -> float:
        if nprobe:
            index.nprobe = nprobe
        found = index.search(queries, params.k)[1]
        hits = sum(len(np.intersect1d(*pair)) for pair in zip(found, best, strict=True))
        return float(hits / sum(map(len, best)))

    if not hasattr(index, "nlist"):
        return 0, recall(0)
    few, enough = 0, 1
    while recall(enough) < RECALL and enough < index.nlist:
        few, enough = enough, min(2 * enough, index.nlist)
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if recall(middle) >= RECALL else (middle, enough)
    return enough, recall(enough)


def _products(clients: Clients, nprobe: int, params: BenchParams) -> list[Row]:
    works = (clients.bare_search(nprobe), clients.cached)
    timed(works, 200)
    faiss_alone, ours = timed(works, params.calls)
    recall = clients.recall([clients.cached(call) for call in range(params.judged)])
    name = f"products, {clients.share_in_stock:.0%} allowed, seen out, cached vector"
    return [
        Row(f"{name}: p50, ms", ours.p50, faiss_alone.p50, Goal(most=0.4, times_most=3, aim="1.5 times")),
        Row(f"{name}: recall@{params.k}", recall, RECALL, Goal(least=0.95)),
        Row(f"{name}: p99, ms", ours.p99, faiss_alone.p99, Goal(most=5.0, aim="1")),
        Row(f"{name}: p99 of processor time, ms", ours.cpu_p99, faiss_alone.cpu_p99),
    ]


def _observe(clients: Clients, params: BenchParams) -> list[Row]:
    works = (clients.cached, clients.observe, clients.fresh)
    timed(works, 40)
    cached, observe, fresh = timed(works, params.calls)
    return [
        Row(
            "products just after observe, beyond that: p50, ms",
            fresh.p50 - cached.p50,
            cached.p50,
            Goal(most=0.5, aim="0.1"),
        ),
        Row("products just after observe: p99, ms", fresh.p99, cached.p99, Goal(most=5.0, aim="1")),
        Row("products just after observe: p99 of processor time, ms", fresh.cpu_p99, cached.cpu_p99),
        Row("observe: p50, ms", observe.p50),
    ]


def _filters(clients: Clients, nprobe: int, params: BenchParams) -> list[Row]:
    rows = []
    for share in (share for share in SHARES if share <= clients.share_in_stock):

        def limited(call: int, share: float = share) -> object:
            return clients.limited(call, share)

        works = (clients.bare_search(nprobe), limited)
        timed(works, 40)
        faiss_alone, ours = timed(works, params.calls // 2)
        recall = clients.recall([clients.limited(call, share) for call in range(params.judged)], share=share)
        name = f"products, {share:.1%} allowed"
        rows += [
            Row(f"{name}: recall@{params.k}", recall, goal=Goal(least=0.95, aim="0.99")),
            Row(f"{name}: p50, ms", ours.p50, faiss_alone.p50, Goal(most=2.0, aim="1")),
            Row(f"{name}: p99, ms", ours.p99, faiss_alone.p99, Goal(most=5.0, aim="1")),
            Row(f"{name}: p99 of processor time, ms", ours.cpu_p99, faiss_alone.cpu_p99),
        ]
    (new,) = timed((lambda call: clients.limited(call, 0.3 + 1e-9 * call),), params.calls // 4)
    rows.append(Row("products, 30.0% allowed, a limit that nobody set before: p50, ms", new.p50))
    timed((clients.in_category,), 40)
    (together,) = timed((clients.in_category,), params.calls // 4)
    answers = [clients.in_category(call) for call in range(params.judged)]
    name = "products of a category, 10 % that lie together"
    goal = Goal(least=0.95, aim="0.99")
    rows += [
        Row(f"{name}: recall@{params.k}", clients.recall(answers, by_category=True), goal=goal),
        Row(f"{name}: p50, ms", together.p50, goal=Goal(most=2.0, aim="1")),
        Row(f"{name}: p99, ms", together.p99, goal=Goal(most=5.0, aim="1")),
    ]
    return rows


def _groups(clients: Clients, nprobe: int, params: BenchParams) -> list[Row]:
    """The search alone where whole groups are allowed, or half as many and as many products of any."""
    rows = []
    rng = np.random.default_rng(0)
    for share in SHARES:
        halved = clients.whole_groups(share / 2, rng) | (rng.random(len(clients.vectors)) < share / 2)
        for name, allowed in (
            ("whole groups", clients.whole_groups(share, rng)),
            ("groups and others", halved),
        ):
            items = Bitmap.of(allowed)

            def search(call: int, items: Bitmap = items) -> IntArray:
                return clients.in_groups(call, items)

            works = (clients.bare_search(nprobe), search)
            timed(works, 20)
            faiss_alone, ours = timed(works, params.calls // 8)
            hits = wanted = 0
            for call in range(params.judged):
                best = exact_best(clients.vectors, clients.queries[clients.user(call)], allowed, params.k)
                hits += len(np.intersect1d(search(call), best))
                wanted += len(best)
            rows += [
                Row(
                    f"search, {share:.1%} allowed, {name}: recall@{params.k}",
                    hits / wanted,
                    goal=Goal(least=0.95, aim="0.99"),
                ),
                Row(
                    f"search, {share:.1%} allowed, {name}: p50, ms",
                    ours.p50,
                    faiss_alone.p50,
                    Goal(most=2.0, aim="1"),
                ),
            ]
    return rows


def _stock(clients: Clients, params: BenchParams) -> list[Row]:
    """From the call to its effect: products sell out one after the other, each gone from the next answer."""
    recommender = clients.recommender
    first = [str(clients.cached(call).ids[0]) for call in range(params.judged)]
    (report,) = timed((lambda call: recommender.stock_changed(first[call], 0),), len(first))
    for call, sold_out in enumerate(first):
        if sold_out in clients.cached(call).ids:
            raise AssertionError(f"{sold_out} is sold out, and in the answer to request {call}")
    for sold_out in first:
        recommender.stock_changed(sold_out, 5)
    unseen = item_id(0)
    (again,) = timed((lambda call: recommender.stock_changed(unseen, call % 2),), params.calls)
    return [
        Row("stock_changed to effect: p50, ms", report.p50, goal=Goal(most=1.0, aim="0.1")),
        Row("stock_changed to effect: p99, ms", again.p99, goal=Goal(most=1.0, aim="0.1")),
    ]


def _implicit(clients: Clients, params: BenchParams) -> list[Row]:
    """`implicit`'s own recommend on the same vectors, where it is installed."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares
        from scipy.sparse import csr_matrix
    except ModuleNotFoundError:
        return []
    model: Any = AlternatingLeastSquares(factors=clients.vectors.shape[1], num_threads=1)
    model.user_factors = np.asarray(clients.queries)
    model.item_factors = np.asarray(clients.vectors)
    users, seen = clients.seen.shape
    liked = csr_matrix(
        (
            np.ones(users * seen, np.float32),
            clients.seen.ravel(),
            np.arange(users + 1) * seen,
        ),
        shape=(users, len(clients.vectors)),
    )
    works = (
        lambda call: model.recommend(clients.user(call), liked[clients.user(call)], N=params.k),
        clients.cached,
    )
    timed(works, 5)
    theirs, ours = timed(works, max(20, params.calls // 20))
    faster = Goal(times_least=10, aim="50 times")
    return [Row("implicit's recommend, exact, whatever is in stock: p50, ms", theirs.p50, ours.p50, faster)]


def _workers(path: Path, nprobe: int, params: BenchParams) -> list[Row]:
    figures = measure_workers(path, nprobe=nprobe, k=params.k, seconds=params.seconds)
    one, two, threads = figures.one, figures.two, figures.threads
    bare_one, bare_two = figures.faiss_one, figures.faiss_two
    twice = Goal(times_least=1.8, aim="1.95 times")
    shared = Goal(times_most=0.25, aim="0.1 times")
    return [
        Row("requests a second, two worker processes beside one", two.wall, one.wall, twice),
        Row("the same in a second of processor time each", two.cpu, one.cpu, twice),
        Row("requests a second, two threads beside one", threads.wall, one.wall),
        Row("bare searches a second, two processes beside one", bare_two.wall, bare_one.wall),
        Row("memory that a second worker adds, MB", figures.second_mb, figures.first_mb, shared),
    ]
