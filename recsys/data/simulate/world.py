"""The people and products of the simulated platform: who they are before the first day begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.data.simulate.params import SimulationParams, stream
from recsys.types import FloatArray, IntArray

AGE_BANDS = ("18-24", "25-34", "35-44", "45-54", "55+")
CITY_TIERS = ("1", "2", "3", "4")
INCOME_BANDS = ("low", "middle", "high")
GENDERS = ("female", "male")
REGIONS = ("north", "east", "south", "west", "centre")


@dataclass(frozen=True)
class Category:
    """A product category: its name, its words for titles, its usual price and its return rate."""

    name: str
    nouns: tuple[str, ...]
    price: float
    return_rate: float
    apparel: bool = False


CATEGORIES = (
    Category("womenswear", ("linen dress", "knit cardigan", "pleated skirt", "silk blouse"), 159, 0.53, True),
    Category("menswear", ("oxford shirt", "chino trousers", "down jacket", "polo shirt"), 169, 0.48, True),
    Category(
        "shoes", ("running shoes", "leather loafers", "canvas sneakers", "ankle boots"), 229, 0.51, True
    ),
    Category("sportswear", ("yoga set", "training shorts", "windbreaker", "sports bra"), 139, 0.47, True),
    Category("bags", ("tote bag", "crossbody bag", "backpack", "card holder"), 259, 0.24),
    Category("jewellery", ("pearl earrings", "jade bracelet", "silver necklace", "signet ring"), 399, 0.28),
    Category("skincare", ("face serum", "clay mask", "sun cream", "night cream"), 129, 0.09),
    Category("make-up", ("lipstick", "eyeshadow palette", "cushion foundation", "mascara"), 89, 0.08),
    Category("hair care", ("shampoo", "hair oil", "hair dryer", "scalp tonic"), 79, 0.07),
    Category("snacks", ("mixed nuts", "beef jerky", "egg rolls", "dried mango"), 39, 0.03),
    Category("tea and coffee", ("oolong tea", "drip coffee", "matcha powder", "jasmine tea"), 69, 0.03),
    Category("fresh food", ("navel oranges", "king prawns", "beef steak", "blueberries"), 99, 0.05),
    Category("kitchen", ("wok", "knife set", "air fryer", "lunch box"), 149, 0.12),
    Category("bedding", ("duvet", "pillow", "cotton sheets", "mattress topper"), 199, 0.16),
    Category("cleaning", ("laundry beads", "floor mop", "dish soap", "vacuum bags"), 49, 0.05),
    Category("baby", ("nappies", "baby bottle", "play mat", "baby carrier"), 119, 0.08),
    Category("toys", ("building blocks", "plush bear", "puzzle", "remote car"), 89, 0.1),
    Category("phones and audio", ("earbuds", "power bank", "phone case", "bluetooth speaker"), 199, 0.14),
    Category("home appliances", ("humidifier", "robot vacuum", "electric fan", "rice cooker"), 349, 0.13),
    Category("pets", ("cat litter", "dog treats", "pet bed", "cat tree"), 79, 0.05),
)
_ADJECTIVES = (
    "classic",
    "light",
    "soft",
    "premium",
    "handmade",
    "summer",
    "organic",
    "compact",
    "new-season",
    "deluxe",
)


@dataclass(frozen=True)
class Users:
    """Attributes (U,) and tastes (U, D) at the first and the last moment of the log."""

    age: IntArray
    gender: IntArray
    city_tier: IntArray
    income: IntArray
    region: IntArray
    wallet: FloatArray  # the price level, in standard deviations, that suits the user
    hour: FloatArray  # UTC hour of day around which the user opens the app
    visits: FloatArray  # sessions a day in an active spell
    taste_start: FloatArray
    taste_end: FloatArray
    home: IntArray  # (U, 2) streamers the user already knew when the log begins

    def taste(self, user_idx: IntArray, progress: FloatArray | float) -> FloatArray:
        """Tastes (B, D) of users at `progress`, 0 at the start of the log and 1 at its end."""
        weight = np.asarray(progress, np.float32).reshape(-1, 1)
        tastes: FloatArray = self.taste_start[user_idx] * (1 - weight) + self.taste_end[user_idx] * weight
        return tastes


@dataclass(frozen=True)
class Items:
    """Attributes (I,) and vectors (I, D) of the catalogue."""

    category: IntArray
    title: list[str]
    price: FloatArray
    price_level: FloatArray  # ln(price) in standard deviations over the catalogue
    cost: FloatArray
    lot: IntArray  # units of one delivery
    listed_day: IntArray  # may lie before the log
    life_days: FloatArray  # time constant of the decay after growth
    popularity: FloatArray  # mean 1
    return_rate: FloatArray
    vector: FloatArray


@dataclass(frozen=True)
class Streamers:
    """Attributes (S,), vectors (S, D) and the products that each sells."""

    category: IntArray
    second_category: IntArray
    charm: FloatArray
    hour: FloatArray  # UTC hour at which a room usually starts
    weekly: IntArray  # weekday on which alone the streamer is live, or -1 for every day
    hours: FloatArray  # usual length of a room
    vector: FloatArray
    pool: list[IntArray]  # item_idx that each sells


@dataclass(frozen=True)
class World:
    """Users, items and streamers, and the category vectors (C, D) that tie them together."""

    params: SimulationParams
    users: Users
    items: Items
    streamers: Streamers
    category_vectors: FloatArray


def build_world(params: SimulationParams) -> World:
    """The platform of `params` on the eve of its first day."""
    vectors = _unit(stream(params.seed, "categories").normal(size=(len(CATEGORIES), params.taste.dimensions)))
    items = _items(params, vectors)
    streamers = _streamers(params, vectors, items)
    return World(params, _users(params, vectors, streamers), items, streamers, vectors)


def _unit(rows: Any) -> FloatArray:
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _items(params: SimulationParams, category_vectors: FloatArray) -> Items:
    rng, n = stream(params.seed, "items"), params.items
    category = rng.integers(0, len(CATEGORIES), n).astype(np.int32)
    usual = np.array([c.price for c in CATEGORIES])[category]
    price = np.maximum(np.round(usual * np.exp(rng.normal(0, 0.45, n))), 5) - 0.1
    level = np.log(price)
    popularity = np.exp(rng.normal(0, 0.5, n))
    # 45 % of the catalogue is launched while the log runs.
    listed = np.where(rng.random(n) < 0.45, rng.integers(0, max(params.days, 1), n), -rng.integers(1, 200, n))
    rate = np.array([c.return_rate for c in CATEGORIES])[category]
    titles = [
        f"{_ADJECTIVES[a]} {CATEGORIES[c].nouns[w]} no. {number}"
        for number, (a, c, w) in enumerate(
            zip(rng.integers(0, len(_ADJECTIVES), n), category, rng.integers(0, 4, n), strict=True), 1
        )
    ]
    return Items(
        category=category,
        title=titles,
        price=price.astype(np.float32),
        price_level=((level - level.mean()) / max(level.std(), 1e-6)).astype(np.float32),
        cost=np.round(price * rng.uniform(0.3, 0.7, n), 2).astype(np.float32),
        lot=np.ceil(6 + 10 * popularity * rng.uniform(0.5, 1.5, n)).astype(np.int32),
        listed_day=listed.astype(np.int32),
        life_days=rng.uniform(60, 240, n).astype(np.float32),
        popularity=(popularity / popularity.mean()).astype(np.float32),
        return_rate=np.clip(rate * np.exp(rng.normal(0, 0.06, n)), 0, 0.9).astype(np.float32),
        vector=_unit(
            category_vectors[category] + 0.35 * _unit(rng.normal(size=(n, category_vectors.shape[1])))
        ),
    )


def _streamers(params: SimulationParams, category_vectors: FloatArray, items: Items) -> Streamers:
    rng, n = stream(params.seed, "streamers"), params.streamers
    first = rng.integers(0, len(CATEGORIES), n).astype(np.int32)
    second = ((first + rng.integers(1, len(CATEGORIES), n)) % len(CATEGORIES)).astype(np.int32)
    mixed = category_vectors[first] + 0.6 * category_vectors[second]
    return Streamers(
        category=first,
        second_category=second,
        charm=rng.normal(0, 1, n).astype(np.float32),
        hour=_busy_hours(rng, n, spread=1.5, lead=1.5),
        weekly=np.where(rng.random(n) < 0.15, rng.integers(0, 7, n), -1).astype(np.int32),
        hours=rng.uniform(*params.room_hours, n).astype(np.float32),
        vector=_unit(mixed + 0.4 * _unit(rng.normal(size=mixed.shape))),
        pool=_pools(params, first, second, items),
    )


def _pools(params: SimulationParams, first: IntArray, second: IntArray, items: Items) -> list[IntArray]:
    """Item_idx sold by each streamer: mostly of their two categories; every product has somebody."""
    rng, n = stream(params.seed, "pools"), params.streamers
    # Popular products are sold by more streamers.
    sellers = 1 + rng.poisson(np.clip((params.streamers_an_item - 1) * items.popularity**0.5, 0, n))
    item_of = np.repeat(np.arange(params.items), np.minimum(sellers, n))
    affinity = (first[None, :] == np.arange(len(CATEGORIES))[:, None]) * 1.0
    affinity += (second[None, :] == np.arange(len(CATEGORIES))[:, None]) * 0.5 + 0.5 / n
    cumulative = np.cumsum(affinity / affinity.sum(axis=1, keepdims=True), axis=1)
    rows = cumulative[items.category[item_of]]
    seller = np.minimum((rng.random(len(item_of))[:, None] > rows).sum(axis=1), n - 1)
    pairs = np.unique(seller * np.int64(params.items) + item_of)
    owner, item = pairs // params.items, (pairs % params.items).astype(np.int32)
    pools = np.split(item, np.searchsorted(owner, np.arange(1, n)))
    spare = np.argsort(-items.popularity)[:20].astype(np.int32)
    return [pool if len(pool) else spare for pool in pools]


def _users(params: SimulationParams, category_vectors: FloatArray, streamers: Streamers) -> Users:
    rng, n, taste = stream(params.seed, "users"), params.users, params.taste
    age = rng.choice(len(AGE_BANDS), n, p=[0.22, 0.34, 0.24, 0.13, 0.07]).astype(np.int32)
    gender = (rng.random(n) < 0.42).astype(np.int32)
    tier = rng.choice(len(CITY_TIERS), n, p=[0.2, 0.3, 0.3, 0.2]).astype(np.int32)
    income = np.clip(rng.normal(1.4 - 0.25 * tier + 0.15 * (age > 0), 0.6), 0, 2).round().astype(np.int32)
    pull = stream(params.seed, "segments").normal(0, taste.segment_pull, (40, len(CATEGORIES)))
    logits = pull[age] + pull[8 + gender] + pull[12 + tier] * 0.5 + pull[20 + income] * 0.7
    liked = np.argsort(-(logits + rng.gumbel(size=logits.shape)), axis=1)[:, : taste.liked_categories + 1]
    weights = np.array([1.0, 0.8, 0.6, *[0.5] * len(CATEGORIES)])[: taste.liked_categories]
    own = taste.noise * _unit(rng.normal(size=(n, category_vectors.shape[1])))
    start = _unit(np.einsum("k,nkd->nd", weights, category_vectors[liked[:, :-1]]) + own)
    changed = liked[:, :-1].copy()
    drifting = rng.random(n) < taste.drift
    changed[drifting, 0] = liked[drifting, -1]
    end = _unit(np.einsum("k,nkd->nd", weights, category_vectors[changed]) + own)
    hour = _busy_hours(rng, n, spread=2.0, lead=0.0)
    return Users(
        age=age,
        gender=gender,
        city_tier=tier,
        income=income,
        region=rng.integers(0, len(REGIONS), n).astype(np.int32),
        wallet=(0.9 * (income - 1) + rng.normal(0, 0.4, n)).astype(np.float32),
        hour=hour,
        visits=(params.traffic.sessions_a_day * rng.gamma(6.0, 1 / 6.0, n)).astype(np.float32),
        taste_start=start,
        taste_end=end,
        home=_home_streamers(params, start, hour, streamers),
    )


def _home_streamers(
    params: SimulationParams, taste: FloatArray, hour: FloatArray, streamers: Streamers
) -> IntArray:
    """(U, 2) streamers that suit a user's taste and are live around the user's hour."""
    rng = stream(params.seed, "home")
    homes = np.empty((params.users, min(2, params.streamers)), np.int32)
    for at in range(0, params.users, 4096):
        rows = slice(at, at + 4096)
        middle = streamers.hour + streamers.hours / 2
        away = np.abs((middle[None, :] - hour[rows, None] + 12) % 24 - 12)
        score = 3 * taste[rows] @ streamers.vector.T + 0.8 * streamers.charm - 0.6 * away
        score = score - 0.5 * (streamers.weekly >= 0) + rng.gumbel(size=score.shape)
        homes[rows] = np.argsort(-score, axis=1)[:, : homes.shape[1]]
    return homes


def _busy_hours(rng: np.random.Generator, n: int, *, spread: float, lead: float) -> FloatArray:
    """UTC hours of day around the evening peak (20 h) and lunch (12.5 h), `lead` hours earlier."""
    centre = np.where(rng.random(n) < 0.68, 20.0, 12.5)
    return ((centre - lead + rng.normal(0, spread, n)) % 24).astype(np.float32)
