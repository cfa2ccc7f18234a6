"""The two towers: one vector for what a user wants, one for every target, in the same space."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.models.history_encoder import HistoryEncoder
from recsys.models.tower_features import EncodedTable
from recsys.types import FloatArray

#: The sharpest softmax that training may come to: below it, rounding decides.
_LOWEST_TEMPERATURE = 0.01
#: Over such a temperature the scores of vectors of length 1 lie within a fiftieth of each other: nothing is
#: told apart, and only a training that has come apart gets there.
_HIGHEST_TEMPERATURE = 100.0


class EntityTower(nn.Module):
    """A user or a target by id and by content: the vector is the sum of both.

    Args:
        n: how many entities.
        dim: d.
        features: their features; codes of an entity are embedded and summed, words of its title averaged.
        cardinalities: how many codes each categorical column has.
        n_words: how many words of titles there are.
        given: (n, e) vectors that somebody else made of them, of an image or a text, say.
        id_embedding: whether an entity has a vector of its own.
        id_dropout: share of rows that do without it in training, where there is content to stand in.
        title_dropout: share of rows that do without the words of their titles in training.
        id_scale: deviation of the ids' vectors at the start.
        sparse: whether the ids' gradient holds only the rows of the batch.
    """

    def __init__(
        self,
        n: int,
        dim: int,
        *,
        features: EncodedTable,
        cardinalities: tuple[int, ...],
        n_words: int = 0,
        given: FloatArray | None = None,
        id_embedding: bool,
        id_dropout: float,
        title_dropout: float = 0.0,
        id_scale: float,
        sparse: bool,
    ) -> None:
        super().__init__()
        self.n = n
        self.dim = dim
        self.id_dropout = id_dropout
        self.title_dropout = title_dropout
        self.ids = nn.Embedding(n, dim, sparse=sparse) if id_embedding else None
        if self.ids is not None:
            nn.init.normal_(self.ids.weight, std=id_scale)
        self.has_content = features.some or given is not None
        # One table for all columns: column c's codes begin at offset c.
        offsets = np.cumsum((0, *cardinalities))
        self.categories = nn.Embedding(int(offsets[-1]), dim) if cardinalities else None
        self.words = nn.EmbeddingBag(n_words + 1, dim, mode="mean", padding_idx=0) if n_words else None
        n_numbers = features.numbers.shape[1]
        self.numeric = nn.Linear(n_numbers, dim, bias=False) if n_numbers else None
        self.given = nn.Linear(given.shape[1], dim, bias=False) if given is not None else None
        self.mix = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )
        if self.categories is not None:
            nn.init.normal_(self.categories.weight, std=id_scale)
        if self.words is not None:
            nn.init.zeros_(self.words.weight)  # drawn at random, words would stand in for an id
        self.id_known: Tensor
        self.codes: Tensor
        self.numbers: Tensor
        self.title: Tensor
        self.given_vectors: Tensor
        self.offsets: Tensor
        self._hold("id_known", torch.ones(n))
        self._hold("offsets", torch.from_numpy(offsets[:-1].astype(np.int64)))
        self._hold("codes", torch.from_numpy(features.codes))
        self._hold("numbers", torch.from_numpy(features.numbers))
        self._hold("title", torch.from_numpy(features.words))
        self._hold(
            "given_vectors", torch.from_numpy(np.zeros((n, 0), np.float32) if given is None else given)
        )

    def _hold(self, name: str, values: Tensor) -> None:
        """Keep data beside the weights, on their device, but out of the checkpoint."""
        self.register_buffer(name, values, persistent=False)

    def learn_ids_of(self, rows: Tensor) -> None:
        """Only these entities are trained: any other is placed by its content alone.

        A category that none of them has says nothing: left as it was drawn, it would move whoever has it
        some way at random. Words begin at nothing.

        Args:
            rows: (m,) int64 indices.
        """
        self.id_known.zero_()
        self.id_known[rows] = 1.0
        if self.categories is not None:
            unseen = torch.ones(len(self.categories.weight), dtype=torch.bool)
            unseen[(self.codes[rows] + self.offsets).flatten().cpu()] = False
            with torch.no_grad():
                self.categories.weight[unseen.to(self.codes.device)] = 0.0

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Begin with these vectors of ids in place of those drawn.

        Args:
            vectors: (n, d) float32; an entity whose row is zero keeps what was drawn.
        """
        if self.ids is not None:
            given = vectors.any(dim=1)
            self.ids.weight[given] = vectors[given]

    def forward(self, rows: Tensor) -> Tensor:
        """(m,) int64 entity indices -> (m, d)."""
        vectors = self.content(
            self.codes[rows], self.numbers[rows], self.title[rows], self.given_vectors[rows]
        )
        if self.ids is None:
            return vectors
        own: Tensor = self.ids(rows)
        if not self.training:
            own = own * self.id_known[rows].unsqueeze(-1)
        return vectors + self._some(own, self.id_dropout)

    def _some(self, vectors: Tensor, dropout: float) -> Tensor:
        """Vectors (m, d), in training without the share of the rows that do without."""
        if not self.training or not dropout:
            return vectors
        return vectors * (torch.rand(len(vectors), 1, device=vectors.device) >= dropout)

    def content(self, codes: Tensor, numbers: Tensor, title: Tensor, given: Tensor) -> Tensor:
        """Vectors (m, d) by content alone; zero where there is none.

        Args:
            codes: (m, categorical columns) int64.
            numbers: (m, 2 x numeric columns) float32.
            title: (m, w) int64 words.
            given: (m, e) float32.
        """
        vectors = torch.zeros(len(codes), self.dim, device=codes.device)
        if not self.has_content:
            return vectors
        if self.categories is not None:
            vectors = vectors + self.categories(codes + self.offsets).sum(dim=1)
        if self.words is not None:
            vectors = vectors + self._some(self.words(title), self.title_dropout)
        if self.numeric is not None:
            vectors = vectors + self.numeric(numbers)
        if self.given is not None:
            vectors = vectors + self.given(given)
        mixed: Tensor = vectors + self.mix(vectors)
        return mixed


class TwoTowerNetwork(nn.Module):
    """User tower = history encoder + profile (id and features); target tower = id + content.

    Args:
        users, targets: the entity towers.
        history: reads target vectors.
        normalise: whether vectors have length 1.
        temperature: what scores are divided by.
        learn_temperature: whether it is a weight.
        popularity: (targets + 1,) float32, what each target's score has besides, once it is trained, over the
            temperature; it takes the last of the d places. None for nothing.
    """

    def __init__(
        self,
        *,
        users: EntityTower,
        targets: EntityTower,
        history: HistoryEncoder,
        normalise: bool,
        temperature: float,
        learn_temperature: bool,
        popularity: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.users = users
        self.targets = targets
        self.history = history
        self.normalise = normalise
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(temperature)), requires_grad=learn_temperature
        )
        self.popularity: Tensor | None
        self.register_buffer("popularity", popularity, persistent=False)

    def target_vectors(self, rows: Tensor) -> Tensor:
        """(m,) int64 target indices -> (m, d)."""
        vectors = self.finish(self.targets(rows))
        if self.popularity is None or self.training:
            return vectors
        return self._with_last(vectors, self.temperature * self.popularity[rows, None])

    def new_target_vectors(self, content: Tensor) -> Tensor:
        """(m, d) content of targets that the fit has not seen -> (m, d): they are as popular as the least."""
        vectors = self.finish(content)
        if self.popularity is None:
            return vectors
        return self._with_last(vectors, self.temperature * self.popularity[-1])

    def user_vectors(self, wanted: Tensor) -> Tensor:
        """(B, d) -> (B, d): what a trained network compares with `target_vectors`."""
        vectors = self.finish(wanted)
        return vectors if self.popularity is None else self._with_last(vectors, torch.ones(1))

    def finish(self, vectors: Tensor) -> Tensor:
        """Vectors (..., d) as training compares them: of length 1 where asked. Zero stays zero."""
        vectors = self.learnt(vectors)
        return functional.normalize(vectors, dim=-1) if self.normalise else vectors

    def learnt(self, vectors: Tensor) -> Tensor:
        """Vectors (..., d) without what is not learnt."""
        if self.popularity is None:
            return vectors
        return torch.cat([vectors[..., :-1], torch.zeros_like(vectors[..., -1:])], dim=-1)

    def _with_last(self, vectors: Tensor, last: Tensor) -> Tensor:
        """Vectors (m, d) with what stands in the last place, (m or 1, 1); zero stays zero."""
        known = (vectors.abs().sum(dim=-1, keepdim=True) > 0).to(vectors.dtype)
        return torch.cat([vectors[..., :-1], known * last.to(vectors.device)], dim=-1)

    def scores(self, users: Tensor, targets: Tensor) -> Tensor:
        """(B, d) x (N, d) -> (B, N) float32, over the temperature."""
        return ((users / self.temperature) @ targets.T).float()

    @property
    def temperature(self) -> Tensor:
        """What scores are divided by in the loss."""
        return self.log_temperature.exp().clamp(min=_LOWEST_TEMPERATURE)

    @property
    def tells_nothing_apart(self) -> bool:
        """Whether the learnt temperature leaves no difference between the scores of any two targets."""
        learnt = self.normalise and self.log_temperature.requires_grad
        return learnt and self.temperature.item() > _HIGHEST_TEMPERATURE


class ContentTower(nn.Module):
    """The part of the target tower that knows no id: a target's content -> its vector.

    Args:
        network: whose target tower and normalisation it shares; without given vectors.
    """

    def __init__(self, network: TwoTowerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor, numbers: Tensor, words: Tensor) -> Tensor:
        """Target vectors (m, d).

        Args:
            codes: (m, categorical columns) int64; ignored where the tower has none, as are the others.
            numbers: (m, 2 x numeric columns) float32.
            words: (m, w) int64, 0 for no word.
        """
        tower = self.network.targets
        vectors = torch.zeros_like(numbers[:, :1]) * torch.zeros(1, tower.dim)
        if tower.categories is not None:
            vectors = vectors + tower.categories(codes + tower.offsets).sum(dim=1)
        if tower.words is not None:
            # As the bag does it, in operators that the exporter knows.
            there = (words > 0).unsqueeze(-1)
            found = functional.embedding(words, tower.words.weight) * there
            vectors = vectors + found.sum(dim=1) / there.sum(dim=1).clamp(min=1)
        if tower.numeric is not None:
            vectors = vectors + tower.numeric(numbers)
        return self.network.new_target_vectors(vectors + tower.mix(vectors))


class QueryTower(nn.Module):
    """The part of the user tower that serving runs: a history and a profile -> the user's vector.

    Args:
        network: whose history encoder and normalisation it shares.
    """

    def __init__(self, network: TwoTowerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, history: Tensor, behaviour: Tensor, age_s: Tensor, mask: Tensor, profile: Tensor
    ) -> Tensor:
        """User vectors (B, d).

        Args:
            history: (B, L, d) target vectors of the last L events, the newest last.
            behaviour: (B, L) int64 behaviour codes.
            age_s: (B, L) float32 seconds since each event.
            mask: (B, L) bool, whether the place holds an event.
            profile: (B, d) of the user's id and features; zero for an unknown user.
        """
        # The gap before an event is the difference of two ages; the first event has none before it.
        gap_s = torch.cat([torch.zeros_like(age_s[:, :1]), age_s[:, :-1] - age_s[:, 1:]], dim=1)
        before = torch.cat([torch.zeros_like(mask[:, :1]), mask[:, :-1]], dim=1)
        wanted = self.network.history(
            self.network.learnt(history),
            behaviour,
            gap_s * (before & mask),
            mask,
            age_s.unsqueeze(1),
            mask.unsqueeze(1),
        )
        return self.network.user_vectors(wanted.squeeze(1) + profile)
