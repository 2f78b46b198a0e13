"""Mirrored requests: after the user's answer, in their own name, compared; and whatever becomes of them, the user sees nothing of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.fakes.answers import html, openai_error, reply
from tests.fakes.engine import Engine
from tests.fakes.openai import chat_stream, chat_whole
from tests.fakes.request import Request
from tests.fakes.script import Gate, Script, script
from tests.gateway.experiments.mirrored import mirroring, shadowed
from tests.harness import both_ways, chat

DOC: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "two words"}]}
HEADERS = {"x-request-id": "r-1", "authorization": "Bearer sk-users", "x-user": "somebody", "traceparent": "00-aa-bb-01"}


@both_ways
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_mirrored_in_our_own_name_and_compared(asgi: bool, stream: bool) -> None:
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near), asgi) as made:
        answer = made.gateway.ask(chat(stream=stream, user="somebody", n=1, store=True), headers=HEADERS)
        assert answer.status == 200
        (pair,) = made.found()
        assert (pair.experiment, pair.arm, pair.request, pair.left_out, pair.failed) == ("e", "cand", "r-1", "", False)
        assert pair.similarity == 1.0 and pair.same_tools is None and pair.valid is None
        assert pair.output == pair.own_output and pair.latency is not None and pair.own_latency is not None
        (sent,) = near.posts()
        assert sent.header("x-request-id") == "shadow-r-1-cand"
        assert not [h for h in sent.headers if h[0].lower() in HEADERS and h[0].lower() != "x-request-id"]
        assert sent.doc["model"] == "other" and not sent.doc.keys() & {"user", "n", "store"}
        made.rested()
        record = next(r for r in made.gateway.records() if r.tenant == "shadow")
        assert (record.id, record.route, record.status, record.backend) == ("shadow-r-1-cand", "shadow:e", 200, "near")
        assert record.usage is not None and record.usage.output == pair.output


@both_ways
@pytest.mark.parametrize("api", ["messages", "responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_other_dialects_are_mirrored_as_chat(asgi: bool, api: str, stream: bool) -> None:
    docs: dict[str, Any] = {
        "messages": {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "two words"}], "stream": stream},
        "responses": {"model": "m", "input": "two words", "stream": stream},
    }
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near), asgi) as made:
        assert made.gateway.ask(docs[api], f"/v1/{api}").status == 200
        (pair,) = made.found()
        assert pair.similarity == 1.0 and not pair.failed and pair.left_out == ""
        assert pair.own_output == pair.output and pair.output
        assert near.posts()[0].path == "/v1/chat/completions"


@both_ways
@pytest.mark.parametrize("stream", [False, True])
def test_the_user_has_all_before_the_shadow_sees_a_byte(asgi: bool, stream: bool) -> None:
    gate = Gate()
    made_answer = chat_stream(DOC) if stream else chat_whole(DOC)
    first, last = made_answer.raw[:-5], made_answer.raw[-5:]
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near), asgi) as made:
        own.queue(script(first, gate, last))
        with made.gateway.dial() as client:
            client.post(chat(stream=stream))
            assert gate.reached.wait(30)
            assert not near.connections and not near.posts()
            gate.open()
            assert client.reader.read().status == 200
        made.found()
        assert len(near.posts()) == 1


def test_a_client_that_reads_slowly_is_waited_for() -> None:
    """What the kernel has not taken is not sent: the shadow waits for it."""
    long = chat_whole(DOC | {"messages": [{"role": "user", "content": "words " * 1_000_000}]})
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near, bytes="16MiB")) as made:
        own.queue(long)
        with made.gateway.dial(rcvbuf=4096) as client:
            client.post(chat())
            made.gateway.until(lambda: bool(made.shadows.unsent), "an answer that its client has not taken")
            assert not near.posts()
            assert client.reader.read().status == 200
        assert made.found()[0].left_out == ""


FAULTS: dict[str, Any] = {
    "500": lambda: openai_error(500),
    "garbage": lambda: html(200),
    "killed": lambda: script(b"HTTP/1.1 200 OK\r\n", ending="rst"),
    "cut": lambda: chat_whole(DOC).but(cut=200, ending="fin"),
    "cut stream": lambda: chat_stream(DOC).but(cut=600, ending="fin"),
    "not http": lambda: script(b"\x00\x01\x02" * 100, ending="fin"),
    "nothing": lambda: script(ending="fin"),
    "stall": lambda: script(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{", ending="stall"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_becomes_of_the_shadow_changes_nothing_for_the_user(fault: str, stream: bool) -> None:
    with Engine() as own, Engine(strict=False) as near:
        seen = []
        for mirrored in (False, True):
            config = shadowed(own, near, share=float(mirrored), seconds=0.5)
            with mirroring(config) as made:
                near.queue(*[FAULTS[fault]() for _ in range(3 * mirrored)])
                for number in range(3):
                    seen.append(made.gateway.ask(chat(stream=stream), headers={"x-request-id": f"r-{number}"}))
                if mirrored:
                    assert all(pair.failed and pair.similarity is None for pair in made.found(3))
                    replica = made.gateway.call(lambda: next(r for r in made.gateway.gateway.fleet.every() if r.backend == "near"))
                    assert (replica.failures, replica.down_until, replica.total) == (0, 0.0, 0)
                    assert len(near.posts()) == 3  # nothing is tried again
    plain, beside = seen[:3], seen[3:]
    for one, other in zip(plain, beside, strict=True):
        assert (one.status, one.body) == (other.status, other.body)
        assert [h for h in one.headers if h[0] != "date"] == [h for h in other.headers if h[0] != "date"]


def test_a_server_that_is_not_there_is_no_harm() -> None:
    with Engine() as own:
        with Engine() as near:
            config = shadowed(own, near)
        with mirroring(config) as made:
            assert made.gateway.ask(chat()).status == 200
            assert made.found()[0].failed


def test_caps_hold_under_a_burst() -> None:
    gate = Gate()
    with Engine() as own, Engine() as near:
        near.on_model("other", _gated(gate))
        with mirroring(shadowed(own, near, concurrency=2, queue=5)) as made:
            for _ in range(20):
                assert made.gateway.ask(chat()).status == 200
            near.wait(lambda e: len(e.posts()) == 2, "two shadows under way")
            made.gateway.until(lambda: len(made.pairs) == 13, "what found no room")
            lane = made.shadows.lanes["e"]
            assert (len(lane.running), len(lane.queue)) == (2, 5)
            assert {p.left_out for p in made.pairs} == {"queue"}
            assert len(near.posts()) == 2
            gate.open()
            made.found(20)
            assert len(near.posts()) == 7 and lane.counts["cand", "ok"] == 7


def _gated(gate: Gate) -> Any:
    def answer(request: Request) -> Script:
        return script(gate, chat_whole(request.doc).raw)

    return answer


def test_the_days_money_is_not_overdrawn_and_comes_back_the_next_day() -> None:
    prices = {"prices": {"input": 0, "output": 1000}}  # dollars for a million tokens: each answer has a few
    over = {"backends": {"near": prices}}
    with Engine() as own, Engine() as near:
        config = shadowed(own, near, over, spend_per_day=0.02)
        with mirroring(config) as made:
            for number in range(12):
                assert made.gateway.ask(chat(max_tokens=5)).status == 200
                made.found(number + 1)
            kinds = [pair.left_out for pair in made.pairs]
            spent = sum(pair.cost or 0.0 for pair in made.pairs)
            assert 0 < kinds.count("") < 12 and set(kinds) == {"", "spend"} and 0.01 < spent <= 0.02
            assert made.shadows.lanes["e"].budget.dollars == pytest.approx(spent)

            def reload() -> None:
                core = made.gateway.gateway.core
                core.swap(core.generation)

            made.gateway.call(reload)
            assert made.gateway.ask(chat(max_tokens=5)).status == 200
            assert made.found(13)[-1].left_out == "spend"
            made.unix += 86400
            assert made.gateway.ask(chat(max_tokens=5)).status == 200
            assert made.found(14)[-1].left_out == ""


def test_tokens_are_limited_too_and_a_price_must_be_known() -> None:
    with Engine() as own, Engine() as near:
        with mirroring(shadowed(own, near, tokens_per_day=1)) as made:
            made.gateway.ask(chat())
            assert made.found()[0].left_out == "spend"
        away = {"backends": {"near": {"local": False}}}
        with mirroring(shadowed(own, near, away)) as made:
            made.gateway.ask(chat())
            assert made.found()[0].left_out == "price"
        with mirroring(shadowed(own, near, away, spend_per_day=None)) as made:
            made.gateway.ask(chat())
            assert made.found()[0].left_out == ""


def test_the_share_is_drawn_by_the_requests_id() -> None:
    with Engine() as own, Engine() as near:
        runs = []
        for _ in range(2):
            with mirroring(shadowed(own, near, share=0.5)) as made:
                for number in range(24):
                    made.gateway.ask(chat(), headers={"x-request-id": f"r-{number}"})
                made.rested()
                runs.append({pair.request for pair in made.pairs})
        assert runs[0] == runs[1] and 4 < len(runs[0]) < 20


def test_what_is_never_mirrored() -> None:
    keys = {"keys": [{"name": "quiet", "key": "sk-quiet-1234567890", "private": True}, {"name": "open", "key": "sk-open-1234567890"}]}
    local = {"backends": {"own": {"local": True}}}
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near, keys | local, bytes=2000)) as made:
        gateway = made.gateway
        quiet, open_ = {"authorization": "Bearer sk-quiet-1234567890"}, {"authorization": "Bearer sk-open-1234567890"}
        assert gateway.ask(chat(), headers=quiet).status == 200
        assert gateway.ask(chat(), headers={**open_, "x-pointsman-private": "true"}).status == 200
        own.queue(openai_error(400))
        assert gateway.ask(chat(), headers=open_).status == 400
        assert gateway.ask({"model": "m", "prompt": "x"}, "/v1/completions", open_).status == 200
        assert gateway.ask({"model": "m", "input": "x"}, "/v1/embeddings", open_).status == 200
        gate = Gate()
        own.queue(script(gate, chat_whole(DOC).raw))
        with gateway.dial() as client:
            client.post(chat(), headers=open_)
            assert gate.reached.wait(30)
            client.reset()
            own.wait(lambda e: bool(e.left), "the call is given up")
        gate.open()
        gateway.settled()
        assert not made.pairs
        assert gateway.ask(chat("x" * 3000), headers=open_).status == 200
        assert made.found()[0].left_out == "large"
        own.queue(chat_whole(DOC | {"messages": [{"role": "user", "content": "y" * 3000}]}))
        assert gateway.ask(chat(), headers=open_).status == 200
        assert [pair.left_out for pair in made.found(2)] == ["large", "large"]
        assert not near.posts()

        def forget() -> None:  # calls that ended without an answer are let go after a while
            made.shadows.tick(gateway.gateway.core.clients.now)
            made.shadows.tick(gateway.gateway.core.clients.now + 100)

        gateway.call(forget)


def test_overrides_of_a_candidate() -> None:
    over = {"parameters": {"temperature": 0.5, "top_p": None}, "system": "Be brief.", "system_goes": "instead"}
    with Engine() as own, Engine() as near:
        with mirroring(shadowed(own, near, targets={"cand": {"backend": "near", "model": "other"} | over})) as made:
            messages = [{"role": "system", "content": "Be long."}, {"role": "user", "content": "hello"}]
            made.gateway.ask({"model": "m", "messages": messages, "top_p": 0.1, "seed": 3})
            made.found()
            doc = near.posts()[0].doc
            assert doc["messages"] == [{"role": "system", "content": "Be brief."}, messages[1]]
            assert doc["temperature"] == 0.5 and doc["seed"] == 3 and "top_p" not in doc
        assert json.loads(own.posts()[0].body)["top_p"] == 0.1


def test_an_answer_is_judged_by_its_schema_and_its_tools() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with Engine() as own, Engine() as near, mirroring(shadowed(own, near)) as made:
        made.gateway.ask(chat(response_format=wanted))
        assert made.found()[0].valid is not False
        message = {"role": "assistant", "content": "no json"}
        near.queue(reply({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))
        made.gateway.ask(chat(response_format=wanted))
        assert made.found(2)[1].valid is False
        made.gateway.ask(chat(tools=tools, tool_choice="required"))
        assert made.found(3)[2].same_tools is True
        near.queue(reply({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))
        made.gateway.ask(chat(tools=tools, tool_choice="required"))
        assert made.found(4)[3].same_tools is False
