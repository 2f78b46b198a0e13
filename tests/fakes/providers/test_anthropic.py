"""The scripted Anthropic, driven by the official SDK over real sockets: the conversation, every refusal, faults, streams."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.fakes.providers.anthropic import KEY, Anthropic
from tests.fakes.providers.anthropic_asks import (
    BOTH,
    FABLE,
    HEADERS,
    OPUS,
    SONNET,
    THINK,
    TOOL,
    Doc,
    b64,
    base,
    cached,
    image,
    result,
    said,
    schema,
    talk,
    text,
    use,
    user,
)
from tests.fakes.providers.brain import CONVERSATION, SYSTEM, Call, Step, expect
from tests.fakes.providers.claude_rules import MODELS
from tests.fakes.providers.common import Fault, Provider, Reply, seal
from tests.fakes.providers.media import PDF, gif
from tests.fakes.script import Gate

# The SDK warns of models that are soon retired and of thinking budgets on newer ones; older models are what some rules are about.
pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning", "ignore:Using Claude with:UserWarning")


@pytest.fixture
def fake() -> Iterator[tuple[Anthropic, anthropic.Anthropic]]:
    provider = Anthropic()
    with provider.serving() as url, anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=0, timeout=20) as client:
        yield provider, client


def user_turn(step: Step, last: list[Doc]) -> Doc:
    if step.results:
        calls = [block for block in last if block["type"] == "tool_use"]
        return user([{"type": "tool_result", "tool_use_id": one["id"], "content": step.results[one["input"]["city"]]} for one in calls])
    text = {"type": "text", "text": step.text}
    return user([image(), text] if step.media else [text])


def ask(step: Step, model: str, messages: list[Doc]) -> Doc:
    doc: Doc = {"model": model, "max_tokens": 2048, "system": SYSTEM, "messages": messages}
    if step.tools:
        doc["tools"] = [TOOL]
    if step.thinking:
        doc["thinking"] = THINK if "enabled" in MODELS[model].thinking else {"type": "adaptive", "display": "summarized"}
    if step.schema:
        doc["output_config"] = {"format": {"type": "json_schema", "schema": step.schema}}
    return doc


@pytest.mark.parametrize("model", [SONNET, BOTH, OPUS, FABLE])
@pytest.mark.parametrize("stream", [False, True])
def test_the_conversation(fake: tuple[Anthropic, anthropic.Anthropic], model: str, stream: bool) -> None:
    provider, client = fake
    provider.redact = model == BOTH
    messages: list[Doc] = []
    content: list[Doc] = []
    for step in CONVERSATION:
        messages.append(user_turn(step, content))
        doc = ask(step, model, messages)
        count = client.messages.count_tokens(**{name: value for name, value in doc.items() if name != "max_tokens"})
        if stream:
            with client.messages.stream(**doc) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**doc)
        content = [block.model_dump(mode="json", exclude_none=True) for block in message.content]
        messages.append(said(content))
        calls = [Call(block["name"], block["input"], block["id"]) for block in content if block["type"] == "tool_use"]
        expect(step, "".join(block.get("text", "") for block in content), calls, "".join(block.get("thinking", "") for block in content))
        assert message.stop_reason == ("tool_use" if calls else "end_turn")
        assert message.usage.input_tokens == count.input_tokens
    assert not provider.rejected


def test_streams_are_as_the_sdk_types_them(fake: tuple[Anthropic, anthropic.Anthropic]) -> None:
    provider, _ = fake
    adapter: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    tool = {"name": "now", "input_schema": {"type": "object", "properties": {}}}
    doc = ask(CONVERSATION[1], SONNET, [user(CONVERSATION[1].text)]) | {"stream": True}
    found = stream_of(provider, doc)
    for event in found:
        if event["type"] != "ping":
            adapter.validate_python(event)
    kinds = [event["type"] for event in found]
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-2:] == ["message_delta", "message_stop"]
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta" and event["index"] == 0]
    assert [delta["type"] for delta in deltas] == ["thinking_delta"] * (len(deltas) - 1) + ["signature_delta"]
    parts = [event["delta"]["partial_json"] for event in found if event["type"] == "content_block_delta" and event["index"] == 1]
    assert parts[0] == "" and json.loads("".join(parts)) == {"city": "Paris"}
    empty = stream_of(provider, {"model": SONNET, "max_tokens": 9, "messages": [user()], "tools": [tool], "stream": True,
                                 "tool_choice": {"type": "any"}})  # fmt: skip
    assert [event["delta"]["partial_json"] for event in empty if event["type"] == "content_block_delta"] == [""]


def stream_of(provider: Anthropic, doc: Doc) -> list[Doc]:
    with provider.serving() as url, httpx.Client(base_url=url, timeout=20) as http:
        body = http.post("/v1/messages", json=doc, headers=HEADERS).text
    return [json.loads(event.partition("data: ")[2]) for event in body.split("\n\n") if event]


ACCEPTED: list[Doc] = [
    base(temperature=1, model=OPUS), base(max_tokens=0), talk("a", "The answer is"), base(stop_sequences=[]), base(system=[text()]),
    talk("a", [use()], [result(), text("and?")]), base(messages=[user("a"), user("b"), said("c"), said("d"), user("e")]),
    base(messages=[user(), {"role": "system", "content": "be brief"}], model=FABLE), talk("a", [use()], [{**result(), "is_error": True}]),
    talk([{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": b64(PDF)}}]),
    talk([image(gif(2, 3), "image/gif")]), base(messages=[user(cached(1, ttl="1h") + cached(3))]), base(thinking=THINK, top_p=0.95),
    base(tools=[TOOL, {"type": "bash_20250124", "name": "bash"}]), base(thinking={"type": "disabled"}), base(metadata={"user_id": "u"}),
    talk("a", [{"type": "thinking", "thinking": "", "signature": seal(Provider.secret, b"O", "hm")}, text()], "b"),
    base(model=BOTH, thinking={"type": "adaptive"}, output_config={"effort": "max"} | schema(a={"type": "array", "minItems": 1})),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(ACCEPTED)))
def test_what_is_right_is_taken(fake: tuple[Anthropic, anthropic.Anthropic], at: int) -> None:
    provider, client = fake
    client.post("/v1/messages", body=ACCEPTED[at], cast_to=object, options={"headers": {"anthropic-version": "2023-06-01"}})
    assert not provider.rejected


def test_thinking_without_its_text(fake: tuple[Anthropic, anthropic.Anthropic]) -> None:
    _, client = fake
    with client.messages.stream(model=OPUS, max_tokens=99, messages=[user()], thinking={"type": "adaptive"}) as events:  # type: ignore[list-item]
        block = events.get_final_message().content[0]
    assert block.type == "thinking" and block.thinking == "" and block.signature


def test_prompt_caching_is_counted(fake: tuple[Anthropic, anthropic.Anthropic]) -> None:
    _, client = fake
    marked: Any = [text("a long prefix", cache_control={"type": "ephemeral", "ttl": "1h"})]
    one = client.messages.create(**base(system=marked)).usage
    two = client.messages.create(**base(system=marked, messages=[user("other words")])).usage
    assert one.cache_creation is not None and two.cache_creation is not None
    assert one.cache_creation_input_tokens == one.cache_creation.ephemeral_1h_input_tokens == two.cache_read_input_tokens
    assert (one.cache_read_input_tokens, two.cache_creation_input_tokens) == (0, 0)
    assert min(one.cache_creation_input_tokens or 0, one.input_tokens, two.input_tokens) > 0


def test_limits_and_stops(fake: tuple[Anthropic, anthropic.Anthropic]) -> None:
    _, client = fake
    cut = client.messages.create(**base(max_tokens=2, messages=[user("a b c")]))
    assert (cut.stop_reason, cut.content[0].text, cut.usage.output_tokens) == ("max_tokens", "You said:", 2)  # type: ignore[union-attr]
    stopped = client.messages.create(**base(stop_sequences=["said"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "said")
    begun = client.messages.create(**talk("a b c", "You said: a"))
    assert begun.content[0].text == " b c"  # type: ignore[union-attr]
    assert [model.id for model in client.models.list()] == list(MODELS)


ERRORS: dict[int, type[anthropic.APIStatusError]] = {
    429: anthropic.RateLimitError, 500: anthropic.InternalServerError, 529: anthropic.InternalServerError,
}  # fmt: skip


@pytest.mark.parametrize("status", list(ERRORS))
def test_faults_as_answers(fake: tuple[Anthropic, anthropic.Anthropic], status: int) -> None:
    provider, client = fake
    provider.fail(Fault(status, headers=(("retry-after", "7"),), details={"error_code": "x"}))
    with pytest.raises(ERRORS[status]) as caught:
        client.messages.create(**base())
    body: Any = caught.value.body
    assert caught.value.status_code == status and body["error"]["details"] == {"error_code": "x"}
    assert caught.value.response.headers["retry-after"] == "7"
    assert client.messages.create(**base()).content


def test_faults_in_streams(fake: tuple[Anthropic, anthropic.Anthropic]) -> None:
    provider, client = fake
    provider.fail(Fault(after=4, error=True), Fault(after=4), Fault(after=4, ending="rst"), Fault())
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"), client.messages.stream(**base()) as events:
        events.until_done()
    for _ in range(2):
        with pytest.raises(Exception, match=r"(?i)incomplete|closed|reset|peer"), client.messages.stream(**base()) as events:
            events.until_done()
    with pytest.raises(anthropic.APIConnectionError):
        client.messages.create(**base())


def test_a_gate_holds_a_stream(fake: tuple[Anthropic, anthropic.Anthropic]) -> None:
    provider, client = fake
    gate = Gate()
    provider.fail(Fault(after=4, gate=gate))
    with client.messages.stream(**base()) as events:
        seen = [next(iter(events)).type]
        assert gate.reached.wait(20)
        gate.open()
        seen += [event.type for event in events]
    assert (seen[0], seen[-1]) == ("message_start", "message_stop")


def test_the_frame_has_no_provider_of_its_own() -> None:
    calls: list[Callable[[], Any]] = [
        lambda: Provider().serve(None), lambda: Provider().refusal(None), lambda: Provider().failure(Fault()),  # type: ignore[arg-type]
        lambda: Provider().error_event(Fault()),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()
    assert Reply([b""]).stream is False
