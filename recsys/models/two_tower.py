"""The two-tower model: users by their history, id and features; targets by their id and content.

Covington et al., "Deep Neural Networks for YouTube Recommendations", 2016, in its sequential form: every
event is predicted from those strictly before it by a softmax over targets, sampled or full.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from recsys.data.behaviours import BehaviourWeights
from recsys.data.dataset import Dataset, Events
from recsys.data.histories import HistoryBatch
from recsys.errors import ModelError
from recsys.models.base import VectorModel
from recsys.models.exposures import Exposures
from recsys.models.onnx_export import content_tower_onnx, query_tower_onnx
from recsys.models.team import Team
from recsys.models.tower_features import TableEncoder
from recsys.models.tower_inputs import Side, TrainingInputs
from recsys.models.tower_training import LearningPoint, of_memory
from recsys.models.tower_validation import (
    ROWS_AT_ONCE,
    Validation,
    encode_profiles,
    encode_targets,
    encode_users,
    hold_out,
)
from recsys.models.towers import TwoTowerNetwork
from recsys.models.training_examples import HISTORY_BEHAVIOURS, Timelines
from recsys.models.two_tower_params import TwoTowerParams
from recsys.types import FloatArray, IntArray, LongArray, Progress, Target

__all__ = ["LearningPoint", "TwoTower", "TwoTowerParams"]

_log = logging.getLogger(__name__)


class TwoTower(VectorModel):
    """Vectors of users and targets whose inner product says how well they suit each other.

    Args:
        params: of the towers and their training.
        target: what it recommends.
        weights: how much each event counts in the loss.
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` ...
        seed: of everything random; on a CPU the same seed gives the same vectors.
        checkpoint_dir: where a training keeps its last checkpoint, and goes on from after it was killed.
        given: (targets, e) float32 vectors of content made elsewhere, in index order; more rows are cut off.

    Attributes:
        user_profiles: (users, d) float32, what is known of users apart from their histories: the query
            tower's `profile`.
        learning_curve: loss and validation by step.
        best_step: the step whose weights were kept: `steps` for a fit that holds nothing out.
    """

    name: ClassVar[str] = "two_tower"

    user_profiles: FloatArray
    learning_curve: tuple[LearningPoint, ...]
    best_step: int

    def __init__(
        self,
        params: TwoTowerParams = TwoTowerParams(),
        *,
        target: Target = Target.ITEM,
        weights: BehaviourWeights = BehaviourWeights(),
        device: str = "auto",
        seed: int = 0,
        checkpoint_dir: Path | None = None,
        given: FloatArray | None = None,
    ) -> None:
        super().__init__(target=target)
        self.params = params
        self.weights = weights
        self.device = _device(device)
        self.seed = seed
        self.checkpoint_dir = checkpoint_dir
        self.given = given
        self._network: TwoTowerNetwork | None = None
        self._target_encoder = TableEncoder({}, {})

    @property
    def network(self) -> TwoTowerNetwork:
        """The fitted towers, in evaluation mode.

        Raises:
            ModelError: not fitted.
        """
        if self._network is None:
            raise ModelError(f"{self.name} is not fitted: call fit(dataset) first")
        return self._network

    def encode_histories(
        self, histories: HistoryBatch, *, now_us: int | LongArray, users: IntArray | None = None
    ) -> FloatArray:
        """Vectors of users by what they did so far, (B, d) float32; zero where nothing is known.

        Args:
            histories: of B users, known or not; at most `history_length` events each are read.
            now_us: the moment, or (B,) one for each user; microseconds since the epoch.
            users: (B,) int32 indices of known users, whose id and features count too; -1 for an unknown one.
        """
        network = self.network
        histories = histories.last(self.params.history_length)
        profiles = np.zeros((len(histories.mask), self.params.dim), dtype=np.float32)
        if users is not None:
            profiles[users >= 0] = self.user_profiles[users[users >= 0]]
        return encode_users(
            network, histories, now_us=now_us, target_vectors=self.target_vectors, profiles=profiles
        )

    def encode_new_targets(self, table: pa.Table, *, given: FloatArray | None = None) -> FloatArray:
        """Vectors of targets that the fit has not seen, by their content, (n, d) float32.

        Args:
            table: one row a target, with the feature columns of the fit; values never seen are unknown.
            given: (n, e) their given vectors, if the fit had such.

        Raises:
            DataError: a number of the table is infinite, or is none.
            ModelError: not fitted, or the given vectors are not as those of the fit.
        """
        network = self.network
        encoded = self._target_encoder.encode(table, len(table))
        vectors = np.zeros((len(table), 0), np.float32)
        if self.given is not None:
            if given is None or np.shape(given)[1:] != np.shape(self.given)[1:]:
                shape = None if given is None else np.shape(given)
                raise ModelError(
                    f"given vectors have shape {shape}; the fit had such of {np.shape(self.given)[1]}"
                    f" numbers, and each of {len(table)} new targets needs one"
                )
            vectors = _checked_given(given, len(table))
        with torch.no_grad():
            content = network.targets.content(
                *(
                    torch.from_numpy(values).to(self.device)
                    for values in (encoded.codes, encoded.numbers, encoded.words, vectors)
                )
            )
            return network.new_target_vectors(content).cpu().numpy()

    def query_tower_onnx(self) -> bytes:
        """The query tower for serving; see `recsys.models.onnx_export`."""
        return query_tower_onnx(self.network, length=self.params.history_length)

    def content_tower(self) -> tuple[bytes, bytes] | None:
        """What places a new target without torch: the graph of `recsys.models.onnx_export`, and what
        `TableEncoder.from_json` reads. None where targets have no content, or were given vectors."""
        if self.given is not None or not self.network.targets.has_content:
            return None
        return content_tower_onnx(self.network), self._target_encoder.to_json()

    def _fit(self, dataset: Dataset, progress: Progress | None) -> None:
        try:
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(self.seed)
                self._learn(dataset, progress)
            self._encode_all(dataset)
        except (RuntimeError, MemoryError) as error:  # a training step names the batch that fits
            if not of_memory(error):
                raise
            raise ModelError(
                f"{self.device} has too little memory for the towers of {self.n_users} users and"
                f" {self.n_targets} targets at dim={self.params.dim}: lower it or history_length"
            ) from error

    def _learn(self, dataset: Dataset, progress: Progress | None) -> None:
        validation, train = hold_out(
            dataset, self.params, target=self.target, weights=self.weights, seed=self.seed
        )
        inputs = self._inputs(dataset, train.events, train.as_of_us)
        network = inputs.network().to(self.device)
        self.learning_curve, self.best_step = (), 0
        if len(inputs.windows()):
            self._train(inputs, network, validation, dataset, progress)
        else:
            _log.warning("no event has another of its user before it: the towers stay untrained")
        self._network = network.eval()

    def _scores(self, users: IntArray) -> FloatArray:
        scores = super()._scores(users)
        scores[:, ~self.target_vectors.any(axis=1)] = -np.inf  # neither trained nor with any content
        return scores

    def _inputs(self, dataset: Dataset, events: Events, as_of_us: int) -> TrainingInputs:
        """All that training depends on: the Dataset's entities, and the events that are not held out."""
        params = self.params
        kind = "items" if self.target is Target.ITEM else "streamers"
        targets = dataset.entities(self.target).table
        self._target_encoder = TableEncoder.fit(
            targets, params.target_features, kind=kind, max_categories=params.max_categories
        )
        user_encoder = TableEncoder.fit(
            dataset.users.table, params.user_features, kind="users", max_categories=params.max_categories
        )
        timelines = Timelines.of(
            events,
            dataset.settle(self.weights).of(events, as_of_us),
            n_users=self.n_users,
            target=self.target,
            predicted=params.target_behaviours,
            repeats=params.repeats,
        )
        return TrainingInputs(
            params=params,
            seed=self.seed,
            users=Side.of(user_encoder, dataset.users.table, self.n_users),
            targets=Side.of(
                self._target_encoder,
                targets,
                self.n_targets,
                given=None if self.given is None else _checked_given(self.given, self.n_targets),
            ),
            timelines=timelines,
            exposures=Exposures.of(
                events,
                timelines,
                target=self.target,
                window_s=params.exposure_window_s,
                trained=timelines.targets,
            ),
        )

    def _train(
        self,
        inputs: TrainingInputs,
        network: TwoTowerNetwork,
        validation: Validation | None,
        dataset: Dataset,
        progress: Progress | None,
    ) -> None:
        validates = validation is not None
        told = {"end": False, "device": self.device.type, "validates": validates, **inputs.header()}
        Team.current().tell(told, inputs.arrays())
        trainer = inputs.trainer(
            network,
            self.device,
            validation=validation,
            validates=validates,
            identity={
                "data": f"{dataset.fingerprint} as of {dataset.as_of_us}",
                "target": self.target.value,
                "params": self.params.model_dump_json(),
                "weights": self.weights.model_dump_json(),
                "seed": str(self.seed),
                "given": "" if self.given is None else _digest(self.given),
            },
            checkpoint_dir=self.checkpoint_dir,
            progress=progress,
        )
        trainer.run()
        self.learning_curve, self.best_step = tuple(trainer.curve), trainer.best_step

    def _encode_all(self, dataset: Dataset) -> None:
        """Vectors of every target and user, as of the Dataset's moment."""
        network = self.network
        self.target_vectors = encode_targets(network)
        self.user_profiles = encode_profiles(network, np.arange(self.n_users, dtype=np.int32))
        histories = dataset.histories(self.target, HISTORY_BEHAVIOURS)
        self.user_vectors = np.zeros_like(self.user_profiles)
        for begin in range(0, self.n_users, ROWS_AT_ONCE):
            users = np.arange(begin, min(begin + ROWS_AT_ONCE, self.n_users), dtype=np.int32)
            self.user_vectors[users] = self.encode_histories(
                histories.last(users, self.params.history_length), now_us=dataset.as_of_us, users=users
            )


def _digest(given: FloatArray) -> str:
    return hashlib.sha256(np.asarray(given, dtype=np.float32).tobytes()).hexdigest()


def _checked_given(vectors: npt.ArrayLike, n_targets: int) -> FloatArray:
    given = np.asarray(vectors, dtype=np.float32)
    if given.ndim != 2 or len(given) < n_targets:
        raise ModelError(f"given vectors have shape {given.shape}; {n_targets} targets need a row each")
    if not np.isfinite(given).all():
        row = int(np.argmin(np.isfinite(given).all(axis=1)))
        raise ModelError(f"given vectors: row {row} is not finite; put zeros where there is no vector")
    return given[:n_targets]


def _device(device: str | Literal["auto"]) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device={device}: torch finds no usable GPU here; use device=auto or device=cpu")
    return torch.device(device)
