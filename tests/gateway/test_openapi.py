"""The OpenAPI document says what the data port offers, and is one."""

from __future__ import annotations

import json
from typing import Any

from gateway import passthrough, surfaces
from gateway.openapi import document

DOCUMENT: dict[str, Any] = json.loads(document())


def test_it_covers_the_surfaces() -> None:
    posts = {path for path, item in DOCUMENT["paths"].items() if "post" in item}
    posts -= {"/v1/explain", "/v1/feedback"}  # of their own
    assert posts <= {*surfaces.CALLS, *surfaces.TOKENS, *surfaces.DIALECTS, *surfaces.COUNTS, *(f"/v1{p}" for _, p in passthrough.SURFACES)}
    assert {surfaces.CALLS[p] for p in posts if p in surfaces.CALLS} == set(surfaces.CALLS.values())
    assert {surfaces.DIALECTS[p] for p in posts if p in surfaces.DIALECTS} == set(surfaces.DIALECTS.values())
    assert {surfaces.COUNTS[p] for p in posts if p in surfaces.COUNTS} == set(surfaces.COUNTS.values())
    assert {surfaces.TOKENS[p] for p in posts if p in surfaces.TOKENS} == set(surfaces.TOKENS.values())


def test_every_operation_is_whole() -> None:
    assert DOCUMENT["openapi"].startswith("3.1") and DOCUMENT["info"]["title"] == "Pointsman"
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            assert operation["summary"] and "200" in operation["responses"], (method, path)
            for status, answer in operation["responses"].items():
                if status != "200":
                    form = "MessagesError" if path.startswith("/v1/messages") else "Error"
                    assert answer["content"]["application/json"]["schema"] == {"$ref": f"#/components/schemas/{form}"}
            assert ("{" in path) == any(p["in"] == "path" for p in operation.get("parameters", []))


def test_it_covers_what_is_relayed() -> None:
    told = {(method.upper(), path.removeprefix("/v1")) for path, item in DOCUMENT["paths"].items() for method in item}
    assert told >= passthrough.SURFACES.keys()


def test_what_a_call_needs() -> None:
    def needed(path: str) -> set[str]:
        schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["additionalProperties"] is True  # what we do not know is the engine's business
        return set(schema["required"])

    assert needed("/v1/chat/completions") == {"model", "messages"}
    assert needed("/v1/completions") == {"model"} and needed("/v1/embeddings") == {"model", "input"}
    assert needed("/v1/messages") == {"model", "max_tokens", "messages"} and needed("/v1/responses") == {"model", "input"}


def test_who_needs_no_key() -> None:
    free = {p for p, item in DOCUMENT["paths"].items() if item.get("get", {}).get("security") == []}
    assert free == {"/health", "/ready", "/version"}
    assert document() is document()
