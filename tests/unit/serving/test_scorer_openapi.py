"""Tests the scorer's OpenAPI document with requests that schemathesis generates from it."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

EXAMPLES = 40
"""Number of requests per address, valid and invalid."""


def test_openapi_lists_every_path_and_column(night, scorer):
    scorer.promote(night, "first")
    document = scorer.http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/score", "/rank", "/columns", "/ready", "/health", "/metrics", "/shadow",
        "/openapi.json",
    }  # fmt: skip
    row = document["components"]["schemas"]["Row"]["properties"]
    assert set(row) == set(scorer.http.get("/columns").json()["columns"])
    assert row["interests"]["anyOf"][0]["type"] == "array"
    assert row["time"]["anyOf"][0]["format"] == "date-time"


def test_generated_requests_get_answers_that_match_openapi(night, scorer):
    import schemathesis

    scorer.promote(night, "first")
    schema = schemathesis.openapi.from_dict(scorer.http.get("/openapi.json").json())
    operations = [operation.ok() for operation in schema.get_all_operations()]
    seen = {
        operation.path: _statuses(operation, str(scorer.http.base_url)) for operation in operations
    }
    assert seen["/score"] >= {200, 422}
    assert seen["/rank"] >= {200, 422}
    assert "Traceback" not in scorer.log()


def _statuses(operation: Any, address: str) -> set[int]:
    """Send requests that fit the document and some that do not, and return their statuses."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    expected = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.unsupported_method,
    ]
    has_body = operation.method == "post"
    modes = list(GenerationMode) if has_body else [GenerationMode.POSITIVE]
    statuses = set()

    @settings(
        max_examples=EXAMPLES if has_body else 2, database=None,
        derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(*map(operation.as_strategy, modes)))
    def ask(case: Any) -> None:
        answer = case.call(base_url=address)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=expected)

    ask()
    return statuses
