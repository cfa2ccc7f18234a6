"""Rooms on simulated logs: NDCG@10 over all rooms live at the request, beside what the true utilities reach.

    python experiments/rooms_sim.py --world commerce --seed 1     # the simulated platform
    python experiments/rooms_sim.py --world kuailive              # the second generator, KuaiLive's layout
    python experiments/rooms_sim.py --world twitch                # the second generator, Twitch's layout

Every baseline is tuned on what was known before the first request (room_baselines.py). The models are fitted
on what was known then, and the whole log is replayed. `share` is the part of the headroom between decayed
visits (0) and true utilities (1) that a ranking reaches.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from records import add
from room_baselines import BASELINES, tuned

from recsys.data.dataset import Dataset
from recsys.data.prepare import prepare
from recsys.data.simulate import SimulationParams, simulate
from recsys.data.simulate.drift import DriftParams, simulate_drift
from recsys.data.sources import import_source
from recsys.rooms.baselines import PopularNow, tuned_visit_count
from recsys.rooms.examples import ExampleParams
from recsys.rooms.model import RoomModel, RoomParams
from recsys.rooms.replay import KnownIds, RoomRanker, moments_us, replay
from recsys.rooms.scorer import RoomRanking, RoomScorer
from recsys.rooms.state import LiveState
from recsys.slices import rank_in_group

RESULTS = Path(__file__).parent / "results" / "rooms_sim.csv"
K = 10


@dataclass(frozen=True)
class Requests:
    """What was asked, which room was entered, whether its streamer was known, and its true rank."""

    asked: pa.Table
    entered: list[object]
    known: npt.NDArray[np.bool_]
    true_gain: npt.NDArray[np.float64]


class ShuffledAir:
    """A scorer that is told of every room that another room's product is on air."""

    def __init__(self, scorer: RoomScorer) -> None:
        self.state_params, self.content, self._scorer = scorer.state_params, scorer.content, scorer
        self._rng = np.random.default_rng(0)

    def rank(self, state: LiveState, user: int, now_us: int, *, k: int) -> RoomRanking:
        """The scorer's answer over the shuffled products."""
        items = state.rooms.item_idx
        true = items.copy()
        n = len(state.rooms)
        items[:n] = self._rng.permutation(items[:n])
        answer = self._scorer.rank(state, user, now_us, k=k)
        items[:] = true
        return answer


def world_logs(world: str, seed: int, folder: Path) -> Path:
    """Write the log of a world under `folder`, with its truth."""
    if world == "commerce":
        simulate(folder / "logs", SimulationParams(users=3000, items=1200, streamers=120, days=40, seed=seed))
        return folder / "logs"
    simulate_drift(folder / "raw", DriftParams(seed=seed), world)
    import_source(world, folder / "raw", folder / "logs")
    (folder / "logs" / "truth").symlink_to(folder / "raw" / "truth")
    return folder / "logs"


def read_requests(logs: Path) -> Requests:
    """The kept requests, each with the gain that the true utilities have."""
    table = pq.read_table(logs / "truth" / "room_requests.parquet")
    request = table["request"].to_numpy()
    order = np.lexsort((-table["utility"].to_numpy(), request))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = rank_in_group(request[order]) + 1
    chosen = table["chosen"].to_numpy(zero_copy_only=False)
    right = table.filter(table["chosen"])
    return Requests(
        asked=right.select(["user_id", "at"]),
        entered=right["room_id"].to_pylist(),
        known=right["known"].to_numpy(zero_copy_only=False),
        true_gain=gain(rank[chosen]),
    )


def gain(rank: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """NDCG@10 of lists whose one relevant room is at `rank`."""
    return np.where(rank <= K, 1 / np.log2(rank + 1), 0.0)


def gains(ranker: RoomRanker, log: Dataset, requests: Requests, ids: KnownIds) -> npt.NDArray[np.float64]:
    """NDCG@10 of each request."""
    answer = replay(ranker, log, requests.asked, k=K, ids=ids)
    columns = (answer[name].to_pylist() for name in ("user_id", "at", "room_id", "rank"))
    rank = {(user, at, room): place for user, at, room, place in zip(*columns, strict=True)}
    asked = (requests.asked[name].to_pylist() for name in ("user_id", "at"))
    keys = zip(*asked, requests.entered, strict=True)
    return gain(np.array([rank.get(key, K + 1) for key in keys]))


def run(world: str, seed: int) -> list[dict[str, object]]:
    """One world, every ranking."""
    with tempfile.TemporaryDirectory() as scratch:
        logs = world_logs(world, seed, Path(scratch))
        prepare(logs, Path(scratch) / "dataset")
        requests = read_requests(logs)
        before = Dataset.load(Path(scratch) / "dataset").until(int(moments_us(requests.asked["at"]).min()))
        started = time.perf_counter()
        model = RoomModel()
        scorer = model.fit(before)
        fitted_s = time.perf_counter() - started
        params = RoomParams(examples=ExampleParams(negatives="any"))
        log = Dataset.whole(Path(scratch) / "dataset")
        ids = KnownIds(before.users.ids, before.items.ids, before.streamers.ids)
        of_replay = (scorer.state_params, scorer.content)
        counting = tuned_visit_count(model.examples, *of_replay)
        rankers: dict[str, RoomRanker] = {
            "popularity now": PopularNow(*of_replay),
            f"visits, half-life {counting.half_life_days:g} days": counting,
        }
        for name, (fit, options) in BASELINES.items():
            rankers[name], found_out = tuned(fit, options, before, log, *of_replay)
            print(f"{name}: {found_out}", flush=True)
        rankers |= {
            "room model": scorer,
            "room model, products on air shuffled": ShuffledAir(scorer),
            "room model, negatives live or not": RoomModel(params).fit(before),
        }
        found = {name: gains(ranker, log, requests, ids) for name, ranker in rankers.items()}
    found["true utilities"] = requests.true_gain
    floor = max(float(g.mean()) for name, g in found.items() if name.startswith("visits"))
    ceiling = float(requests.true_gain.mean())
    return [
        {
            "world": world,
            "seed": seed,
            "ranking": name,
            "requests": len(values),
            "ndcg_10": round(float(values.mean()), 4),
            "ndcg_10_new": round(float(values[~requests.known].mean()), 4),
            "ndcg_10_known": round(float(values[requests.known].mean()), 4),
            "share": round((float(values.mean()) - floor) / (ceiling - floor), 3),
            "fit_s": round(fitted_s) if name == "room model" else "",
        }
        for name, values in found.items()
    ]


def main() -> None:
    """Run one world and add its rows to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--world", choices=("commerce", "kuailive", "twitch"), default="commerce")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = run(asked.world, asked.seed)
    add(RESULTS, rows)
    for row in rows:
        print(*row.values(), sep="  ")


if __name__ == "__main__":
    main()
