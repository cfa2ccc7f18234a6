"""What the live state remembers, for how long and how much of it: every default in one place."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.types import Behaviour, Params


class StateParams(Params):
    """Bounds and half-lives of `LiveState`.

    Memory: a live room takes about 650 bytes, a streamer or product 100, a user at most 1.4 kB and 190 bytes
    for each streamer that is remembered with them.

    Attributes:
        visit: the behaviour that counts as one visit of a room; a log that writes an `enter` and a `view` for
            the same visit must not count it twice.
        leave: the behaviour that ends a visit; None means that it ends with its view.
        length: what tells how long a visit was: its view, or `leave` where the log's views have no length.
        room_half_lives_s: of a room's counters.
        pair_half_lives_days: of what is remembered of a user with a streamer.
        popularity_half_lives_h: of a streamer's counters.
        item_half_lives_h: of a product's counters.
        history: latest actions kept for each user.
        audience: latest viewers kept for each live room.
        shown: latest rooms shown to each user that are kept.
        shown_delay_s: a room counts as shown this long after the impression, so that the page that a request
            itself was answered with says nothing about its answer.
        bounce_s: a visit shorter than this is a short exit.
        silent_hours: a room whose end is not known is over after this long without a sign of life.
        max_users: users beyond this index are not remembered, and are answered like unknown ones.
        max_rooms: rooms live at once; one more takes the place of the longest silent.
        max_pairs: user-streamer memories in all.
        max_streamers_a_user: user-streamer memories of one user; one more replaces the least recently used.
        max_watching: visits under way whose length is not known yet.
    """

    visit: Behaviour = Behaviour.ENTER
    leave: Behaviour | None = Behaviour.LEAVE
    length: Literal["view", "leave"] = "view"
    room_half_lives_s: tuple[float, ...] = (30.0, 300.0, 3600.0)
    pair_half_lives_days: tuple[float, ...] = (1.0, 7.0, 30.0)
    popularity_half_lives_h: tuple[float, ...] = (1.0, 24.0, 168.0)
    item_half_lives_h: tuple[float, ...] = (6.0, 24.0, 168.0)
    history: int = Field(default=48, ge=1)
    audience: int = Field(default=32, ge=1)
    shown: int = Field(default=48, ge=1)
    shown_delay_s: float = Field(default=60.0, ge=0)
    bounce_s: float = Field(default=30.0, ge=0)
    silent_hours: float = Field(default=12.0, gt=0)
    max_users: int = Field(default=5_000_000, ge=1)
    max_rooms: int = Field(default=100_000, ge=1)
    max_pairs: int = Field(default=20_000_000, ge=1)
    max_streamers_a_user: int = Field(default=128, ge=1)
    max_watching: int = Field(default=2_000_000, ge=1)
