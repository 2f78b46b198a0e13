"""The scripted Anthropic, driven by the official SDK over real sockets: the conversation, every refusal, faults, streams."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import RawMessageStreamEvent
from pydantic import TypeAdapter

from tests.fakes.providers.anthropic import KEY, Anthropic
from tests.fakes.providers.brain import CONVERSATION, PICTURE, SYSTEM, WEATHER, Call, Step, expect
from tests.fakes.providers.claude_rules import MODELS, RULES
from tests.fakes.providers.common import Fault, Provider, Reply, seal
from tests.fakes.providers.media import PDF, gif, png
from tests.fakes.script import Gate

# The SDK warns of models that are soon retired and of thinking budgets on newer ones; older models are what some rules are about.
pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning", "ignore:Using Claude with:UserWarning")
Doc = dict[str, Any]
SONNET, OPUS, FABLE, HAIKU, BOTH = (
    "claude-sonnet-4-5-20250929", "claude-opus-4-7", "claude-fable-5", "claude-3-5-haiku-20241022", "claude-opus-4-6",
)  # fmt: skip
TOOL = {"name": WEATHER.name, "description": WEATHER.description, "input_schema": WEATHER.schema}
THINK = {"type": "enabled", "budget_tokens": 1024}


@pytest.fixture
def fake() -> Iterator[tuple[Anthropic, anthropic.Anthropic]]:
    provider = Anthropic()
    with provider.serving() as url, anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=0, timeout=20) as client:
        yield provider, client


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes = PICTURE.data, kind: str = "image/png") -> Doc:
    return {"type": "image", "source": {"type": "base64", "media_type": kind, "data": b64(data)}}


def user_turn(step: Step, last: list[Doc]) -> Doc:
    if step.results:
        calls = [block for block in last if block["type"] == "tool_use"]
        return user([{"type": "tool_result", "tool_use_id": one["id"], "content": step.results[one["input"]["city"]]} for one in calls])
    text = {"type": "text", "text": step.text}
    return user([image(), text] if step.media else [text])


def user(content: Any = "hi") -> Doc:
    return {"role": "user", "content": content}


def said(content: Any) -> Doc:
    return {"role": "assistant", "content": content}


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


HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}


def base(**more: Any) -> Doc:
    return {"model": SONNET, "max_tokens": 4096, "messages": [user()]} | more


def use(name: str = "toolu_1", tool: str = "get_weather") -> Doc:
    return {"type": "tool_use", "id": name, "name": tool, "input": {}}


def result(name: str = "toolu_1", content: Any = "sun") -> Doc:
    return {"type": "tool_result", "tool_use_id": name, "content": content}


def text(words: str = "hi", **more: Any) -> Doc:
    return {"type": "text", "text": words} | more


def talk(*turns: Any, **more: Any) -> Doc:
    """Messages that alternate, beginning with the user's."""
    return base(messages=[(said if at % 2 else user)(turn) for at, turn in enumerate(turns)], **more)


def thought(words: str = "hm", secret: bytes = Provider.secret) -> Doc:
    return {"type": "thinking", "thinking": words, "signature": seal(secret, b"T", words)}


def schema(**inner: Any) -> Doc:
    return {"format": {"type": "json_schema", "schema": {"type": "object", "additionalProperties": False, "properties": inner}}}


def cached(count: int, **mark: str) -> list[Doc]:
    return [text(cache_control={"type": "ephemeral"} | mark) for _ in range(count)]


REFUSED: dict[str, Doc | list[Doc]] = {
    "model": base(model="claude-9"),
    "typed": [
        {"model": SONNET, "messages": [user()]}, base(frequency_penalty=1), base(max_tokens="9"), base(n=2), base(betas=[]),
        talk([text(foo=1)]), talk([{"type": "image_url", "image_url": {"url": "x"}}]), base(messages=[{"role": "tool", "content": "x"}]),
        base(tools=[{"type": "function", "function": {}}]), base(tool_choice="auto"), base(stop_sequences="x"), talk(None),
        talk([image(kind="image/bmp")]), base(temperature="hot"), base(thinking={"type": "enabled"}),
        base(output_config={"effort": "none"}),
        talk([thought() | {"cache_control": {"type": "ephemeral"}}]), talk("a", "b", [result(content=None)]), base(stream="yes"),
    ],
    "role": base(messages=[user(), {"role": "system", "content": "be brief"}]),
    "no_messages": base(messages=[]),
    "first_user": base(messages=[said("hi")]),
    "no_content": [talk(""), talk("a", [], "b"), talk([])],
    "empty_text": [talk([text("")]), talk("a", [text(""), use()], [result()]), base(system=[text("")]),
                   talk("a", [use()], [result(content=[text("")])])],
    "blank_text": [talk(" \n"), talk("a", " ", "b")],
    "final_space": talk("a", "The answer "),
    "prefill": talk("a", "The answer", model=OPUS),
    "prefill_thinking": talk("a", "The answer", thinking=THINK),
    "role_block": [talk([use()]), talk("a", [result()], "b"), talk([thought()])],
    "results_missing": [
        talk("a", [use()], "b"), talk("a", [use(), use("toolu_2")], [result()]), talk("a", [use()]),
        base(messages=[user("a"), said([use("t1"), use("t2")]), user([result("t1")]), said("x"), user([result("t2")])]),
    ],
    "results_unexpected": [talk([result()]), talk("a", [use()], [result(), result("toolu_2")]), talk("a", "b", [result()])],
    "results_first": talk("a", [use()], [text(), result()]),
    "results_twice": talk("a", [use()], [result(), result()]),
    "ids_twice": talk("a", [use(), use()], [result()]),
    "id_pattern": talk("a", [use("call.1|x")], [result("call.1|x")]),
    "name_pattern": [base(tools=[TOOL | {"name": "get weather"}]),
                     base(tools=[TOOL | {"name": "x" * 129}]), talk("a", [use(tool="a.b")], "c")],
    "names_twice": base(tools=[TOOL, TOOL]),
    "schema_object": [base(tools=[TOOL | {"input_schema": {}}]), base(tools=[TOOL | {"input_schema": {"type": "array"}}])],
    "choice_no_tools": base(tool_choice={"type": "auto"}),
    "choice_unknown": base(tools=[TOOL], tool_choice={"type": "tool", "name": "other"}),
    "choice_thinking": [base(tools=[TOOL], tool_choice={"type": kind}, thinking=THINK) for kind in ("any",)],
    "choice_forced": base(model=FABLE, tools=[TOOL], tool_choice={"type": "any"}),
    "max_tokens": [base(max_tokens=64_001), base(model=HAIKU, max_tokens=8_193)],
    "max_tokens_low": base(max_tokens=-1),
    "temperature": [base(temperature=1.2), base(temperature=-0.1)],
    "top_p": base(top_p=1.5),
    "top_k": base(top_k=-1),
    "sampling_both": base(temperature=0.5, top_p=0.9),
    "sampling_fixed": [base(model=OPUS, temperature=0.5), base(model=OPUS, top_p=0.9), base(model=FABLE, top_k=5)],
    "sampling_thinking": [base(thinking=THINK, temperature=0.5), base(thinking=THINK, top_p=0.5), base(thinking=THINK, top_k=5)],
    "stop_empty": base(stop_sequences=["x", ""]),
    "stop_blank": base(stop_sequences=["\n\n"]),
    "effort": base(output_config={"effort": "low"}),
    "format_model": base(model=HAIKU, output_config=schema()),
    "format_open": [base(output_config={"format": {"type": "json_schema", "schema": {"type": "object"}}}),
                    base(output_config=schema(a={"anyOf": [{"type": "object", "properties": {}}]}))],
    "format_keyword": [base(output_config=schema(a={"type": "integer", "minimum": 1})),
                       base(output_config=schema(a={"type": "array", "minItems": 2, "items": {"type": "string"}}))],
    "thinking_none": base(model=HAIKU, thinking=THINK),
    "thinking_adaptive": base(thinking={"type": "adaptive"}),
    "thinking_enabled": base(model=OPUS, thinking=THINK),
    "budget_low": base(thinking={"type": "enabled", "budget_tokens": 1023}),
    "budget_high": base(thinking={"type": "enabled", "budget_tokens": 4096}),
    "thinking_expected": [talk("a", [use()], [result()], thinking=THINK), talk("a", [text(), use()], [result()], thinking=THINK)],
    "thinking_first": talk("a", [text(), thought(), use()], [result()], thinking=THINK),
    "signature": [
        talk("a", [thought(secret=b"foreign"), text()], "b"), talk("a", [thought() | {"thinking": "hm!"}, text()], "b"),
        talk("a", [thought() | {"signature": ""}, text()], "b"),
        talk("a", [{"type": "thinking", "thinking": "hm", "signature": seal(Provider.secret, b"O", "hm")}, text()], "b"),
    ],
    "redacted": talk("a", [{"type": "redacted_thinking", "data": "abc"}, text()], "b"),
    "cache_many": [base(messages=[user(cached(5))]), base(system=cached(2), tools=[TOOL | {"cache_control": {"type": "ephemeral"}}],
                                                          messages=[user(cached(1))], cache_control={"type": "ephemeral"})],
    "cache_order": base(system=cached(1), messages=[user(cached(1, ttl="1h"))]),
    "base64": talk([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "data:image/png;base64,xx"}}]),
    "image_type": [talk([image(gif(2, 2))]), talk("a", [use()], [result(content=[image(gif(2, 2))])])],
    "image_broken": [talk([image(b"none")]), talk([image(png(1, 1)[:20])])],
    "pdf": talk([{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": b64(b"no")}}]),
    "url": talk([{"type": "image", "source": {"type": "url", "url": "http://example.com/a.png"}}]),
}  # fmt: skip
NEW = {
    "sampling_gone": [base(temperature=1.0), base(top_k=3), base(top_p=1)],
    "document_assistant": talk("a", [{"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}], "b"),
    "citations_user": talk([text(citations=[{"type": "char_location", "cited_text": "x", "document_index": 0, "document_title": None,
                                             "start_char_index": 0, "end_char_index": 1}])]),
}  # fmt: skip
OTHER = {
    "auth_missing", "auth_invalid", "path", "version_missing", "version_unknown", "content_type", "body", "thinking_changed",
}  # fmt: skip


def test_every_rule_has_its_test_and_its_source() -> None:
    assert REFUSED.keys() | NEW.keys() | OTHER == RULES.keys()
    assert all(rule.source for rule in RULES.values())


def refused(provider: Anthropic, client: anthropic.Anthropic, rule: str, doc: Any, version: str, **options: Any) -> None:
    """The SDK raises its error class for the status; the body is Anthropic's error shape; the fake names the rule."""
    headers = {"anthropic-version": version}
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.post("/v1/messages", body=doc, cast_to=object, options={"headers": headers} | options)
    error = caught.value
    assert provider.rejected[-1].name == rule, (provider.rejected[-1], doc)
    body: Any = error.body
    assert error.status_code == RULES[rule].status
    assert (body["type"], body["error"]["type"]) == ("error", RULES[rule].kind)
    assert body["request_id"] == error.request_id
    assert isinstance(error, anthropic.NotFoundError if error.status_code == 404 else anthropic.BadRequestError)


@pytest.mark.parametrize("rule", list(REFUSED))
def test_refusals(fake: tuple[Anthropic, anthropic.Anthropic], rule: str) -> None:
    docs = REFUSED[rule]
    for doc in docs if isinstance(docs, list) else [docs]:
        refused(*fake, rule, doc, "2023-06-01")


@pytest.mark.parametrize("rule", list(NEW))
def test_refusals_of_the_new_version(fake: tuple[Anthropic, anthropic.Anthropic], rule: str) -> None:
    docs: Any = NEW[rule]
    for doc in docs if isinstance(docs, list) else [docs]:
        refused(*fake, rule, doc, "2026-10-21")


HTTP: dict[str, tuple[int, dict[str, str], str, Any]] = {
    "auth_missing": (401, {"anthropic-version": "2023-06-01"}, "/v1/messages", base()),
    "auth_invalid": (401, HEADERS | {"x-api-key": "no", "authorization": f"Bearer {KEY}"}, "/v1/messages", base()),
    "path": (404, HEADERS, "/v1/chat/completions", base()),
    "version_missing": (400, {"x-api-key": KEY}, "/v1/messages", base()),
    "version_unknown": (400, HEADERS | {"anthropic-version": "2024-01-01"}, "/v1/messages", base()),
    "content_type": (400, HEADERS | {"content-type": "text/plain"}, "/v1/messages", base()),
    "body": (400, HEADERS, "/v1/messages", [1]),
}


@pytest.mark.parametrize("rule", list(HTTP))
def test_refusals_of_http(rule: str) -> None:
    status, headers, path, doc = HTTP[rule]
    provider = Anthropic()
    with provider.serving() as url, httpx.Client(base_url=url, timeout=20) as http:
        answer = http.post(path, json=doc, headers=headers)
    assert (answer.status_code, provider.rejected[0].name) == (status, rule)
    assert answer.json()["error"] == {"type": RULES[rule].kind, "message": provider.rejected[0].message}


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


def test_thinking_must_come_back_whole(fake: tuple[Anthropic, anthropic.Anthropic]) -> None:
    provider, client = fake
    provider.redact = True
    asked = user("What is the weather in Rome?")
    first: Any = client.post("/v1/messages", body=base(messages=[asked], tools=[TOOL], thinking=THINK), cast_to=object)
    redacted, thinking, call = first["content"]
    back = user([result(call["id"])])
    good = base(messages=[asked, said([redacted, thinking, call]), back], tools=[TOOL], thinking=THINK)
    assert client.messages.create(**good).content[0].type == "text"
    for blocks in ([thinking, redacted, call], [thinking, call], [redacted, call], [redacted, thinking, thinking, call]):
        changed = good | {"messages": [asked, said(blocks), back]}
        refused(provider, client, "thinking_changed", changed, "2026-10-21")
    assert client.messages.create(**good | {"thinking": {"type": "disabled"}}).content  # with thinking off nothing of it is needed


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
