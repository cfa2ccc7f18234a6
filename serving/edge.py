"""The HTTP edge, for backends in other languages. It binds no address: that is the command line's part."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Annotated

from fastapi import Body, Depends, FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, generate_latest

from recsys.bundle import BundleRefused
from recsys.types import Event
from serving.answer import NotServed, RequestError
from serving.edge_limits import Limits, Watched
from serving.edge_metrics import RecommenderCounts, RequestMetrics, SharingStats
from serving.edge_schema import (
    ID_LENGTH,
    MAX_IDS,
    AnswerOut,
    BlockedIn,
    EventIn,
    Finite,
    ForgetIn,
    Ids,
    K,
    ListedIn,
    OnAirIn,
    RoomEndedIn,
    RoomStartedIn,
    StockIn,
    UserId,
    spelt,
)
from serving.recommender import Recommender

if TYPE_CHECKING:
    from serving.shared import SharedState


def create_app(
    recommender: Recommender,
    *,
    admin_token: str | None = None,
    max_in_flight: int = 64,
    max_rate: float | None = None,
    shared: SharedState | None = None,
) -> FastAPI:
    """The application.

    Args:
        recommender: what answers.
        admin_token: bearer token of the calls under /v1/admin; None or an empty one refuses them all.
        max_in_flight: requests beyond so many at once are turned away with 503.
        max_rate: requests beyond so many a second are turned away with 429; None is no limit.
        shared: what its reports are shared by, for the metrics; who started it stops it.
    """
    app = FastAPI(title="Live-commerce recommendations", version=recommender.version)
    registry = CollectorRegistry()
    requests = RequestMetrics(registry)
    registry.register(RecommenderCounts(recommender))
    if shared is not None:
        registry.register(SharingStats(shared))
    app.add_middleware(Limits, max_in_flight=max_in_flight, max_rate=max_rate)
    app.add_middleware(Watched, metrics=requests)

    def allowed_to_administer(authorization: Annotated[str, Header()] = "") -> None:
        wanted = f"Bearer {admin_token}".encode()
        given = authorization.encode()
        if not hmac.compare_digest(given, wanted) or not admin_token:
            raise HTTPException(403, "an admin call needs the admin token as `Authorization: Bearer …`")

    admin = [Depends(allowed_to_administer)]

    @app.exception_handler(RequestError)
    def bad_request(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(NotServed)
    def not_served(_: Request, error: NotServed) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404)

    @app.exception_handler(BundleRefused)
    def refused(_: Request, error: BundleRefused) -> JSONResponse:
        return JSONResponse({"detail": str(error), "reason": error.reason.value}, 409)

    @app.get("/v1/products")
    def products(
        user_id: UserId,
        k: K = 20,
        repeat: bool | None = None,
        allow: Ids = None,
        deny: Ids = None,
        category: Annotated[str | None, Query(max_length=ID_LENGTH)] = None,
        price_min: Finite | None = None,
        price_max: Finite | None = None,
        max_per_category: Annotated[int | None, Query(ge=1)] = None,
        max_per_brand: Annotated[int | None, Query(ge=1)] = None,
        diversity: Annotated[float, Query(ge=0, le=1)] = 0.0,
        segments: Ids = None,
        personalised: bool = True,
    ) -> AnswerOut:
        """The best k products for a user, among those that can be had."""
        with requests.recommending("products"):
            return spelt(
                recommender.products(
                    user_id,
                    k=k,
                    repeat=repeat,
                    allow=allow,
                    deny=deny or (),
                    category=category,
                    price=None if price_min is None and price_max is None else (price_min, price_max),
                    max_per_category=max_per_category,
                    max_per_brand=max_per_brand,
                    diversity=diversity,
                    segments=segments or (),
                    personalised=personalised,
                )
            )

    @app.get("/v1/rooms/{room_id}/next-products")
    def next_products(
        room_id: Annotated[str, Path(max_length=ID_LENGTH)],
        k: K = 5,
        allow: Ids = None,
        deny: Ids = None,
        category: Annotated[str | None, Query(max_length=ID_LENGTH)] = None,
    ) -> AnswerOut:
        """What a live room should pitch next for those who are in it now."""
        with requests.recommending("next_products"):
            return spelt(
                recommender.next_products(room_id, k=k, allow=allow, deny=deny or (), category=category)
            )

    @app.get("/v1/rooms")
    def rooms(
        user_id: UserId,
        k: K = 10,
        max_per_streamer: Annotated[int | None, Query(ge=1)] = None,
        max_per_category: Annotated[int | None, Query(ge=1)] = None,
        segments: Ids = None,
        personalised: bool = True,
        explore: bool = True,
    ) -> AnswerOut:
        """The best k rooms for a user, among those that are live."""
        with requests.recommending("rooms"):
            return spelt(
                recommender.rooms(
                    user_id,
                    k=k,
                    max_per_streamer=max_per_streamer,
                    max_per_category=max_per_category,
                    segments=segments or (),
                    personalised=personalised,
                    explore=explore,
                )
            )

    @app.get("/v1/hot")
    def hot(k: K = 20, segments: Ids = None) -> AnswerOut:
        """The k products most likely to become hot."""
        with requests.recommending("hot"):
            return spelt(recommender.hot(k=k, segments=segments or ()))

    @app.get("/v1/similar")
    def similar(item_id: UserId, k: K = 20, segments: Ids = None) -> AnswerOut:
        """The k products that go with one."""
        with requests.recommending("similar"):
            return spelt(recommender.similar(item_id, k=k, segments=segments or ()))

    @app.post("/v1/events", status_code=202)
    def events(batch: Annotated[list[EventIn], Body(max_length=MAX_IDS)]) -> dict[str, int]:
        """Takes in what users have just done."""
        with requests.recommending("events"):
            for event in batch:
                recommender.observe(Event(**event.model_dump()))
        return {"accepted": len(batch)}

    @app.post("/v1/admin/room_started", status_code=204, dependencies=admin)
    def room_started(report: RoomStartedIn) -> None:
        """Says that a room is live."""
        recommender.room_started(report.room_id, report.streamer_id, category=report.category)

    @app.post("/v1/admin/room_ended", status_code=204, dependencies=admin)
    def room_ended(report: RoomEndedIn) -> None:
        """Says that a room is over."""
        recommender.room_ended(report.room_id)

    @app.post("/v1/admin/on_air", status_code=204, dependencies=admin)
    def on_air(report: OnAirIn) -> None:
        """Says which product a room shows, if any."""
        if report.item_id is None:
            recommender.off_air(report.room_id)
        else:
            recommender.on_air(report.room_id, report.item_id)

    @app.post("/v1/admin/stock", status_code=204, dependencies=admin)
    def stock(report: StockIn) -> None:
        """Says how many units of a product are left."""
        recommender.stock_changed(report.item_id, report.units)

    @app.post("/v1/admin/listed", status_code=204, dependencies=admin)
    def listed(report: ListedIn) -> None:
        """Says whether a product is for sale."""
        recommender.item_listed(report.item_id, listed=report.listed)

    @app.post("/v1/admin/blocked", status_code=204, dependencies=admin)
    def blocked(report: BlockedIn) -> None:
        """Says whether a product must not be shown."""
        recommender.item_blocked(report.item_id, blocked=report.blocked)

    @app.post("/v1/admin/forget", status_code=204, dependencies=admin)
    def forget(person: ForgetIn) -> None:
        """Forgets a person for good."""
        recommender.forget(person.user_id)

    @app.post("/v1/admin/rollback", dependencies=admin)
    def rollback() -> dict[str, str]:
        """Goes back to the bundle before the last swap."""
        return {"version": recommender.rollback()}

    @app.get("/healthz")
    async def healthy() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        """A bundle is in use, and this is its version."""
        return {"status": "ready", "version": recommender.version}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app
