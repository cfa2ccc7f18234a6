"""Segments of users, such as minors, who are shown some categories only: configured, kept in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field

from recsys.bundle import BundleRefused, Reason, Section
from recsys.types import BoolArray, ExternalId, Params


class HoldParams(Params):
    """One segment, and what its users may be shown.

    Attributes:
        column: of the log's users; null where only requests say who is in the segment.
        values: of the column, compared by their text: the users who have one are in the segment.
        categories: of products and rooms that may be shown.
    """

    column: str | None = None
    values: tuple[ExternalId, ...] = ()
    categories: tuple[str, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Held:
    """The segments of a bundle.

    Attributes:
        categories: what may be shown, by segment.
        members: (segments, users) bool, in the order of `categories`.
    """

    categories: Mapping[str, tuple[str, ...]]
    members: BoolArray


def held_section(held: Held) -> Section:
    """The segments as a section of a bundle."""
    segments = [{"name": name, "categories": list(kept)} for name, kept in held.categories.items()]
    return Section(arrays={"members": held.members}, meta={"kind": "held", "segments": segments})


def read_held(name: str, section: Section, *, n_users: int) -> Held:
    """The segments of the section `name`.

    Raises:
        BundleRefused: a part is missing, or the parts do not fit each other.
    """
    try:
        categories = {
            str(one["name"]): tuple(map(str, one["categories"])) for one in section.meta["segments"]
        }
        members = section.arrays["members"]
    except (KeyError, TypeError) as error:
        raise BundleRefused(Reason.CONTENT, f"section {name}: {error} is missing") from error
    if members.shape != (len(categories), n_users) or members.dtype != bool:
        raise BundleRefused(
            Reason.CONTENT,
            f"section {name}: members are {members.shape}, not {(len(categories), n_users)} flags",
        )
    return Held(categories, members)
