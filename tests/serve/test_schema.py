"""The interface's own schema: a checker makes requests of it, valid and not, and no answer may be a 5xx or
another than the schema says."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

schemathesis = pytest.importorskip("schemathesis", reason="needs the package 'schemathesis'")


def test_no_request_of_the_schema_breaks_the_server(server: Any) -> None:
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    tried: dict[str, int] = {}
    few = settings(
        max_examples=10,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )

    def check(case: Any) -> None:
        # what two parameters mean together ("top_logprobs without logprobs") is not in the schema
        response = case.call_and_validate(
            base_url=server.url, timeout=30, excluded_checks=[positive_data_acceptance]
        )
        assert response.status_code < 500
        tried[case.operation.label] = tried.get(case.operation.label, 0) + 1

    for result in schema.get_all_operations():
        operation = result.ok()
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.method.upper() == "POST":
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:
            few(given(case=operation.as_strategy(generation_mode=mode))(check))()
    assert {"POST /v1/completions", "POST /v1/chat/completions", "POST /v1/embeddings"} <= set(tried)


def test_the_schema_is_whole(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()

    def refs(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*(refs(v) for v in node.values()))
        return set().union(*(refs(v) for v in node)) if isinstance(node, list) else set()

    names = set(schema["components"]["schemas"])
    assert {ref.removeprefix("#/components/schemas/") for ref in refs(schema)} <= names
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
    body = schema["components"]["schemas"]["ChatRequest"]
    assert body["additionalProperties"] is False and {"model", "messages"} == set(body["required"])
