"""From configuration to plans: which routes get one, what is in it, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.types import Timeouts
from gateway.config import Config, ConfigError, parse
from gateway.config_types import TimeoutsOverride
from gateway.plans import attach
from routing.plan import Hedge, Plan
from routing.retry import Backoff
from routing.types import Arm, Route

ENV = {"ANTHROPIC_API_KEY": "sk-ant-1"}


def config(backends: dict[str, Any] | None = None, **routes: Any) -> Config:
    known = {"b": {"url": "http://b"}, **(backends or {})}
    made = {name: {"targets": [{"backend": "b", "model": "t"}], **route} for name, route in routes.items()}
    return parse(json.dumps({"backends": known, "routes": made}), ENV)


def plans(made: Config) -> dict[str, Plan | None]:
    routes = {name: Route(name, tuple(Arm(target, ()) for target in made.targets(name))) for name in made.routes}
    attach(routes, made.routes, made)
    return {name: route.plan for name, route in routes.items()}


def test_a_plain_route_has_no_plan() -> None:
    assert plans(config(m={}, n={"timeouts": {"total": 5}, "retries": 3, "concurrency": 2})) == {"m": None, "n": None}


def test_what_is_in_a_plan() -> None:
    found = plans(config(m={
        "backoff": {"cap": 2}, "hedge": {"after": "p95", "budget": 0.2}, "coalesce": True, "timeouts": {"first_token": 3, "min_rate": 5},
    }))["m"]  # fmt: skip
    assert found is not None
    assert (found.backoff, found.hedge, found.coalesce, found.heirs) == (Backoff(0.25, 2.0), Hedge(None, 0.2), True, None)
    assert found.limits("b") == Timeouts(first_token=3.0, min_rate=5.0)
    second = plans(config(m={"hedge": {"after": 2}}))["m"]
    assert second is not None and second.hedge == Hedge(2.0, 0.05) and second.backoff is None


def test_a_backends_own_limits_make_a_plan_too() -> None:
    found = plans(config({"b": {"url": "http://b", "timeouts": {"min_rate": 2}}}, m={}))["m"]
    assert found is not None and found.limits("b").min_rate == 2


def test_fallbacks_in_both_forms() -> None:
    found = plans(config(a={"fallbacks": ["b", "c"]}, b={"fallbacks": {"any": ["c"], "context": "d", "content": "c"}}, c={}, d={}))
    names = {name: [tuple(r.name for r in way) for way in (p.chain, p.context, p.content)] for name, p in found.items() if p is not None}
    assert names == {"a": [("b", "c"), (), ()], "b": [("c",), ("d",), ("c",)], "c": [(), (), ()], "d": [(), (), ()]}


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        ({"a": {"fallbacks": ["x"]}}, "there is no route `x`"),
        ({"a": {"fallbacks": ["a"]}}, "a -> a"),
        ({"a": {"fallbacks": ["b"]}, "b": {"fallbacks": {"content": "a"}}}, "a -> b -> a"),
        ({"a": {"fallbacks": {"context": "b"}}, "b": {"fallbacks": ["c"]}, "c": {"fallbacks": ["a"]}}, "a -> b -> c -> a"),
        ({"a": {"hedge": {"after": "p50"}}}, "after"),
        ({"a": {"hedge": {"budget": 0}}}, "budget"),
        ({"a": {"fallbacks": {"always": "b"}}}, "fallbacks"),
    ],
)
def test_what_is_refused(routes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config(**routes)


def test_a_circle_elsewhere_does_not_hang() -> None:
    with pytest.raises(ConfigError) as caught:
        config(a={"fallbacks": ["b"]}, b={"fallbacks": ["c"]}, c={"fallbacks": ["b"]})
    assert "$.routes.a" not in str(caught.value) and "b -> c -> b" in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "model", "mode"),
    [
        ({"url": "http://x", "kind": "vllm"}, "t", "flag"),
        ({"url": "http://x", "kind": "sglang"}, "t", "flag"),
        ({"url": "http://x", "kind": "llama-server"}, "t", "prefill"),
        ({"url": "http://x"}, "t", None),
        ({"url": "http://x", "facts": {"prefill": True}}, "t", "prefill"),
        ({"url": "http://x", "kind": "vllm", "facts": {"prefill": False}}, "t", None),
        ({"kind": "anthropic"}, "claude-3-5-sonnet-20241022", "trimmed"),
        ({"kind": "anthropic"}, "claude-opus-4-7", None),
        ({"url": "http://x", "kind": "openai"}, "gpt-4o", None),
    ],
)
def test_who_can_go_on_with_an_answer(backend: dict[str, Any], model: str, mode: str | None) -> None:
    made = config({"c": backend}, m={"targets": [{"backend": "c", "model": model}, {"backend": "b"}], "continue": True})
    found = plans(made)["m"]
    assert found is not None and found.heirs is not None
    assert found.continues == ({("c", model): mode} if mode else {})
    assert [arm.target.backend for arm in found.heirs.arms] == (["c"] if mode else [])


def test_overrides_of_limits() -> None:
    over = TimeoutsOverride(first_token=2.0, min_rate=0.0).over(Timeouts(total=9.0, min_rate=4.0))
    assert over == Timeouts(total=9.0, first_token=2.0, min_rate=0.0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"timeouts": {"min_rate": -1}}, "min_rate"), ({"timeouts": {"first_token": 0}}, "first_token"),
        ({"kind": "perplexity", "health_seconds": 5}, "without a charge"), ({"timeouts": {"rate_window": 0}}, "rate_window"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        config({"b": {"url": "http://b", **fields}}, m={})
