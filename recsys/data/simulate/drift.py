"""A second world of another shape, written in the raw layouts of KuaiLive and Twitch LiveRec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.data.simulate.drift_layouts import Layout, write_kuailive, write_truth, write_twitch
from recsys.data.simulate.drift_world import DriftParams, play
from recsys.data.simulate.requests import RoomHeadroom, room_headroom
from recsys.errors import DataError

#: Twitch LiveRec counts time in steps of ten minutes; KuaiLive in milliseconds.
_STEP_MS = {Layout.KUAILIVE: 1, Layout.TWITCH: 600_000}


@dataclass(frozen=True)
class DriftSummary:
    """What was written, and how much room there is between a visit count and the truth."""

    out: Path
    layout: Layout
    rooms: int
    visits: int
    room_headroom: RoomHeadroom | None


def simulate_drift(out: Path, params: DriftParams, layout: str = "kuailive") -> DriftSummary:
    """Write the raw files of a drifting world in a publisher's layout, and its truth to `out`/truth.

    The same params write the same files. `kuailive`: click.csv, negative.csv, like.csv, comment.csv,
    gift.csv, room.csv, user.csv, streamer.csv. `twitch`: 100k.csv, without a header.

    Args:
        out: folder of the raw files; made if it is not there.
        params: size, seed and character of the world.
        layout: kuailive or twitch.

    Raises:
        DataError: `layout` is unknown, or `out` is a file.
    """
    if layout not in tuple(Layout):
        raise DataError(f"layout {layout!r} is unknown; choose one of {', '.join(Layout)}")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder for the simulated log")
    out.mkdir(parents=True, exist_ok=True)
    chosen = Layout(layout)
    log = play(params, step_ms=_STEP_MS[chosen])
    (write_kuailive if chosen is Layout.KUAILIVE else write_twitch)(out, log)
    write_truth(out, log, chosen)
    return DriftSummary(
        out=out,
        layout=chosen,
        rooms=len(np.unique(log.visit_room)),
        visits=len(log.visit_user),
        room_headroom=room_headroom(log.requests),
    )
