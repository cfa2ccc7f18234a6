"""Lists of products from one bundle: for a user, beside a product, and of those that may become hot."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsys.types import ExternalId
from serving.answer import Answer, Entry, NotServed, RequestError
from serving.bitmap import Bitmap
from serving.diversity import Shape, shaped
from serving.found import NOTHING, Found
from serving.loaded import LoadedBundle
from serving.sources import Wanted
from serving.state import Action

#: Length of the list that each viewer of a room votes with, and of its beginning that reasons count.
BALLOT = 50
FIRST = 10


@dataclass(frozen=True, slots=True)
class Filters:
    """What a request allows, beside what is for sale.

    Attributes:
        allow: only these products, if given; ids that the bundle does not know are passed over.
        deny: none of these products.
        category: only products of this category, if given.
        price: only products that cost from the first to the second, None for no bound; one without a price
            is left out.
    """

    allow: Iterable[ExternalId] | None = None
    deny: Iterable[ExternalId] = ()
    category: str | None = None
    price: tuple[float | None, float | None] | None = None

    def apply(self, loaded: LoadedBundle, allowed: Bitmap) -> None:
        """Takes out of `allowed` what the request does not want."""
        items = loaded.catalogue.items
        if self.allow is not None:
            only = Bitmap.empty(loaded.n_items)
            only.add([index for item in self.allow if (index := items.get(item)) >= 0])
            allowed &= only
        if self.category is not None:
            allowed &= loaded.category(self.category)
        if self.price is not None:
            allowed &= loaded.priced(*self.price)
        denied = [index for item in self.deny if (index := items.get(item)) >= 0]
        if denied:
            allowed.remove(denied)


@dataclass(frozen=True, slots=True)
class Asker:
    """Whose list it is.

    Attributes:
        user_idx: -1 for somebody that the bundle does not know.
        actions: what was observed since the bundle was made.
        why_not: why nothing of the user may be used, if so.
    """

    user_idx: int
    actions: tuple[Action, ...]
    why_not: str | None = None


def for_user(
    loaded: LoadedBundle,
    available: Bitmap,
    asker: Asker,
    filters: Filters,
    shape: Shape,
    *,
    k: int,
    repeat: bool | None,
    at_us: int,
) -> Answer:
    """The best k products for a user, filled up with what is popular; see `Recommender.products`."""
    allowed = available.copy()
    filters.apply(loaded, allowed)
    wanted = loaded.wanted(asker.user_idx, asker.actions, at_us=at_us, allowed=allowed)
    why_not = asker.why_not
    if why_not is None and asker.user_idx < 0 and not wanted.history.mask.any():
        why_not = "unknown user"
    found = NOTHING
    if why_not is None:
        allowed.remove(loaded.unwanted(wanted, returns=loaded.returns if repeat is None else repeat))
        found = loaded.fused(wanted, k=min(shape.pool(k), loaded.n_items))
        if all(map(loaded.is_popular, found.sources)):
            why_not = "nothing is known of the user"
    found = found.then(_popular(loaded, wanted, min(shape.pool(k), loaded.n_items) - len(found), found))
    vectors = None if loaded.vectors is None else loaded.vectors.index.vectors
    fallback = None if why_not is None else f"popular: {why_not}"
    chosen = shaped(found, shape, loaded.categories, vectors, k=k, brands=loaded.brands)
    answer = _answer(loaded, chosen, k, fallback, allowed)
    if not len(answer) and repeat is None and not loaded.returns:
        # All that can be had has been consumed: rather that again than an empty page.
        return for_user(loaded, available, asker, filters, shape, k=k, repeat=True, at_us=at_us)
    if len(answer) < min(k, len(found)):
        left_out = f"{shape.caps} leaves out all but {len(answer)} of {len(found)}"
        return replace(answer, shortfall=left_out)
    return answer


def for_audience(
    loaded: LoadedBundle,
    available: Bitmap,
    viewers: Sequence[Asker],
    filters: Filters,
    *,
    k: int,
    at_us: int,
) -> Answer:
    """The k products that a room's viewers want most; see `Recommender.next_products`.

    Each viewer's own list, by the code that answers them, is one ballot: the product at rank r has
    1 / log2(r + 1) of a vote, the discount of NDCG, so that the list with the most votes is the one which the
    viewers' lists expect most of. What a viewer may not be shown is on no ballot of theirs.
    """
    base = available.copy()
    filters.apply(loaded, base)
    votes: dict[int, float] = {}
    first: Counter[int] = Counter()
    because: dict[int, Counter[str]] = {}
    voters = 0
    for viewer in viewers:
        allowed = base.copy()
        wanted = loaded.wanted(viewer.user_idx, viewer.actions, at_us=at_us, allowed=allowed)
        if viewer.why_not is not None or not wanted.history.mask.any():
            continue
        allowed.remove(loaded.unwanted(wanted, returns=loaded.returns))
        voters += 1
        ballot = loaded.fused(wanted, k=BALLOT)
        for rank, (item, source) in enumerate(zip(ballot.items.tolist(), ballot.sources, strict=True), 1):
            votes[item] = votes.get(item, 0.0) + 1.0 / math.log2(rank + 1)
            if rank <= FIRST:
                first[item] += 1
                because.setdefault(item, Counter())[loaded.reasons[source]] += 1
    order = sorted(votes, key=lambda item: (-votes[item], item))[:k]
    hot = {row["item_idx"]: row for row in loaded.hot or ()}
    entries = []
    for item in order:
        reason = f"among the first {FIRST} of {first[item]} of {voters} viewers"
        if item in because:
            own = because[item].most_common(1)[0][0]
            reason += f", mostly: {_of_others(own)}"
        facts: dict[str, Any] = {"viewers": voters, "first_of": first[item]}
        if item in hot:
            facts |= {"potential": hot[item]["potential"], "grade": hot[item]["grade"]}
        entries.append(
            Entry(loaded.catalogue.items.one(item), votes[item] / voters, "audience", reason, facts)
        )
    fallback = None if voters else "popular: nobody in the room is known"
    nobody = loaded.wanted(-1, (), at_us=at_us, allowed=base)
    taken = Found.of(order, [votes[item] / voters for item in order], "audience")
    rest = _popular(loaded, nobody, min(k, loaded.n_items) - len(order), taken)
    filled = _answer(loaded, rest, k - len(order), fallback, base)
    shown = (*entries, *filled.entries)
    return Answer(shown, loaded.version, fallback, _shortfall(len(shown), k, base.count()))


def _of_others(reason: str) -> str:
    """A viewer's own reason as the host reads it."""
    return re.sub(r"\byou\b", "they", reason)


def beside(loaded: LoadedBundle, available: Bitmap, item_id: ExternalId, *, k: int) -> Answer:
    """The k products that go with a product; see `Recommender.similar`."""
    allowed = available.copy()
    item = loaded.catalogue.items.get(item_id)
    found = NOTHING
    if item >= 0:
        allowed.remove([item])
        for name, neighbours in loaded.neighbours.items():
            of_item = slice(*neighbours.indptr[item : item + 2].tolist())
            ids = neighbours.ids[of_item]
            kept = np.flatnonzero(allowed.has(ids))[:k]
            found = Found.of(ids[kept], neighbours.scores[of_item][kept], name)
            if len(found):
                break
        if not len(found) and loaded.vectors is not None:
            vector = np.asarray(loaded.vectors.index.vectors[item])
            found = Found.of(*loaded.vectors.nearest(vector, k=k, allowed=allowed), loaded.vectors_name)
    fallback = None
    if not len(found):
        fallback = "popular: unknown item" if item < 0 else "popular: nothing goes with the item yet"
        nobody = loaded.wanted(-1, (), at_us=loaded.catalogue.as_of_us, allowed=allowed)
        found = _popular(loaded, nobody, k, NOTHING)
    return _answer(loaded, found, k, fallback, allowed)


def hottest(loaded: LoadedBundle, available: Bitmap, *, k: int) -> Answer:
    """The k products most likely to become hot that can be had; see `Recommender.hot`.

    Raises:
        NotServed: the bundle has no hot list.
    """
    if loaded.hot is None:
        raise NotServed(
            f"bundle {loaded.version} has no hot list: its log was too short, or without purchases; "
            "the notes of its training say which"
        )
    rows = [row for row in loaded.hot if row["item_idx"] in available]
    entries = tuple(
        Entry(
            id=loaded.catalogue.items.one(row["item_idx"]),
            score=float(row["potential"]),
            source="hot",
            reason=row.get("reasons") or f"grade {row['grade']}",
            facts={name: value for name, value in row.items() if name not in ("item_idx", "reasons")},
        )
        for row in rows[:k]
    )
    return Answer(entries, loaded.version, shortfall=_shortfall(len(entries), k, len(rows)))


def check_k(k: int) -> None:
    """Refuse a list of no length.

    Raises:
        RequestError: k is no whole number of at least 1.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise RequestError(f"k={k!r}: ask for a whole number of at least 1")


def _popular(loaded: LoadedBundle, wanted: Wanted, k: int, have: Found) -> Found:
    """What is popular, to fill up k more places; scores go on below those that are there."""
    if k < 1 or loaded.popular is None:
        return NOTHING
    left = wanted.allowed.copy()
    left.remove(have.items)
    items, scores = loaded.popular.best(loaded.popular.segment(wanted.user_idx), k=k, allowed=left)
    below = float(have.scores[-1]) - 1.0 if len(have) else 0.0
    return Found.of(items, below + scores.astype(np.float64), loaded.popular_name)


def _answer(loaded: LoadedBundle, found: Found, k: int, fallback: str | None, allowed: Bitmap) -> Answer:
    reasons = map(loaded.reasons.__getitem__, found.sources)
    entries = Entry.many(
        loaded.catalogue.items.spelt(found.items), found.scores.tolist(), found.sources, reasons
    )
    shortfall = _shortfall(len(entries), k, allowed.count()) if len(entries) < k else None
    return Answer(entries, loaded.version, fallback, shortfall)


def _shortfall(shown: int, k: int, allowed: int) -> str | None:
    """Why there are fewer than k."""
    if shown >= k:
        return None
    if allowed == 0:
        return "no product is both available and allowed"
    if shown >= allowed:
        return f"only {allowed} products are both available and allowed"
    return f"the sources name no more than {shown} of the {allowed} products that are available and allowed"
