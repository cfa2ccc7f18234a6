"""Worker processes of one bundle: how many requests they answer together, and what each takes in memory."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import faiss

from recsys.bench.clients import Clients

_ROUNDS = 5


@dataclass(frozen=True)
class Rate:
    """How much is answered in a second.

    Attributes:
        wall: by the clock on the wall.
        cpu: by processor time, summed over processes: what they would do if nothing else ran on the machine.
    """

    wall: float
    cpu: float


@dataclass(frozen=True)
class WorkerFigures:
    """What two workers do together.

    Attributes:
        one, two, threads: requests a second of one worker, of two, and of two threads in one.
        faiss_one, faiss_two: searches a second of the bare index, likewise.
        first_mb: resident memory of the first worker, MB.
        second_mb: memory of the second that it shares with nobody, MB.
    """

    one: Rate
    two: Rate
    threads: Rate
    faiss_one: Rate
    faiss_two: Rate
    first_mb: float
    second_mb: float


def measure_workers(bundle: Path, *, nprobe: int, k: int, seconds: float) -> WorkerFigures:
    """One worker and two, by turns; rates are medians over five rounds.

    Args:
        bundle: what they share.
        nprobe: lists that a search of the bare index reads.
        k: products a request.
        seconds: that each of the five measurements of a round lasts.
    """
    with _worker(bundle, nprobe, k) as first:
        _rate([first], "products", seconds)
        first_mb = _asked(first, "resident")
        with _worker(bundle, nprobe, k) as second:
            _rate([second], "products", seconds)
            second_mb = _asked(second, "private")
            works = {
                "one": ([first], "products"),
                "two": ([first, second], "products"),
                "threads": ([first], "threads"),
                "faiss_one": ([first], "faiss"),
                "faiss_two": ([first, second], "faiss"),
            }
            rounds = [
                {name: _rate(workers, what, seconds) for name, (workers, what) in works.items()}
                for _ in range(_ROUNDS)
            ]
    rates = {
        name: Rate(median(one[name].wall for one in rounds), median(one[name].cpu for one in rounds))
        for name in works
    }
    return WorkerFigures(first_mb=first_mb, second_mb=second_mb, **rates)


def memory_mb(*, private: bool) -> float:
    """Memory of this process in MB of 10^6 bytes: all that is resident, or what it shares with nobody."""
    names = ("Private_Clean", "Private_Dirty") if private else ("Rss",)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in names) * 1024 / 1e6


@contextmanager
def _worker(bundle: Path, nprobe: int, k: int) -> Iterator[Connection]:
    """A process that has the bundle open; ask it by name and number of seconds."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(bundle, nprobe, k, there), daemon=True)
    process.start()
    try:
        here.recv()  # it is ready
        yield here
    finally:
        here.send(("stop", 0.0))
        process.join(10)


def _serve(bundle: Path, nprobe: int, k: int, asked: Connection) -> None:
    faiss.omp_set_num_threads(1)
    clients = Clients.of(bundle, k=k)
    search: Callable[[int], object] | None = None
    asked.send(0.0)
    while True:
        what, seconds = asked.recv()
        if what == "stop":
            return
        if what in ("resident", "private"):
            asked.send(memory_mb(private=what == "private"))
        elif what == "faiss":
            search = search or clients.bare_search(nprobe)  # not before the memory has been asked for
            asked.send(_repeated(search, seconds, 1))
        else:
            asked.send(_repeated(clients.cached, seconds, 2 if what == "threads" else 1))


def _repeated(work: Callable[[int], object], seconds: float, threads: int) -> Rate:
    """The work over and over, in so many threads."""
    cpu_began = time.process_time()
    end = time.perf_counter() + seconds
    done = [0] * threads

    def run(thread: int) -> None:
        for call in count(thread * 1_000):
            if time.perf_counter() >= end:
                return
            work(call)
            done[thread] += 1

    others = [threading.Thread(target=run, args=(thread,)) for thread in range(1, threads)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()
    return Rate(sum(done) / seconds, sum(done) / (time.process_time() - cpu_began))


def _rate(workers: list[Connection], what: str, seconds: float) -> Rate:
    """Of all workers together, which work at the same time."""
    for worker in workers:
        worker.send((what, seconds))
    rates: list[Rate] = [worker.recv() for worker in workers]
    return Rate(sum(rate.wall for rate in rates), sum(rate.cpu for rate in rates))


def _asked(worker: Connection, what: str) -> float:
    """MB."""
    worker.send((what, 0.0))
    mb: float = worker.recv()
    return mb
