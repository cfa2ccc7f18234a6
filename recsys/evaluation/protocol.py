"""Who is judged by what: users with a goal event in a window, over all that was available at its cut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from recsys.data.dataset import Dataset
from recsys.data.split import Window
from recsys.errors import WindowError
from recsys.evaluation import metrics
from recsys.types import Behaviour, BoolArray, Candidates, DoubleArray, IntArray, LongArray, Target

#: Users (B,) int32 -> their lists. A user index at or above the fit's count is a new user.
Recommend = Callable[[IntArray], Candidates]

_WATCHING = (
    Behaviour.CLICK,
    Behaviour.VIEW,
    Behaviour.LIKE,
    Behaviour.FAVOURITE,
    Behaviour.SHARE,
    Behaviour.GIFT,
)
_ENTERING = (Behaviour.ENTER, Behaviour.VIEW, Behaviour.GIFT)


def goal_behaviours(dataset: Dataset, target: Target) -> tuple[Behaviour, ...]:
    """What a recommendation is for: a cart or purchase where there are any, else being watched or liked."""
    counts = dataset.counts()
    if target is Target.ROOM:
        return tuple(behaviour for behaviour in _ENTERING if behaviour in counts)
    if Behaviour.PURCHASE in counts:
        return (Behaviour.CART, Behaviour.PURCHASE)
    return tuple(behaviour for behaviour in (*_WATCHING, Behaviour.CART) if behaviour in counts)


@dataclass(frozen=True)
class Judged:
    """The users of one window and what they did in it.

    Attributes:
        users: (B,) int32 user indices; at or above `n_known_users` they are new.
        truth: (B, targets known at the cut) CSR of ones: the targets of their goal events.
        n_relevant: (B,) distinct targets of goal events, those unknown at the cut too: nobody can recommend
            these, and recall counts them all the same.
        n_known_users: how many users the fit knows.
        is_new_target: (targets,) nobody had interacted with it before the cut.
        popularity: (targets,) interactions before the cut.
        activity: (B,) interactions of each judged user before the cut.
    """

    users: IntArray
    truth: sparse.csr_matrix
    n_relevant: LongArray
    n_known_users: int
    is_new_target: BoolArray
    popularity: LongArray
    activity: LongArray

    def __len__(self) -> int:
        return len(self.users)


def judge(
    dataset: Dataset,
    window: Window,
    *,
    target: Target,
    goals: tuple[Behaviour, ...],
    max_users: int | None = None,
    seed: int = 0,
) -> Judged:
    """The users with a goal event in the window.

    Args:
        dataset: the whole log; the window's part of it is only ever used as truth.
        window: the cut and the window behind it.
        target: products, or streamers whose rooms.
        goals: behaviours that count as a success.
        max_users: judge a random sample of this many; all by default.
        seed: of that sample.

    Raises:
        WindowError: nobody has a goal event in the window.
    """
    if not goals:
        raise WindowError(f"{dataset.path}: no behaviour of the log shows interest in any {target.value}")
    before = dataset.until(window.fit_end_us)
    n_known = len(before.entities(target))
    times = dataset.events.timestamp_us
    start, stop = np.searchsorted(times, [window.start_us, window.end_us])
    inside = dataset.events.where(slice(int(start), int(stop)))
    rows = inside.is_any(goals) & (inside.target_idx(target) >= 0)
    if not rows.any():
        named = " or ".join(goals)
        raise WindowError(
            f"{dataset.path}: no {named} of any {target.value} in the window; choose other windows"
        )
    user_idx, target_idx = inside.user_idx[rows], inside.target_idx(target)[rows]
    users, row_of = np.unique(user_idx, return_inverse=True)
    if max_users is not None and len(users) > max_users:
        chosen = np.sort(np.random.default_rng(seed).choice(len(users), max_users, replace=False))
        position = np.full(len(users), -1)
        position[chosen] = np.arange(max_users)
        keep = position[row_of] >= 0
        users, row_of, target_idx = users[chosen], position[row_of[keep]], target_idx[keep]
    pairs = np.unique(row_of.astype(np.int64) * (1 << 32) + target_idx)
    row_of, target_idx = (pairs >> 32).astype(np.int64), (pairs & 0xFFFFFFFF).astype(np.int64)
    known = target_idx < n_known
    truth = sparse.csr_matrix(
        (np.ones(int(known.sum()), dtype=np.float32), (row_of[known], target_idx[known])),
        shape=(len(users), n_known),
    )
    seen = before.events.target_idx(target)
    taken = seen[(seen >= 0) & (before.events.behaviour != Behaviour.IMPRESSION.code)]
    popularity = np.bincount(taken, minlength=n_known)
    activity = np.bincount(before.events.user_idx, minlength=int(users.max()) + 1)[users]
    return Judged(
        users=users.astype(np.int32),
        truth=truth,
        n_relevant=np.bincount(row_of, minlength=len(users)),
        n_known_users=len(before.users),
        is_new_target=popularity == 0,
        popularity=popularity,
        activity=activity,
    )


@dataclass(frozen=True)
class Report:
    """How one model did.

    Attributes:
        by_user: metric@k -> (B,) values of the judged users.
        overall: metric@k -> one value over all lists: coverage, novelty, head_share.
        new_items: metric@k -> (B',) values of the users whose truth has new targets, against those alone.
    """

    by_user: Mapping[str, DoubleArray]
    overall: Mapping[str, float]
    new_items: Mapping[str, DoubleArray]


def evaluate(recommend: Recommend, judged: Judged, *, ks: tuple[int, ...] = (10, 20, 50)) -> Report:
    """Ask for lists of the longest k and score them at every k."""
    candidates = recommend(judged.users)
    found = metrics.hits(candidates, judged.truth, k=max(ks))
    new_truth = sparse.csr_matrix(judged.truth.multiply(judged.is_new_target[None, :]))
    new_truth.eliminate_zeros()
    with_new = np.flatnonzero(np.diff(new_truth.indptr) > 0)
    found_new = metrics.hits(candidates, new_truth, k=max(ks))[with_new]
    n_new = np.diff(new_truth.indptr)[with_new]
    by_user: dict[str, DoubleArray] = {}
    overall: dict[str, float] = {}
    new_items: dict[str, DoubleArray] = {}
    for k in ks:
        at_k = found[:, :k]
        by_user[f"recall@{k}"] = metrics.recall(at_k, judged.n_relevant)
        by_user[f"ndcg@{k}"] = metrics.ndcg(at_k, judged.n_relevant)
        by_user[f"mrr@{k}"] = metrics.reciprocal_rank(at_k)
        by_user[f"hit_rate@{k}"] = metrics.hit_rate(at_k)
        overall[f"coverage@{k}"] = metrics.coverage(candidates, judged.truth.shape[1], k=k)
        overall[f"novelty@{k}"] = metrics.novelty(candidates, judged.popularity, k=k)
        overall[f"head_share@{k}"] = metrics.head_share(candidates, judged.popularity, k=k)
        new_items[f"recall@{k}"] = metrics.recall(found_new[:, :k], n_new)
    return Report(by_user, overall, new_items)


def activity_segments(judged: Judged) -> dict[str, BoolArray]:
    """(B,) masks of users by what is known of them: new, or with few, some or many interactions."""
    bounds = (("new", 0, 1), ("1-4 events", 1, 5), ("5-19 events", 5, 20), ("20+ events", 20, None))
    masks = {
        name: (judged.activity >= low) & (judged.activity < high if high is not None else True)
        for name, low, high in bounds
    }
    return {name: mask for name, mask in masks.items() if mask.any()}


def feature_segments(dataset: Dataset, judged: Judged, columns: tuple[str, ...]) -> dict[str, BoolArray]:
    """(B,) masks of users by the values of their features, as `column=value`."""
    masks: dict[str, BoolArray] = {}
    for name in columns:
        values = dataset.users.column(name)
        if values is None or values.null_count == len(values):
            continue
        known = np.array([values[int(user)].as_py() if user < len(values) else None for user in judged.users])
        for value in sorted({value for value in known if value is not None}):
            masks[f"{name}={value}"] = known == value
    return masks
