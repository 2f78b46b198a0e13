"""Mirrored requests among users': they give way, stop with their experiment and with the gateway, and go on through reloads."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.experiments.words import State
from tests.fakes.answers import openai_error, reply
from tests.fakes.engine import Engine
from tests.fakes.openai import chat_whole
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script, script
from tests.gateway.experiments.mirrored import Mirroring, mirroring, serving, shadowed
from tests.harness import both_ways, chat


def held(gate: Gate) -> Any:
    """Answers mirrored requests when the gate opens, and others at once."""

    def answer(request: Request) -> Script:
        steps = chat_whole(request.doc).steps
        return script(gate, *steps) if (request.header("x-request-id") or "").startswith("shadow-") else script(*steps)

    return answer


@both_ways
@pytest.mark.parametrize("asked", ["own route", "other route"])
def test_a_user_gets_the_slot_of_a_mirrored_request(asgi: bool, asked: str) -> None:
    """One slot, and the shadow has it when a user comes."""
    gate = Gate()
    with Engine() as own, Engine(responder=held(gate)) as near:
        routes: dict[str, Any] = {"other": {"targets": [{"backend": "near", "model": "fake"}]}}
        over = {"backends": {"near": {"slots": 1}}, "routes": routes}
        if asked == "own route":
            routes["m"] = {"targets": [{"backend": "near", "model": "fake"}]}
        with mirroring(shadowed(own, near, over), asgi) as made:
            assert made.gateway.ask(chat()).status == 200
            near.wait(lambda e: sum((r.header("x-request-id") or "").startswith("shadow-") for r in e.posts()) == 1, "a shadow under way")
            answer = made.gateway.ask(chat() | {"model": "m" if asked == "own route" else "other"})
            assert answer.status == 200
            near.wait(lambda e: len(e.left) == 1, "the shadow is given up")
            assert made.pairs[0].left_out == "busy"
            gate.open()
            made.found(2 if asked == "own route" else 1)


def test_a_busy_replica_is_waited_for_and_not_queued_at() -> None:
    """No slot is free: the job waits here, and goes when the user's call is over."""
    gate = Gate()
    with Engine() as own, Engine() as near:
        over = {"backends": {"near": {"slots": 1}}, "routes": {"other": {"targets": [{"backend": "near", "model": "slow"}]}}}
        near.on_model("slow", script(gate, *chat_whole(chat()).steps))
        with mirroring(shadowed(own, near, over)) as made, made.gateway.dial() as client:
            client.post(chat() | {"model": "other"})
            assert gate.reached.wait(30)
            assert made.gateway.ask(chat()).status == 200
            made.gateway.until(lambda: len(made.shadows.lanes["e"].queue) == 1, "a job that waits")
            assert len(near.posts()) == 1 and not made.pairs
            gate.open()
            assert client.reader.read().status == 200
            assert made.found()[0].left_out == ""
            assert [r.doc["model"] for r in near.posts()] == ["slow", "other"]


def test_a_replica_that_rests_or_waits_too_long_is_left_out() -> None:
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near)) as made:

        def rest() -> None:
            next(r for r in made.gateway.gateway.fleet.every() if r.backend == "near").health = "down"

        made.gateway.call(rest)
        assert made.gateway.ask(chat()).status == 200
        made.gateway.until(lambda: len(made.shadows.lanes["e"].queue) == 1, "a job that waits")
        made.gateway.call(lambda: made.shadows.tick(made.gateway.gateway.core.clients.now + 1000))
        assert made.found()[0].left_out == "busy" and not near.posts()


def _stopped(made: Mirroring) -> None:
    made.shadows.heed({"e": State("e", status="stopped")})


def test_a_stopped_experiment_mirrors_nothing_more() -> None:
    gate = Gate()
    with Engine() as own, Engine(responder=held(gate)) as near:
        with mirroring(shadowed(own, near, concurrency=1)) as made:
            for _ in range(3):
                assert made.gateway.ask(chat()).status == 200
            near.wait(lambda e: len(e.posts()) == 1, "one under way")
            made.gateway.until(lambda: len(made.shadows.lanes["e"].queue) == 2, "two wait")
            made.gateway.call(lambda: _stopped(made))
            assert [pair.left_out for pair in made.pairs] == ["stopped", "stopped"]
            assert made.gateway.ask(chat()).status == 200
            gate.open()
            made.found(3)
            assert made.pairs[2].left_out == "" and len(near.posts()) == 1
            made.gateway.call(lambda: made.shadows.heed({"e": State("e")}))
            assert made.gateway.ask(chat()).status == 200
            made.found(4)


@pytest.mark.parametrize("stays", [True, False])
def test_a_reload_keeps_what_stays(stays: bool) -> None:
    gate = Gate()
    with Engine() as own, Engine(responder=held(gate)) as near:
        config = shadowed(own, near, concurrency=1)
        with mirroring(config) as made:
            for _ in range(3):
                assert made.gateway.ask(chat()).status == 200
            near.wait(lambda e: len(e.posts()) == 1, "one under way")
            made.gateway.until(lambda: len(made.shadows.lanes["e"].queue) == 2, "two wait")
            new = shadowed(own, near, concurrency=2, spend_per_day=0.5)
            made.adopt(new if stays else msgspec.structs.replace(new, experiments={}))
            gate.open()
            assert [pair.left_out for pair in sorted(made.found(3), key=lambda p: p.left_out)] == (
                ["", "", ""] if stays else ["", "stopped", "stopped"]
            )
            assert ("e" in made.shadows.lanes) is stays
            assert made.gateway.ask(chat()).status == 200
            if stays:
                assert made.shadows.lanes["e"].budget.max_dollars == 0.5
                made.found(4)


@both_ways
def test_the_gateway_stops_with_shadows_under_way(asgi: bool) -> None:
    gate = Gate()
    with Engine() as own, Engine(responder=held(gate)) as near:
        with serving(shadowed(own, near, concurrency=2), asgi) as made:
            gateway = made.gateway
            for _ in range(5):
                assert gateway.ask(chat()).status == 200
            near.wait(lambda e: len(e.posts()) == 2, "two under way")
            gateway.until(lambda: len(made.shadows.lanes["e"].queue) == 3, "three wait")
            gateway.run(gateway.gateway.core.shadows.stop())  # type: ignore[union-attr]
            gateway.settled()
            near.wait(lambda e: len(e.left) == 2, "both are given up")
            assert [pair.left_out for pair in made.pairs] == ["stopped"] * 5
            assert gateway.ask(chat()).status == 200  # whoever is still served is not mirrored
            gateway.settled()
            assert len(made.pairs) == 5
        gate.open()
    with Engine() as own, Engine(responder=held(Gate())) as near:
        with serving(shadowed(own, near)) as made:  # and all of it at once
            gateway = made.gateway
            assert gateway.ask(chat()).status == 200
            near.wait(lambda e: len(e.posts()) == 1, "one under way")
            gateway.run(gateway.gateway.stop())
            near.wait(lambda e: len(e.left) == 1, "it is given up")
            assert [pair.left_out for pair in made.pairs] == ["stopped"]


def test_a_conversation_that_is_kept_here_is_mirrored_whole() -> None:
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near)) as made:
        first = made.gateway.ask({"model": "m", "input": "two words"}, "/v1/responses")
        made.found(1)
        follow = {"model": "m", "input": "more", "previous_response_id": json.loads(first.body)["id"]}
        assert made.gateway.ask(follow, "/v1/responses").status == 200
        made.found(2)
        assert [m["role"] for m in near.posts()[1].doc["messages"]] == ["user", "assistant", "user"]


def test_what_is_no_chat_is_left_out() -> None:
    """A tool that the provider hosts: its own servers have it, and nobody else can be asked the same."""
    said = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [{"type": "output_text", "text": "so"}]}
    with Engine() as own, Engine() as near:
        over = {"backends": {"own": {"kind": "openai", "key": "sk-1234567890", "url": own.url}}}
        with mirroring(shadowed(own, near, over)) as made:
            own.queue(reply({"id": "resp_1", "object": "response", "status": "completed", "output": [said]}))
            asked = {"model": "m", "input": "look it up", "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}
            assert made.gateway.ask(asked, "/v1/responses").status == 200
            assert made.found()[0].left_out == "untranslatable" and not near.posts()
            own.queue(reply({"id": "resp_2", "object": "response", "status": "completed", "output": [said]}))
            assert made.gateway.ask({"model": "m", "input": "so"}, "/v1/responses").status == 200  # which passes as it came
            assert made.found(2)[1].similarity is not None


def test_several_candidates_are_asked_and_one_that_fails_is_its_own_matter() -> None:
    targets = {name: {"backend": "near", "model": name} for name in ("one", "two")}
    with Engine() as own, Engine() as near:
        near.on_model("two", openai_error(500))
        with mirroring(shadowed(own, near, targets=targets)) as made:
            assert made.gateway.ask(chat()).status == 200
            found = {pair.arm: pair.failed for pair in made.found(2)}
            assert found == {"one": False, "two": True}
