"""Which bundle answers: it is swapped under way, rolled back, followed, and tried against a challenger."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa

from recsys.bundle import MAX_BYTES
from recsys.durations import SECOND_US
from serving.answer import RequestError
from serving.decisions import DecisionLog
from serving.loaded import LoadedBundle
from serving.reload import Follower
from serving.reporting import Current, Reporting
from serving.trial import Shadow, Split, Trial


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old what a process knows is, and how much of it can be had.

    Attributes:
        version: of the bundle in use.
        as_of_s: the bundle's own moment, seconds since the epoch.
        newest_s: the latest moment of what was reported, or the bundle's.
        n_items: products that the bundle knows.
        n_available: of them, those that can be had.
    """

    version: str
    as_of_s: float
    newest_s: float
    n_items: int
    n_available: int


class Bundles(Reporting):
    """The bundle in use, and a challenger beside it; every method may be called from any thread."""

    _trial: Trial | None = None

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
        decisions: DecisionLog | None = None,
    ) -> Self:
        """A recommender that answers from the bundle at `path`.

        Args:
            path: a bundle's directory.
            max_bytes: the most that its files may take.
            clock: seconds since the epoch; it is only used to tell events of the future.
            decisions: where answers to users are logged, if anywhere.

        Raises:
            BundleRefused: damaged, mixed, of an unknown format, or unfit to answer; `reason` says which.
        """
        loaded = LoadedBundle.open(path, max_bytes=max_bytes)
        return cls(loaded, max_bytes=max_bytes, clock=clock, decisions=decisions)

    # -- bundles --------------------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Model version of the bundle in use."""
        return self._current.loaded.version

    @property
    def n_items(self) -> int:
        """Products that the bundle in use knows."""
        return self._current.loaded.n_items

    @property
    def item_id_type(self) -> pa.DataType:
        """The Arrow type that the log held the products' ids in."""
        return self._current.loaded.catalogue.items.id_type

    @property
    def counts(self) -> Mapping[str, int]:
        """How often what happened: requests by fallback, observed, unknown, repeated and future events."""
        trial = self._trial
        if trial is None or trial.shadow is None:
            return dict(self._counts)
        return {**self._counts, "shadow_failed": trial.shadow.failed}

    @property
    def freshness(self) -> Freshness:
        """How old what is known is, and how much of it can be had."""
        current = self._current
        as_of_s = current.loaded.catalogue.as_of_us / SECOND_US
        return Freshness(
            version=current.loaded.version,
            as_of_s=as_of_s,
            newest_s=max(as_of_s, self._newest_us / SECOND_US),
            n_items=current.loaded.n_items,
            n_available=current.available.count(),
        )

    def swap(self, path: Path | str) -> str:
        """Takes another bundle into use and returns its version; requests in flight finish on the old one.

        Raises:
            BundleRefused: as `load`; the old bundle goes on.
        """
        with self._swapping:
            try:
                loaded = LoadedBundle.open(path, max_bytes=self._max_bytes)
            except BaseException:
                self._count("swap_refused")
                raise
            with self._writing:
                self._carry_forgotten(loaded.bundle.path.parent)
                self._previous = self._current.loaded
                self._current = self._serving(loaded)
        self._count("swapped")
        return loaded.version

    def rollback(self) -> str:
        """Goes back to the bundle before the last swap and returns its version.

        Raises:
            RequestError: there was no swap.
        """
        with self._swapping, self._writing:
            if self._previous is None:
                raise RequestError("rollback: there is no bundle before this one; swap comes first")
            before, self._previous = self._previous, self._current.loaded
            self._current = self._serving(before)
            return before.version

    def watch(self, directory: Path | str, *, interval_s: float = 2.0) -> Follower:
        """Follows the directory's CURRENT pointer from a thread; `stop()` on what comes back ends it."""
        return Follower(self, directory, interval_s=interval_s).start()

    # -- trials ---------------------------------------------------------------------------------------------

    def challenge(
        self,
        path: Path | str,
        *,
        share: float,
        salt: str = "",
        shadow: bool = False,
        max_waiting: int = 1_000,
    ) -> str:
        """Puts a challenger beside the champion and returns its version, until `end_challenge`.

        It answers the requests of a share of the users for products and rooms: always the same users, and the
        answer says which arm it is of. In the shadow the champion answers everybody, and what the challenger
        would have answered a share of them is only logged: nobody waits for it, and what is too much is left
        out and counted as `shadow_dropped`. It takes its time from the same cores. Reports reach both.

        Args:
            path: the challenger's directory.
            share: of the users, from 0 to 1.
            salt: another one draws other users.
            shadow: whether its answers are only logged.
            max_waiting: requests that wait for the shadow at most.

        Raises:
            BundleRefused: as `load`; a trial under way goes on.
            RequestError: the share is none, or a shadow has no decision log to be in.
        """
        split = Split(share, salt)
        if shadow and self._decisions is None:
            raise RequestError("shadow=True: give the recommender a decision log, it is all that a shadow is")
        with self._swapping:
            loaded = LoadedBundle.open(path, max_bytes=self._max_bytes)
            with self._writing:
                self._carry_forgotten(loaded.bundle.path.parent)
                queue = Shadow(max_waiting=max_waiting) if shadow else None
                before, self._trial = self._trial, Trial(self._serving(loaded), split, queue)
        if before is not None and before.shadow is not None:
            before.shadow.close()
        return loaded.version

    def end_challenge(self) -> None:
        """Has the champion answer everybody again; `swap` makes a challenger the champion."""
        with self._writing:
            before, self._trial = self._trial, None
        if before is not None and before.shadow is not None:
            before.shadow.close()

    # -- inside ---------------------------------------------------------------------------------------------

    def _in_use(self) -> tuple[Current, ...]:
        trial = self._trial
        return (self._current,) if trial is None else (self._current, trial.challenger)
