"""Learns tastes and the first-stage network together: which of the live rooms was entered. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from recsys.errors import ModelError
from recsys.rooms.content import Content, Taste
from recsys.rooms.examples import RoomExamples
from recsys.rooms.features import FEATURES
from recsys.rooms.network import TARGETS, RoomNetwork, TargetWeights
from recsys.types import BEHAVIOURS, Behaviour, FloatArray, LongArray, Params, Progress

_TASTE_COLUMNS = tuple(FEATURES.index(name) for name in ("taste_streamer", "taste_item", "taste"))


class NetworkParams(Params):
    """The first stage and how it is fitted.

    Attributes:
        dimensions: of the taste vectors.
        hidden: units of the network's one hidden layer.
        epochs: most passes over the examples.
        patience: passes without gain on the newest examples before it stops.
        batch: examples a step.
        learning_rate: of Adam, with a cosine to zero.
        id_decay: weight decay on what is learnt of single streamers and products, which keeps the rare near
            what their category says.
        dropout: share of the hidden units dropped.
        targets: how much each target counts in the score.
        outcomes: how much staying and buying, which only visits tell of, count in the loss beside entering.
        seed: of the initial weights and the order of examples.
    """

    dimensions: int = Field(default=24, ge=1)
    hidden: int = Field(default=48, ge=1)
    epochs: int = Field(default=7, ge=1)
    patience: int = Field(default=2, ge=1)
    batch: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=6e-3, gt=0)
    id_decay: float = Field(default=15.0, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    targets: TargetWeights = TargetWeights()
    outcomes: float = Field(default=0.2, ge=0)
    seed: int = 0


@dataclass(frozen=True)
class Attributes:
    """What is known of each entity beside its id, one row an entity, float32.

    Attributes:
        streamer: (S, A_s), item: (I, A_i), user: (U, A_u).
    """

    streamer: FloatArray
    item: FloatArray
    user: FloatArray


@dataclass(frozen=True)
class FittedNetwork:
    """What was learnt, and after how many passes; `loss` is the mean on the newest examples, NaN without."""

    network: RoomNetwork
    taste: Taste
    epochs: int
    loss: float


class _Table(nn.Module):
    """Vectors of entities: what their attributes say, and a part of their own; the last row is zero."""

    attributes: torch.Tensor

    def __init__(self, attributes: FloatArray, dim: int) -> None:
        super().__init__()
        n = len(attributes)
        self.register_buffer("attributes", torch.from_numpy(attributes))
        self.of_attributes = nn.Parameter(torch.randn(attributes.shape[1], dim) * 0.1)
        self.own = nn.Embedding(n + 1, dim)
        nn.init.normal_(self.own.weight, std=0.05)
        with torch.no_grad():
            self.own.weight[n] = 0

    def all(self) -> torch.Tensor:
        """(n + 1, d) the vectors; the last row is zero."""
        own = self.own.weight
        known = own[:-1] + self.attributes @ self.of_attributes
        return torch.cat([known, torch.zeros_like(own[-1:])])


class _Choice(nn.Module):
    """Scores of rooms: a linear and a hidden layer over features, taste among them."""

    attributes: torch.Tensor
    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self, params: NetworkParams, attributes: Attributes, centre: FloatArray, scale: FloatArray
    ) -> None:
        super().__init__()
        d = params.dimensions
        self.streamer, self.read_streamer = _Table(attributes.streamer, d), _Table(attributes.streamer, d)
        self.item, self.read_item = _Table(attributes.item, d), _Table(attributes.item, d)
        self.register_buffer("attributes", torch.from_numpy(attributes.user))
        self.of_user = nn.Parameter(torch.randn(attributes.user.shape[1], d) * 0.05)
        weight = torch.ones(len(BEHAVIOURS))
        weight[Behaviour.PURCHASE.code] = weight[Behaviour.CART.code] = 2.0
        weight[Behaviour.HIDE.code] = -1.0
        self.weight = nn.Parameter(weight)
        self.log_half_life = nn.Parameter(torch.tensor(float(np.log(20.0))))
        self.register_buffer("centre", torch.from_numpy(centre))
        self.register_buffer("scale", torch.from_numpy(scale))
        self.linear = nn.Parameter(torch.zeros(len(FEATURES), len(TARGETS)))
        with torch.no_grad():
            self.linear[list(_TASTE_COLUMNS[:2]), 0] = 1.0
        self.hidden = nn.Linear(len(FEATURES), params.hidden)
        self.out = nn.Linear(params.hidden, len(TARGETS))
        self.dropout = nn.Dropout(params.dropout)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, C, 3) logits of the targets, minus infinity where there is no room."""
        vector = self.users(batch)  # (B, d)
        streamers = functional.embedding(batch["streamer_idx"], self.streamer.all())  # (B, C, d)
        items = functional.embedding(batch["item_idx"], self.item.all())
        to_streamer = (streamers @ vector[:, :, None]).squeeze(-1)
        to_item = (items @ vector[:, :, None]).squeeze(-1)
        features = batch["features"].clone()
        features[..., _TASTE_COLUMNS[0]] = to_streamer
        features[..., _TASTE_COLUMNS[1]] = to_item
        features[..., _TASTE_COLUMNS[2]] = to_streamer + to_item
        x = torch.clamp((features - self.centre) * self.scale, -RoomNetwork.CLIP, RoomNetwork.CLIP)
        hidden = self.dropout(torch.relu(self.hidden(x)))
        logits: torch.Tensor = x @ self.linear + self.out(hidden)
        return logits.masked_fill(~batch["mask"][..., None], -torch.inf)

    def users(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(B, d) the users' vectors: see `recsys.rooms.content.Taste`."""
        decay = torch.exp2(-batch["read_age_days"] / torch.exp(self.log_half_life))
        weight = self.weight[batch["read_behaviour"]] * decay  # (B, L); an age without end weighs nothing
        read = functional.embedding(batch["read_streamer"], self.read_streamer.all())
        read = read + functional.embedding(batch["read_item"], self.read_item.all())
        own = torch.cat([self.attributes @ self.of_user, torch.zeros(1, self.of_user.shape[1])])
        mean = (weight[:, None] @ read).squeeze(1) / (1 + weight.abs().sum(1, keepdim=True))
        return mean + functional.embedding(batch["user_idx"], own)


def fit_network(
    examples: RoomExamples,
    attributes: Attributes,
    params: NetworkParams,
    *,
    validation: RoomExamples | None = None,
    epochs: int | None = None,
    progress: Progress | None = None,
) -> FittedNetwork:
    """Fit tastes and network: which room of an example was entered, and what the visit came to.

    Args:
        examples: to learn from.
        attributes: of streamers, products and users, by the examples' indices.
        params: of the network.
        validation: newer examples, by which the best pass is kept.
        epochs: passes without a validation; by default `params.epochs`.
        progress: called as progress(passes done, passes, text).

    A target that the examples tell nothing of has weight 0 in the score.

    Raises:
        ModelError: there is no example, or the loss is not finite.
    """
    if len(examples) == 0:
        raise ModelError("the room network has no examples: the log has no visit with two rooms live")
    torch.manual_seed(params.seed)
    centre, scale = _standard(examples)
    model = _Choice(params, attributes, centre, scale)
    own: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (own if name.endswith("own.weight") else rest).append(parameter)
    optimiser = torch.optim.AdamW(
        [{"params": own, "weight_decay": params.id_decay}, {"params": rest, "weight_decay": 1e-4}],
        lr=params.learning_rate,
    )
    passes = epochs or params.epochs
    steps = passes * -(-len(examples) // params.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    rng = np.random.default_rng(params.seed)
    best, best_loss, best_epoch = _copy(model), np.inf, passes
    for epoch in range(1, passes + 1):
        model.train()
        for batch in _batches(examples, attributes, params.batch, rng):
            loss = _loss(model, batch, params.outcomes)
            if not torch.isfinite(loss):
                raise ModelError(
                    f"the room network's loss is {loss.item()} in pass {epoch}: lower its learning_rate"
                )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if progress is not None:
            progress(epoch, passes, "passes of the room network")
        if validation is None or len(validation) == 0:
            best, best_epoch = _copy(model), epoch
            continue
        now = _mean_loss(model, validation, attributes, params)
        if now < best_loss:
            best, best_loss, best_epoch = _copy(model), now, epoch
        elif epoch - best_epoch >= params.patience:
            break
    model.load_state_dict(best)
    loss_of_best = float(best_loss) if np.isfinite(best_loss) else float("nan")
    return _exported(model, _weights(params.targets, examples), best_epoch, loss_of_best)


def attributes_of(
    content: Content,
    streamers: npt.NDArray[np.bool_],
    items: npt.NDArray[np.bool_],
    users: npt.NDArray[np.bool_],
) -> Attributes:
    """Attribute rows: texts one-hot, the price of a product in three degrees, and a constant."""
    price = np.nan_to_num(content.item_price)[:, None]
    known = np.isfinite(content.item_price)[:, None]
    prices = np.clip(np.concatenate([known, price, price**2, price**3 / 3], axis=1), -4, 4)

    def rows(*blocks: npt.NDArray[np.generic]) -> FloatArray:
        constant = np.ones((len(blocks[0]), 1))
        return np.concatenate([constant, *blocks], axis=1).astype(np.float32)

    return Attributes(streamer=rows(streamers), item=rows(items, prices), user=rows(users))


def _standard(examples: RoomExamples) -> tuple[FloatArray, FloatArray]:
    """(F,) centre and scale of each feature over the rooms of the examples; taste columns as they are."""
    rows = examples.features[examples.mask]
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
    centre[list(_TASTE_COLUMNS)], scale[list(_TASTE_COLUMNS)] = 0.0, 1.0
    return centre.astype(np.float32), scale.astype(np.float32)


def _batches(
    examples: RoomExamples, attributes: Attributes, size: int, rng: np.random.Generator | None
) -> Iterator[dict[str, torch.Tensor]]:
    order = np.arange(len(examples)) if rng is None else rng.permutation(len(examples))
    for start in range(0, len(order), size):
        yield _tensors(examples, attributes, order[start : start + size])


def _tensors(examples: RoomExamples, attributes: Attributes, rows: LongArray) -> dict[str, torch.Tensor]:
    part = examples.where(rows)
    width = int(part.mask.sum(axis=1).max())  # rooms are in the first places

    def indices(index: npt.NDArray[np.integer], n: int) -> torch.Tensor:
        return torch.from_numpy(np.where((index >= 0) & (index < n), index, n).astype(np.int64))

    streamers, items = len(attributes.streamer), len(attributes.item)
    return {
        "user_idx": indices(part.user_idx, len(attributes.user)),
        "weight": torch.from_numpy(part.weight),
        "outcomes": torch.from_numpy(np.stack([part.stayed, part.bought], axis=1)),
        "mask": torch.from_numpy(part.mask[:, :width]),
        "features": torch.from_numpy(part.features[:, :width]),
        "streamer_idx": indices(part.streamer_idx[:, :width], streamers),
        "item_idx": indices(part.item_idx[:, :width], items),
        "read_streamer": indices(part.read_streamer, streamers),
        "read_item": indices(part.read_item, items),
        "read_behaviour": torch.from_numpy(part.read_behaviour.astype(np.int64)),
        "read_age_days": torch.from_numpy(part.read_age_days),
    }


def _loss(model: _Choice, batch: dict[str, torch.Tensor], outcomes: float) -> torch.Tensor:
    """Cross-entropy of the room entered among the rooms, and of what the visit came to where it is known."""
    logits = model(batch)
    # The room entered is in place 0.
    chosen = -torch.log_softmax(logits[..., 0], dim=1)[:, 0]
    loss = (chosen * batch["weight"]).sum() / batch["weight"].sum()
    known = torch.isfinite(batch["outcomes"])
    if outcomes and known.any():
        came_to = functional.binary_cross_entropy_with_logits(
            logits[:, 0, 1:], torch.where(known, batch["outcomes"], 0.0), reduction="none"
        )
        loss = loss + outcomes * (came_to * known).sum() / len(known)
    return loss


def _mean_loss(
    model: _Choice, examples: RoomExamples, attributes: Attributes, params: NetworkParams
) -> float:
    """Of the choice alone: by it the best pass is kept."""
    model.eval()
    with torch.no_grad():
        losses = [
            (float(_loss(model, batch, 0.0)), len(batch["weight"]))
            for batch in _batches(examples, attributes, params.batch, None)
        ]
    return sum(loss * n for loss, n in losses) / sum(n for _, n in losses)


def _weights(targets: TargetWeights, examples: RoomExamples) -> FloatArray:
    """(3,) the configured weights, 0 for a target that the examples tell nothing of."""
    told = np.array([True, _tells(examples.stayed), _tells(examples.bought)])
    weights: FloatArray = np.where(told, targets.to_array(), np.float32(0))
    if not weights.any():
        raise ModelError(
            "rooms: the log tells nothing of the targets that count in the score: "
            "give targets.enter a weight, or log how long views last and what is bought in rooms"
        )
    return weights


def _tells(outcome: FloatArray) -> bool:
    """Whether an outcome is known, and not always the same: else its output means nothing."""
    known = outcome[np.isfinite(outcome)]
    return bool(len(known) and known.min() < known.max())


def _copy(model: _Choice) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _exported(model: _Choice, weights: FloatArray, epochs: int, loss: float) -> FittedNetwork:
    def array(tensor: torch.Tensor) -> FloatArray:
        values: FloatArray = tensor.detach().numpy().astype(np.float32)
        return np.ascontiguousarray(values)

    user = model.attributes @ model.of_user
    unknown = user.mean(dim=0, keepdim=True)
    taste = Taste(
        streamer=array(model.streamer.all()),
        read_streamer=array(model.read_streamer.all()),
        item=array(model.item.all()),
        read_item=array(model.read_item.all()),
        user=array(torch.cat([user, unknown])),
        weight=array(model.weight),
        half_life_days=float(torch.exp(model.log_half_life.detach())),
    )
    network = RoomNetwork(
        centre=array(model.centre),
        scale=array(model.scale),
        linear=array(model.linear),
        hidden=array(model.hidden.weight.T),
        hidden_bias=array(model.hidden.bias),
        out=array(model.out.weight.T),
        out_bias=array(model.out.bias),
        weights=weights,
    )
    return FittedNetwork(network, taste, epochs, loss)
