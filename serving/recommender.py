"""The recommender of a live-room backend: products, rooms and hot items, in process.

A request reads one pointer to the bundle and one copy of what is available, and needs no lock. Reports and
swaps take turns; a report is visible to every request that begins after the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from recsys.types import ExternalId
from serving import products
from serving.answer import Answer, RequestError
from serving.bitmap import Bitmap
from serving.bundles import Bundles
from serving.decisions import SHADOW, Decision
from serving.diversity import Shape
from serving.holds import Hold, no_segment
from serving.loaded import LoadedBundle
from serving.products import Filters
from serving.reporting import Current
from serving.rooms import RoomCaps
from serving.trial import CHALLENGER, CHAMPION


class Recommender(Bundles):
    """Answers from one bundle at a time; every method may be called from any thread.

    `load` opens a bundle. Swaps and trials are inherited from `Bundles`, reports from `Reporting`.
    """

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

    # -- inside ---------------------------------------------------------------------------------------------

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
        if answer.shortfall is not None:
            self._count("shortfall")
        return answer

    def _live_us(self, loaded: LoadedBundle, now: float | None) -> int:
        """The moment of a request for live rooms: their time passes with it, and cannot be taken back."""
        at_us = self._at_us(loaded, now)
        if now is not None and self._is_future(at_us):
            raise RequestError(f"now={now!r}: that is in the future; give seconds since the epoch")
        return max(at_us, loaded.catalogue.as_of_us)


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
