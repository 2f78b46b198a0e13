"""Anthropic's own client on the surface of Messages, over real sockets, in front of a strict scripted OpenAI: the six-turn conversation."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import pytest
from anthropic.types import Message

from backends import wire
from backends.dialects import count
from backends.dialects.messages import Messages
from backends.dialects.types import Context
from backends.types import Fault
from tests.fakes.answers import DONE, data, dumps, reply, respond, sse
from tests.fakes.engine import Engine
from tests.fakes.providers.brain import CONVERSATION, SYSTEM, WEATHER, Call, Step, expect
from tests.fakes.providers.common import Rejected
from tests.fakes.providers.openai_chat import KEY, OpenAIChat
from tests.fakes.reader import events
from tests.fakes.request import Request
from tests.fakes.script import Script

Doc = dict[str, Any]
HUB = frozenset({"cache_control", "thinking_blocks", "top_k"})  # what the hub carries beyond OpenAI's own fields
TOOL = {"name": WEATHER.name, "description": WEATHER.description, "input_schema": WEATHER.schema, "strict": True}


def bare(value: Any, gone: frozenset[str]) -> Any:
    """A chat document as a server takes it that knows only OpenAI's own fields."""
    if isinstance(value, dict):
        return {k: bare(v, gone) for k, v in value.items() if k not in gone}
    return [bare(v, gone) for v in value] if isinstance(value, list) else value


class Bridge:
    """What a gateway does, in one process: Messages in front, the scripted provider behind."""

    def __init__(self, fake: OpenAIChat) -> None:
        self.fake, self.surface = fake, Messages()

    def __call__(self, request: Request) -> Script:
        try:
            return self._answer(request)
        except Fault as fault:
            return respond([self.surface.fault(fault, "req-1")], status=fault.status)

    def _answer(self, request: Request) -> Script:
        asked = wire.parse(request.body)
        if request.path == "/v1/messages/count_tokens":
            doc, _ = self.surface.counted(asked)
            return respond([count.answer(count.estimate(doc))])
        assert request.path == "/v1/messages"
        doc, _ = self.surface.request(asked)
        gone = HUB if self.fake.shows else HUB | {"reasoning_content"}
        chat = bare(wire.msgspec.json.decode(wire.encode(doc)), gone)
        headers = (("authorization", f"Bearer {KEY}"), ("content-type", "application/json"))
        stream = bool(chat.get("stream"))
        context = Context("req-1", 1_700_000_000, "gpt-5", stream)
        try:
            given = self.fake.serve(Request("POST", "/v1/chat/completions", headers, dumps(chat), b"", 1, chat))
        except Rejected as refusal:
            raise Fault("bad_request", refusal.message, status=refusal.status) from refusal
        if not stream:
            return respond([self.surface.reply(given.parts[0], asked, context)])
        translator = self.surface.stream(asked, context)
        out = [translator.feed(part) for part in given.parts]
        return sse([event for part in [*out, translator.close()] for event in events(part)])


@contextmanager
def client_of(responder: Any) -> Iterator[anthropic.Anthropic]:
    with Engine(responder=responder) as engine:
        root = engine.url.removesuffix("/v1")
        with anthropic.Anthropic(base_url=root, api_key="k", max_retries=0, timeout=20) as client:
            yield client


def turn(step: Step, last: Message | None) -> Doc:
    """The user's side of one step."""
    if step.results:
        assert last is not None
        calls = [block for block in last.content if block.type == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": c.id, "content": step.results[str(c.input["city"])]} for c in calls]
        return {"role": "user", "content": results}
    if step.media:
        source = {"type": "base64", "media_type": step.media.media_type, "data": base64.b64encode(step.media.data).decode()}
        return {"role": "user", "content": [{"type": "text", "text": step.text}, {"type": "image", "source": source}]}
    return {"role": "user", "content": [{"type": "text", "text": step.text, "cache_control": {"type": "ephemeral"}}]}


def asked(step: Step, history: list[Doc]) -> Doc:
    doc: Doc = {"model": "gpt-5", "max_tokens": 4096, "messages": history}
    doc["system"] = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    if step.tools:
        doc["tools"] = [TOOL]
    if step.schema:
        doc["output_config"] = {"format": {"type": "json_schema", "schema": step.schema}}
    if step.thinking:
        doc["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    return doc


def said(client: anthropic.Anthropic, doc: Doc, stream: bool) -> Message:
    if not stream:
        return client.messages.create(**doc)
    with client.messages.stream(**doc) as found:
        return found.get_final_message()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("shows", ["", "reasoning_content"])
def test_the_conversation(shows: str, stream: bool) -> None:
    fake = OpenAIChat(shows=shows)
    history: list[Doc] = []
    message: Message | None = None
    with client_of(Bridge(fake)) as client:
        for step in CONVERSATION:
            history.append(turn(step, message))
            message = said(client, asked(step, history), stream)
            Message.model_validate(message.model_dump(), strict=True)
            calls = [Call(b.name, dict(b.input), b.id) for b in message.content if b.type == "tool_use"]
            text = "".join(b.text for b in message.content if b.type == "text")
            thinking = "".join(b.thinking for b in message.content if b.type == "thinking") if shows else None
            expect(step, text, calls, thinking)
            assert message.stop_reason == ("tool_use" if step.calls else "end_turn")
            assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
            history.append(message.to_param())  # type: ignore[arg-type]
    assert len(fake.docs) == 6 and fake.rejected == []


def test_a_refusal_is_the_sdks_own_error() -> None:
    with client_of(Bridge(OpenAIChat())) as client:
        with pytest.raises(anthropic.BadRequestError) as refusal:
            client.messages.create(model="gpt-5", max_tokens=10, messages=[{"role": "user", "content": "Hi"}], tools=[{"name": "x"}])  # type: ignore[list-item]
        assert refusal.value.type == "invalid_request_error" and "tools[0].input_schema: Field required" in str(refusal.value)
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="unknown", max_tokens=10, messages=[{"role": "user", "content": "Hi"}])


def test_counting_tokens() -> None:
    with client_of(Bridge(OpenAIChat())) as client:
        few = client.messages.count_tokens(model="gpt-5", messages=[{"role": "user", "content": "Hi"}])
        many = client.messages.count_tokens(model="gpt-5", messages=[{"role": "user", "content": "Hi " * 100}], tools=[TOOL])  # type: ignore[list-item]
    assert 0 < few.input_tokens < 20 < 100 < many.input_tokens


def test_an_error_in_a_stream_is_raised() -> None:
    def broken(request: Request) -> Script:
        translator = Messages().stream(wire.parse(request.body), Context("req-1", 1, "m", True))
        chunk = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
        out = translator.feed(data(chunk)) + translator.fail(Fault("overloaded", "Too busy."))
        assert translator.feed(data(chunk) + DONE) == translator.close() == translator.fail(Fault("upstream", "Again.")) == b""
        return sse(events(out))

    with client_of(broken) as client:
        stream = client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "Hi"}], stream=True)
        with pytest.raises(anthropic.APIStatusError, match=r"Too busy\.") as failure:
            list(stream)
        assert failure.value.type == "overloaded_error"


@pytest.mark.parametrize(
    ("fault", "status", "kind", "error"),
    [
        (Fault("bad_request", "x"), 400, "invalid_request_error", anthropic.BadRequestError),
        (Fault("auth", "x"), 401, "authentication_error", anthropic.AuthenticationError),
        (Fault("forbidden", "x"), 403, "permission_error", anthropic.PermissionDeniedError),
        (Fault("not_found", "x"), 404, "not_found_error", anthropic.NotFoundError),
        (Fault("too_large", "x"), 413, "request_too_large", anthropic.RequestTooLargeError),
        (Fault("rate_limited", "x"), 429, "rate_limit_error", anthropic.RateLimitError),
        (Fault("upstream", "x"), 502, "api_error", anthropic.InternalServerError),
        (Fault("overloaded", "x"), 503, "overloaded_error", anthropic.InternalServerError),
        (Fault("timeout", "x"), 504, "timeout_error", anthropic.InternalServerError),
        (Fault("bad_request", "x", status=418), 418, "invalid_request_error", anthropic.APIStatusError),
    ],
)
def test_every_fault_is_an_error_of_the_sdk(fault: Fault, status: int, kind: str, error: type[anthropic.APIStatusError]) -> None:
    with client_of(lambda request: respond([Messages().fault(fault, "req-1")], status=fault.status)) as client:
        with pytest.raises(error) as raised:
            client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])
    assert (raised.value.status_code, raised.value.type, raised.value.api_message) == (status, kind, "x")


def test_a_context_that_is_too_long_is_told_in_the_words_that_make_claude_code_compact() -> None:
    fault = Fault("bad_request", "This model takes 8 tokens.", code="context_length_exceeded")
    assert b'"message":"prompt is too long: This model takes 8 tokens."' in Messages().fault(fault, "r")
    fault = Fault("bad_request", "prompt is too long: 9 tokens > 8 maximum", code="context_length_exceeded")
    assert b'"message":"prompt is too long: 9 tokens > 8 maximum"' in Messages().fault(fault, "r")


def test_a_gateway_answer_in_plain_json_is_read(recwarn: pytest.WarningsRecorder) -> None:
    with client_of(lambda request: reply({"type": "error", "error": {"type": "api_error", "message": "x"}}, status=500)) as client:
        with pytest.raises(anthropic.InternalServerError):
            client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])
    assert not recwarn
