"""The query side of the two-tower: what a user's recent events say, as a vector.

Events come as vectors (those of the targets), so the encoder holds no table of targets: it is small enough
to export, and a target that is new today needs no new encoder. Order, time and behaviour enter as biases of
attention and as vectors added to the event's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.types import BEHAVIOURS

#: Knots of the time scale: 1 s, 2 s, 4 s ... 2^27 s, which is four years.
_TIME_KNOTS = 28


class Lookup(nn.Embedding):
    """An embedding; in training a narrow one is read column by column.

    The gradient of `nn.Embedding` adds one short row at a time on a CPU: for two heads over 40 windows of 51
    moments and 51 events that took 5.6 ms, and this takes 0.4 ms.
    """

    #: Widest table that is read so.
    NARROW = 4

    def forward(self, rows: Tensor) -> Tensor:
        """(...) int64 -> (..., width)."""
        if not self.training or self.embedding_dim > self.NARROW or self.weight.is_cuda:
            return super().forward(rows)
        flat = rows.flatten()
        columns = [column.gather(0, flat) for column in self.weight.unbind(dim=1)]
        return torch.stack(columns, dim=-1).view(*rows.shape, self.embedding_dim)


class Dropout(nn.Module):
    """Dropout whose CPU form takes sixteen random bits a value.

    `nn.Dropout` draws a double for each on a CPU: 1.2 ms for 40 windows of 51 events of 64 values and back,
    0.5 ms this way.

    Args:
        share: of the values dropped in training, rounded to 1 / 65,536.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, values: Tensor) -> Tensor:
        """Of any shape."""
        if not self.training or not self.share:
            return values
        if values.is_cuda:
            return functional.dropout(values, self.share)
        bits = torch.empty(-(-values.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        kept = bits.view(torch.int16)[: values.numel()] >= round(self.share * 2**16) - 2**15
        return values * (kept.view(values.shape) * (1 / (1 - self.share)))


class LogTime(nn.Module):
    """A learned function of a duration: linear between knots at 2^n - 1 seconds.

    Interpolated rather than cut into buckets, so that the last bit of a logarithm moves nothing.

    Args:
        width: how many values it gives.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.knots = Lookup(_TIME_KNOTS, width)
        nn.init.zeros_(self.knots.weight)

    def forward(self, seconds: Tensor) -> Tensor:
        """(...) seconds -> (..., width)."""
        place = torch.log2(1.0 + seconds.clamp(min=0.0)).clamp(max=_TIME_KNOTS - 1.001)
        low = place.floor()
        share = (place - low).unsqueeze(-1)
        knot = low.long()
        values: Tensor = (1.0 - share) * self.knots(knot) + share * self.knots(knot + 1)
        return values


class CausalLayer(nn.Module):
    """A transformer layer in which an event sees itself and those before it; order enters by distance.

    Args:
        dim: d.
        heads: H.
        length: distances from here on count as one.
        dropout: in training.
    """

    def __init__(self, dim: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.length = length
        self.attention_norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, 3 * dim)
        self.combine = nn.Linear(dim, dim)
        self.distance = Lookup(length, heads)
        nn.init.zeros_(self.distance.weight)
        self.feed_forward = _feed_forward(dim, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, events: Tensor, mask: Tensor) -> Tensor:
        """(B, N, d) events and (B, N) which of them are there -> (B, N, d)."""
        n = events.shape[1]
        query, key, value = self.project(self.attention_norm(events)).chunk(3, dim=-1)
        query, key, value = (_split(part, self.heads) for part in (query, key, value))  # (B, H, N, d/H)
        place = torch.arange(n, device=events.device)
        behind = place[:, None] - place[None, :]  # (N, N)
        bias = self.distance(behind.clamp(min=0, max=self.length - 1)).permute(2, 0, 1)  # (H, N, N)
        # A place that holds no event still sees itself: a row without any key has no softmax.
        seen = (behind >= 0) & (mask[:, None, :] | (behind == 0))  # (B, N, N)
        read = _attend(query, key, value, bias.unsqueeze(0), seen.unsqueeze(1), self.dropout)
        events = events + self.dropout(self.combine(_join(read)))
        out: Tensor = events + self.feed_forward(events)
        return out


class HistoryEncoder(nn.Module):
    """Attention over what happened before a moment, asked by the latest event -> (B, T, d).

    It starts out as the mean of the visible events' vectors plus the latest one's, and learns from there.

    Args:
        dim: d.
        heads: H.
        layers: causal layers before the pooling.
        length: the most events that it reads.
        dropout: in training.
    """

    def __init__(self, *, dim: int, heads: int, layers: int, length: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.length = length
        self.behaviour = nn.Embedding(len(BEHAVIOURS), dim)
        self.gap = LogTime(dim)
        self.layers = nn.ModuleList(CausalLayer(dim, heads, length, dropout) for _ in range(layers))
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.skip = nn.Linear(dim, dim, bias=False)
        self.rank_bias = Lookup(length, heads)
        self.age_bias = LogTime(heads)
        self.behaviour_bias = Lookup(len(BEHAVIOURS), heads)
        self.feed_forward = _feed_forward(dim, dropout)
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.behaviour.weight, std=0.02)
        for table in (self.rank_bias, self.behaviour_bias):
            nn.init.zeros_(table.weight)
        nn.init.eye_(self.value.weight)
        nn.init.eye_(self.skip.weight)

    def forward(
        self,
        vectors: Tensor,
        behaviour: Tensor,
        gap_s: Tensor,
        mask: Tensor,
        age_s: Tensor,
        visible: Tensor,
        asked: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """What the user wants at each of T moments, (B, T, d); zero where no event is visible.

        Args:
            vectors: (B, N, d) of the targets of N events in time order.
            behaviour: (B, N) int64 codes.
            gap_s: (B, N) seconds since the event before it, 0 for the first.
            mask: (B, N) bool, whether the place holds an event; those that do lie side by side.
            age_s: (B, T, N) seconds from the event to the moment.
            visible: (B, T, N) bool, whether the event was before the moment: for each moment a prefix of
                the events that are there.
            asked: rows (E,) and moments (E,) int64 of which alone it is wanted, as (E, d).
        """
        events = vectors + self.behaviour(behaviour) + self.gap(gap_s) * mask.unsqueeze(-1)
        events = self.dropout(events)
        for layer in self.layers:
            events = layer(events, mask)
        place = torch.arange(events.shape[1], device=events.device)
        first = mask.long().argmax(dim=-1, keepdim=True)  # (B, 1)
        latest = (first + visible.sum(dim=-1) - 1).clamp(min=0)  # (B, T)
        asking = torch.gather(events, 1, latest.unsqueeze(-1).expand(-1, -1, events.shape[2]))  # (B, T, d)
        rank = (latest.unsqueeze(-1) - place).clamp(min=0, max=self.length - 1)  # (B, T, N)
        bias = self.rank_bias(rank) + self.age_bias(age_s) + self.behaviour_bias(behaviour).unsqueeze(1)
        read = _attend(
            _split(self.query(asking), self.heads),
            _split(self.key(events), self.heads),
            _split(self.value(events), self.heads),
            bias.permute(0, 3, 1, 2),
            visible.unsqueeze(1),
            self.dropout,
        )
        read, any_visible = _join(read), visible.any(dim=-1, keepdim=True)
        if asked is not None:
            read, asking, any_visible = read[asked], asking[asked], any_visible[asked]
        wanted = read + self.skip(asking)
        wanted = wanted + self.feed_forward(wanted)
        known: Tensor = wanted * any_visible
        return known


def _attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, visible: Tensor, dropout: nn.Module
) -> Tensor:
    """Attention of (B, H, T, c) queries over (B, H, N, c) keys and values."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias  # (B, H, T, N)
    # A large negative number, not minus infinity: a moment with nothing visible must not become NaN.
    weights = torch.softmax(scores.masked_fill(~visible, -1e9), dim=-1)
    out: Tensor = dropout(weights) @ value
    return out


def _split(values: Tensor, heads: int) -> Tensor:
    """(B, N, d) -> (B, H, N, d/H)."""
    b, n, d = values.shape
    return values.view(b, n, heads, d // heads).transpose(1, 2)


def _join(values: Tensor) -> Tensor:
    """(B, H, N, d/H) -> (B, N, d)."""
    return values.transpose(1, 2).flatten(2)


def _feed_forward(dim: int, dropout: float) -> nn.Sequential:
    """A residual branch that starts at zero."""
    last = nn.Linear(2 * dim, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), Dropout(dropout), last, Dropout(dropout)
    )
