"""The description of the API is what the API does: requests made up from it get answers that it describes."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from live_server import Live, asking
from schemathesis.specs.openapi.checks import positive_data_acceptance

EXAMPLES = 5
ROUTES = ["chat", "ground", "render", "models", "model", "healthz", "readyz"]


@pytest.fixture(scope="module")
def schema(live: Live) -> Any:
    return schemathesis.openapi.from_url(f"{live.url}/openapi.json", headers={"Host": "localhost"})


def test_the_document_names_every_route_and_its_body(live: Live) -> None:
    document = live.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/chat/completions", "/v1/ground", "/v1/render", "/v1/models", "/v1/models/{name}", "/healthz", "/readyz",
        "/metrics",
    }  # fmt: skip
    assert {"ChatRequest", "RegionPart", "ErrorResponse", "ChatCompletion"} <= document["components"]["schemas"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTES)
def test_requests_made_up_get_answers_as_described(name: str, schema: Any, live: Live) -> None:
    operations = {one.ok().definition.raw["operationId"]: one.ok() for one in schema.get_all_operations()}

    # That a request has the form of the API does not make its image one.
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(operations[name].as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(timeout=30, excluded_checks=[positive_data_acceptance])

    check()


def test_an_answer_is_as_described(schema: Any, live: Live) -> None:
    operation = schema["/v1/chat/completions"]["POST"]
    for masks in ("rle", "polygons", "both", "none"):
        body = {"model": live.chat.name, "messages": asking("What?"), "max_tokens": 9, "grounding": {"masks": masks}}
        operation.Case(body=body, media_type="application/json").call_and_validate(timeout=30)
