"""Faults by when they come, by kind of answer, by what the route does about them. A client sees the whole answer once, or a clean error."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.config import Config
from tests.fakes import answers
from tests.fakes.engine import Engine
from tests.fakes.reader import Answer
from tests.fakes.script import Gate, Script, script
from tests.faults.check import DONE, failed
from tests.faults.minds import WORDS, Counter, words
from tests.harness import chat, config_for, running

WHOLE = "".join(words("count"))
AFTER = 7  # content events before a fault after the commit


def cut_at(made: Script, events: int) -> int:
    """The raw bytes of an answer up to and with so many content events; all but the last byte of one in a piece."""
    raw, at = made.raw, 0
    if b"text/event-stream" not in raw:
        return len(raw) - 20
    for _ in range(events + 1):  # and the role
        at = raw.index(b"\r\n", raw.index(b"\n\n", at)) + 2
    return at


def ends(how: str, events: int, made: Script) -> Script:
    """The answer cut after so many content events, and how."""
    at = cut_at(made, events)
    if how == "half event":
        return made.but(cut=at + 30)
    if how in ("fin", "rst", "stall"):
        return made.but(cut=at, ending=how)  # type: ignore[arg-type]
    steps = [step for step in made.steps if isinstance(step, bytes)]
    kept = steps[: events + 2]  # the head, the role
    if how == "error event":
        return replace(made, steps=(*kept, answers.chunk(answers.ERROR_EVENTS["vllm"]), answers.last_chunk()))
    if how == "bare end":
        return replace(made, steps=(*kept, answers.last_chunk()))
    assert how == "garbage"
    return replace(made, steps=(*kept, b"zz\r\nnot a chunk"), ending="fin")


BEFORE: dict[str, Script | None] = {
    "refused": None, "closed": Script((), cut=0), "reset": Script((), cut=0, ending="rst"), "500": answers.openai_error(500),
    "503": answers.vllm_error(503), "529": answers.anthropic_error(529), "proxy page": answers.html(502),
    "429": answers.openai_error(429, headers=[("retry-after-ms", "20")]),
    "error in 200": answers.sse([answers.ERROR_EVENTS["openai"], answers.DONE]), "garbage": script(b"\x00\x01\r\n\r\n", ending="fin"),
    "silent": script(ending="stall"),
}  # fmt: skip
LATER = ("fin", "rst", "half event", "error event", "bare end", "garbage", "stall")
POLICIES = ("plain", "retry", "backoff", "fallback", "continue", "hedge")
WAITS = {"first_byte": 0.3, "idle": 0.3}


@contextmanager
def dead() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}/v1"


def world(policy: str, bad: Engine | str, good: Engine) -> Config:
    """Route `m`: to `bad` first, and what the policy adds."""
    target = {"backend": "fake", "model": "fake"}
    spare = {"backend": "spare", "model": "fake", "weight": 0}
    route: dict[str, Any] = {"retries": 0, "timeouts": WAITS, "targets": [target]}
    other: dict[str, Any] = {}
    if policy in ("retry", "continue", "hedge"):
        route |= {"targets": [target, spare], "retries": 1}
    if policy == "continue":
        route["continue"] = True
    elif policy == "hedge":
        route |= {"retries": 0, "hedge": {"after": 0.1, "budget": 1}}
    elif policy == "backoff":
        route |= {"retries": 2, "backoff": {"base": 0.05, "cap": 0.1}}
    elif policy == "fallback":
        route["fallbacks"] = ["n"]
        other = {"n": {"targets": [spare | {"weight": 1}]}}
    more = {"backends": {"spare": {"url": good.url, "kind": "vllm"}}, "routes": other}
    return config_for([bad], backend={"kind": "vllm"}, route=route, more=more)


def told(answer: Answer) -> tuple[str, bool]:
    """The text of an answer, and whether it says that it is whole. Every event must be well-formed, and nothing follows the end."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return str(answer.doc["choices"][0]["message"]["content"]), True
    found = [event for event in answer.events if not event.startswith(b":")]
    done = found[-1].startswith(DONE)
    assert sum(event.startswith(DONE) for event in found) == done
    chunks = [json.loads(event[6:]) for event in found if not event.startswith(DONE)]
    errors = [chunk for chunk in chunks if "error" in chunk]
    assert len(errors) == (not done) and (done or "error" in chunks[-1])
    good = [chunk for chunk in chunks if "error" not in chunk]
    assert len({(c["id"], c["created"], c["model"]) for c in good}) == 1
    assert sum(bool(choice["delta"].get("role")) for c in good for choice in c["choices"]) == 1
    text = "".join(choice["delta"].get("content") or "" for c in good for choice in c["choices"])
    finishes = [choice["finish_reason"] for c in good for choice in c["choices"] if choice["finish_reason"]]
    assert finishes == (["stop"] if done else [])
    return text, done


def heals(policy: str, fault: str) -> bool:
    """Whether a fault before the commit is one that the policy hides."""
    if policy == "plain" or (policy == "backoff" and fault == "refused"):
        return False
    return policy != "hedge" or fault == "silent"  # a hedge is for the slow, and has no retry here


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fault", list(BEFORE))
def test_before_the_commit(fault: str, policy: str, stream: bool) -> None:
    with Engine(responder=Counter()) as bad, Engine(responder=Counter()) as good, dead() as nobody:
        first = BEFORE[fault]
        if first is not None:
            bad.queue(first)
        with running(world(policy, nobody if first is None else bad, good)) as gateway:
            answer = gateway.ask(chat("count", stream=stream))
            if heals(policy, fault):
                assert answer.status == 200 and told(answer) == (WHOLE, True)
            else:
                failed(answer, 429, 500, 502, 503, 504)
            gateway.settled()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fault", LATER)
def test_after_the_commit(fault: str, policy: str) -> None:
    spoilt = Counter(spoil=lambda made: ends(fault, AFTER, made))
    with Engine(responder=spoilt) as bad, Engine(responder=Counter()) as good, running(world(policy, bad, good)) as gateway:
        answer = gateway.ask(chat("count", stream=True))
        text, whole = told(answer)
        if policy == "continue":
            assert (text, whole) == (WHOLE, True) and b": continued on spare\n\n" in answer.body
        else:
            assert not whole and text == "".join(words("count")[:AFTER])
        assert len(good.posts()) == (policy == "continue"), "nothing is asked for that cannot be used"
        gateway.settled()


@pytest.mark.parametrize("limit", [AFTER + 3, AFTER + 1, WORDS])
def test_limits_and_usage_of_an_answer_that_goes_on(limit: int) -> None:
    spoilt = Counter(spoil=lambda made: ends("rst", AFTER, made))
    asked = chat("count", stream=True, max_tokens=limit, stream_options={"include_usage": True})
    with Engine(responder=Counter()) as good, running(config_for([good])) as gateway:
        unbroken = gateway.ask(asked)
    with Engine(responder=spoilt) as bad, Engine(responder=Counter()) as good, running(world("continue", bad, good)) as gateway:
        answer = gateway.ask(asked)
    usages = [[json.loads(e[6:])["usage"] for e in a.events if b'"usage":{' in e] for a in (unbroken, answer)]
    assert usages[0][0]["completion_tokens"] == usages[1][0]["completion_tokens"] == limit
    contents = [[c for e in a.events if e.startswith(b"data: {") for c in json.loads(e[6:])["choices"]] for a in (unbroken, answer)]
    texts = ["".join(c["delta"].get("content") or "" for c in one) for one in contents]
    assert texts[0] == texts[1] and contents[0][-1]["finish_reason"] == contents[1][-1]["finish_reason"]


@pytest.mark.parametrize("going_on", [True, False], ids=["continue", "off"])
def test_a_replica_killed_under_200_streams(going_on: bool) -> None:
    """Both replicas are in the middle of a hundred answers when one dies."""
    gates = Gate(), Gate()
    with Engine(responder=Counter(gates[0])) as one, Engine(responder=Counter(gates[1])) as two:
        config = config_for([one, two], backend={"kind": "vllm"}, route={"continue": going_on})
        with running(config) as gateway:
            clients = [gateway.dial() for _ in range(200)]
            for at, client in enumerate(clients):
                client.post(chat(f"count {at}", stream=True))
            for at, client in enumerate(clients):
                begun = json.dumps(words("x")[WORDS // 2 - 1]).encode()
                while begun not in client.reader.buffer:
                    assert client.reader._more(), at
            assert len(one.posts()) == len(two.posts()) == 100
            one.stop()
            gates[1].open()
            seen = [told(client.reader.read()) for client in clients]
            for client in clients:
                client.sock.close()
            gateway.settled()
            records = gateway.records()
    wanted = [("".join(words(f"count {at}")), True) for at in range(200)]
    if going_on:
        assert seen == wanted
    else:
        broken = [(text, whole) for text, whole in seen if not whole]
        assert len(broken) == 100 and all(got == want for got, want in zip(seen, wanted, strict=True) if got[1])
        assert all(want[0].startswith(got[0]) for got, want in zip(seen, wanted, strict=True))
    assert len(records) == 200 and sum(r.continued for r in records) == (100 if going_on else 0)
