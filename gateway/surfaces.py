"""What the data port offers, as one table; and the small answers that the gateway gives itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.auth import Tenant, allowed
from gateway.serve import Core
from gateway.version import VERSION
from routing.types import Route

# path → api of `Exchange`: a JSON body with a `model`, relayed.
CALLS: Mapping[str, str] = {
    "/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank", "/rerank": "rerank",
}  # fmt: skip
# Without the /v1 that many a client leaves out of its base URL.
CALLS = {**CALLS, **{path.removeprefix("/v1"): api for path, api in CALLS.items()}}
TOKENS = {"/tokenize": "tokenize", "/v1/tokenize": "tokenize", "/detokenize": "detokenize", "/v1/detokenize": "detokenize"}
# Other dialects than OpenAI's chat: their calls, what counts a prompt, and below which path kept responses are.
DIALECTS: Mapping[str, str] = {path: api for api in ("messages", "responses") for path in (f"/v1/{api}", f"/{api}")}
_COUNTS = {"/v1/messages/count_tokens": "messages", "/v1/responses/input_tokens": "responses"}
COUNTS: Mapping[str, str] = {**_COUNTS, **{path.removeprefix("/v1"): api for path, api in _COUNTS.items()}}
EXPLAIN = ("/v1/explain", "/explain")
FEEDBACK = ("/v1/feedback", "/feedback")
KEPT = ("/v1/responses/", "/responses/")


def state(route: Route) -> str:
    """ready, loading, unloaded (a call loads it) or down: the best of the route's replicas."""
    found = {"unloaded" if r.asleep else r.health for r in route.replicas}
    return next((kind for kind in ("ready", "loading", "unloaded") if kind in found), "down")


def reason(route: Route) -> str:
    """Why the route is not ready, in the words of its first replica that says."""
    return next((r.reason for r in route.replicas if r.reason), "")


def model_object(name: str, route: Route, created: int) -> dict[str, Any]:
    """One entry of /v1/models. `root` and `max_model_len` are what vLLM's tools read; `state` is ours."""
    target = route.arms[0].target
    return {
        "id": name, "object": "model", "created": created, "owned_by": target.backend, "root": target.model, "parent": None,
        "max_model_len": context(route), "state": state(route),
    }  # fmt: skip


def context(route: Route) -> int | None:
    """Tokens that every target of the route takes; None where one does not say."""
    found = [arm.target.context for arm in route.arms]
    return None if not found or None in found else min(c for c in found if c is not None)


def models(core: Core, tenant: Tenant, created: int) -> bytes:
    """The body of GET /v1/models for one caller."""
    entries = [model_object(name, r, created) for name, r in core.generation.routes.items() if allowed(tenant, r.name)]
    return msgspec.json.encode({"object": "list", "data": entries})


def health(core: Core) -> bytes:
    """The body of GET /health: the process serves."""
    return msgspec.json.encode({"status": "ok", "version": VERSION, "draining": core.leaving or core.draining})


def ready(core: Core) -> tuple[int, bytes]:
    """Status and body of GET /ready: 200 when at least one route can answer now, or as soon as its model is loaded for a call."""
    states = {name: state(r) for name, r in core.generation.routes.items()}
    ok = not (core.leaving or core.draining) and (not states or not {"ready", "unloaded"}.isdisjoint(states.values()))
    return (200 if ok else 503), msgspec.json.encode({"ready": ok, "models": states})
