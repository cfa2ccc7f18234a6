"""All that a training of the two-tower depends on, in arrays: what a follower is sent, and trains along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from recsys.errors import ModelError
from recsys.models import spectral
from recsys.models.exposures import Exposures
from recsys.models.history_encoder import HistoryEncoder
from recsys.models.sampling import ExposureSampler, Had, NegativeSampler
from recsys.models.team import Team
from recsys.models.tower_features import EncodedTable, TableEncoder
from recsys.models.tower_loss import TowerLoss
from recsys.models.tower_training import Trainer
from recsys.models.tower_validation import Validation
from recsys.models.towers import EntityTower, TwoTowerNetwork
from recsys.models.training_examples import ExampleSource, Timelines, Windows
from recsys.models.two_tower_params import TwoTowerParams
from recsys.types import FloatArray, Progress


@dataclass(frozen=True)
class Side:
    """What one tower reads of its n entities.

    Attributes:
        features: of each.
        cardinalities: how many codes each categorical column has.
        n_words: how many words of titles there are.
        given: (n, e) float32 vectors made elsewhere, if any.
    """

    features: EncodedTable
    cardinalities: tuple[int, ...]
    n_words: int
    given: FloatArray | None = None

    @classmethod
    def of(cls, encoder: TableEncoder, table: pa.Table, n: int, *, given: FloatArray | None = None) -> Self:
        """Of the n entities of a table, as its encoder has them."""
        return cls(encoder.encode(table, n), encoder.cardinalities, len(encoder.words), given)

    @property
    def has_content(self) -> bool:
        """Whether anything but the id is known of an entity."""
        return self.features.some or self.given is not None


@dataclass(frozen=True)
class TrainingInputs:
    """A training before its first step.

    Attributes:
        params: of the towers and their training.
        seed: of everything drawn.
        users, targets: what is known of them.
        timelines: the events to learn from.
        exposures: what was shown before them and let pass.
    """

    params: TwoTowerParams
    seed: int
    users: Side
    targets: Side
    timelines: Timelines
    exposures: Exposures

    def network(self) -> TwoTowerNetwork:
        """The towers as drawn from torch's global generator, on the CPU."""
        params = self.params

        def tower(side: Side, **options: Any) -> EntityTower:
            n = len(side.features.codes)
            by_size = n * params.dim >= params.sparse_from
            return EntityTower(
                n,
                params.dim,
                features=side.features,
                cardinalities=side.cardinalities,
                n_words=side.n_words,
                title_dropout=params.title_dropout,
                given=side.given,
                sparse=by_size if params.sparse_tables == "auto" else params.sparse_tables,
                **options,
            )

        network = TwoTowerNetwork(
            users=tower(
                self.users,
                id_embedding=params.user_id_embedding,
                id_dropout=params.user_id_dropout,
                id_scale=0.01,
            ),
            targets=tower(
                self.targets,
                id_embedding=True,
                id_dropout=params.target_id_dropout if self.targets.has_content else 0.0,
                id_scale=params.dim**-0.5,
            ),
            history=HistoryEncoder(
                dim=params.dim,
                heads=params.heads,
                layers=params.layers,
                length=params.history_length,
                dropout=params.dropout,
            ),
            normalise=params.normalise,
            temperature=params.temperature,
            learn_temperature=params.learn_temperature,
            popularity=self._popularity() if params.popularity else None,
        )
        if params.start == "spectral":
            directions = spectral.directions(
                self.timelines.interactions(network.targets.n), params.dim, self.seed
            )
            if directions is not None:
                network.targets.start_from(torch.from_numpy(directions))
        network.targets.learn_ids_of(torch.from_numpy(self.timelines.targets))
        network.users.learn_ids_of(torch.from_numpy(np.unique(self.windows().user_idx)))
        return network

    def _popularity(self) -> torch.Tensor:
        """(targets + 1,) float32, 0 at the mean; a target that is never right counts as one that once is.

        The last is of targets that are not among them: they are as popular as the least.
        """
        predicted = self.timelines.target_idx[self.timelines.weight > 0]
        counts = np.bincount(predicted, minlength=len(self.targets.features.codes))
        logs = np.log(np.maximum(counts, 1))
        scaled = self.params.popularity * (np.append(logs, logs.min()) - logs.mean())
        return torch.from_numpy(scaled).float()

    def windows(self) -> Windows:
        """What batches are made of; there may be none."""
        from_nothing = self.users.has_content or self.params.ahead == "whole"
        return Windows.of(self.timelines, self.params.history_length, from_nothing=from_nothing)

    def trainer(
        self,
        network: TwoTowerNetwork,
        device: torch.device,
        *,
        validation: Validation | None,
        validates: bool,
        identity: Mapping[str, str],
        checkpoint_dir: Path | None,
        progress: Progress | None,
    ) -> Trainer:
        """The training of a network that is on the device; see `Trainer`."""
        params, timelines, windows = self.params, self.timelines, self.windows()
        n_targets = network.targets.n
        pool = torch.from_numpy(timelines.targets).to(device)
        drawn = windows.draws(timelines, params.ahead)
        expected = np.bincount(timelines.target_idx, drawn, n_targets).astype(np.float64)
        full = params.loss == "full" or (params.loss == "auto" and n_targets <= params.full_softmax_up_to)
        sampler = NegativeSampler(
            torch.from_numpy(expected).to(device),
            pool,
            in_batch=params.in_batch_negatives,
            n_uniform=params.uniform_negatives,
            log_q=params.log_q,
        )
        loss = TowerLoss(
            network,
            params,
            pool=pool,
            sampler=None if full else sampler,
            exposures=ExposureSampler(self.exposures, params.exposed_negatives, device),
            had=Had(
                torch.from_numpy(timelines.user_idx).to(device),
                torch.from_numpy(timelines.target_idx).to(device),
                n_targets,
            ),
            generator=torch.Generator(device=device),
        )
        return Trainer(
            network,
            ExampleSource(timelines, windows, device, params.ahead),
            windows,
            loss,
            params,
            of_popularity=loss.of_popularity(expected),
            seed=self.seed,
            validation=validation,
            validates=validates,
            identity=identity,
            checkpoint_dir=checkpoint_dir,
            progress=progress,
        )

    def header(self) -> dict[str, Any]:
        """What is no array, in JSON's terms."""
        return {
            "params": self.params.model_dump(mode="json"),
            "seed": self.seed,
            "users": [*self.users.cardinalities, self.users.n_words],
            "targets": [*self.targets.cardinalities, self.targets.n_words],
        }

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything else."""
        found: dict[str, npt.NDArray[Any]] = {}
        for name, part in (("timelines", self.timelines), ("exposures", self.exposures)):
            found |= {f"{name}.{field.name}": getattr(part, field.name) for field in fields(part)}
        for name, side in (("users", self.users), ("targets", self.targets)):
            for field in fields(side.features):
                found[f"{name}.{field.name}"] = getattr(side.features, field.name)
            if side.given is not None:
                found[f"{name}.given"] = side.given
        return found

    @classmethod
    def sent(cls, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """What `header` and `arrays` gave, on the other side."""

        def side(name: str) -> Side:
            *cardinalities, n_words = header[name]
            features = {field.name: arrays[f"{name}.{field.name}"] for field in fields(EncodedTable)}
            return Side(EncodedTable(**features), tuple(cardinalities), n_words, arrays.get(f"{name}.given"))

        def part(name: str, kind: Any) -> Any:
            return kind(**{field.name: arrays[f"{name}.{field.name}"] for field in fields(kind)})

        return cls(
            params=TwoTowerParams.model_validate(header["params"]),
            seed=header["seed"],
            users=side("users"),
            targets=side("targets"),
            timelines=part("timelines", Timelines),
            exposures=part("exposures", Exposures),
        )


def follow(team: Team, device: torch.device) -> None:
    """Do a follower's share of every training that the leader begins, until it is done with all.

    Args:
        team: of which this process is a follower.
        device: of this process, where the leader trains on a GPU.

    Raises:
        ModelError: a training failed, or the leader is gone.
    """
    try:
        while _followed(team, device):
            pass
    except RuntimeError as error:
        raise ModelError(f"process {team.rank} of {team.size}: the leader is gone: {error}") from error


def _followed(team: Team, device: torch.device) -> bool:
    """Whether the leader began a training, in which this process did its share."""
    header, arrays = team.hear()
    if header["end"]:
        return False
    inputs = TrainingInputs.sent(header, arrays)
    here = device if header["device"] == "cuda" else torch.device("cpu")
    trainer = inputs.trainer(
        inputs.network().to(here),
        here,
        validation=None,
        validates=header["validates"],
        identity={},
        checkpoint_dir=None,
        progress=None,
    )
    trainer.run()
    return True


def dismiss(team: Team) -> None:
    """End `follow` in every follower."""
    team.tell({"end": True}, {})
