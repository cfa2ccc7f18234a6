"""The HTTP edge: the same answers, and nothing that a client sends brings it down."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.json_log import JsonLines
from serving.answer import Answer
from serving.edge import create_app
from serving.edge_schema import MAX_BODY_BYTES, MAX_K
from serving.recommender import Recommender
from tests.serving.conftest import AS_OF, item_id, user_id

KNOWN = user_id(0)
TOKEN = {"Authorization": "Bearer s3cret"}


class Client:
    """Speaks to the application in process, without a socket."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    def get(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request("GET", path, options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._request("POST", path, options))

    async def _request(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:
            return await client.request(method, path, **options)


@pytest.fixture
def client(recommender: Recommender) -> Client:
    return Client(create_app(recommender, admin_token="s3cret"))


def ids(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    return [entry["id"] for entry in response.json()["entries"]]


def test_answers_are_the_recommenders_own(client: Client, recommender: Recommender) -> None:
    asked = client.get("/v1/products", params={"user_id": KNOWN, "k": 7, "deny": [item_id(3), item_id(6)]})
    answer = recommender.products(KNOWN, k=7, deny=[item_id(3), item_id(6)])
    assert ids(asked) == answer.ids
    assert asked.json()["version"] == "v1"
    assert asked.json()["fallback"] is None
    assert {"id", "score", "source", "reason", "facts"} == asked.json()["entries"][0].keys()
    assert ids(client.get("/v1/hot", params={"k": 2})) == recommender.hot(k=2).ids
    similar = client.get("/v1/similar", params={"item_id": item_id(3), "k": 2})
    assert ids(similar) == recommender.similar(item_id(3), k=2).ids
    assert (
        client.get("/v1/products", params={"user_id": "nobody"}).json()["fallback"] == "popular: unknown user"
    )


def test_events_reach_the_next_answer(client: Client) -> None:
    event = {"user_id": "new", "event": "view", "timestamp": AS_OF.isoformat(), "item_id": item_id(1)}
    assert client.post("/v1/events", json=[event]).json() == {"accepted": 1}
    assert client.get("/v1/products", params={"user_id": "new"}).json()["fallback"] is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("stock", {"item_id": item_id(7), "units": 0}),
        ("listed", {"item_id": item_id(7), "listed": False}),
        ("blocked", {"item_id": item_id(7)}),
    ],
)
def test_a_reported_product_is_gone_from_the_next_answer(
    client: Client, path: str, body: dict[str, Any]
) -> None:
    assert item_id(7) in ids(client.get("/v1/hot"))
    assert client.post(f"/v1/admin/{path}", json=body, headers=TOKEN).status_code == 204
    assert item_id(7) not in ids(client.get("/v1/hot"))


def test_rooms_come_and_go(client: Client) -> None:
    def tell(path: str, **body: Any) -> None:
        assert client.post(f"/v1/admin/{path}", json=body, headers=TOKEN).status_code == 204

    tell("room_started", room_id="a", streamer_id=7, category="dance")
    tell("on_air", room_id="a", item_id=item_id(4))
    answer = client.get("/v1/rooms", params={"user_id": KNOWN})
    assert ids(answer) == ["a"]
    assert answer.json()["entries"][0]["facts"] == {"streamer_id": 7, "item_id": item_id(4)}
    tell("on_air", room_id="a")
    assert client.get("/v1/rooms", params={"user_id": KNOWN}).json()["entries"][0]["facts"]["item_id"] is None
    tell("room_ended", room_id="a")
    assert ids(client.get("/v1/rooms", params={"user_id": KNOWN})) == []


@pytest.mark.parametrize("given", [{}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}])
def test_admin_calls_need_the_token(client: Client, given: dict[str, str]) -> None:
    for path in ("stock", "listed", "blocked", "forget", "rollback", "room_started", "room_ended", "on_air"):
        body = {"item_id": item_id(7), "units": 0} if path == "stock" else {}
        assert client.post(f"/v1/admin/{path}", json=body, headers=given).status_code == 403
    assert item_id(7) in ids(client.get("/v1/hot"))


@pytest.mark.parametrize("configured", [None, ""])
def test_without_a_configured_token_nobody_administers(
    recommender: Recommender, configured: str | None
) -> None:
    client = Client(create_app(recommender, admin_token=configured))
    for token in ("None", ""):
        headers = {"Authorization": f"Bearer {token}"}
        assert client.post("/v1/admin/rollback", headers=headers).status_code == 403


def test_forgetting_by_http(client: Client) -> None:
    assert client.post("/v1/admin/forget", json={"user_id": KNOWN}, headers=TOKEN).status_code == 204
    assert client.get("/v1/products", params={"user_id": KNOWN}).json()["fallback"] == "popular: unknown user"
    assert client.post("/v1/admin/rollback", headers=TOKEN).status_code == 422  # nothing to go back to


@pytest.mark.parametrize(
    "params",
    [{}, {"user_id": ""}, {"user_id": "a", "k": 0}, {"user_id": "a", "k": MAX_K + 1}, {"user_id": "x" * 300}],
)
def test_requests_that_cannot_be_meant_are_422(client: Client, params: dict[str, Any]) -> None:
    assert client.get("/v1/products", params=params).status_code == 422


@pytest.mark.parametrize(
    "event",
    [
        {"user_id": 1, "event": "no such", "timestamp": "2026-03-01T00:00:00Z"},
        {"user_id": 1, "event": "view", "timestamp": "yesterday"},
        {"user_id": 1, "event": "view", "timestamp": "2026-03-01T00:00:00Z", "duration_s": -1},
        {"user_id": 1, "event": "view", "timestamp": "2026-03-01T00:00:00Z", "colour": "red"},
        {"event": "view", "timestamp": "2026-03-01T00:00:00Z"},
    ],
)
def test_events_that_break_the_contract_are_422(client: Client, event: dict[str, Any]) -> None:
    assert client.post("/v1/events", json=[event]).status_code == 422


def test_long_and_undeclared_bodies_are_turned_away(client: Client) -> None:
    assert client.post("/v1/events", content=b"[" + b" " * MAX_BODY_BYTES).status_code == 413

    async def parts() -> AsyncIterator[bytes]:
        yield b"[]"

    assert client.post("/v1/events", content=parts()).status_code == 411


def test_a_storm_of_ten_times_the_capacity_is_turned_away_and_passes(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(recommender, max_in_flight=4)
    asked, products = threading.Semaphore(0), recommender.products
    released = threading.Event()

    def slow(*args: Any, **options: Any) -> Answer:
        asked.release()
        assert released.wait(60)
        return products(*args, **options)

    monkeypatch.setattr(recommender, "products", slow)

    async def storm() -> tuple[list[httpx.Response], list[int], list[int]]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://edge") as client:

            async def ask() -> httpx.Response:
                return await client.get("/v1/products", params={"user_id": KNOWN})

            begun = [asyncio.create_task(ask()) for _ in range(4)]
            for _ in begun:
                assert await asyncio.to_thread(asked.acquire, timeout=60)
            turned_away = [await ask() for _ in range(36)]
            watched = [(await client.get(path)).status_code for path in ("/healthz", "/readyz", "/metrics")]
            released.set()
            answered = [response.status_code for response in await asyncio.gather(*begun)]
            answered += [(await ask()).status_code for _ in range(4)]
            return turned_away, watched, answered

    turned_away, watched, answered = asyncio.run(storm())
    assert {response.status_code for response in turned_away} == {503}
    assert {response.headers["Retry-After"] for response in turned_away} == {"1"}
    assert watched == [200] * 3  # it is busy, not dead
    assert answered == [200] * 8


def test_a_rate_is_kept_and_refills(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("serving.edge_limits.time.monotonic", lambda: now_s)
    client = Client(create_app(recommender, max_rate=3))

    def statuses(times: int) -> list[int]:
        return [client.get("/v1/hot").status_code for _ in range(times)]

    assert statuses(5) == [200, 200, 200, 429, 429]
    assert client.get("/healthz").status_code == 200
    now_s += 0.7
    assert statuses(3) == [200, 200, 429]
    now_s += 1_000
    assert statuses(4) == [200, 200, 200, 429]


def test_a_request_is_a_line_of_json_without_the_user(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "recsys.access"):
        client.get("/v1/products", params={"user_id": "somebody", "k": 3})
        client.get("/v1/products", params={"user_id": "somebody", "k": 0})
        client.get("/healthz")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records]
    lines = [line for line in lines if line["logger"] == "recsys.access"]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/v1/products", 200),
        ("GET", "/v1/products", 422),
    ]
    assert all(line["ms"] > 0 and line["level"] == "info" and line["time"] for line in lines)
    assert "somebody" not in str(lines)


def test_health_readiness_and_metrics(client: Client) -> None:
    client.get("/v1/products", params={"user_id": "nobody"})
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "version": "v1"}
    metrics = client.get("/metrics").text
    for stage in ("waiting", "recommender", "response"):
        assert f'recsys_request_seconds_count{{call="products",stage="{stage}"}} 1.0' in metrics
    assert 'recsys_events_total{kind="fallback"} 1.0' in metrics
    assert 'recsys_bundle_info{version="v1"} 1.0' in metrics
    (as_of,) = re.findall(r"^recsys_bundle_as_of_timestamp_seconds (.+)$", metrics, re.MULTILINE)
    assert float(as_of) == AS_OF.timestamp()
    assert 'recsys_items{state="known"} 60.0' in metrics
    assert 'recsys_items{state="available"} 59.0' in metrics
    assert 'recsys_responses_total{status="200"} 3.0' in metrics


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    user=st.text(max_size=20) | st.integers().map(str) | st.floats().map(str),
    k=st.integers(-2, MAX_K + 2),
    items=st.lists(st.text(max_size=8), max_size=5),
    category=st.text(max_size=10),
)
def test_no_request_is_an_internal_error(
    client: Client, user: str, k: int, items: list[str], category: str
) -> None:
    params: dict[str, Any] = {"user_id": user, "k": k, "deny": items, "category": category}
    assert client.get("/v1/products", params=params).status_code in (200, 422)
