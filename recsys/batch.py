"""What the command line does in bulk: products for users, rooms for requests, potentials for products."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.bundle import open_bundle
from recsys.data.dataset import Dataset, from_us
from recsys.data.prepare import prepare
from recsys.errors import DataError
from recsys.hot.params import HotParams
from recsys.hot.score import HotScores, score_hot
from recsys.product_sections import Catalogue, read_catalogue
from recsys.room_sections import read_rooms
from recsys.rooms.replay import KnownIds, moments_us, replay
from recsys.tables import check_out, read_table, write_table
from recsys.types import BoolArray, Progress

_REPORT_EVERY = 200


@dataclass(frozen=True)
class Recommended:
    """What was written.

    Attributes:
        rows: of the file.
        users: lines of the file of users.
        without: those of them for whom there was no product.
    """

    rows: int
    users: int
    without: int


@dataclass(frozen=True)
class Replayed:
    """What was written.

    Attributes:
        rows: of the file.
        blind_before: where the log begins, if the requests know nothing of before though the bundle was
            trained on it.
    """

    rows: int
    blind_before: datetime | None


def recommend_users(
    bundle: Path,
    users: Path,
    out: Path,
    *,
    k: int,
    repeat: bool | None = None,
    progress: Progress | None = None,
) -> Recommended:
    """Write user_id, item_id, rank (from 1), score and source.

    Users come in the order of the file, each once for every line. The moment of asking is the bundle's own.

    Args:
        bundle: folder of a bundle with products.
        users: Parquet or CSV with user_id; it comes back in the type and spelling of this file.
        out: .parquet or .csv.
        k: products a user.
        repeat: whether what a user consumed may return; None is what validation chose.
        progress: called as progress(done, total, text).

    Raises:
        DataError: the file of users cannot be used.
        BundleRefused: the bundle cannot be used.
    """
    from serving.recommender import Recommender

    check_out(out)
    asked = read_table(users, ("user_id",))["user_id"]
    recommender = Recommender.load(bundle)
    if not recommender.n_items:
        raise DataError(f"{bundle}: the bundle has no products; it was trained from a log of rooms alone")
    answers = []
    for done, user_id in enumerate(asked.to_pylist(), 1):
        answers.append(recommender.products(user_id, k=k, repeat=repeat))
        if progress is not None and (done % _REPORT_EVERY == 0 or done == len(asked)):
            progress(done, len(asked), "users answered")
    counts = np.array([len(answer) for answer in answers], dtype=np.int64)
    entries = [entry for answer in answers for entry in answer]
    rows = pa.array(np.repeat(np.arange(len(answers)), counts), pa.int64())
    ranks = np.concatenate([np.zeros(0, np.int32), *(np.arange(1, n + 1, dtype=np.int32) for n in counts)])
    table = pa.table(
        {
            "user_id": asked.take(rows),
            "item_id": pa.array([entry.id for entry in entries], recommender.item_id_type),
            "rank": pa.array(ranks, pa.int32()),
            "score": pa.array([entry.score for entry in entries], pa.float64()),
            "source": pa.array([entry.source for entry in entries], pa.string()),
        }
    )
    write_table(table, out)
    return Recommended(table.num_rows, len(asked), int((counts == 0).sum()))


def replay_rooms(
    bundle: Path, logs: Path, requests: Path, out: Path, *, k: int, progress: Progress | None = None
) -> Replayed:
    """Write user_id, at, room_id, rank (from 1) and score.

    The log is played in time order, and each request sees what was known strictly before its `at`. The state
    starts empty where the log holds all that the bundle was trained on. A log that begins later is played
    onto the state that the bundle carries, from the bundle's moment on, unless a request is before that
    moment. A request at which no room is live has no row. Who has opted out, by the log or by the bundle, is
    answered as a stranger is.

    Args:
        bundle: folder of a bundle with rooms.
        logs: folder with the log tables.
        requests: Parquet or CSV with user_id and at; both come back as they are.
        out: .parquet or .csv.
        k: rooms a request.
        progress: called as progress(done, total, text).

    Raises:
        DataError: the log or the file of requests cannot be used.
        BundleRefused: the bundle cannot be used.
    """
    check_out(out)
    asked = read_table(requests, ("user_id", "at"))
    try:
        # Before the log is prepared, which takes longer.
        at_us = moments_us(asked["at"])
    except DataError as error:
        raise DataError(f"{requests}: {error}") from error
    opened = open_bundle(bundle)
    parts = read_rooms(opened)
    if parts is None:
        raise DataError(f"{bundle}: the bundle does not answer for rooms; train it from a log with rooms")
    catalogue = read_catalogue(opened)
    ids = KnownIds(users=catalogue.users, items=catalogue.items, streamers=parts.streamers)
    with tempfile.TemporaryDirectory(prefix="recsys-rooms-") as folder:
        if progress is not None:
            progress(0, 0, "preparing the log")
        prepare(logs, Path(folder) / "dataset")
        dataset = Dataset.whole(Path(folder) / "dataset")
        first_us, moment_us = int(dataset.events.timestamp_us[0]), catalogue.as_of_us
        begins_late = first_us > (moment_us if parts.since_us is None else parts.since_us)
        # What the bundle remembers is the future of a request before its moment.
        goes_on = begins_late and (first_us >= moment_us or bool((at_us >= moment_us).all()))
        table = replay(
            parts.scorer,
            dataset,
            asked,
            k=k,
            ids=ids,
            opted_out=_opted_out(asked["user_id"], dataset, catalogue),
            start=parts.state() if goes_on else None,
            start_rooms=parts.rooms if goes_on else None,
            progress=progress,
        )
    write_table(table, out)
    return Replayed(table.num_rows, from_us(first_us) if begins_late and not goes_on else None)


def _opted_out(user_ids: pa.ChunkedArray, dataset: Dataset, catalogue: Catalogue) -> BoolArray:
    """(N,) whether the log or the bundle says so of each user."""
    # Of a user that is not known, index -1, the last flag is read.
    in_log = np.append(dataset.personalised(), True)[dataset.users.ids.index(user_ids)]
    in_bundle = np.append(catalogue.personalised, True)[catalogue.users.index(user_ids)]
    return np.asarray(~(in_log & in_bundle))


def score_hot_items(
    dataset: Path,
    out: Path,
    *,
    as_of: date | None,
    params: HotParams,
    progress: Progress | None = None,
) -> HotScores:
    """Write item_id, potential, rank, grade, lower, upper and reasons, and what else the score says.

    Args:
        dataset: folder of a Dataset.
        out: .parquet or .csv.
        as_of: rows before the start of this day are known; by default all whole days.
        params: the target, its horizon and the learner.
        progress: called as progress(done, total, text).

    Raises:
        DataError, ModelError: there is too little log.
    """
    check_out(out)
    scores = score_hot(Dataset.load(dataset), as_of=as_of, params=params, progress=progress)
    write_table(scores.table.drop_columns(["item_idx"]), out)
    return scores
