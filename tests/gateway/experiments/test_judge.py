"""A judge's question, its word, and its place among a shadow's calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import wire
from gateway.config import ConfigError
from gateway.config_shadow import JUDGE_PROMPT
from gateway.experiments import judge
from gateway.experiments.heard import Answer
from tests.fakes.answers import openai_error, reply
from tests.fakes.engine import Engine
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script, script
from tests.gateway.experiments.mirrored import mirroring, shadowed
from tests.harness import chat

ASKED: wire.Doc = {"messages": wire.raw([{"role": "user", "content": "What is 2 + 2?"}])}


@pytest.mark.parametrize(("said", "first", "value"), [
    ("A", True, 1.0), ("A", False, 0.0), (" b.\n", True, 0.0), ("**B**", False, 1.0), ("Answer A", True, 1.0), ("tie", True, 0.5),
    ("TIE", False, 0.5), ("A or B", True, None), ("", True, None), (None, True, None), ("I think A", True, None), ("AB", True, None),
])  # fmt: skip
def test_only_one_word_counts(said: str | None, first: bool, value: float | None) -> None:
    assert judge.preferred(said, first) == value


def test_the_question_has_both_answers_in_the_order_that_was_drawn() -> None:
    own, shadow = Answer("four"), Answer("", (("add", '{"a":2}'),))
    for first in (True, False):
        doc = judge.question("judge them", ASKED, own, shadow, first)
        system, user = json.loads(bytes(doc["messages"]))
        assert system["content"] == "judge them" and "What is 2 + 2?" in user["content"]
        assert (user["content"].index("four") > user["content"].index("[calls add with")) is first
        assert bytes(doc["temperature"]) == b"0"


def test_the_question_is_bounded() -> None:
    long = {"messages": wire.raw([{"role": "user", "content": "x" * 1_000_000}])}
    doc = judge.question("p", long, Answer("y" * 1_000_000), Answer("z" * 1_000_000), True)
    assert len(bytes(doc["messages"])) < 4 * judge.MAX_TEXT


def test_order_and_share_are_drawn_by_the_request() -> None:
    ids = [b"r-%d" % number for number in range(4000)]
    first = [judge.shadow_first(id, "cand") for id in ids]
    assert first == [judge.shadow_first(id, "cand") for id in ids]
    assert 1800 < sum(first) < 2200
    drawn = [judge.drawn(id, 0.25) for id in ids]
    assert 850 < sum(drawn) < 1150 and all(judge.drawn(id, 1.0) for id in ids) and not any(judge.drawn(id, 0.0) for id in ids)
    both = sum(a and b for a, b in zip(first, drawn, strict=True))
    assert 350 < both < 650  # one says nothing of the other


def _over(engine: Engine, **more: Any) -> dict[str, Any]:
    return {
        "backends": {"wise": {"url": engine.url, "local": True, "health_seconds": 0} | more},
        "routes": {"judge": {"targets": [{"backend": "wise", "model": "judge"}]}},
    }


def _says(*texts: str) -> list[Script]:
    message = [{"role": "assistant", "content": text} for text in texts]
    return [reply({"id": "j", "choices": [{"index": 0, "message": one, "finish_reason": "stop"}]}) for one in message]


def test_a_judge_is_asked_and_its_word_is_kept() -> None:
    with Engine() as own, Engine() as near, Engine() as wise:
        with mirroring(shadowed(own, near, _over(wise), judge={"route": "judge"})) as made:
            wise.queue(*_says("A", "tie", "who knows"), openai_error(500))
            for number in range(4):
                assert made.gateway.ask(chat(), headers={"x-request-id": f"r-{number}"}).status == 200
                made.found(number + 1)
            first = 1.0 if judge.shadow_first(b"r-0", "cand") else 0.0
            assert [pair.preferred for pair in made.pairs] == [first, 0.5, None, None]
            assert all(pair.similarity == 1.0 and not pair.failed for pair in made.pairs)
            asked = wise.posts()
            assert len(asked) == 4 and asked[0].header("x-request-id") == "shadow-r-0-judge-cand"
            assert asked[0].doc["messages"][0]["content"] == JUDGE_PROMPT and asked[0].doc["model"] == "judge"
            assert "stream" not in asked[0].doc or not asked[0].doc["stream"]


def test_a_judge_gives_way_to_users_too() -> None:
    gate = Gate()

    def held(request: Request) -> Script:
        return script(gate, *_says("A")[0].steps) if request.doc["model"] == "judge" else _says("mine")[0]

    with Engine() as own, Engine() as near, Engine(responder=held) as wise:
        with mirroring(shadowed(own, near, _over(wise, slots=1), judge={"route": "judge"})) as made:
            assert made.gateway.ask(chat()).status == 200
            wise.wait(lambda e: bool(e.posts()), "the judge is asked")
            wise.on_model("judge", _says("for a user")[0])
            answer = made.gateway.ask({"model": "judge", "messages": [{"role": "user", "content": "hi"}]})
            assert answer.status == 200 and "for a user" in answer.body.decode()
            (pair,) = made.found()
            assert pair.preferred is None and pair.similarity == 1.0 and pair.left_out == ""
            gate.open()


@pytest.mark.parametrize(("told", "more", "problem"), [
    ({"route": "judge"}, {"local": False}, "not local"), ({"route": "nobody"}, {}, "no route"),
])  # fmt: skip
def test_a_judge_must_be_local_unless_it_is_said(told: dict[str, Any], more: dict[str, Any], problem: str) -> None:
    with Engine() as own, Engine() as near, Engine() as wise:
        with pytest.raises(ConfigError, match=problem) as raised:
            shadowed(own, near, _over(wise, **more), judge=told)
        assert "experiments.e.shadow.judge.route" in str(raised.value)
        if more:
            assert shadowed(own, near, _over(wise, **more), judge=told | {"remote": True}).experiments["e"].shadow is not None
