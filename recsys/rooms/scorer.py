"""Scores live rooms for one user: the half of the room model that serving loads. numpy and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from recsys.errors import BundleError
from recsys.models.trees import Trees
from recsys.rooms.content import Content, Taste
from recsys.rooms.features import FEATURES, room_features
from recsys.rooms.network import TARGETS, RoomNetwork
from recsys.rooms.params import StateParams
from recsys.rooms.potential import Potential
from recsys.rooms.shortlist import shortlist
from recsys.rooms.state import LiveState
from recsys.types import BoolArray, FloatArray, IntArray

TREES = "trees.onnx"
#: Most live rooms that the network scores for one request.
SHORTLIST = 400
_CONTENT = ("item_category", "item_price", "streamer_category")
_TASTE = ("streamer", "read_streamer", "item", "read_item", "user", "weight")


@dataclass(frozen=True)
class RoomRanking:
    """Rooms for one user, best first.

    Attributes:
        room_idx: (n,) int32 live rooms.
        scores: (n,) float32, descending.
        reason: why there are fewer than were asked for; empty where there are not.
    """

    room_idx: IntArray
    scores: FloatArray
    reason: str = ""


class RoomScorer:
    """Two stages over one matrix of features: a small network scores the live rooms, trees the best few.

    Where more than `SHORTLIST` rooms are live, a linear score picks that many for the network.

    Without a network, where the log had too few visits to learn from, the score is the user's decayed visits
    to the streamer, and then how busy the room is now.
    """

    def __init__(
        self,
        state_params: StateParams,
        content: Content,
        *,
        network: RoomNetwork | None = None,
        trees: Trees | None = None,
        shortlist_weights: FloatArray | None = None,
        rerank: int = 200,
    ) -> None:
        self.state_params = state_params
        self.content = content
        self.network = network
        self.trees = trees
        self.shortlist_weights = shortlist_weights
        self.rerank = rerank

    def scores(self, state: LiveState, user: int, rows: IntArray, now_us: int) -> FloatArray:
        """(R,) float32 score of each live room in `rows` for one user at `now_us`; higher is better."""
        features = room_features(state, self.content, user, rows, now_us)
        if self.network is None:
            return decayed_visit_scores(features)
        scores = self.network.scores(features)
        if self.trees is None or len(rows) == 0:
            return scores
        if len(rows) <= self.rerank:
            return scores + self.trees.scores(features)
        best = np.argpartition(-scores, self.rerank - 1)[: self.rerank]
        reranked = scores[best] + self.trees.scores(features[best])
        # The rest keep their order below the best: a score of another stage is not comparable.
        rest: FloatArray = scores - np.float32(scores.max() - reranked.min() + 1.0)
        rest[best] = reranked
        return rest

    def rank(
        self, state: LiveState, user: int, now_us: int, *, k: int, kinds: Sequence[BoolArray] = ()
    ) -> RoomRanking:
        """The best k rooms live at `now_us` for one user; ties go to the lower room_idx.

        With `kinds`, (n,) masks over the live rooms, the ranking holds the best k of each kind as well, and
        all the other rooms that were scored.
        """
        n = len(state.rooms)
        if self.shortlist_weights is not None and n > max(SHORTLIST, k):
            rows = shortlist(
                state,
                self.content,
                self.shortlist_weights,
                user,
                now_us,
                size=max(SHORTLIST, k),
                kinds=kinds,
                of_each=k,
            )
        else:
            rows = np.arange(n, dtype=np.int32)
        scores = self.scores(state, user, rows, now_us)
        return best_rooms(state, scores, k=max(k, len(rows)) if kinds else k, rows=rows)

    def to_parts(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, bytes], dict[str, Any]]:
        """Arrays, blobs and facts by name, as a bundle's section keeps them."""
        arrays: dict[str, npt.NDArray[Any]] = {name: getattr(self.content, name) for name in _CONTENT}
        meta: dict[str, Any] = {
            "features": list(FEATURES),
            "targets": list(TARGETS),
            "state_params": self.state_params.model_dump(mode="json"),
            "categories": list(self.content.categories),
            "rerank": self.rerank,
        }
        if self.content.potential is not None:
            arrays["potential"] = self.content.potential.values
            arrays["potential_from_us"] = self.content.potential.from_us
        if self.content.taste is not None:
            arrays |= {f"taste_{name}": getattr(self.content.taste, name) for name in _TASTE}
            meta["taste_half_life_days"] = self.content.taste.half_life_days
        if self.network is not None:
            arrays |= self.network.to_arrays()
        if self.shortlist_weights is not None:
            arrays["shortlist_weights"] = self.shortlist_weights
        if self.trees is None:
            return arrays, {}, meta
        return arrays, {TREES: self.trees.graph}, meta | {"tree_weight": self.trees.weight}

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, npt.NDArray[Any]], blobs: Mapping[str, bytes], meta: Mapping[str, Any]
    ) -> Self:
        """The scorer that `to_parts` took apart.

        Raises:
            BundleError: it was made for other features or targets than this engine computes.
        """
        for name, own in (("features", FEATURES), ("targets", TARGETS)):
            if tuple(meta.get(name, ())) != own:
                raise BundleError(f"the room model has other {name} than this engine; train again")
        taste = None
        if "taste_half_life_days" in meta:
            vectors = {name: arrays[f"taste_{name}"] for name in _TASTE}
            taste = Taste(**vectors, half_life_days=float(meta["taste_half_life_days"]))
        potential = None
        if "potential" in arrays:
            potential = Potential(arrays["potential_from_us"], arrays["potential"])
        content = Content(
            categories=tuple(meta["categories"]),
            **{name: arrays[name] for name in _CONTENT},
            potential=potential,
            taste=taste,
        )
        return cls(
            StateParams.model_validate(meta["state_params"]),
            content,
            network=RoomNetwork.from_arrays(arrays) if "network_linear" in arrays else None,
            trees=Trees(blobs[TREES], float(meta["tree_weight"])) if TREES in blobs else None,
            shortlist_weights=arrays.get("shortlist_weights"),
            rerank=int(meta["rerank"]),
        )


def best_rooms(state: LiveState, scores: FloatArray, *, k: int, rows: IntArray | None = None) -> RoomRanking:
    """The k best live rooms by scores (R,) of rows (R,), by default all; ties go to the lower room_idx."""
    n = len(state.rooms)
    if n == 0:
        return RoomRanking(np.zeros(0, np.int32), np.zeros(0, np.float32), "no room is live")
    rooms = state.rooms.room_idx[:n] if rows is None else state.rooms.room_idx[rows]
    order = np.lexsort((rooms, -scores))[:k]
    reason = "" if len(order) == k else f"only {n} rooms are live"
    return RoomRanking(rooms[order].astype(np.int32), scores[order].astype(np.float32), reason)


def decayed_visit_scores(features: FloatArray, *, visits: str = "pair_visits_medium") -> FloatArray:
    """(R,) the strong baseline: the user's decayed visits to the streamer, and popularity now after that."""
    popular = features[:, FEATURES.index("room_joins_hour")]
    order: FloatArray = features[:, FEATURES.index(visits)] + 1e-3 * popular
    return order
