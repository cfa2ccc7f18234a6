"""The sections of a bundle that answer for rooms: written by training, read by serving, laid out here.

| section | what it holds |
|---|---|
| rooms | the parts of `RoomScorer` |
| room_state | the arrays of `LiveState.to_parts`; tables `streamers` and `rooms`: ids in index order |

Users and products have the indices of the core section.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from recsys.bundle import Bundle, BundleRefused, Reason, Section
from recsys.data.ids import IdMap
from recsys.errors import BundleError
from recsys.rooms.explore import ExploreParams
from recsys.rooms.scorer import RoomScorer
from recsys.rooms.state import LiveState

ROOMS, ROOM_STATE = "rooms", "room_state"


@dataclass(frozen=True)
class RoomParts:
    """What a process needs to answer for rooms.

    Attributes:
        scorer: the model.
        explore: floors of the lists that are served.
        seed: the live state as it was read; each `state()` is a copy of its own.
        since_us: the moment of the first event that the state was told of; None in bundles of before this
            was kept.
        streamers, rooms: ids in the indices of the state.
    """

    scorer: RoomScorer
    explore: ExploreParams
    seed: Section
    since_us: int | None
    streamers: IdMap
    rooms: IdMap

    def state(self) -> LiveState:
        """A fresh live state as of the bundle's moment."""
        return LiveState.from_parts(self.scorer.state_params, self.seed.arrays)


def room_sections(
    scorer: RoomScorer,
    state: LiveState,
    *,
    streamers: IdMap,
    rooms: IdMap,
    since_us: int,
    explore: ExploreParams = ExploreParams(),
) -> dict[str, Section]:
    """Both sections by name.

    Args:
        scorer: the fitted model.
        state: as of the bundle's moment, in the indices of the Dataset.
        streamers, rooms: the Dataset's ids.
        since_us: the moment of its first event.
        explore: floors of the lists that are served.
    """
    arrays, blobs, meta = scorer.to_parts()
    nullable = frozenset({"item_price", "potential"}) & arrays.keys()
    meta = {"kind": ROOMS, "explore": explore.model_dump(mode="json"), **meta}
    return {
        ROOMS: Section(arrays=arrays, blobs=blobs, meta=meta, may_be_nan=nullable),
        ROOM_STATE: Section(
            arrays=state.to_parts(),
            tables={
                "streamers": pa.table({"streamer_id": streamers.keys}),
                "rooms": pa.table({"room_id": rooms.keys}),
            },
            meta={
                "kind": ROOM_STATE,
                "streamer_id_type": str(streamers.id_type),
                "room_id_type": str(rooms.id_type),
                "since_us": since_us,
            },
        ),
    }


def read_rooms(bundle: Bundle) -> RoomParts | None:
    """The parts, tried once; None where the bundle does not answer for rooms.

    Raises:
        BundleRefused: a part is missing, or state and model cannot be built of the parts.
    """
    if ROOMS not in bundle:
        return None
    model, seed = bundle.section(ROOMS), bundle.section(ROOM_STATE)
    try:
        blobs = {name: bytes(blob) for name, blob in model.blobs.items()}
        parts = RoomParts(
            RoomScorer.from_parts(model.arrays, blobs, model.meta),
            ExploreParams.model_validate(model.meta["explore"]),
            seed,
            seed.meta.get("since_us"),
            _ids(seed.tables["streamers"], "streamer_id", seed),
            _ids(seed.tables["rooms"], "room_id", seed),
        )
        parts.state()
    except BundleError as error:
        raise BundleRefused(Reason.CONTENT, f"{bundle.path}: {error}") from error
    except (KeyError, ValueError, IndexError) as error:
        raise BundleRefused(
            Reason.CONTENT, f"{bundle.path}: the sections for rooms cannot be read: {error!r}; train again"
        ) from error
    return parts


def _ids(table: pa.Table, name: str, section: Section) -> IdMap:
    return IdMap(table[name].combine_chunks(), pa.type_for_alias(section.meta[f"{name}_type"]))
