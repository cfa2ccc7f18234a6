"""The room model: fitted on a Dataset, it becomes a `RoomScorer` and the live state to start from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import lightgbm as lgb
import numpy as np
import numpy.typing as npt
from pydantic import Field

from recsys.data.dataset import Dataset
from recsys.errors import ModelError
from recsys.models.trees import Trees
from recsys.rooms.catalogue import attributes, content_of, state_params_of
from recsys.rooms.content import Taste, vector_rows
from recsys.rooms.examples import ExampleParams, RoomExamples, collect_examples
from recsys.rooms.explore import ExploreParams
from recsys.rooms.features import FEATURES
from recsys.rooms.log_feed import LogFeed
from recsys.rooms.network import TARGETS
from recsys.rooms.network_training import Attributes, FittedNetwork, NetworkParams, attributes_of, fit_network
from recsys.rooms.potential import Potential
from recsys.rooms.scorer import RoomScorer
from recsys.rooms.shortlist import fit_shortlist
from recsys.rooms.state import LiveState
from recsys.rooms.trees_training import TreeParams, fit_trees
from recsys.types import FloatArray, Params, Progress

#: Newest examples by which the linear score of the shortlist is fitted.
_SHORTLIST_EXAMPLES = 2_000
#: How much the trees may count beside the network; which of these is chosen on validation.
_TREE_WEIGHTS = (0.0, 0.5, 1.0)


class RoomParams(Params):
    """The room model's parameters.

    Attributes:
        examples, network, trees: of the three steps of the fit.
        validation: the newest share of the examples, by which the passes and the trees' weight are chosen,
            as they foretell entering, before both stages are fitted again on all of them.
        fewest: with fewer examples, or where both stages are no better on validation than decayed visits and
            popularity, nothing is learnt and these rank the rooms.
        rerank: best rooms of the first stage that the trees score.
        explore: floors of the lists that are served; rankings that are measured have none.
    """

    examples: ExampleParams = ExampleParams()
    network: NetworkParams = NetworkParams()
    trees: TreeParams = TreeParams()
    validation: float = Field(default=0.2, gt=0, lt=1)
    fewest: int = Field(default=1_000, ge=10)
    rerank: int = Field(default=200, ge=1)
    explore: ExploreParams = ExploreParams()


@dataclass(frozen=True)
class RoomReport:
    """How the fit went; NDCG@10 over the rooms of the validation examples, NaN where nothing was learnt."""

    examples: int
    epochs: int
    tree_weight: float
    ndcg_baseline: float
    ndcg_network: float
    ndcg_both: float


class RoomModel:
    """Learns which of the live rooms a user enters, from a replay of the log through the live state.

    Attributes:
        scorer: for serving.
        report: how the fit went.
        examples: what was learnt from, for the baselines that are tuned on the same.
    """

    scorer: RoomScorer
    report: RoomReport
    examples: RoomExamples

    def __init__(self, params: RoomParams | None = None) -> None:
        self.params = params or RoomParams()

    def fit(
        self,
        dataset: Dataset,
        *,
        potential: Potential | None = None,
        chosen: RoomReport | None = None,
        progress: Progress | None = None,
    ) -> RoomScorer:
        """Fit on everything that the Dataset knows as of its moment.

        Args:
            dataset: the log.
            potential: hot-item potential of its products, at this moment and before.
            chosen: what an earlier fit chose on its validation, to be done again on this log without holding
                anything out; one that had too little to choose by counts for nothing.
            progress: called as progress(done, total, text).

        Raises:
            ModelError: the log has no visit of a room, or the fit diverged.
        """
        state_params, content = state_params_of(dataset), content_of(dataset, potential=potential)
        if not (dataset.events.room_idx[dataset.events.is_any([state_params.visit])] >= 0).any():
            raise ModelError("rooms: the log has no visit of a live room to learn from")
        examples = collect_examples(dataset, content, state_params, self.params.examples, progress=progress)
        self.examples = examples
        scorer = RoomScorer(state_params, content, rerank=self.params.rerank)
        if len(examples) < self.params.fewest:
            self.report = RoomReport(len(examples), 0, 0.0, *[float("nan")] * 3)
        else:
            known = attributes_of(
                content, attributes(dataset.streamers), attributes(dataset.items), attributes(dataset.users)
            )
            settled = chosen is not None and np.isfinite(chosen.ndcg_both)
            self.report = chosen if chosen and settled else self._choose(examples, known, progress)
            if self.report.ndcg_both > self.report.ndcg_baseline:
                self._learn(scorer, examples, known, self.report, progress)
        self.scorer = scorer
        return scorer

    def _choose(self, examples: RoomExamples, known: Attributes, progress: Progress | None) -> RoomReport:
        """Passes, and the weight of the trees, by a fit on the older examples judged on the newer."""
        cut = int(len(examples) * (1 - self.params.validation))
        older, newer = examples.where(slice(0, cut)), examples.where(slice(cut, None))
        trial = fit_network(older, known, self.params.network, validation=newer, progress=progress)
        by_network = _enter_scores(trial, newer)
        by_trees = _tree_scores(fit_trees(older, self.params.trees), newer)
        quality = [ndcg(by_network + weight * by_trees, newer) for weight in _TREE_WEIGHTS]
        return RoomReport(
            examples=len(examples),
            epochs=trial.epochs,
            tree_weight=_TREE_WEIGHTS[int(np.argmax(quality))],
            ndcg_baseline=ndcg(newer.features[..., _VISITS] + 1e-3 * newer.features[..., _JOINS], newer),
            ndcg_network=quality[0],
            ndcg_both=max(quality),
        )

    def _learn(
        self,
        scorer: RoomScorer,
        examples: RoomExamples,
        known: Attributes,
        report: RoomReport,
        progress: Progress | None,
    ) -> None:
        """Give the scorer both stages, fitted on all examples as chosen."""
        fitted = fit_network(examples, known, self.params.network, epochs=report.epochs, progress=progress)
        scorer.network = fitted.network
        scorer.content = replace(scorer.content, taste=fitted.taste)
        sample = examples.where(slice(-_SHORTLIST_EXAMPLES, None))
        scorer.shortlist_weights = fit_shortlist(
            with_taste(fitted.taste, sample)[sample.mask],
            _network_scores(fitted, sample)[sample.mask],
            np.nonzero(sample.mask)[0].astype(np.int32),
        )
        if report.tree_weight * self.params.network.targets.enter > 0:
            # They foretell entering, like the network's first output, and count as much as that does.
            weight = report.tree_weight * self.params.network.targets.enter
            scorer.trees = Trees.of(fit_trees(examples, self.params.trees), weight)


_VISITS, _JOINS = FEATURES.index("pair_visits_medium"), FEATURES.index("room_joins_hour")


def state_at_end(dataset: Dataset, scorer: RoomScorer, *, progress: Progress | None = None) -> LiveState:
    """The live state as of the Dataset's moment, from which serving starts warm."""
    state = LiveState(scorer.state_params)
    LogFeed(dataset, scorer.content.category_code).advance(state, dataset.as_of_us)
    if progress is not None:
        progress(1, 1, "live state played to the end of the log")
    return state


def ndcg(scores: npt.NDArray[np.floating], examples: RoomExamples, *, k: int = 10) -> float:
    """Mean NDCG@k of scores (E, C); the room in place 0 is the relevant one, and ties count against it."""
    rank = 1 + (np.where(examples.mask, scores, -np.inf)[:, 1:] >= scores[:, :1]).sum(axis=1)
    return float(np.where(rank <= k, 1 / np.log2(rank + 1), 0.0).mean())


def with_taste(taste: Taste, examples: RoomExamples) -> FloatArray:
    """(E, C, F) the features of the examples with the taste columns as `room_features` writes them."""
    weight = taste.weight[examples.read_behaviour] * np.exp2(-examples.read_age_days / taste.half_life_days)
    read = taste.read_streamer[vector_rows(examples.read_streamer, taste.read_streamer)]
    read = read + taste.read_item[vector_rows(examples.read_item, taste.read_item)]
    users = np.einsum("el,eld->ed", weight, read) / (1 + np.abs(weight).sum(axis=1, keepdims=True))
    users = users + taste.user[vector_rows(examples.user_idx, taste.user)]
    to_streamer = np.einsum(
        "ecd,ed->ec", taste.streamer[vector_rows(examples.streamer_idx, taste.streamer)], users
    )
    to_item = np.einsum("ecd,ed->ec", taste.item[vector_rows(examples.item_idx, taste.item)], users)
    features = examples.features.copy()
    features[..., FEATURES.index("taste_streamer")] = to_streamer
    features[..., FEATURES.index("taste_item")] = to_item
    features[..., FEATURES.index("taste")] = to_streamer + to_item
    return features


def _network_scores(fitted: FittedNetwork, examples: RoomExamples) -> FloatArray:
    features = with_taste(fitted.taste, examples)
    return fitted.network.scores(features.reshape(-1, len(FEATURES))).reshape(examples.mask.shape)


def _enter_scores(fitted: FittedNetwork, examples: RoomExamples) -> FloatArray:
    features = with_taste(fitted.taste, examples).reshape(-1, len(FEATURES))
    return fitted.network.logits(features)[:, TARGETS.index("enter")].reshape(examples.mask.shape)


def _tree_scores(booster: lgb.Booster, examples: RoomExamples) -> FloatArray:
    scores = np.zeros(examples.mask.shape, dtype=np.float32)
    scores[examples.mask] = booster.predict(examples.features[examples.mask], raw_score=True)
    return scores
