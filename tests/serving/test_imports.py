"""A backend pays for numpy, faiss, onnxruntime, pyarrow and pydantic only, also while it answers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.serving.conftest import MakeBundle
from tests.serving.test_rooms import sections_with_rooms

HEAVY = ("torch", "implicit", "pandas", "lightgbm", "mlflow", "scipy", "ibis", "duckdb", "onnx", "sklearn")

ROUND = """
from serving import Recommender
from recsys.types import Behaviour, Event
from datetime import datetime, timezone
recommender = Recommender.load(sys.argv[1])
assert recommender.products(1000, k=5).fallback is None
recommender.observe(Event(1000, Behaviour.VIEW, datetime(2026, 3, 1, 1, tzinfo=timezone.utc), "i-04"))
assert recommender.products(1000, k=5, category="tea", deny=["i-01"], repeat=False).ids
assert recommender.products("nobody").fallback
recommender.stock_changed("i-00", 0)
recommender.room_started("a", "s-1")
recommender.on_air("a", "i-04")
recommender.observe(Event(1000, Behaviour.ENTER, datetime(2026, 3, 1, 2, tzinfo=timezone.utc), room_id="a"))
assert sorted(recommender.rooms(1000).ids) == ["a", "r-1"]
assert recommender.next_products("a", k=3).ids
recommender.room_ended("a")
assert recommender.rooms(1000).ids == ["r-1"]
assert recommender.hot().ids and recommender.similar("i-03").ids
recommender.swap(sys.argv[1])
recommender.forget(1000)
assert recommender.products(1000).fallback
"""

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {heavy!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)
sys.meta_path.insert(0, Blocker())
"""

WATCHED = """
loaded = sorted(set(sys.modules) & set({heavy!r}))
assert not loaded, loaded
"""


@pytest.mark.parametrize("kind", ["absent", "present"])
def test_nothing_heavy_is_imported_by_loading_and_answering(make_bundle: MakeBundle, kind: str) -> None:
    """Where the heavy libraries are absent all works; where they are present none is pulled in."""
    before = BLOCKED.format(heavy=HEAVY) if kind == "absent" else "import sys\n"
    script = before + ROUND + WATCHED.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", script, str(make_bundle(sections=sections_with_rooms()))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
