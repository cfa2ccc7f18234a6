"""The edge by its own OpenAPI: no request, however made up, is an internal error."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from recsys.bundle import write_bundle
from serving.edge import create_app
from tests.serving.conftest import load
from tests.serving.test_holds import sections

schemathesis = pytest.importorskip("schemathesis", reason="not installed: pip install '.[dev]'")

TOKEN = {"Authorization": "Bearer s3cret"}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("bundles") / "v1"
    write_bundle(path, sections=sections(), config={}, metrics={}, model_version="v1")
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(load(path), admin_token="s3cret"))


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_no_request_breaks_the_edge(schema: Any, mode: Any) -> None:
    """By the schema, and against it."""
    statuses: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=25,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            database=None,
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            response = case.call(headers=TOKEN)
            assert response.status_code < 500, (case, response.text)
            statuses.setdefault(case.operation.label, set()).add(response.status_code)

        with suppress(Unsatisfiable):  # nothing can be wrong about a request without parameters
            ask()
    assert len(statuses) > 10
    if mode is schemathesis.GenerationMode.POSITIVE:
        answered = [label for label, seen in statuses.items() if seen & {200, 202, 204}]
        assert len(answered) > 10, statuses  # the rest asks for what there is not
