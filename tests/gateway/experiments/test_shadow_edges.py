"""The bounds of mirroring, and what seldom happens: no room, answers that are too long, links that refuse, judges that are busy, bugs."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from backends.types import Fault
from gateway.experiments import judge, shadow
from tests.fakes.engine import Engine
from tests.fakes.openai import chat_whole
from tests.fakes.script import Gate, script
from tests.gateway.experiments.mirrored import mirroring, shadowed
from tests.harness import chat


def test_no_more_is_kept_than_there_is_room_for() -> None:
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near)) as made:
        made.shadows.room.limit = 100
        for stream in (False, True):
            assert made.gateway.ask(chat(stream=stream)).status == 200
        assert [pair.left_out for pair in made.found(2)] == ["queue", "queue"]
        made.shadows.room.limit = 100_000
        assert made.gateway.ask(chat()).status == 200
        assert made.found(3)[2].left_out == ""


def test_only_so_many_answers_are_kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "KEEPERS", 1)
    gate = Gate()
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near)) as made, made.gateway.dial() as client:
        own.queue(script(gate, *chat_whole(chat()).steps))
        client.post(chat())
        assert gate.reached.wait(30)
        assert made.gateway.ask(chat()).status == 200
        assert made.found()[0].left_out == "queue"
        gate.open()
        assert client.reader.read().status == 200
        assert made.found(2)[1].left_out == ""


@pytest.mark.parametrize("stream", [False, True])
def test_a_shadows_answer_that_is_too_long_is_left_out(stream: bool) -> None:
    def long(request: Any) -> Any:
        return chat_whole(request.doc | {"messages": [{"role": "user", "content": "x" * 5000}], "stream": False})

    with Engine() as own, Engine() as near, mirroring(shadowed(own, near, bytes=2000)) as made:
        near.on_model("other", long)
        assert made.gateway.ask(chat(stream=stream)).status == 200
        assert made.found()[0].left_out == "large"


def test_a_link_that_refuses_is_a_failure_of_the_shadow_alone() -> None:
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near)) as made:

        def refuse(*_: Any) -> Any:
            raise Fault("bad_request", "not that")

        candidate = made.shadows.lanes["e"].plan.candidates[0]
        replica = candidate.at.choices[0].replica
        link = replica.link
        replica.link = _Refusing(refuse)
        assert made.gateway.ask(chat()).status == 200
        assert made.found()[0].failed
        replica.link = link


class _Refusing:
    def __init__(self, send: Any) -> None:
        self.send = send

    def close(self) -> None:
        return None


def test_a_bug_is_told_and_holds_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(shadow, "beside", broken)
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near)) as made:
        with caplog.at_level(logging.ERROR, "pointsman.experiments"):
            assert made.gateway.ask(chat()).status == 200
            assert made.found()[0].left_out == "bug"
            made.rested()
        assert any("a bug" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("comes", [True, False])
def test_a_busy_judge_is_waited_for_a_while(monkeypatch: pytest.MonkeyPatch, comes: bool) -> None:
    if not comes:
        monkeypatch.setattr(shadow, "JUDGE_SECONDS", 0.0)
    gate = Gate()
    with Engine() as own, Engine() as near, Engine() as wise:
        over = {
            "backends": {"wise": {"url": wise.url, "local": True, "slots": 1, "health_seconds": 0}},
            "routes": {"judge": {"targets": [{"backend": "wise", "model": "judge"}]}},
        }
        with mirroring(shadowed(own, near, over, judge={"route": "judge"})) as made, made.gateway.dial() as client:
            wise.queue(script(gate, *chat_whole(chat()).steps))
            client.post(chat() | {"model": "judge"})
            assert gate.reached.wait(30)
            message = {"model": "judge", "messages": [{"role": "user", "content": "x"}]}
            monkeypatch.setattr(judge, "preferred", lambda said, first: 0.5 if said else None)
            wise.on_model("judge", chat_whole(message))
            assert made.gateway.ask(chat()).status == 200
            if comes:
                made.gateway.until(lambda: made.shadows.turn is not None, "a judgement that waits")
                gate.open()
            assert made.found()[0].preferred == (0.5 if comes else None)
            gate.open()
            assert client.reader.read().status == 200


def test_a_judge_spends_from_the_same_budget() -> None:
    prices = {"input": 0, "output": 1000}
    with Engine() as own, Engine() as near, Engine() as wise:
        over = {
            "backends": {"wise": {"url": wise.url, "local": True, "prices": prices, "health_seconds": 0}},
            "routes": {"judge": {"targets": [{"backend": "wise", "model": "judge"}]}},
        }
        with mirroring(shadowed(own, near, over, judge={"route": "judge"}, spend_per_day=0.02)) as made:
            for number in range(4):
                assert made.gateway.ask(chat()).status == 200
                made.found(number + 1)
            assert all(pair.left_out == "" for pair in made.pairs)  # the candidate itself costs nothing
            assert 0 < len(wise.posts()) < 4 and 0 < made.shadows.lanes["e"].budget.dollars <= 0.02
