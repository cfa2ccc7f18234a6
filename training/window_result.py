"""How one fit did over one window, user by user: what a run keeps for later ones to be compared with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.dataset import Dataset
from recsys.data.ids import id_keys
from recsys.data.split import Window
from recsys.errors import DataError
from recsys.evaluation.protocol import Judged, Report
from recsys.types import Behaviour, BoolArray, DoubleArray, Target

_USERS = "users.parquet"
_WINDOW = "window.json"
_METRIC = "metric:"
_SEGMENT = "segment:"


@dataclass(frozen=True)
class JudgedWindow:
    """By what a fit was judged; two results compare directly only where all of it is equal.

    Attributes:
        fingerprint: of the Dataset.
        fit_end_us: the fit saw what was before; microseconds since the epoch.
        start_us, end_us: the window, [start, end).
        target: what was recommended.
        goals: behaviours that counted as a success.
    """

    fingerprint: str
    fit_end_us: int
    start_us: int
    end_us: int
    target: str
    goals: tuple[str, ...]


@dataclass(frozen=True)
class WindowResult:
    """Metrics of one model over one window.

    Attributes:
        window: by what it was judged.
        users: (B,) external ids of the judged users.
        by_user: metric@k -> (B,) float64.
        overall: metric@k -> one value over all lists: coverage, novelty, head_share.
        segments: name -> (B,) mask.
    """

    window: JudgedWindow
    users: pa.Array
    by_user: Mapping[str, DoubleArray]
    overall: Mapping[str, float]
    segments: Mapping[str, BoolArray]

    @classmethod
    def of(
        cls,
        report: Report,
        judged: Judged,
        segments: Mapping[str, BoolArray],
        *,
        dataset: Dataset,
        window: Window,
        target: Target,
        goals: tuple[Behaviour, ...],
    ) -> Self:
        """What a report says, with what it takes to compare it later.

        Args:
            report: of one model.
            judged: the users that it is over.
            segments: name -> (B,) mask of them.
            dataset: the whole log, whose users `judged` names by index.
            window: the window that judged.
            target: what was recommended.
            goals: behaviours that counted as a success.
        """
        judged_by = JudgedWindow(
            fingerprint=dataset.fingerprint,
            fit_end_us=window.fit_end_us,
            start_us=window.start_us,
            end_us=window.end_us,
            target=target.value,
            goals=tuple(sorted(goal.value for goal in goals)),
        )
        users = dataset.users.ids.external(judged.users)
        return cls(judged_by, users, dict(report.by_user), dict(report.overall), dict(segments))

    def compares_with(self, other: WindowResult) -> bool:
        """Whether both are over the same users of the same window, so that values pair up row by row."""
        return self.window == other.window and id_keys(self.users).equals(id_keys(other.users))

    def write(self, folder: Path) -> None:
        """Write `users.parquet` (user_id, a column a metric and a segment) and `window.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        columns: dict[str, pa.Array] = {"user_id": self.users}
        columns |= {f"{_METRIC}{name}": pa.array(values) for name, values in self.by_user.items()}
        columns |= {f"{_SEGMENT}{name}": pa.array(mask) for name, mask in self.segments.items()}
        pq.write_table(pa.table(columns), folder / _USERS)
        described = {"window": asdict(self.window), "overall": dict(self.overall)}
        (folder / _WINDOW).write_text(json.dumps(described, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `write` wrote.

        Raises:
            DataError: the folder holds no such result, or a damaged one.
        """
        try:
            described = json.loads((folder / _WINDOW).read_text())
            table = pq.read_table(folder / _USERS)
            window = described["window"]
            judged_by = JudgedWindow(**(window | {"goals": tuple(window["goals"])}))
            users = table["user_id"].combine_chunks()
            overall = {name: float(value) for name, value in described["overall"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: no readable evaluation ({error}); train the model again") from error
        return cls(
            judged_by,
            users,
            _columns(table, _METRIC, pa.float64()),
            overall,
            _columns(table, _SEGMENT, pa.bool_()),
        )


def _columns(table: pa.Table, prefix: str, dtype: pa.DataType) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): pc.cast(table[name], dtype).to_numpy()
        for name in table.column_names
        if name.startswith(prefix)
    }
