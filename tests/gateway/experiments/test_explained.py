"""`POST /v1/explain` on a route with experiments: it tells the arm that the request is then given, and counts nothing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gateway.cli_explain import text
from gateway.experiments.trial import RouteTrials
from gateway.experiments.words import State
from routing.policies import Condition
from tests.fakes.providers import anthropic as claude
from tests.gateway.experiments.test_arms import ARMS
from tests.gateway.experiments.test_trial_live import DOCS, begun, trying
from tests.gateway.experiments.tried import Tried
from tests.gateway.test_surface import CLAUDE, routed
from tests.harness import Running, running


def explained(gateway: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = gateway.ask({"path": f"/v1/{path}", "body": body}, "/v1/explain")
    assert answer.status == 200, answer.body
    found: dict[str, Any] = json.loads(answer.body)
    return found


@pytest.mark.parametrize("api", ["chat/completions", "messages", "responses"])
def test_it_goes_where_it_was_said_to_go(api: str) -> None:
    seen = set()
    with trying(False, ARMS) as (gateway, store, _):
        for user in map(str, range(12)):
            name = {"metadata": {"user_id": user}} if api == "messages" else {"user": user}
            told = explained(gateway, api, {**DOCS[api], **name})
            assert store.ended == [] and told["error"] is None
            ((one,), backend) = told["experiments"], told["decision"]["backend"]
            assert one["experiment"] == "e" and one["why"] == "drawn by its key"
            assert f"experiment e: arm {one['arm']} (drawn by its key)\n" in text(told)
            seen.add((one["arm"], backend))
            assert gateway.ask({**DOCS[api], **name}, f"/v1/{api}").status == 200
            gateway.until(lambda: len(store.ended) == 1, "it was taken down")
            assert (store.seen[0].arm, store.ended[0][10].backend) == (one["arm"], backend)
            store.ended.clear()
    assert len(seen) == 2, "each arm has a backend of its own, and both were met"


def test_what_an_arm_changes_is_in_what_would_be_sent() -> None:
    provider = claude.Anthropic()
    with provider.serving() as root:
        backends = {"own": {"kind": "anthropic", "url": f"{root}/v1", "key": claude.KEY}}
        arms = {"old": {}, "new": {"weight": 1, "parameters": {"max_tokens": 3}, "system": "Be brief."}}
        config = routed(backends, [{"backend": "own", "model": CLAUDE}], experiments={"e": {"route": "m", "arms": arms}})
        with running(config, False) as gateway:
            begun(gateway)
            found = {}
            for user in map(str, range(8)):
                told = explained(gateway, "messages", {**DOCS["messages"], "metadata": {"user_id": user}})
                sent = told["requests"][0]["body"]
                found[told["experiments"][0]["arm"]] = (sent["max_tokens"], "Be brief." in str(sent.get("system")), told["native"])
    assert found == {"old": (50, False, True), "new": (3, True, False)} and provider.requests == []


@pytest.mark.parametrize(("fields", "doc", "arm", "why"), [
    ({"holdout": 1.0}, {"user": "u"}, "", "its key is held out"),
    ({}, {}, "", "the request has no key to assign it by"),
    ({"exclude": Condition(needs=frozenset({"tools"}))}, {"user": "u", "tools": [{}]}, "", "such requests are excluded"),
    ({"shares": ((float("-inf"), 0.0),), "history": False}, {"user": "u"}, "", "its key is not in the experiment's share now"),
    ({"shares": ((float("-inf"), 0.0),)}, {"user": "u"}, "", "its key is not in the experiment's share yet; counted as history"),
])  # fmt: skip
def test_who_has_no_part_is_told_why(fields: dict[str, Any], doc: dict[str, Any], arm: str, why: str) -> None:
    world = Tried(**fields)
    _, exchange = world.ask(doc)
    trials = world.route.trials
    assert isinstance(trials, RouteTrials)
    left, known = dict(world.trials.left), dict(trials.live[0].known)
    told = trials.live[0].told(exchange, time.time())
    assert (told.arm, told.why) == (arm, why)
    assert (dict(world.trials.left), trials.live[0].known) == (left, known), "nothing is counted, nobody remembered"


def test_a_promoted_arm_is_everybodys() -> None:
    world = Tried()
    world.trials.follow({"e": State("e", "promoted", winner="new")})
    _, exchange = world.ask({})
    trials = world.route.trials
    assert isinstance(trials, RouteTrials)
    told = trials.live[0].told(exchange, time.time())
    assert (told.arm, told.why) == ("new", "it was promoted: everybody has it") and told.place is not None and told.place.route is world.way
