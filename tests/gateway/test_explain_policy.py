"""What `explain` tells of a route's policy: every candidate's seconds, why one may not be used, the winner and the runner-up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.cli_explain import text
from gateway.config import Config, parse
from tests.fakes.engine import Engine
from tests.harness import Running, chat, running

KEY = {"authorization": "Bearer sk-1"}


def config(near: Engine, cloud: Engine, policy: Any, when: dict[str, Any] | None = None) -> Config:
    targets: list[dict[str, Any]] = [{"backend": "cloud", "model": "c"}, {"backend": "near", "model": "n"}]
    if when is not None:
        targets[0]["when"] = when
    return parse(json.dumps({
        "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}},
        "backends": {
            "near": {"url": near.url, "local": True}, "cloud": {"url": cloud.url, "prices": {"input": 100, "output": 1000}},
        },
        "routes": {"m": {"targets": targets, "policy": policy}},
        "keys": [{"name": "a", "key": "sk-1"}],
    }), {})  # fmt: skip


def explained(gateway: Running, headers: dict[str, str] | None = None, **doc: Any) -> dict[str, Any]:
    answer = gateway.ask(chat(**doc), "/v1/explain", KEY | (headers or {}))
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


def row(told: dict[str, Any], replica: str) -> dict[str, Any]:
    (found,) = [one for one in told["candidates"] if one["replica"] == replica]
    return dict(found)


def test_every_candidate_s_seconds_by_term() -> None:
    with Engine() as near, Engine() as cloud:
        policy = {"name": "local_first", "ttft": 5, "tpot": 1, "seconds_per_dollar": 10}
        with running(config(near, cloud, policy)) as gateway:
            told = explained(gateway, max_tokens=100)
            assert told["policy"] == "local_first" and told["decision"]["replica"] == "near" and told["decision"]["reason"] == "local"
            assert told["decision"]["runner_up"] == "cloud" and told["decision"]["words"].startswith("near: local; next cloud; ")
            cost = row(told, "cloud")
            assert set(cost["terms"]) == {"first token", "answer", "money"} and cost["terms"]["money"] > 1.0
            assert cost["seconds"] == pytest.approx(sum(cost["terms"].values()), abs=1e-5) and not cost["out"]
            shown = text(told)
            assert "policy local_first" in shown and "next would be cloud" in shown and "money" in shown
            assert not near.requests and not cloud.requests


def test_why_one_may_not_be_used() -> None:
    with Engine() as near, Engine() as cloud, running(config(near, cloud, "priority", {"longer": 5000})) as gateway:
        told = explained(gateway)
        assert told["decision"]["replica"] == "near" and told["decision"]["runner_up"] is None
        assert row(told, "cloud")["out"].startswith("takes prompts longer than 5000 tokens, this has about ")
        assert "may not be used: takes prompts longer than" in text(told)
        assert explained(gateway, text="x" * 40_000)["decision"]["replica"] == "cloud"
        private = explained(gateway, {"x-pointsman-private": "1"}, text="x" * 40_000)
        assert [one["replica"] for one in private["candidates"]] == ["near"] and private["decision"]["replica"] == "near"


def test_how_no_target_takes_it() -> None:
    with Engine() as near, Engine() as cloud:
        made = config(near, cloud, "weighted")
        targets = [{"backend": "cloud", "model": "c", "when": {"header": {"x-tier": "gold"}}}]
        made = parse(json.dumps({
            "server": {"port": 0, "admin": {"port": None}, "log": {"level": "error"}}, "backends": {"cloud": {"url": cloud.url}},
            "routes": {"m": {"targets": targets}},
        }), {})  # fmt: skip
        with running(made) as gateway:
            told = explained(gateway)
            assert told["error"]["code"] == "no_target" and told["error"]["status"] == 400 and told["decision"] is None
            assert row(told, "cloud")["out"] == "wants another header x-tier"
            assert explained(gateway, {"x-tier": "gold"})["decision"]["reason"] == "drawn by weight"


def test_asking_counts_nothing() -> None:
    with Engine() as near, Engine() as cloud, running(config(near, cloud, "round_robin")) as gateway:
        first = [explained(gateway)["decision"]["replica"] for _ in range(4)]
        assert len(set(first)) == 1, "explaining takes nobody's turn"


def test_without_a_policy_nothing_is_weighed() -> None:
    with Engine() as near, Engine() as cloud, running(config(near, cloud, "weighted")) as gateway:
        told = explained(gateway)
        assert told["policy"] == "weighted" and row(told, "near")["seconds"] is None and row(told, "near")["terms"] == {}
        assert told["decision"]["words"] == f"{told['decision']['replica']}: weighted"
