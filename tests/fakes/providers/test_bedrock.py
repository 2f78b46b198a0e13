"""The scripted Bedrock, driven by boto3 over real sockets: signatures, the conversation, every refusal, event-stream frames, faults."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError
from urllib3.exceptions import ProtocolError

from tests.fakes.providers.aws import Unfit, fits
from tests.fakes.providers.bedrock import Bedrock, event, service
from tests.fakes.providers.bedrock_asks import (
    BOTH,
    HAIKU,
    HI,
    NOVA,
    OPUS,
    SONNET,
    SPEC,
    THINK,
    Doc,
    base,
    boto,
    named,
    posted,
    result,
    said,
    tooled,
    use,
    user,
)
from tests.fakes.providers.brain import CONVERSATION, PICTURE, SYSTEM, Call, Step, expect
from tests.fakes.providers.common import Fault, seal
from tests.fakes.providers.media import PDF, gif


@pytest.fixture
def fake() -> Iterator[tuple[Bedrock, Any]]:
    provider = Bedrock()
    with provider.serving() as url:
        client = boto(url)
        yield provider, client
        client.close()


def user_turn(step: Step, last: list[Doc]) -> Doc:
    if step.results:
        calls = [block["toolUse"] for block in last if "toolUse" in block]
        return user(*[result(one["toolUseId"], {"json": {"weather": step.results[one["input"]["city"]]}}) for one in calls])
    image = {"image": {"format": "png", "source": {"bytes": PICTURE.data}}}
    return user(*([image] if step.media else []), {"text": step.text})


def ask(step: Step, model: str, messages: list[Doc]) -> Doc:
    doc: Doc = {"modelId": model, "system": [{"text": SYSTEM}], "messages": messages, "inferenceConfig": {"maxTokens": 2048}}
    doc["toolConfig"] = {"tools": [SPEC]}
    if not step.tools:
        doc["toolConfig"]["toolChoice"] = {"auto": {}}
    if step.thinking:
        adaptive = {"thinking": {"type": "adaptive", "display": "summarized"}}
        doc["additionalModelRequestFields"] = THINK if model in (SONNET, BOTH) else adaptive
    if step.schema:
        text = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(step.schema), "name": "report"}}}
        doc["outputConfig"] = {"textFormat": text}
    return doc


def gathered(stream: Any) -> tuple[list[Doc], str, Doc]:
    """Blocks, stop reason and usage from boto3's events."""
    blocks: dict[int, Doc] = {}
    stop, usage = "", {}
    for one in stream:
        kind, value = next(iter(one.items()))
        if kind == "contentBlockStart":
            blocks[value["contentBlockIndex"]] = {"toolUse": value["start"]["toolUse"] | {"input": ""}}
        elif kind == "contentBlockDelta":
            merge(blocks.setdefault(value["contentBlockIndex"], {}), value["delta"])
        elif kind == "messageStop":
            stop = value["stopReason"]
        elif kind == "metadata":
            usage = value["usage"]
    for block in blocks.values():
        if "toolUse" in block:
            block["toolUse"]["input"] = json.loads(block["toolUse"]["input"] or "{}")
    return [blocks[index] for index in sorted(blocks)], stop, usage


def merge(block: Doc, delta: Doc) -> None:
    if "text" in delta:
        block["text"] = block.get("text", "") + delta["text"]
    elif "toolUse" in delta:
        block["toolUse"]["input"] += delta["toolUse"]["input"]
    elif "redactedContent" in delta["reasoningContent"]:
        block["reasoningContent"] = delta["reasoningContent"]
    else:
        inner = block.setdefault("reasoningContent", {}).setdefault("reasoningText", {"text": ""})
        for name, text in delta["reasoningContent"].items():
            inner[name] = inner.get(name, "") + text


@pytest.mark.parametrize("model", [SONNET, BOTH, OPUS])
@pytest.mark.parametrize("stream", [False, True])
def test_the_conversation(fake: tuple[Bedrock, Any], model: str, stream: bool) -> None:
    provider, client = fake
    provider.mind.redact = model == BOTH
    messages: list[Doc] = []
    content: list[Doc] = []
    for step in CONVERSATION:
        messages.append(user_turn(step, content))
        doc = ask(step, model, messages)
        counted = {name: value for name, value in doc.items() if name in ("messages", "system", "toolConfig")}
        count = client.count_tokens(modelId=model, input={"converse": counted})["inputTokens"]
        if stream:
            content, stop, usage = gathered(client.converse_stream(**doc)["stream"])
        else:
            whole = client.converse(**doc)
            content, stop, usage = whole["output"]["message"]["content"], whole["stopReason"], whole["usage"]
        messages.append({"role": "assistant", "content": content})
        calls = [Call(one["toolUse"]["name"], one["toolUse"]["input"], one["toolUse"]["toolUseId"]) for one in content if "toolUse" in one]
        thought = [one["reasoningContent"] for one in content if "reasoningContent" in one]
        said = "".join(one.get("reasoningText", {}).get("text", "") for one in thought)
        expect(step, "".join(one.get("text", "") for one in content), calls, said)
        assert stop == ("tool_use" if calls else "end_turn")
        assert (usage["inputTokens"], usage["totalTokens"]) == (count, count + usage["outputTokens"])
    assert not provider.rejected


ACCEPTED: list[Doc] = [
    base(inferenceConfig={"temperature": 0.5, "maxTokens": 9, "stopSequences": []}), base(user(HI), said({"text": "You said:"})),
    tooled(user(HI), said(use()), user(result("t1", {"json": {"a": 1}}, {"image": {"format": "gif", "source": {"bytes": gif(1, 1)}}}), HI)),
    tooled(user(HI), said(use()), user(result("t1", {"text": "no"}, status="error"))), base(additionalModelRequestFields={"top_k": 4}),
    base(user(HI, {"document": {"format": "pdf", "name": "a [1] (b)", "source": {"bytes": PDF}}})), named("a", "b"),
    base(user(HI, {"document": {"name": "a", "source": {"text": "x"}}})), base(model=HAIKU), base(model=NOVA),
    base(system=[HI, {"cachePoint": {"type": "default", "ttl": "1h"}}],
         toolConfig={"tools": [SPEC, {"cachePoint": {"type": "default", "ttl": "1h"}}]}),
    base(model=OPUS, outputConfig={"effort": "low"}), base(additionalModelRequestFields={"anthropic_beta": ["x"]}),
    base(user({"cachePoint": {"type": "default"}}, HI)), base(model=NOVA, additionalModelRequestFields={"inferenceConfig": {"topK": 2}}),
]  # fmt: skip


@pytest.mark.parametrize("at", range(len(ACCEPTED)))
def test_what_is_right_is_taken(fake: tuple[Bedrock, Any], at: int) -> None:
    provider, client = fake
    answer = client.converse(**ACCEPTED[at])
    assert not provider.rejected and len(provider.seen) == 1
    assert answer["usage"]["outputTokens"] > 0


def test_prompt_caching_is_counted(fake: tuple[Bedrock, Any]) -> None:
    _, client = fake
    system = [{"text": "a long prefix"}, {"cachePoint": {"type": "default"}}]
    one = client.converse(**base(system=system))["usage"]
    two = client.converse(**base(user({"text": "other words"}), system=system))["usage"]
    assert one["cacheWriteInputTokens"] == two["cacheReadInputTokens"] > 0
    assert one["totalTokens"] == one["inputTokens"] + one["outputTokens"] + one["cacheWriteInputTokens"]


def test_streams_are_as_the_model_says() -> None:
    """Frames parse with botocore, byte by byte, and every payload fits the service model but for the padding."""
    provider = Bedrock()
    asked = user({"text": "What is the weather in Rome?"})
    doc = {"messages": [asked], "toolConfig": {"tools": [SPEC]}, "additionalModelRequestFields": THINK}
    provider.mind.redact = True
    body = posted(provider, f"/model/{SONNET}/converse-stream", doc).content
    buffer, shape = EventStreamBuffer(), service().operation_model("ConverseStream").output_shape.members["stream"]
    kinds = []
    for at in range(len(body)):
        buffer.add_data(body[at : at + 1])
        for one in buffer:
            payload = json.loads(one.payload)
            assert payload.pop("p")
            kinds.append(one.headers[":event-type"])
            assert one.headers[":message-type"] == "event"
            fits(payload, shape.members[kinds[-1]])
    assert (kinds[0], kinds[-2:]) == ("messageStart", ["messageStop", "metadata"])
    assert kinds.count("contentBlockStart") == 1  # the call's
    assert kinds.count("contentBlockStop") == 3
    whole = posted(provider, f"/model/{SONNET}/converse", doc)
    fits(whole.json(), service().operation_model("Converse").output_shape)


CODES = [(429, "ThrottlingException"), (503, "ServiceUnavailableException"), (500, "InternalServerException")]


@pytest.mark.parametrize(("status", "code"), CODES)
def test_faults_as_answers(fake: tuple[Bedrock, Any], status: int, code: str) -> None:
    provider, client = fake
    provider.fail(Fault(status, "slow down", headers=(("retry-after", "7"),)))
    with pytest.raises(ClientError, match="slow down") as caught:
        client.converse(**base())
    assert (caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)


def test_faults_in_streams(fake: tuple[Bedrock, Any]) -> None:
    provider, client = fake
    provider.fail(Fault(after=3, error=True, kind="modelStreamErrorException"), Fault(after=3))
    for expected in (EventStreamError, ProtocolError):
        with pytest.raises(expected), closing(client.converse_stream(**base())["stream"]) as stream:
            gathered(stream)


WRONG: list[tuple[Any, str, str]] = [
    ([], "", "Expected an object"),
    ({"messages": {}}, "messages", "Expected a list"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "null"),
    ({"requestMetadata": []}, "requestMetadata", "object"),
    ({"requestMetadata": {}}, "requestMetadata", "length greater"),
    ({"requestMetadata": {"k": "v" * 257}}, "requestMetadata.k", "length less"),
    ({"system": [{"text": "a", "cachePoint": {"type": "default"}}]}, "system.0", "one of"),
    ({"inferenceConfig": {"maxTokens": 0}}, "inferenceConfig.maxTokens", "value greater"),
    ({"inferenceConfig": {"maxTokens": True}}, "inferenceConfig.maxTokens", "integer"),
    (base(user({"image": {"format": "png", "source": {"bytes": "?"}}})), "messages.0.content.0.image.source.bytes", "base64"),
    (base(toolConfig={"tools": [{"toolSpec": {"name": "a b", "inputSchema": {}}}]}), "toolConfig.tools.0.toolSpec.name", "pattern"),
]


@pytest.mark.parametrize("at", range(len(WRONG)))
def test_the_service_model_is_kept(at: int) -> None:
    value, where, what = WRONG[at]
    if isinstance(value, dict):
        value = {name: inner for name, inner in value.items() if name != "modelId"}
    with pytest.raises(Unfit, match=what) as caught:
        fits(value, service().operation_model("Converse").input_shape)
    assert caught.value.where == where


def test_padding_differs() -> None:
    assert b'"p":"' in event("messageStop", {"stopReason": "end_turn"})
    assert base64.b64decode(seal(b"", b"T", "x"))[:1] == b"T"
