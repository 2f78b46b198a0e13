"""How checks judge: scripted answers, good and bad, and what each settles. The link is real enough to be asked; nothing is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from backends.dialects.types import Facts
from backends.probe import media
from backends.probe.ask import Asker, Heard
from backends.probe.run import CHECKS, Result, found, named, size, survey
from backends.probe.types import EVIDENCE, Outcome
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts, Usage

Doc = dict[str, Any]
Reply = Callable[[Doc], Any]
BY_NAME = {check.name: check for check in CHECKS}
USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}


class Played:
    """A link whose answers a function gives: a document, bytes of a stream, a (status, body), or a Fault."""

    def __init__(self, reply: Reply) -> None:
        self.reply, self.docs, self.cancelled = reply, [], 0  # type: ignore[var-annotated]

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        doc = {"api": call.api, **{name: json.loads(bytes(raw)) for name, raw in call.doc.items()}}
        self.docs.append(doc)
        said = self.reply(doc)
        if isinstance(said, Fault):
            raise said
        if isinstance(said, bytes):
            receiver.on_whole(200, {b"content-type": b"text/event-stream"}, said)
        elif isinstance(said, tuple):
            receiver.on_whole(said[0], {}, json.dumps(said[1]).encode())
        elif said is not None:
            receiver.on_whole(200, {b"content-type": b"application/json"}, json.dumps(said).encode())
        return self

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None:
        self.cancelled += 1


def chat(text: str | None = "one two three four five six", finish: str = "stop", usage: Doc | None = None, **message: Any) -> Doc:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return {"choices": [choice], "usage": {**USAGE, **(usage or {})}}


def events(*chunks: Any, done: bool = True) -> bytes:
    out = b"".join(chunk if isinstance(chunk, bytes) else b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    return out + (b"data: [DONE]\n\n" if done else b"")


def delta(finish: str | None = None, index: int = 0, **fields: Any) -> Doc:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def call(*calls: tuple[str, str], finish: str = "tool_calls") -> Doc:
    made = [{"id": f"c{at}", "type": "function", "function": {"name": name, "arguments": text}} for at, (name, text) in enumerate(calls)]
    return chat(None, finish, tool_calls=made)


def no(message: str, param: str | None = None, status: int = 400) -> Any:
    return status, {"error": {"message": message, "param": param}}


def asker(reply: Reply, context: int | None = 4096) -> Asker:
    async def pause(seconds: float) -> None:
        return None

    return Asker(Played(reply), Target("b", "t"), context=context, timeouts=Timeouts(), pause=pause)


def judged(name: str, reply: Reply, context: int | None = 4096) -> Outcome:
    asked = BY_NAME[name]

    def answer(doc: Doc) -> Any:
        plain = doc == {"api": "chat", "model": "t", "messages": doc.get("messages"), "max_tokens": 16} and name != "chat"
        first = plain and not link.docs[1:]  # what stands before all checks
        return chat() if first else reply(doc)

    ask = asker(answer, context)
    link: Any = ask.link
    results = asyncio.run(survey(ask, [asked], clean=lambda text: text))
    return next(result.outcome for result in results if result.name == name)


PARIS = '{"city":"Paris"}'
PERSON = '{"name":"Ann","age":3}'
LINKED = '{"who":{"name":"Ann","age":3}}'


def each(*replies: Any) -> Reply:
    """One reply after the other, the last for ever."""
    left = list(replies)
    return lambda doc: left.pop(0) if len(left) > 1 else left[0]


def streamed(whole: Any, stream: Any) -> Reply:
    return lambda doc: stream if doc.get("stream") else whole


def prefilled(rest: Any) -> Reply:
    return lambda doc: rest if doc["messages"][-1]["role"] == "assistant" else chat("once upon a time there was a keeper")


GOOD_STREAM = events(delta(role="assistant", content=""), delta(content="hi"), delta("stop"), {"choices": [], "usage": USAGE})
ROLE = delta(role="assistant", content="")
CALLED = delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "get_weather", "arguments": ""}}])
ARGUMENTS = delta(tool_calls=[{"index": 0, "function": {"arguments": PARIS}}])
LOGPROBS: Doc = {"logprobs": {"content": [{"token": "a", "logprob": -0.1, "top_logprobs": [{}, {}, {}]}]}}
CASES: list[tuple[str, Any, str, dict[str, Any], tuple[str, ...]]] = [
    ("chat", chat(), "pass", {}, ()),
    ("chat", chat("", "length"), "pass", {}, ()),
    ("chat", chat(""), "fail", {}, ()),
    ("chat", chat(finish="odd"), "fail", {}, ()),
    ("chat", no("who are you?", status=401), "error", {}, ()),
    ("chat", {"error": {"message": "no"}}, "error", {}, ()),
    ("chat", {}, "error", {}, ()),
    ("usage", chat(usage={"total_tokens": 12}), "fail", {}, ()),
    ("usage", {**chat(), "usage": None}, "fail", {}, ()),
    ("usage-stream", GOOD_STREAM, "pass", {}, ()),
    ("usage-unasked", chat(), "skipped", {}, ()),
    ("stream-role", GOOD_STREAM, "pass", {}, ()),
    ("stream-role", events(delta(content="hi")), "fail", {}, ()),
    ("stream-role", events(b"data: {\n\n", ROLE), "fail", {}, ()),
    ("stream-finish", GOOD_STREAM, "pass", {}, ()),
    ("stream-finish", events(ROLE, delta("stop"), done=False), "fail", {}, ()),
    ("stream-finish", events(ROLE), "fail", {}, ()),
    ("unicode", events(ROLE, delta(content="日本")), "pass", {}, ()),
    ("unicode", events(ROLE, delta(content="\ufffd\ufffd本")), "fail", {}, ()),
    ("unicode", events(b'data: {"a":"\xe6\xe6"}\n\n'), "fail", {}, ()),
    ("max-tokens", chat(finish="length"), "pass", {}, ()),
    ("max-tokens", chat(), "fail", {}, ()),
    ("max-tokens", chat(finish="length", usage={"completion_tokens": 50}), "fail", {}, ("max_tokens",)),
    ("max-completion-tokens", chat(), "fail", {}, ("max_completion_tokens",)),
    ("max-completion-tokens", chat(finish="length"), "pass", {}, ()),
    ("max-completion-tokens", no("no", "max_completion_tokens"), "unsupported", {}, ("max_completion_tokens",)),
    ("long-prompt", chat(usage={"prompt_tokens": 3000}), "pass", {}, ()),
    ("long-prompt", chat(), "fail", {}, ()),
    ("context-limit", no("maximum context length is 4096 tokens"), "pass", {}, ()),
    ("context-limit", no("too much"), "fail", {}, ()),
    ("context-limit", chat(), "fail", {}, ()),
    ("unknown-model", no("no such model", status=404), "pass", {}, ()),
    ("unknown-model", no("odd"), "fail", {}, ()),
    ("unknown-model", chat(), "unsupported", {}, ()),
    ("invalid-parameter", no("temperature is no text", "temperature"), "pass", {}, ()),
    ("invalid-parameter", no("oops", status=500), "fail", {}, ()),
    ("invalid-parameter", chat(), "fail", {}, ()),
    ("unknown-parameter", chat(), "pass", {}, ()),
    ("unknown-parameter", no("extra inputs are not permitted"), "unsupported", {}, ()),
    ("system", chat(), "fail", {}, ()),
    ("late-system", each(chat(), chat(usage={"prompt_tokens": 30})), "pass", {"late_system": True}, ()),
    ("late-system", each(chat(), no("a system message must be first")), "unsupported", {"late_system": False}, ()),
    ("abort", chat(), "skipped", {}, ()),
    ("temperature", no("no", "temperature"), "unsupported", {"sampling": False}, ("temperature",)),
    ("temperature-top-p", chat(), "pass", {"temperature_with_top_p": True}, ()),
    ("temperature-top-p", no("not both"), "unsupported", {"temperature_with_top_p": False}, ()),
    ("temperature-0", chat(), "pass", {}, ()),
    ("temperature-0", each(chat(), chat("other")), "fail", {}, ()),
    ("temperature-0", chat(""), "unsupported", {}, ()),
    ("seed", each(chat("a"), chat("a"), chat("b"), chat("c")), "pass", {"seed": True}, ()),
    ("seed", each(chat("a"), chat("b")), "fail", {"seed": False}, ("seed",)),
    ("seed", chat("a"), "unsupported", {}, ()),
    ("seed", chat(""), "unsupported", {}, ()),
    ("seed", no("no", "seed"), "unsupported", {"seed": False}, ("seed",)),
    ("seed", each(no("no", "temperature"), chat("a"), chat("b")), "unsupported", {}, ()),
    ("stop", lambda doc: chat("one two three") if "stop" in doc else chat(), "pass", {}, ()),
    ("stop", chat(), "fail", {}, ("stop",)),
    ("stop", lambda doc: chat("else") if "stop" in doc else chat(), "unsupported", {}, ()),
    ("stop", lambda doc: chat("one", "length") if "stop" in doc else chat(), "fail", {}, ()),
    ("stop", chat("one"), "unsupported", {}, ()),
    ("stop-list", lambda doc: chat("one two three") if "stop" in doc else chat(), "pass", {}, ()),
    ("logprobs", {"choices": [LOGPROBS]}, "pass", {"logprobs": True}, ()),
    ("logprobs", chat(), "fail", {"logprobs": False}, ("logprobs", "top_logprobs")),
    ("top-logprobs", {"choices": [LOGPROBS]}, "pass", {}, ()),
    ("top-logprobs", chat(), "fail", {}, ("top_logprobs",)),
    ("n", streamed({"choices": [{}, {}]}, events(delta(index=0), delta(index=1))), "pass", {"many": True}, ()),
    ("n", streamed({"choices": [{}, {}]}, events(delta())), "fail", {"many": False}, ("n",)),
    ("n", chat(), "fail", {"many": False}, ("n",)),
    ("penalties", chat(), "pass", {}, ()),
    ("logit-bias", no("no", "logit_bias"), "unsupported", {}, ("logit_bias",)),
    ("prefill", prefilled(chat(" there was a keeper")), "pass", {"prefill": True}, ()),
    ("prefill", prefilled(chat("once upon a time there was a keeper")), "pass", {"prefill": True}, ()),
    ("prefill", prefilled(chat("once upon another day")), "fail", {"prefill": False}, ()),
    ("prefill", prefilled(chat("what?")), "unsupported", {}, ()),
    ("prefill", prefilled(no("the last message must be the user's")), "unsupported", {"prefill": False}, ()),
    ("prefill", chat("short"), "unsupported", {}, ()),
    ("reasoning-effort", chat(reasoning_content="hm"), "pass", {}, ()),
    ("reasoning-effort", no("no", "reasoning_effort"), "unsupported", {}, ("reasoning_effort",)),
    ("reasoning", chat(reasoning="hm"), "pass", {}, ()),
    ("reasoning", chat("<think>hm</think>"), "fail", {}, ()),
    ("reasoning", chat(usage={"completion_tokens_details": {"reasoning_tokens": 9}}), "unsupported", {}, ()),
    ("completions", {"choices": [{"text": "jumps"}]}, "pass", {}, ()),
    ("completions", chat(), "error", {}, ()),
    ("tools", call(("get_weather", PARIS)), "pass", {}, ()),
    ("tools", chat(), "unsupported", {}, ()),
    ("tool-required", call(("get_weather", PARIS)), "pass", {"forced_tools": True}, ()),
    ("tool-required", chat(), "fail", {"forced_tools": False}, ()),
    ("tool-required", call(("get_weather", "{")), "fail", {}, ()),
    ("tool-required", call(("get_weather", "{"), finish="length"), "unsupported", {}, ()),
    ("tool-required", call(("get_weather", PARIS), finish="length"), "unsupported", {}, ()),
    ("tool-required", call(("get_weather", PARIS), finish="odd"), "fail", {}, ()),
    ("tool-required", call(("made_up", PARIS)), "fail", {}, ()),
    ("tool-required", no("no", "tool_choice"), "unsupported", {"forced_tools": False}, ()),
    ("tool-named", call(("get_time", PARIS)), "pass", {"forced_tools": True}, ()),
    ("tool-named", call(("get_time", "[]")), "fail", {}, ()),
    ("tool-named", call(("get_weather", PARIS)), "fail", {"forced_tools": False}, ()),
    ("tool-none", call(("get_weather", PARIS)), "fail", {}, ()),
    ("tool-none", chat(), "pass", {}, ()),
    ("tools-parallel", call(("get_weather", PARIS), ("get_weather", PARIS)), "pass", {}, ()),
    ("tools-one", call(("get_weather", PARIS), ("get_weather", PARIS)), "fail", {}, ("parallel_tool_calls",)),
    ("tools-one", chat(), "pass", {}, ()),
    ("tool-stream", events(ROLE, CALLED, ARGUMENTS, delta("tool_calls")), "pass", {}, ()),
    ("tool-stream", events(ROLE, ARGUMENTS, delta("tool_calls")), "fail", {}, ()),
    ("tool-stream", events(ROLE, CALLED, delta("tool_calls")), "fail", {}, ()),
    ("tool-stream", GOOD_STREAM, "fail", {}, ()),
    ("tool-results", chat("21 degrees, hail"), "pass", {}, ()),
    ("tool-results", chat(), "pass", {}, ()),
    ("tool-results", chat(""), "fail", {}, ()),
    ("tool-empty-text", no("text content blocks must be non-empty", "messages"), "unsupported", {}, ()),
    ("json-schema", chat(PERSON), "pass", {"json_schema": "native"}, ()),
    ("json-schema", chat('{"name":"Ann"}'), "fail", {"json_schema": "none"}, ()),
    ("json-schema", chat("Ann, 3"), "fail", {"json_schema": "none"}, ("response_format",)),
    ("json-schema", chat("{", "length"), "unsupported", {}, ()),
    ("json-schema-refs", chat(LINKED), "pass", {"full_schema": True}, ()),
    ("json-schema-refs", chat(PERSON), "fail", {"full_schema": False}, ()),
    ("json-schema-refs", no("$ref is not supported", "response_format"), "unsupported", {"full_schema": False}, ()),
    ("json-object", chat("{}"), "pass", {}, ()),
    ("json-object", chat("no"), "fail", {}, ()),
    ("json-object", chat("{", "length"), "unsupported", {}, ()),
    ("tools-and-schema", chat(PERSON), "pass", {}, ()),
    ("tools-and-schema", call(("get_weather", PARIS)), "pass", {}, ()),
    ("tools-and-schema", no("not both"), "unsupported", {}, ()),
    ("tools-and-schema", chat("no"), "fail", {}, ()),
    ("tools-and-schema", chat("{", "length"), "unsupported", {}, ()),
    ("image", each(chat(), chat(usage={"prompt_tokens": 300})), "pass", {"images": True}, ()),
    ("image", chat(), "fail", {"images": False}, ()),
    ("image", each(chat(), no("image input is not supported", status=500)), "unsupported", {"images": False}, ()),
    ("pdf", chat(), "fail", {"documents": False}, ()),
    ("audio", each(chat(), chat(usage={"prompt_tokens": 30})), "pass", {"audio": True}, ()),
    ("embeddings", {"data": [{"embedding": [1.0, 2.0]}, {"embedding": [1.0, 2.0]}]}, "pass", {}, ()),
    ("embeddings", {"data": []}, "fail", {}, ()),
    ("embeddings", no("no such model", status=404), "unsupported", {}, ()),
    ("dimensions", each({"data": [{"embedding": [1.0, 2.0]}]}, {"data": [{"embedding": [1.0]}]}), "pass", {}, ()),
    ("dimensions", {"data": [{"embedding": [1.0, 2.0]}]}, "fail", {}, ("dimensions",)),
    ("dimensions", no("not here"), "unsupported", {}, ()),
    ("dimensions", {"data": [{"embedding": [1.0]}]}, "error", {}, ()),
    ("models", chat(), "skipped", {}, ()),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reply", "verdict", "facts", "unsupported"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_a_judgement(name: str, reply: Any, verdict: str, facts: Doc, unsupported: tuple[str, ...]) -> None:
    outcome = judged(name, reply if callable(reply) else lambda doc: reply)
    assert (outcome.verdict, dict(outcome.facts), outcome.unsupported) == (verdict, facts, unsupported), outcome.evidence
    assert outcome.evidence and len(outcome.evidence) <= EVIDENCE


def test_every_check_is_judged_here_and_speaks_of_real_facts() -> None:
    beside = {"two-systems", "developer", "tokenize"}  # as `system`; against real servers
    assert {check.name for check in CHECKS} == {case[0] for case in CASES} | beside
    fields = set(Facts.__struct_fields__)
    for check in CHECKS:
        assert {*check.assume, *check.denies} <= fields and check.about and check.calls > 0
    assert len(CHECKS) == len(BY_NAME) > 40


def test_where_chat_does_not_work_nothing_else_is_asked_of_it() -> None:
    ask = asker(lambda doc: no("no such model", status=404))
    results = {r.name: r.outcome for r in asyncio.run(survey(ask, CHECKS, clean=str))}
    assert (
        results["chat"].verdict == "unsupported"
        and results["tools"].verdict == "skipped"
        and results["embeddings"].verdict == "unsupported"
    )
    assert found((Result(n, "", o, 0) for n, o in results.items()), relayed=True) == found([], relayed=True)


def test_a_busy_server_is_asked_again_and_then_given_up() -> None:
    busy = (429, {"error": {"message": "slow down"}})
    ask = asker(each(busy, busy, chat()))
    assert asyncio.run(ask.say("hi")).text and ask.calls == 3
    results = asyncio.run(survey(asker(lambda doc: busy), named(["chat"]), clean=str))
    assert results[0].outcome.verdict == "error" and results[0].calls == 3


def test_one_that_never_answers_and_what_is_told_on_the_way() -> None:
    heard: list[Result] = []
    ask = asker(lambda doc: None)
    results = asyncio.run(survey(ask, named(["chat"]), clean=str, told=heard.append, seconds=0.01))
    assert results[0].outcome == Outcome("error", "no end within 0.01 s") and heard == results
    link: Any = ask.link
    assert link.cancelled == len(link.docs) == 1


def test_secrets_are_taken_out_of_evidence() -> None:
    results = asyncio.run(
        survey(asker(lambda doc: chat("my canary is yellow")), named(["chat"]), clean=lambda t: t.replace("canary", "***"))
    )
    assert "canary" not in results[0].outcome.evidence and "***" in results[0].outcome.evidence


def test_what_the_outcomes_say_together() -> None:
    def result(facts: Doc, *gone: str) -> Result:
        return Result("x", "", Outcome("pass", "", facts, gone), 1)

    results = [
        result({"forced_tools": True}),
        result({"forced_tools": False}, "n"),
        result({"json_schema": "native"}),
        result({"json_schema": "none"}, "a"),
    ]
    said = found(results, relayed=True, context=77)
    assert said.facts == {"context": 77, "forced_tools": False, "json_schema": "none"} and said.unsupported == ("a", "n")
    assert found(reversed(results), relayed=False).facts == {"forced_tools": False, "json_schema": "none"}
    assert found(results, relayed=False).unsupported == ()


def test_names_and_what_it_costs_at_most() -> None:
    assert [check.name for check in named(["seed", "chat"])] == ["chat", "seed"] and named([]) == CHECKS
    with pytest.raises(KeyError, match="made-up"):
        named(["seed", "made-up"])
    assert size(named(["seed"]), None) == (4, Usage(input=240, output=128))
    assert size(named(["context-limit"]), 10_000)[1].input == 11_128 and size(named(["context-limit"]), 10**6)[1].input == 0


def test_a_call_that_is_left() -> None:
    def run(reply: Any, size: int) -> Any:
        return asyncio.run(asker(lambda doc: reply).leave({"messages": [], "stream": True}, size))

    assert run(events(ROLE, done=False), 8) is True and run(GOOD_STREAM, 8) is False
    for reply in (no("no"), Fault("timeout", "slow")):
        with pytest.raises(Exception, match=r"no|slow"):
            run(reply, 8)


def test_what_is_read_of_odd_answers() -> None:
    heard = Heard(json.dumps({"choices": [3, {"message": 7}], "usage": []}).encode(), {})
    assert (heard.text, heard.thought, heard.tools, heard.finishes, heard.usage, heard.count("x")) == ("", "", [], [], {}, 0)
    assert Heard(b"[]", {}).doc == {} and Heard(b"\xff", {}).doc == {}
    split = events(
        CALLED, delta(tool_calls=[{"index": 1, "function": {"name": "b", "arguments": "{}"}}]), ARGUMENTS, delta(reasoning="r"), b": x\n\n"
    )
    heard = Heard(split, {b"content-type": b"text/event-stream"})
    assert heard.tools == [("get_weather", PARIS), ("b", "{}")] and heard.thought == "r" and heard.done


def test_what_is_shown_to_models() -> None:
    assert media.png().startswith(b"\x89PNG") and media.wav()[:4] == b"RIFF" and len(media.wav()) == 44 + 16000
    text = media.pdf()
    table = int(text.rsplit(b"startxref\n", 1)[1].split()[0])
    assert text[table:].startswith(b"xref") and text.count(b" obj\n") == 5
