"""The recommender of a live-room backend: products, rooms and hot items, in process.

A request reads one pointer to the bundle and one copy of what is available, and needs no lock. Reports and
swaps take turns; a report is visible to every request that begins after the call returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import pyarrow as pa

from recsys.bundle import MAX_BYTES
from recsys.data.tombstones import forgotten
from recsys.types import ExternalId
from serving import products
from serving.answer import Answer, RequestError
from serving.bitmap import Bitmap
from serving.decisions import SHADOW, Decision, DecisionLog
from serving.diversity import Shape
from serving.holds import Hold, no_segment
from serving.loaded import LoadedBundle
from serving.products import Filters
from serving.reload import Follower
from serving.reporting import Current, Reporting
from serving.rooms import RoomCaps
from serving.trial import CHALLENGER, CHAMPION, Shadow, Split, Trial


class Recommender(Reporting):
    """Answers from one bundle at a time; every method may be called from any thread.

    `Recommender.load` opens a bundle; reports are inherited from `Reporting`.
    """

    _trial: Trial | None = None

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
        decisions: DecisionLog | None = None,
    ) -> Self:
        """A recommender that answers from the bundle at `path`.

        Args:
            path: a bundle's directory.
            max_bytes: the most that its files may take.
            clock: seconds since the epoch; it is only used to tell events of the future.
            decisions: where answers to users are logged, if anywhere.

        Raises:
            BundleRefused: damaged, mixed, of an unknown format, or unfit to answer; `reason` says which.
        """
        loaded = LoadedBundle.open(path, max_bytes=max_bytes)
        return cls(loaded, max_bytes=max_bytes, clock=clock, decisions=decisions)

    # -- requests -------------------------------------------------------------------------------------------

    def products(
        self,
        user_id: ExternalId,
        *,
        k: int = 20,
        repeat: bool | None = None,
        allow: Iterable[ExternalId] | None = None,
        deny: Iterable[ExternalId] = (),
        category: str | None = None,
        price: tuple[float | None, float | None] | None = None,
        max_per_category: int | None = None,
        max_per_brand: int | None = None,
        diversity: float = 0.0,
        segments: Iterable[str] = (),
        personalised: bool = True,
        now: float | None = None,
    ) -> Answer:
        """The best k products for a user, among those that can be had right now.

        Args:
            user_id: as the log spells it; an unknown one gets what is popular, and the answer says so.
            k: how many, at least 1.
            repeat: whether what the user consumed before may return; None is as training found it better.
            allow: only these products; ids that the bundle does not know are passed over.
            deny: none of these products.
            category: only products of this category.
            price: only products that cost from the first to the second; None is no bound.
            max_per_category: at most so many products of one category.
            max_per_brand: at most so many products of one `brand`, a column of the log's items.
            diversity: from 0, the order of the scores, to 1, what is least like the products above it; see
                `serving.diversity`. A product may then score less than one below it.
            segments: of the configured ones that the user is in, beside those that the log says: their users
                are shown some categories only, whatever else is asked for.
            personalised: False answers without using anything of this user, segments aside.
            now: the moment of asking, seconds since the epoch; None is the time of the log: the latest of
                the bundle's own moment and all observed events, so that a replay needs no clock.

        Raises:
            RequestError: k, `now`, a cap or diversity outside its range, or an unknown segment.
        """
        products.check_k(k)
        shape = Shape(max_per_category, diversity, max_per_brand)
        named = _named(segments)
        filters = Filters(None if allow is None else tuple(allow), tuple(deny), category, price)

        def ask(current: Current) -> tuple[int, Answer]:
            at_us = self._at_us(current.loaded, now)
            asker = self._asker(current.loaded, user_id, personalised)
            available = _may_be_shown(current, self._hold(current.loaded, user_id, named))
            return at_us, products.for_user(
                current.loaded, available, asker, filters, shape, k=k, repeat=repeat, at_us=at_us
            )

        return self._answered("products", user_id, ask)

    def rooms(
        self,
        user_id: ExternalId,
        *,
        k: int = 10,
        max_per_streamer: int | None = None,
        max_per_category: int | None = None,
        segments: Iterable[str] = (),
        personalised: bool = True,
        explore: bool = True,
        now: float | None = None,
    ) -> Answer:
        """The best k rooms for a user, among those that are live right now.

        Args:
            user_id: as the log spells it.
            k: how many, at least 1.
            max_per_streamer: at most so many rooms of one streamer.
            max_per_category: at most so many rooms of one category; rooms without one are not counted.
            segments: as for `products`. Of a room, what is known of its category and of the product on air
                must be allowed, and one of the two known.
            personalised: False answers without using anything of this user, segments aside.
            explore: whether streamers new to the user, or to everybody, have their share of the list; see
                `recsys.rooms.explore`. A room that is there for it may score less than one below.
            now: the moment of asking, seconds since the epoch, which must not run backwards; None is the
                time of the log, as for `products`.

        Raises:
            RequestError: k or a cap is no whole number of at least 1, `now` none or in the future, or an
                unknown segment.
        """
        products.check_k(k)
        caps = RoomCaps(max_per_streamer, max_per_category)
        named = _named(segments)

        def ask(current: Current) -> tuple[int, Answer]:
            loaded, available = current.loaded, current.available
            hold = self._hold(loaded, user_id, named)
            why_not, at_us = self._asker(loaded, user_id, personalised).why_not, self._live_us(loaded, now)
            entries, known, live = current.rooms.rank(
                user_id if why_not is None else None,
                k=k,
                now_us=at_us,
                available=lambda item: item in available,
                explore=explore,
                caps=caps,
                hold=hold,
            )
            if why_not is None and not known:
                why_not = "unknown user"
            fallback = None if why_not is None else f"popular: {why_not}"
            shortfall = _shortfall(len(entries), k, live, " and allowed" if hold is not None else "")
            if len(entries) < min(k, live):
                shortfall = f"{caps} leaves out all but {len(entries)} of {live}"
            return at_us, Answer(tuple(entries), loaded.version, fallback, shortfall)

        return self._answered("rooms", user_id, ask)

    def next_products(
        self,
        room_id: ExternalId,
        *,
        k: int = 5,
        allow: Iterable[ExternalId] | None = None,
        deny: Iterable[ExternalId] = (),
        category: str | None = None,
        now: float | None = None,
    ) -> Answer:
        """What a live room should pitch next for those who are in it now: products that can be had.

        It is the same for a human host, who reads the reasons, and a virtual one, which takes the first.
        The viewers' own lists vote; the product on air is left out. Where nobody in the room is known the
        answer is what is popular, and says so.

        Args:
            room_id: a live room.
            k: how many, at least 1.
            allow: only these products: the line-up of the host, say.
            deny: none of these.
            category: only products of this category.
            now: as for `rooms`.

        Raises:
            RequestError: k is no whole number of at least 1, `now` is none or in the future, or the room is
                not live.
        """
        products.check_k(k)
        current = self._current
        loaded, at_us = current.loaded, self._live_us(current.loaded, now)
        there = current.rooms.audience(room_id, now_us=at_us)
        if there is None:
            raise RequestError(f"room {room_id!r} is not live; report room_started first")
        viewers, on_air = there
        denied = deny if on_air is None else (*deny, on_air)
        return self._counted(
            products.for_audience(
                loaded,
                current.available,
                [self._asker(loaded, viewer, personalised=True) for viewer in viewers],
                Filters(allow, denied, category),
                k=k,
                at_us=at_us,
            )
        )

    def hot(self, *, k: int = 20, segments: Iterable[str] = ()) -> Answer:
        """The k products most likely to become hot that can be had; the facts hold interval and grade.

        Args:
            k: how many, at least 1.
            segments: as for `products`, of who is to see them.

        Raises:
            NotServed: the bundle has no hot list.
            RequestError: k is no whole number of at least 1, or a segment that the bundle has not.
        """
        products.check_k(k)
        current = self._current
        available = _may_be_shown(current, self._hold(current.loaded, None, _named(segments)))
        return products.hottest(current.loaded, available, k=k)

    def similar(self, item_id: ExternalId, *, k: int = 20, segments: Iterable[str] = ()) -> Answer:
        """The k products that go with a product, or what is popular for one that the bundle does not know.

        Args:
            item_id: as the log spells it.
            k: how many, at least 1.
            segments: as for `products`, of who is to see them.

        Raises:
            RequestError: k is no whole number of at least 1, or a segment that the bundle has not.
        """
        products.check_k(k)
        current = self._current
        available = _may_be_shown(current, self._hold(current.loaded, None, _named(segments)))
        return self._counted(products.beside(current.loaded, available, item_id, k=k))

    # -- bundles --------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Model version of the bundle in use."""
        return self._current.loaded.version

    @property
    def n_items(self) -> int:
        """Products that the bundle in use knows."""
        return self._current.loaded.n_items

    @property
    def item_id_type(self) -> pa.DataType:
        """The Arrow type that the log held the products' ids in."""
        return self._current.loaded.catalogue.items.id_type

    @property
    def counts(self) -> Mapping[str, int]:
        """How often what happened: requests by fallback, observed, unknown, repeated and future events."""
        trial = self._trial
        if trial is None or trial.shadow is None:
            return dict(self._counts)
        return {**self._counts, "shadow_failed": trial.shadow.failed}

    def swap(self, path: Path | str) -> str:
        """Takes another bundle into use and returns its version; requests in flight finish on the old one.

        Raises:
            BundleRefused: as `load`; the old bundle goes on.
        """
        with self._swapping:
            loaded = LoadedBundle.open(path, max_bytes=self._max_bytes)
            with self._writing:
                self._forgotten |= forgotten(loaded.bundle.path.parent)
                self._previous = self._current.loaded
                self._current = self._serving(loaded)
        return loaded.version

    def rollback(self) -> str:
        """Goes back to the bundle before the last swap and returns its version.

        Raises:
            RequestError: there was no swap.
        """
        with self._swapping, self._writing:
            if self._previous is None:
                raise RequestError("rollback: there is no bundle before this one; swap comes first")
            before, self._previous = self._previous, self._current.loaded
            self._current = self._serving(before)
            return before.version

    def watch(self, directory: Path | str, *, interval_s: float = 2.0) -> Follower:
        """Follows the directory's CURRENT pointer from a thread; `stop()` on what comes back ends it."""
        return Follower(self, directory, interval_s=interval_s).start()

    # -- trials ---------------------------------------------------------------------------------------------

    def challenge(
        self,
        path: Path | str,
        *,
        share: float,
        salt: str = "",
        shadow: bool = False,
        max_waiting: int = 1_000,
    ) -> str:
        """Puts a challenger beside the champion and returns its version, until `end_challenge`.

        It answers the requests of a share of the users for products and rooms: always the same users, and the
        answer says which arm it is of. In the shadow the champion answers everybody, and what the challenger
        would have answered a share of them is only logged: nobody waits for it, and what is too much is left
        out and counted as `shadow_dropped`. It takes its time from the same cores. Reports reach both.

        Args:
            path: the challenger's directory.
            share: of the users, from 0 to 1.
            salt: another one draws other users.
            shadow: whether its answers are only logged.
            max_waiting: requests that wait for the shadow at most.

        Raises:
            BundleRefused: as `load`; a trial under way goes on.
            RequestError: the share is none, or a shadow has no decision log to be in.
        """
        split = Split(share, salt)
        if shadow and self._decisions is None:
            raise RequestError("shadow=True: give the recommender a decision log, it is all that a shadow is")
        with self._swapping:
            loaded = LoadedBundle.open(path, max_bytes=self._max_bytes)
            with self._writing:
                self._forgotten |= forgotten(loaded.bundle.path.parent)
                queue = Shadow(max_waiting=max_waiting) if shadow else None
                before, self._trial = self._trial, Trial(self._serving(loaded), split, queue)
        if before is not None and before.shadow is not None:
            before.shadow.close()
        return loaded.version

    def end_challenge(self) -> None:
        """Has the champion answer everybody again; `swap` makes a challenger the champion."""
        with self._writing:
            before, self._trial = self._trial, None
        if before is not None and before.shadow is not None:
            before.shadow.close()

    # -- inside ---------------------------------------------------------------------------------------------

    def _in_use(self) -> tuple[Current, ...]:
        trial = self._trial
        return (self._current,) if trial is None else (self._current, trial.challenger)

    def _hold(
        self, loaded: LoadedBundle, user_id: ExternalId | None, segments: tuple[str, ...]
    ) -> Hold | None:
        """What a user may be shown; None is everything. It protects those who opted out, too."""
        if loaded.holds is None:
            if segments:
                raise RequestError(no_segment(segments[0], ()))
            return None
        nobody = user_id is None or self._is_forgotten(user_id)
        return loaded.holds.of(-1 if nobody else loaded.catalogue.users.get(user_id), segments)

    def _answered(
        self, call: str, user_id: ExternalId, ask: Callable[[Current], tuple[int, Answer]]
    ) -> Answer:
        """The answer of the bundle that has the user."""
        trial = self._trial
        if trial is None:
            return self._shown(call, user_id, *ask(self._current))
        chosen, shadow = trial.split.has(user_id), trial.shadow
        if shadow is None:
            at_us, answer = ask(trial.challenger if chosen else self._current)
            self._count("answered_by_challenger", times=chosen)
            arm = CHALLENGER if chosen else CHAMPION
            return self._shown(call, user_id, at_us, replace(answer, arm=arm))
        at_us, answer = ask(self._current)
        if chosen and not shadow.put(lambda: self._shadowed(call, user_id, at_us, ask(trial.challenger)[1])):
            self._count("shadow_dropped")
        return self._shown(call, user_id, at_us, answer)

    def _shadowed(self, call: str, user_id: ExternalId, at_us: int, answer: Answer) -> None:
        self._count("shadowed")
        if self._decisions is not None and not self._is_forgotten(user_id):
            self._decisions.add(Decision(call, user_id, at_us, replace(answer, arm=SHADOW)))

    def _shown(self, call: str, user_id: ExternalId, at_us: int, answer: Answer) -> Answer:
        if self._decisions is not None and not self._is_forgotten(user_id):
            self._decisions.add(Decision(call, user_id, at_us, answer))
        return self._counted(answer)

    def _counted(self, answer: Answer) -> Answer:
        self._count("answered")
        if answer.fallback is not None:
            self._count("fallback")
        return answer

    def _live_us(self, loaded: LoadedBundle, now: float | None) -> int:
        """The moment of a request for live rooms: their time passes with it, and cannot be taken back."""
        at_us = self._at_us(loaded, now)
        if now is not None and self._is_future(at_us):
            raise RequestError(f"now={now!r}: that is in the future; give seconds since the epoch")
        return at_us


def _named(segments: Iterable[str]) -> tuple[str, ...]:
    return (segments,) if isinstance(segments, str) else tuple(segments)


def _may_be_shown(current: Current, hold: Hold | None) -> Bitmap:
    if hold is None:
        return current.available
    allowed = current.available.copy()
    allowed &= hold.items
    return allowed


def _shortfall(shown: int, k: int, live: int, allowed: str) -> str | None:
    if shown == k:
        return None
    if live == 0:
        return f"no room is live{allowed}"
    return f"only {live} room{'s are' if live > 1 else ' is'} live{allowed}"
