"""Where the two-tower's settings may be searched."""

from __future__ import annotations

from collections.abc import Mapping

from recsys.search import OneOf, Range, Within

TWO_TOWER_SEARCH: Mapping[str, Range] = {
    "dim": OneOf(32, 64, 128),
    "history_length": OneOf(20, 50, 100),
    "layers": Within(0, 2),
    "dropout": Within(0.0, 0.4),
    "user_id_embedding": OneOf(True, False),
    "user_id_dropout": Within(0.1, 0.9),
    "target_id_dropout": Within(0.0, 0.5),
    "temperature": Within(0.03, 0.3, log=True),
    "uniform_negatives": OneOf(256, 1_024, 4_096),
    "learning_rate": Within(3e-4, 1e-2, log=True),
}
