"""Every refusal of the scripted Anthropic, seen through the official SDK: the rule, the status, the error's shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from tests.fakes.providers.anthropic import KEY, Anthropic
from tests.fakes.providers.anthropic_asks import (
    FABLE,
    HAIKU,
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
    thought,
    use,
    user,
)
from tests.fakes.providers.claude_rules import RULES
from tests.fakes.providers.common import Provider, seal
from tests.fakes.providers.media import gif, png

# The SDK warns of models that are soon retired and of thinking budgets on newer ones; older models are what some rules are about.
pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning", "ignore:Using Claude with:UserWarning")


@pytest.fixture
def fake() -> Iterator[tuple[Anthropic, anthropic.Anthropic]]:
    provider = Anthropic()
    with provider.serving() as url, anthropic.Anthropic(api_key=KEY, base_url=url, max_retries=0, timeout=20) as client:
        yield provider, client


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
    "auth_missing", "auth_invalid", "path", "version_missing", "version_unknown", "content_type", "body", "thinking_changed", "context",
    "too_large",
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


def test_what_is_too_long(fake: tuple[Anthropic, anthropic.Anthropic]) -> None:
    provider, client = fake
    refused(provider, client, "context", base(messages=[user("a " * 200_000 + "b")]), "2023-06-01")
    provider.max_body = 10
    with pytest.raises(anthropic.RequestTooLargeError):
        client.post("/v1/messages", body=base(), cast_to=object)
    assert provider.rejected[-1].name == "too_large"


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
