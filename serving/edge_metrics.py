"""What Prometheus reads of the edge: where the time of a request goes, and what the recommender counts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from serving.recommender import Recommender

if TYPE_CHECKING:
    from serving.shared import SharedState

_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0)


@dataclass(slots=True)
class Marks:
    """Moments of one request, by the performance counter; `call` is empty where no recommender was asked."""

    arrived: float
    call: str = ""
    asked: float = 0.0
    answered: float = 0.0


_marks: ContextVar[Marks | None] = ContextVar("marks", default=None)


class RequestMetrics:
    """Time by call and stage, and answers by status.

    The stages are `waiting` (for a thread, with what is read of the request), `recommender`, and `response`
    (spelt as JSON and sent).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "recsys_request_seconds",
            "Time of a request by stage",
            ["call", "stage"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self._responses = Counter("recsys_responses", "Responses by status", ["status"], registry=registry)

    def begin(self) -> Marks:
        """A request has arrived; what runs for it from here on marks its moments."""
        marks = Marks(time.perf_counter())
        _marks.set(marks)
        return marks

    @contextmanager
    def recommending(self, call: str) -> Iterator[None]:
        """The recommender is asked meanwhile."""
        asked = time.perf_counter()
        try:
            yield
        finally:
            marks = _marks.get()
            if marks is not None:
                marks.call, marks.asked, marks.answered = call, asked, time.perf_counter()

    def end(self, marks: Marks, status: int) -> float:
        """The response has been sent; returns the seconds since the request arrived."""
        sent = time.perf_counter()
        self._responses.labels(str(status)).inc()
        if marks.call:
            for stage, seconds in (
                ("waiting", marks.asked - marks.arrived),
                ("recommender", marks.answered - marks.asked),
                ("response", sent - marks.answered),
            ):
                self._seconds.labels(marks.call, stage).observe(seconds)
        return sent - marks.arrived


class RecommenderCounts(Collector):
    """The recommender's own counts, and the bundle in use, read when they are asked for."""

    def __init__(self, recommender: Recommender) -> None:
        self._recommender = recommender
        self._started_s = time.time()

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily | InfoMetricFamily]:
        """One counter by kind; the bundle's version and age; how many products can be had."""
        counts = CounterMetricFamily("recsys_events", "What happened, by kind", labels=["kind"])
        for kind, count in self._recommender.counts.items():
            counts.add_metric([kind], count, created=self._started_s)
        yield counts
        freshness = self._recommender.freshness
        yield InfoMetricFamily("recsys_bundle", "The bundle in use", {"version": freshness.version})
        yield GaugeMetricFamily(
            "recsys_bundle_as_of_timestamp_seconds", "What the bundle knows ends here", freshness.as_of_s
        )
        yield GaugeMetricFamily(
            "recsys_last_event_timestamp_seconds", "The latest of what was reported", freshness.newest_s
        )
        items = GaugeMetricFamily("recsys_items", "Products, by what can be done with them", labels=["state"])
        items.add_metric(["known"], freshness.n_items)
        items.add_metric(["available"], freshness.n_available)
        yield items


class SharingStats(Collector):
    """How far this process is behind the others, and what the sharing lost."""

    def __init__(self, shared: SharedState) -> None:
        self._shared = shared

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """One gauge a field of `SharedStats`."""
        for name, value in asdict(self._shared.stats()).items():
            yield GaugeMetricFamily(f"recsys_shared_{name}", "See serving.shared.SharedStats", float(value))
