"""Training examples of a sequence model: events are predicted from those strictly before a moment.

Histories are cut into windows; a window is encoded once and gives an example for every event in it. The
moment of an example is its own event's; or a window has one moment, and all from there on is predicted from
it, as in Pancha et al., "PinnerFormer", 2022; or the whole window is predicted from itself, as in Liang et
al., "Variational Autoencoders for Collaborative Filtering", 2018, less what is dropped there. All of it is
index arithmetic on flat arrays, on whatever device holds them: no example is ever built on its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from recsys.data.dataset import Events
from recsys.durations import SECOND_US
from recsys.slices import expand
from recsys.types import BEHAVIOURS, Behaviour, DoubleArray, FloatArray, IntArray, LongArray, Target

#: What is predicted from what; see `TwoTowerParams.ahead`.
Ahead = Literal["next", "all", "whole"]

#: What a history is made of: everything that a user did, and nothing that was merely shown.
HISTORY_BEHAVIOURS: tuple[Behaviour, ...] = tuple(b for b in BEHAVIOURS if b is not Behaviour.IMPRESSION)

#: Batches from which windows of like length are put together, so that little of a batch is padding.
_SORTED_TOGETHER = 32


@dataclass(frozen=True)
class Timelines:
    """What U users did, one after the other: user u's N events are at `indptr[u]:indptr[u + 1]`.

    Attributes:
        indptr: (U + 1,) int64.
        target_idx: (N,) int32.
        behaviour: (N,) int8 codes.
        timestamp_us: (N,) int64, ascending within a user.
        weight: (N,) float32, how much predicting the event counts; 0 where it is no example.
    """

    indptr: LongArray
    target_idx: IntArray
    behaviour: np.ndarray[tuple[int], np.dtype[np.int8]]
    timestamp_us: LongArray
    weight: FloatArray

    @classmethod
    def of(
        cls,
        events: Events,
        weight: FloatArray,
        *,
        n_users: int,
        target: Target,
        predicted: tuple[Behaviour, ...] | None = None,
        repeats: bool = True,
    ) -> Timelines:
        """Timelines of a log's events, impressions left out.

        Args:
            events: N events in time order.
            weight: (N,) float32 of each.
            n_users: U.
            target: what the events are about.
            predicted: behaviours that are examples; None is all of them.
            repeats: whether an event on a target that the user already had is an example.
        """
        if predicted is not None:
            weight = np.where(events.is_any(predicted), weight, np.float32(0))
        index = events.target_idx(target)
        rows = np.flatnonzero((index >= 0) & events.is_any(HISTORY_BEHAVIOURS))
        rows = rows[np.argsort(events.user_idx[rows], kind="stable")]
        users, targets = events.user_idx[rows], index[rows]
        if not repeats:
            pair = users.astype(np.int64) << 32 | targets
            first = np.zeros(len(rows), dtype=bool)
            first[np.unique(pair, return_index=True)[1]] = True
            weight = np.where(first, weight[rows], np.float32(0))
        else:
            weight = weight[rows]
        return cls(
            indptr=np.searchsorted(users, np.arange(n_users + 1)).astype(np.int64),
            target_idx=targets,
            behaviour=events.behaviour[rows],
            timestamp_us=events.timestamp_us[rows],
            weight=weight,
        )

    @property
    def user_idx(self) -> LongArray:
        """(N,) int64, whose each event is."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def interactions(self, n_targets: int) -> sparse.csr_matrix:
        """(U, targets) float32 CSR of ones, who had an event on what."""
        shape = (len(self.indptr) - 1, n_targets)
        matrix = sparse.csr_matrix(
            (np.ones(len(self.target_idx), np.float32), self.target_idx, self.indptr), shape
        )
        matrix.sum_duplicates()
        matrix.data[:] = 1.0
        return matrix

    @property
    def targets(self) -> LongArray:
        """(m,) int64 ascending, the targets that have an event."""
        return np.unique(self.target_idx).astype(np.int64)


@dataclass(frozen=True)
class Windows:
    """W stretches of timelines. Each event is an example in at most one of them.

    Attributes:
        user_idx: (W,) int64.
        start, end: (W,) int64 positions in the timelines.
        first: (W,) int64 position of the first event that is an example here; those before are its history.
        n_examples: (W,) int64, at least 1.
    """

    user_idx: LongArray
    start: LongArray
    end: LongArray
    first: LongArray
    n_examples: LongArray

    @classmethod
    def of(cls, timelines: Timelines, length: int, *, from_nothing: bool) -> Windows:
        """Windows of at most length + 1 events; a later event's history is at least length // 2 long.

        Args:
            timelines: whose events.
            length: L, the longest history.
            from_nothing: whether an event with nothing before it is an example too: it is of use where a
                user has features.
        """
        stride = length // 2 + 1
        n_events = np.diff(timelines.indptr)
        n_windows = np.where(n_events > 0, 1 + np.maximum(-(-(n_events - length - 1) // stride), 0), 0)
        nth, user_idx = expand(np.zeros_like(n_windows), n_windows)
        begin = timelines.indptr[user_idx]
        start = begin + nth * stride
        end = np.minimum(start + length + 1, timelines.indptr[user_idx + 1])
        first = np.where(nth > 0, start - stride + length + 1, start)
        # What happened at the same instant as the window's first event has no history in it.
        with_history = np.maximum(first, _end_of_instant(timelines)[start])
        first = np.where((start == begin) & from_nothing, first, with_history)
        first = np.minimum(first, end)
        counted = np.concatenate([[0], np.cumsum(timelines.weight > 0)])
        n_examples = counted[end] - counted[first]
        useful = n_examples > 0
        return cls(user_idx[useful], start[useful], end[useful], first[useful], n_examples[useful])

    def __len__(self) -> int:
        return len(self.start)

    def draws(self, timelines: Timelines, ahead: Ahead) -> DoubleArray:
        """(N,) float64, how often a pass is expected to have each event of the timelines as an example.

        An event with nothing before it may be none at all; and where a window has one moment, drawn evenly
        among its m examples, the n-th is predicted with the chance n / m.
        """
        event, window = expand(self.first, self.end - self.first)
        is_example = timelines.weight[event] > 0
        window, event = window[is_example], event[is_example]
        drawn = np.zeros(len(timelines.weight))
        if ahead == "all":
            before = np.cumsum(self.n_examples) - self.n_examples
            drawn[event] = (np.arange(len(event)) - before[window] + 1) / self.n_examples[window]
        else:
            drawn[event] = 1.0
        return drawn

    def batches(self, *, batch_size: int, at_most: int, rng: np.random.Generator) -> Iterator[LongArray]:
        """One pass in random order: indices of the windows of each batch, about `batch_size` examples each.

        Args:
            batch_size: a batch holds so many examples, or more by less than one window has.
            at_most: examples in the whole pass; more are left for another pass.
            rng: decides the order.
        """
        if len(self) == 0:
            return
        order = rng.permutation(len(self))
        total = np.cumsum(self.n_examples[order])
        order = order[: int(np.searchsorted(total, at_most, side="left")) + 1]
        together = np.cumsum(self.n_examples[order]) // (batch_size * _SORTED_TOGETHER)
        order = order[np.lexsort(((self.end - self.start)[order], together))]
        batch = (np.cumsum(self.n_examples[order]) - 1) // batch_size
        cuts = np.flatnonzero(np.diff(batch)) + 1
        parts = np.split(order, cuts)
        for place in rng.permutation(len(parts)):
            yield parts[place]


@dataclass(frozen=True)
class Examples:
    """E events to be predicted.

    Attributes:
        user_idx, target_idx: (E,) int64.
        weight: (E,) float32, positive.
    """

    user_idx: Tensor
    target_idx: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Batch:
    """B windows of up to N events with T moments each, and the E examples in them.

    Attributes:
        user_idx: (B,) int64.
        target_idx: (B, N) int64; 0 where `mask` is False.
        behaviour: (B, N) int64 codes.
        gap_s: (B, N) float32 seconds since the event before, 0 for the first.
        mask: (B, N) bool, whether the place holds an event.
        age_s: (B, T, N) float32: seconds from event j to moment t, at [t, j].
        visible: (B, T, N) bool: whether moment t sees event j, at [t, j]: those strictly before it, but all
            of a window that is predicted as a whole.
        row, slot: (M,) int64, the windows and moments from which something is predicted.
        moment: (E,) int64 below M, from which of them each example is predicted.
        event: (E,) int64, which event of the timelines each example is.
        examples: what is to be predicted.
    """

    user_idx: Tensor
    target_idx: Tensor
    behaviour: Tensor
    gap_s: Tensor
    mask: Tensor
    age_s: Tensor
    visible: Tensor
    row: Tensor
    slot: Tensor
    moment: Tensor
    event: Tensor
    examples: Examples


class ExampleSource:
    """Timelines and windows as tensors on a device, from which batches are gathered.

    Args:
        timelines: whose events.
        windows: of them.
        device: where batches are made.
        ahead: what is predicted from what.
    """

    def __init__(
        self, timelines: Timelines, windows: Windows, device: torch.device, ahead: Ahead = "next"
    ) -> None:
        def put(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        self.device = device
        self.ahead = ahead
        self.target_idx = put(timelines.target_idx)
        self.behaviour = put(timelines.behaviour)
        self.timestamp_us = put(timelines.timestamp_us)
        self.weight = put(timelines.weight)
        self.user_idx = put(windows.user_idx.astype(np.int64))
        self.start, self.end, self.first = put(windows.start), put(windows.end), put(windows.first)

    def batch(self, windows: LongArray, at: FloatArray | None = None) -> Batch:
        """The batch of these windows, (B,) indices.

        Args:
            windows: (B,) indices.
            at: with `ahead="all"` (B,) in [0, 1), by which of its examples a window's one moment is, as a
                share of them: from it that example and all later ones are predicted.
        """
        places = self._places(windows, at)
        position, mask = places.position, places.mask
        time_us = self.timestamp_us[position]
        gap_s = torch.zeros(mask.shape, device=self.device)
        gap_s[:, 1:] = (time_us[:, 1:] - time_us[:, :-1]) / SECOND_US
        now_us, slot = time_us, places.slot
        if self.ahead != "next":
            now_us, slot = time_us.gather(1, slot[:, None]), torch.zeros_like(slot)
        age_us = now_us[:, :, None] - time_us[:, None, :]  # (B, T, N)
        seen = age_us >= 0 if self.ahead == "whole" else age_us > 0
        return Batch(
            user_idx=places.user_idx,
            target_idx=self.target_idx[position].long() * mask,
            behaviour=self.behaviour[position].long() * mask,
            gap_s=gap_s * mask,
            mask=mask,
            age_s=(age_us / SECOND_US).float(),
            visible=seen & mask[:, None, :],
            row=places.row,
            slot=slot,
            moment=places.moment,
            event=places.event,
            examples=self._examples(places),
        )

    def examples(self, windows: LongArray, at: FloatArray | None = None) -> Examples:
        """The examples of `batch(windows, at)` alone, in their order."""
        return self._examples(self._places(windows, at))

    def _examples(self, places: _Places) -> Examples:
        event = places.event
        user_idx = places.user_idx[places.row[places.moment]]
        return Examples(user_idx, self.target_idx[event].long(), self.weight[event])

    def _places(self, windows: LongArray, at: FloatArray | None) -> _Places:
        chosen = torch.from_numpy(windows).to(self.device)
        start, end = self.start[chosen, None], self.end[chosen, None]
        length = int((end - start).max())
        position = start + torch.arange(length, device=self.device)  # (B, N)
        mask = position < end
        position = position.clamp(max=len(self.target_idx) - 1)
        predicted = (self.weight[position] > 0) & mask & (position >= self.first[chosen, None])
        if self.ahead == "next":
            row, slot = predicted.nonzero(as_tuple=True)
            moment, event = torch.arange(len(row), device=self.device), position[row, slot]
        else:
            if at is not None:
                nth = predicted.cumsum(dim=1) - 1  # of the window's examples
                begin = (torch.from_numpy(at).to(self.device) * (nth[:, -1:].squeeze(1) + 1)).long()
                predicted &= nth >= begin[:, None]
                slot = predicted.long().argmax(dim=1)
            else:
                slot = (end - start - 1).squeeze(1)  # the last event, which is seen too
            row = torch.arange(len(slot), device=self.device)
            moment, of_row = predicted.nonzero(as_tuple=True)
            event = position[moment, of_row]
        return _Places(self.user_idx[chosen], position, mask, row, slot, moment, event)


@dataclass(frozen=True)
class _Places:
    """Where the events of B windows of up to N are in the timelines, M moments and E examples among them."""

    user_idx: Tensor  # (B,)
    position: Tensor  # (B, N)
    mask: Tensor  # (B, N)
    row: Tensor  # (M,)
    slot: Tensor  # (M,), whose event's moment it is
    moment: Tensor  # (E,)
    event: Tensor  # (E,)


def _end_of_instant(timelines: Timelines) -> LongArray:
    """(N,) for each event, the position after the last of its user's events at the same instant."""
    n = len(timelines.target_idx)
    begins = np.zeros(n + 1, dtype=bool)
    begins[timelines.indptr] = True
    begins[1:-1] |= timelines.timestamp_us[1:] != timelines.timestamp_us[:-1]
    at = np.flatnonzero(begins)
    return at[np.searchsorted(at, np.arange(n), side="right")]
