"""`recsys bench serve` at a size that tells nothing of speed: its rows, its oracles and its goals."""

from __future__ import annotations

from pathlib import Path

import implicit.utils
import numpy as np
import pyarrow.csv as pacsv
import pytest
from threadpoolctl import threadpool_limits

from recsys.bench.clients import exact_best
from recsys.bench.serve import SHARES
from recsys.bench.timing import Goal, Row, as_table, timed
from recsys.bench.world import WorldParams, item_vectors, product_groups
from recsys.cli import BAD_INPUT, main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return int(exit_.value.code or 0)


def test_bench_writes_every_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ("--calls", 100, "--seconds", 0.1, "--keep", tmp_path / "bundle")
    # `implicit` looks at the threads of BLAS once a process: it shall look again, and a warning is an error.
    monkeypatch.setattr(implicit.utils, "_checked_blas_config", False)
    with threadpool_limits(2, user_api="blas"):
        assert run("bench", "serve", "--items", 2_000, *quick, "--out", tmp_path / "serve.csv") == 0
    table = pacsv.read_csv(tmp_path / "serve.csv")
    assert table.column_names == ["row", "measured", "reference", "ratio", "target"]
    rows = {row["row"]: row for row in table.to_pylist()}
    for share in SHARES:
        assert rows[f"products, {share:.1%} allowed: recall@100"]["measured"] >= 0.95
        assert rows[f"products, {share:.1%} allowed: p50, ms"]["measured"] > 0
        for kind in ("whole groups", "groups and others"):
            assert rows[f"search, {share:.1%} allowed, {kind}: recall@100"]["measured"] >= 0.95
    for begins in (
        "products of a category, 10 % that lie together: recall@100",
        "import of serving, s",
        "import of serving, MB",
        "load of the bundle",
        "products, 90% allowed, seen out, cached vector: p50",
        "products, 90% allowed, seen out, cached vector: p99",
        "products just after observe, beyond that",
        "stock_changed to effect",
        "implicit's recommend",
        "requests a second, two worker processes",
        "requests a second, two threads",
        "memory that a second worker adds",
    ):
        found = [row for name, row in rows.items() if name.startswith(begins)]
        assert found, begins
        assert np.isfinite(found[0]["measured"])
    other_world = ("bench", "serve", "--items", 3_000, "--keep", tmp_path / "bundle")
    assert run(*other_world, "--out", tmp_path / "other.csv") == BAD_INPUT


def test_the_catalogue_is_the_same_for_the_same_seed_and_lies_in_groups() -> None:
    params = WorldParams(items=2_000, dim=16)
    vectors, cluster = item_vectors(params, np.random.default_rng(5))
    again, _ = item_vectors(params, np.random.default_rng(5))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, again)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(product_groups(WorldParams(items=2_000, dim=16, seed=5)), cluster)
    alike = (vectors @ vectors.T)[cluster[:, None] == cluster[None, :]].mean()
    assert alike > 5 * abs((vectors @ vectors.T).mean())


def test_exact_best_names_only_what_is_allowed() -> None:
    vectors = np.array([[1, 0], [0.9, 0], [0.8, 0], [-1, 0]], dtype=np.float32)
    query = np.array([1, 0], dtype=np.float32)
    allowed = np.array([False, True, True, True])
    assert sorted(exact_best(vectors, query, allowed, 2)) == [1, 2]
    assert sorted(exact_best(vectors, query, allowed, 9)) == [1, 2, 3]


def test_works_take_turns_and_are_called_with_every_number() -> None:
    heard: list[tuple[str, int]] = []
    first, second = timed((lambda n: heard.append(("a", n)), lambda n: heard.append(("b", n))), 45)
    assert [n for name, n in heard if name == "a"] == list(range(45))
    assert [name for name, _ in heard[:40]] == ["a"] * 20 + ["b"] * 20
    assert len(first.wall) == len(second.cpu) == 45
    assert first.p50 <= first.p99


@pytest.mark.parametrize(
    ("goal", "measured", "reference", "holds"),
    [
        (Goal(most=0.4, times_most=3), 0.3, 0.1, True),
        (Goal(most=0.4, times_most=3), 0.3, 0.09, False),
        (Goal(most=0.4, times_most=3), 0.5, 0.4, False),
        (Goal(times_least=1.8), 19.0, 10.0, True),
        (Goal(times_least=1.8), 17.0, 10.0, False),
        (Goal(least=0.95), 0.94, None, False),
        (Goal(times_most=3), 1.0, None, False),
        (None, 1.0, None, None),
    ],
)
def test_goals(goal: Goal | None, measured: float, reference: float | None, holds: bool | None) -> None:
    assert Row("x", measured, reference, goal).holds is holds


def test_a_goal_is_written_as_bounds_and_aim() -> None:
    row = Row("x", 1 / 3, 0.1, Goal(most=0.4, times_most=3, aim="1.5 times"))
    assert as_table([row]).to_pylist() == [
        {
            "row": "x",
            "measured": 0.3333,
            "reference": 0.1,
            "ratio": 3.333,
            "target": "at most 0.4, at most 3 times; aim 1.5 times",
        }
    ]
