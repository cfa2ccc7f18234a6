"""What changes by the moment: which products can be had, and what users have just done.

All of it is kept by external id, so that it outlives the bundle that answers.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from recsys.types import Behaviour


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What the platform has reported of a product; None where it has said nothing.

    Attributes:
        units: how many are in stock.
        listed: whether it is for sale.
        blocked: whether it must not be shown.
    """

    units: float | None = None
    listed: bool | None = None
    blocked: bool = False

    def available(self, otherwise: bool) -> bool:
        """Whether it may be shown; `otherwise` is what the bundle says of its stock."""
        in_stock = otherwise if self.units is None else self.units > 0
        return in_stock and self.listed is not False and not self.blocked


class Facts:
    """The reports on products, by id text: of all that a bundle in use knew, and of the last others.

    A product that no bundle knows may be of the next one. So its facts are kept, until too many others have
    been reported on since. One entry is some 200 bytes: 20 MB of products that nobody knows, at most.

    Not locked: its owner applies a report to the facts and to the bitmap as one step.

    Args:
        max_unknown: products kept that no bundle in use knows.
    """

    def __init__(self, *, max_unknown: int = 100_000) -> None:
        self._facts: dict[str, ItemFacts] = {}
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self._max_unknown = max_unknown

    def report(
        self,
        item: str,
        *,
        units: float | None = None,
        listed: bool | None = None,
        blocked: bool | None = None,
    ) -> ItemFacts:
        """Takes a report in and returns all that is now known of the product."""
        facts = self._facts.get(item, ItemFacts())
        if units is not None:
            facts = replace(facts, units=units)
        if listed is not None:
            facts = replace(facts, listed=listed)
        if blocked is not None:
            facts = replace(facts, blocked=blocked)
        self._facts[item] = facts
        return facts

    def is_unknown(self, item: str, *, known: Callable[[str], bool]) -> None:
        """Says that no bundle in use knows a product; the one that has been unknown longest may go.

        Args:
            item: its id text.
            known: whether a bundle in use has come to know a product since.
        """
        self._unknown[item] = None
        self._unknown.move_to_end(item)
        while len(self._unknown) > self._max_unknown:
            oldest, _ = self._unknown.popitem(last=False)
            if not known(oldest):
                del self._facts[oldest]

    def __iter__(self) -> Iterator[tuple[str, ItemFacts]]:
        return iter(self._facts.items())


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """One thing that a user did with a product; in time order.

    Attributes:
        timestamp_us: microseconds since the epoch.
        item: the product's id text.
        behaviour: what was done.
        duration_s: how long a view lasted, where known; it does not make another action of it.
    """

    timestamp_us: int
    item: str
    behaviour: Behaviour
    duration_s: float | None = field(default=None, compare=False)


class FreshActions:
    """The latest actions of the users who acted last: bounded per user and in total.

    A full table of 20,000 users with 50 actions each takes about 150 MB; who acted longest ago is dropped.

    Args:
        max_users: users kept.
        max_actions: actions kept of each.
    """

    def __init__(self, *, max_users: int = 20_000, max_actions: int = 50) -> None:
        self._users: OrderedDict[str, tuple[Action, ...]] = OrderedDict()
        self._lock = threading.Lock()
        self._max_users = max_users
        self._max_actions = max_actions

    def add(self, user: str, action: Action) -> bool:
        """Puts an action in its place in time; False where it is there already or older than all kept."""
        with self._lock:
            actions = self._users.get(user, ())
            place = bisect_left(actions, action)
            if place < len(actions) and actions[place] == action:
                return False
            if place == 0 and len(actions) == self._max_actions:
                return False
            self._users[user] = (*actions[:place], action, *actions[place:])[-self._max_actions :]
            self._users.move_to_end(user)
            while len(self._users) > self._max_users:
                self._users.popitem(last=False)
            return True

    def of(self, user: str) -> tuple[Action, ...]:
        """What the user did lately, oldest first."""
        return self._users.get(user, ())

    def forget(self, user: str) -> None:
        """Drops all that the user did."""
        with self._lock:
            self._users.pop(user, None)

    def users(self) -> list[str]:
        """Id texts of those of whom something is kept."""
        with self._lock:
            return list(self._users)

    def __len__(self) -> int:
        return len(self._users)
