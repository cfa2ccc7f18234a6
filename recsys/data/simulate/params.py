"""What the simulated platform looks like: every default in one place, and the random streams behind it."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime

import numpy as np
from pydantic import Field

from recsys.types import Params

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MINUTE_MS = 60_000
MINUTES_A_DAY = 1_440


def stream(seed: int, concern: str, day: int = 0) -> np.random.Generator:
    """A generator of its own for one concern on one day.

    Streams are independent of each other, so more streamers do not reshuffle the users, and a change to
    what viewers buy does not move the rooms.
    """
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, zlib.crc32(concern.encode()), day]))
    )


class TasteParams(Params):
    """Latent tastes: what users like, and how fast that changes."""

    dimensions: int = Field(
        default=16, ge=2, description="latent dimensions of tastes, products and streamers"
    )
    liked_categories: int = Field(default=3, ge=1, description="categories that a user likes at any time")
    segment_pull: float = Field(
        default=1.2, ge=0, description="how strongly age, city tier and income decide the categories"
    )
    noise: float = Field(default=0.25, ge=0, description="share of a user's taste that no category explains")
    drift: float = Field(
        default=0.5, ge=0, le=1, description="share of users who change one liked category over the log"
    )


class ChoiceParams(Params):
    """Weights of a user's true utility for a room, and how choices follow from it.

    With t the hours since the user's last visit to the streamer, utility is

        streamer * <taste, streamer> + charm * charm of the streamer
        + on_air * <taste, product on air> - price * (price level - wallet)^2 + heat * ln(demand multiple)
        + known * ln(1 + decayed visits) + follow * follows - hide * hidden
        + daily * exp(-((t - 24) / 3)^2) + weekly * exp(-((t - 168) / 8)^2) - just_left * exp(-t / 2).
    """

    streamer: float = 3.0
    on_air: float = 4.0
    price: float = 0.35
    heat: float = 0.5
    known: float = 1.3
    follow: float = 0.8
    daily: float = 1.2
    weekly: float = 0.8
    just_left: float = 3.0
    charm: float = 0.5
    hide: float = 5.0
    memory_days: float = Field(default=14.0, gt=0, description="time constant of the decayed visit count")
    feed_size: int = Field(default=5, ge=1, description="rooms shown at one request")
    feed_sharpness: float = Field(
        default=1.0, ge=0, description="how closely the old feed follows true utility; 0 is random"
    )
    position_bias: float = Field(default=0.35, ge=0, description="utility lost per unit of ln(position)")
    noise: float = Field(default=0.7, gt=0, description="scale of the Gumbel noise of a choice")
    outside: float = Field(default=0.5, description="utility of leaving the app instead")


class TrafficParams(Params):
    """How often users come, how long they stay."""

    sessions_a_day: float = Field(
        default=0.42, gt=0, description="sessions of an average user on a day within a spell"
    )
    spell_days: float = Field(default=14.0, gt=0, description="mean length of a spell of activity")
    pause_days: float = Field(default=58.0, gt=0, description="mean pause between two spells")
    own_hour: float = Field(
        default=0.75, ge=0, le=1, description="share of sessions that begin around the user's own hour"
    )
    visit_minutes: float = Field(
        default=11.1, gt=0, description="median minutes of a visit of average utility"
    )
    visit_spread: float = Field(default=0.8, gt=0, description="standard deviation of ln(minutes)")
    visit_pull: float = Field(
        default=0.12, ge=0, description="how much one unit of utility lengthens a visit, in ln"
    )
    stay: float = Field(default=0.66, ge=0, lt=1, description="chance of opening another room after one")
    shelf: float = Field(
        default=0.4, ge=0, le=1, description="share of sessions that look through the shelf of products"
    )
    shelf_size: int = Field(default=6, ge=1, description="products shown on the shelf")


class PurchaseParams(Params):
    """The funnel at a product that a user sees on air or on the shelf."""

    taste: float = Field(default=2.6, description="weight of <taste, product> in its appeal")
    price: float = Field(default=0.15, description="weight of (price level - wallet)^2 against its appeal")
    click: float = Field(default=0.2, gt=0, lt=1)
    cart: float = Field(default=0.14, gt=0, lt=1, description="chance of a cart after a click")
    buy: float = Field(default=0.7, gt=0, lt=1, description="chance of buying from the cart when out to shop")
    shopping: float = Field(
        default=0.074, gt=0, lt=1, description="share of sessions whose user is out to shop"
    )
    shopping_interest: float = Field(
        default=6.0, ge=1, description="clicks and carts of those sessions, as a multiple"
    )
    idle_buy: float = Field(
        default=0.03, ge=0, description="chance of buying from the cart otherwise, as a multiple of `buy`"
    )
    later: float = Field(
        default=0.15, ge=0, le=1, description="share of purchases made from the cart after the room"
    )
    favourite: float = 0.02
    comment: float = 0.08
    share: float = 0.03
    follow: float = 0.02
    like: float = 0.15
    gift: float = 0.02
    hide: float = 0.03


class HotParams(Params):
    """Products that turn hot, and what runs ahead of it."""

    a_day: float = Field(default=0.003, gt=0, description="share of the catalogue that turns hot on a day")
    lead_days: tuple[int, int] = Field(default=(10, 14), description="shortest and longest lead")
    hot_days: tuple[int, int] = Field(default=(8, 13), description="shortest and longest hot phase")
    peak: tuple[float, float] = Field(
        default=(10.0, 18.0), description="demand at the peak, as a multiple of the usual"
    )
    decoys: float = Field(
        default=0.35, ge=0, description="products talked about that never turn, for each that does"
    )
    lead_cart: float = Field(default=6.0, ge=1, description="cart rate at the end of the lead, as a multiple")
    lead_share: float = Field(default=8.0, ge=1)
    lead_comment: float = Field(default=5.0, ge=1)
    lead_follow: float = Field(default=6.0, ge=1)
    lead_airtime: float = Field(default=1.5, ge=1)


class SimulationParams(Params):
    """A seeded live-commerce platform. The defaults are the committed test bed: hard, but learnable."""

    users: int = Field(default=9_000, ge=1)
    items: int = Field(default=2_500, ge=1)
    streamers: int = Field(default=200, ge=1)
    days: int = Field(default=120, ge=1)
    seed: int = Field(default=0, ge=0)
    start: datetime = Field(
        default=datetime(2025, 1, 6, tzinfo=UTC), description="first day of the log, a Monday"
    )
    rooms_a_day: float = Field(
        default=0.85, gt=0, le=1, description="chance that a streamer is live on one of their days"
    )
    room_hours: tuple[float, float] = Field(default=(2.0, 5.0), description="shortest and longest room")
    showcase_minutes: tuple[int, int] = Field(
        default=(4, 12), description="shortest and longest time of a product on air"
    )
    streamers_an_item: float = Field(default=3.0, ge=1, description="streamers who sell an average product")
    promoted: float = Field(
        default=0.15, ge=0, le=1, description="share of products with a promotion of their own"
    )
    truth_requests: int = Field(
        default=3_000, ge=0, description="requests of the last fifth kept with all true utilities"
    )
    taste: TasteParams = TasteParams()
    choice: ChoiceParams = ChoiceParams()
    traffic: TrafficParams = TrafficParams()
    purchase: PurchaseParams = PurchaseParams()
    hot: HotParams = HotParams()
