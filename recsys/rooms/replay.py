"""Replays a log through the live state and answers each request with what was known then."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.dataset import Dataset
from recsys.data.ids import IdMap
from recsys.data.schema import EPOCH_BOUNDS
from recsys.errors import DataError
from recsys.rooms.content import Content
from recsys.rooms.log_feed import IndexMaps, LogFeed
from recsys.rooms.params import StateParams
from recsys.rooms.scorer import RoomRanking
from recsys.rooms.state import LiveState
from recsys.types import BoolArray, IntArray, LongArray, Progress

#: Requests between two reports of progress.
_REPORT = 500


class RoomRanker(Protocol):
    """What can answer in a replay: the room model, and the baselines beside it."""

    state_params: StateParams
    content: Content

    def rank(self, state: LiveState, user: int, now_us: int, *, k: int) -> RoomRanking:
        """The best k rooms live at `now_us` for one user."""
        ...


@dataclass(frozen=True)
class KnownIds:
    """The ids that a scorer's arrays are numbered by; rooms are numbered anew in every log."""

    users: IdMap
    items: IdMap
    streamers: IdMap


@dataclass(frozen=True)
class Moment:
    """One request as the replay comes to it; `state` is what was known strictly before `at_us`."""

    request: int
    user: int
    at_us: int
    state: LiveState


class Replay:
    """A log played from its beginning, in the numbering of a scorer.

    The state starts empty, because the log holds what the scorer was trained on too. A log that begins where
    the training ended is played onto the state that the bundle carries: see `start`.
    """

    def __init__(
        self,
        scorer: RoomRanker,
        dataset: Dataset,
        ids: KnownIds | None = None,
        *,
        start: LiveState | None = None,
        start_rooms: IdMap | None = None,
    ) -> None:
        """Prepare the log for playing.

        Args:
            scorer: whose numbering and parameters the state has.
            dataset: the log, read by `Dataset.whole`.
            ids: the scorer's ids; None where the scorer was fitted on this very Dataset or a part of it.
            start: a state to go on from; the log's part before its clock is left out.
            start_rooms: the ids of the rooms of `start`, by its room_idx.
        """
        self.dataset = dataset
        self._ids = ids
        self.state = LiveState(scorer.state_params) if start is None else start
        self.maps = _maps(dataset, ids, start_rooms)
        after_us = None if start is None else start.now_us
        self._feed = LogFeed(dataset, scorer.content.category_code, self.maps, after_us=after_us)
        self._room_at = _inverse(self.maps.room, 0 if start_rooms is None else len(start_rooms))

    def users(self, user_ids: pa.ChunkedArray | pa.Array) -> IntArray:
        """(N,) the state's index of N users by their ids; -1 for one that neither log nor scorer knows."""
        of_log = self.dataset.users.ids.index(user_ids)
        found = np.append(self.maps.user, np.int32(-1))[of_log]
        if self._ids is None:
            return found
        known = self._ids.users.index(user_ids)
        return np.where(known >= 0, known, found)

    def moments(self, users: IntArray, at_us: LongArray) -> Iterator[Moment]:
        """Each request in the order of time.

        Args:
            users: (N,) index in the state, as `users` gives it; -1 for a stranger.
            at_us: (N,) moments in microseconds since the epoch.
        """
        for request in np.argsort(at_us, kind="stable").tolist():
            moment_us = int(at_us[request])
            self._feed.advance(self.state, moment_us)
            yield Moment(request, int(users[request]), moment_us, self.state)

    def rooms_of_log(self, rooms: IntArray) -> IntArray:
        """(N,) the log's room_idx of N rooms of the state; -1 for a room that only the state knows."""
        return self._room_at[rooms]


def replay(
    scorer: RoomRanker,
    dataset: Dataset,
    requests: pa.Table,
    *,
    k: int,
    ids: KnownIds | None = None,
    opted_out: BoolArray | None = None,
    start: LiveState | None = None,
    start_rooms: IdMap | None = None,
    progress: Progress | None = None,
) -> pa.Table:
    """The best k live rooms at each request: user_id, at, room_id, rank (from 1), score.

    Rows are in the order of the requests. A request at which no room is live has no row.

    Args:
        scorer: the room model.
        dataset: the log, read by `Dataset.whole`; rows of it at or after a request's moment play no part.
        requests: user_id and at; both come back as they are.
        k: most rooms a request.
        opted_out: (N,) requests that are answered as a stranger's are, without anything of the user.
        ids, start, start_rooms: see `Replay`.
        progress: called as progress(requests done, requests, text).

    Raises:
        DataError: a column is missing, or an `at` is not a time.
    """
    for name in ("user_id", "at"):
        if name not in requests.column_names:
            raise DataError(f"requests: column {name!r} is missing; there are {requests.column_names}")
    if k < 1:
        raise DataError(f"k={k}: ask for at least 1")
    at_us = moments_us(requests["at"])
    played = Replay(scorer, dataset, ids, start=start, start_rooms=start_rooms)
    users = played.users(requests["user_id"])
    if opted_out is not None:
        users = np.where(opted_out, np.int32(-1), users)
    answers: list[tuple[IntArray, npt.NDArray[np.float32]]] = [
        (np.zeros(0, np.int32), np.zeros(0, np.float32)) for _ in range(len(at_us))
    ]
    for done, moment in enumerate(played.moments(users, at_us), 1):
        ranking = scorer.rank(moment.state, moment.user, moment.at_us, k=k)
        rooms = played.rooms_of_log(ranking.room_idx)
        answers[moment.request] = (rooms[rooms >= 0], ranking.scores[rooms >= 0])
        if progress is not None and (done % _REPORT == 0 or done == len(at_us)):
            progress(done, len(at_us), "requests answered")
    return _table(dataset, requests, answers)


def moments_us(at: pa.ChunkedArray | pa.Array) -> LongArray:
    """(N,) microseconds since the epoch of N times: timestamps, ISO 8601 texts, or numbers; naive is UTC.

    The unit of a number is told by its size, as in the log.

    Raises:
        DataError: a value is missing or is no time.
    """
    if isinstance(at, pa.ChunkedArray):
        at = at.combine_chunks()
    try:
        if pa.types.is_string(at.type) or pa.types.is_large_string(at.type):
            at = _parse(at)
        elif pa.types.is_integer(at.type) or pa.types.is_floating(at.type):
            at = _of_numbers(at)
        at = pc.cast(pc.cast(at, pa.timestamp("us", tz=getattr(at.type, "tz", None)), safe=False), pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataError(f"`at` holds a value that is no time: {error}") from error
    if at.null_count:
        raise DataError(f"`at` is empty in {at.null_count} rows; every request needs its moment")
    return np.asarray(at.to_numpy(zero_copy_only=False), dtype=np.int64)


def _of_numbers(at: pa.Array) -> pa.Array:
    """Seconds, milliseconds, microseconds or nanoseconds since the epoch as timestamps."""
    numbers = at.to_numpy(zero_copy_only=False)
    known = np.isfinite(numbers) if numbers.dtype.kind == "f" else np.ones(len(numbers), dtype=bool)
    seconds, millis, micros = EPOCH_BOUNDS
    size = np.abs(np.where(known, numbers, 0))
    factor = np.select([size < seconds, size < millis, size < micros], [1e6, 1e3, 1.0], 1e-3)
    whole = numbers.dtype.kind in "iu"
    exact = np.where(factor >= 1, numbers * factor.astype(np.int64), numbers // 1000) if whole else None
    found = exact if exact is not None else np.round(np.where(known, numbers, 0) * factor)
    return pa.array(found.astype(np.int64), pa.timestamp("us"), mask=~known)


def _parse(texts: pa.Array) -> pa.Array:
    spelt = pc.match_substring_regex(texts, r"^-?[0-9]+(\.[0-9]+)?$")
    if len(texts) and pc.all(spelt, skip_nulls=False).as_py():
        return pc.cast(_of_numbers(pc.cast(texts, pa.float64())), pa.timestamp("us", tz="UTC"))
    texts = pc.replace_substring_regex(texts, r" ?UTC$", "+00:00")
    moments = [None if text is None else datetime.fromisoformat(text) for text in texts.to_pylist()]
    aware = [
        None if moment is None else moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        for moment in moments
    ]
    return pa.array(aware, pa.timestamp("us", tz="UTC"))


def _table(dataset: Dataset, requests: pa.Table, answers: list[tuple[Any, Any]]) -> pa.Table:
    counts = np.array([len(rooms) for rooms, _ in answers], dtype=np.int64)
    rows = pa.array(np.repeat(np.arange(len(answers)), counts))
    rooms = np.concatenate([np.zeros(0, np.int32), *(rooms for rooms, _ in answers)])
    scores = np.concatenate([np.zeros(0, np.float32), *(scores for _, scores in answers)])
    ranks = np.concatenate([np.zeros(0, np.int32), *(np.arange(1, n + 1, dtype=np.int32) for n in counts)])
    asked = requests.select(["user_id", "at"]).take(rows)
    return (
        asked.append_column("room_id", dataset.rooms.ids.external(rooms.astype(np.int32)))
        .append_column("rank", pa.array(ranks, pa.int32()))
        .append_column("score", pa.array(scores, pa.float32()))
    )


def _maps(dataset: Dataset, ids: KnownIds | None, start_rooms: IdMap | None) -> IndexMaps:
    own = IndexMaps.identity(dataset)
    if ids is None and start_rooms is None:
        return own
    return IndexMaps(
        user=own.user if ids is None else _joined(dataset.users.ids, ids.users),
        item=own.item if ids is None else _joined(dataset.items.ids, ids.items),
        streamer=own.streamer if ids is None else _joined(dataset.streamers.ids, ids.streamers),
        room=own.room if start_rooms is None else _joined(dataset.rooms.ids, start_rooms),
    )


def _joined(log: IdMap, known: IdMap) -> IntArray:
    """(n,) the known index of each id of the log; ids that are not known are numbered after them."""
    index = known.index(log.keys).copy()
    new = index < 0
    index[new] = len(known) + np.arange(int(new.sum()), dtype=np.int32)
    return index


def _inverse(rooms: IntArray, known: int) -> IntArray:
    inverse = np.full(max(known, int(rooms.max(initial=-1)) + 1), -1, dtype=np.int32)
    inverse[rooms] = np.arange(len(rooms), dtype=np.int32)
    return inverse
