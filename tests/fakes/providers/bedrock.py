"""A scripted Bedrock runtime: Converse, ConverseStream and CountTokens. As strict as the real one.

Signatures are verified (SigV4 with a known key, or a bearer token), bodies checked against the service model, then by Converse's own
rules (`converse_rules`), then, for Claude, by the Messages rules behind the words "The model returned the following errors", as the
real service does. Streams are event-stream frames with the padding member `p` that Bedrock adds to each.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any
from urllib.parse import unquote

import botocore.session
from anthropic.types import MessageCreateParams

from tests.fakes.answers import dumps
from tests.fakes.providers import claude
from tests.fakes.providers.anthropic import FINISHES, SAMPLING, Anthropic, read_settings, read_turns, size_of, split
from tests.fakes.providers.aws import BadSignature, Unfit, fits, frame, verify
from tests.fakes.providers.brain import Answer, answer, plain
from tests.fakes.providers.claude_rules import MODELS as CLAUDES
from tests.fakes.providers.claude_rules import Claude
from tests.fakes.providers.common import Fault, Provider, Rejected, Reply, json_error, name_of, reject
from tests.fakes.providers.converse_rules import MODELS, NOVA_OUTPUT, RULES
from tests.fakes.providers.typed import Mismatch
from tests.fakes.providers.typed import check as check_type
from tests.fakes.request import Request
from tests.fakes.script import Script

Doc = dict[str, Any]
REGION, BEARER = "us-east-1", "bedrock-api-key-test"
KEY_ID, SECRET = "AKIDEXAMPLE0123456789", "a/secret+of/the+fake/only0123456789abcdefghij"
PATH = re.compile(r"/model/([^/]+|arn:.+)/(converse|converse-stream|count-tokens)")
NAME = re.compile(r"[\w()\[\]-]+(?:\s[\w()\[\]-]+)*")
OPERATIONS = {"converse": "Converse", "converse-stream": "ConverseStream", "count-tokens": "CountTokens"}
FAULTS = {
    400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException", 408: "ModelTimeoutException",
    424: "ModelErrorException", 429: "ThrottlingException", 500: "InternalServerException", 503: "ServiceUnavailableException",
}  # fmt: skip


@cache
def service() -> Any:
    return botocore.session.get_session().get_service_model("bedrock-runtime")


def no(name: str, /, **values: object) -> Rejected:
    return reject(RULES, name, **values)


@dataclass
class Bedrock(Provider):
    """The fake. `seen`: every accepted request as the model behind Converse saw it (in the words of Messages), for asserts."""

    name: str = "bedrock"
    region: str = REGION
    mind: Anthropic = field(init=False)
    seen: list[Doc] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mind = Anthropic(secret=self.secret, call_prefix="tooluse_")

    def serve(self, request: Request) -> Reply:
        self._authorized(request)
        found = PATH.fullmatch(unquote(request.path))
        if found is None or request.method != "POST":
            raise no("path")
        model, operation = found[1], found[2]
        if model not in MODELS:
            raise no("profile", model=model) if "us." + model in MODELS else no("model")
        if not isinstance(request.doc, dict):
            raise no("body")
        doc = typed(request.doc, operation)
        converse(doc)
        messages = to_messages(doc, model)
        if messages["max_tokens"] > most(model):
            raise no("max_tokens", limit=most(model))
        facts = self._accepted(messages, doc, MODELS[model])
        if size_of(messages) > facts.context:
            raise no("context")
        self.seen.append(messages)
        if operation == "count-tokens":
            return Reply([dumps({"inputTokens": size_of(messages)})], headers=self._headers())
        return self._answer(messages, facts, operation == "converse-stream")

    def _authorized(self, request: Request) -> None:
        header = request.header("authorization") or ""
        if header.startswith("Bearer "):
            if header != "Bearer " + BEARER:
                raise no("bearer")
            return
        try:
            verify(request, {KEY_ID: SECRET}, self.region, "bedrock", datetime.now(UTC))
        except BadSignature as bad:
            raise no(bad.why) from None

    def _accepted(self, messages: Doc, doc: Doc, model: str | None) -> Claude:
        """What the model itself refuses. The model's facts."""
        extra = doc.get("additionalModelRequestFields") or {}
        if model is None:
            for key in extra.keys() - {"inferenceConfig"}:
                raise no("extraneous", key=key)
            return Claude(NOVA_OUTPUT, "any", ())
        try:
            check_type({name: value for name, value in messages.items() if name not in SAMPLING}, MessageCreateParams)
            for name in SAMPLING.keys() & messages.keys():
                check_type(messages[name], SAMPLING[name], (name,))
            return claude.check(messages, self.mind.keeper)
        except Mismatch as mismatch:
            if len(mismatch.where) == 1 and mismatch.where[0] in extra:
                raise no("extraneous", key=mismatch.where[0]) from None
            raise no("refused", message=str(mismatch)) from None
        except Rejected as rejected:
            raise no("refused", message=f"{rejected.message}") from rejected

    # Answers.

    def _answer(self, messages: Doc, facts: Claude, stream: bool) -> Reply:
        self.mind.made += 1
        said = answer(read_turns(messages), read_settings(messages))
        blocks = self.mind.blocks(said, messages, facts)
        counts, stop = self._usage(messages, said), FINISHES[said.finish]
        if stream:
            return Reply(events(blocks, stop, counts), "application/vnd.amazon.eventstream", stream=True, headers=self._headers())
        message = {"role": "assistant", "content": [to_block(block) for block in blocks]}
        whole = {"output": {"message": message}, "stopReason": stop, "usage": counts, "metrics": {"latencyMs": 1}}
        return Reply([dumps(whole)], headers=self._headers())

    def _usage(self, messages: Doc, said: Answer) -> Doc:
        counts = self.mind.counted(messages)
        read, written, output = (
            counts["cache_read_input_tokens"], counts["cache_creation_input_tokens"], said.output_tokens + said.thinking_tokens,
        )  # fmt: skip
        return {
            "inputTokens": counts["input_tokens"], "outputTokens": output, "totalTokens": counts["input_tokens"] + read + written + output,
            "cacheReadInputTokens": read, "cacheWriteInputTokens": written,
        }  # fmt: skip

    # Refusals and faults.

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return (("x-amzn-requestid", name_of(len(self.requests), "").lower()),)

    def _error(self, status: int, kind: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Script:
        kind = f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"
        return json_error(status, {"message": message}, (("x-amzn-errortype", kind), *self._headers(), *headers))

    def refusal(self, rejected: Rejected) -> Script:
        return self._error(rejected.status, rejected.rule.kind, rejected.message)

    def failure(self, fault: Fault) -> Script:
        return self._error(fault.status, fault.kind or FAULTS.get(fault.status, "InternalServerException"), fault.message, fault.headers)

    def error_event(self, fault: Fault) -> bytes:
        kind = fault.kind or "throttlingException"
        headers = {":exception-type": kind, ":content-type": "application/json", ":message-type": "exception"}
        return frame(headers, dumps({"message": fault.message}))


# Converse's own rules.


def typed(doc: Doc, operation: str) -> Doc:
    """The Converse document, checked against the service model; of CountTokens the one inside."""
    try:
        fits(doc, service().operation_model(OPERATIONS[operation]).input_shape)
    except Unfit as unfit:
        raise no("unknown_key" if unfit.unknown else "typed", where=unfit.where, what=unfit.what) from None
    if operation != "count-tokens":
        return doc
    if "converse" not in doc["input"]:
        raise no("unknown_key", where="input.invokeModel", what="")
    found: Doc = doc["input"]["converse"]
    return found


def converse(doc: Doc) -> None:
    messages = doc.get("messages") or []
    spoken = [message for message in messages if message["role"] != "system"]
    if not spoken or messages[0]["role"] != "user":
        raise no("first_user")
    if any(one["role"] == two["role"] for one, two in pairwise(spoken)):
        raise no("alternate")
    names: set[str] = set()
    for at, message in enumerate(messages):
        content(at, message, names)
    results(messages)
    if "toolConfig" not in doc and any("toolUse" in block or "toolResult" in block for message in messages for block in message["content"]):
        raise no("tool_config")


def content(at: int, message: Doc, names: set[str]) -> None:
    blocks = message["content"]
    if not blocks:
        raise no("no_content", at=at)
    for number, block in enumerate(blocks):
        where = f"messages.{at}.content.{number}"
        if "text" in block and not block["text"]:
            raise no("blank_text", where=where)
        if "toolResult" in block and block["toolResult"].get("status") == "error" and not block["toolResult"]["content"]:
            raise no("error_empty", where=where)
        if "document" in block:
            document(block["document"], names)
    if any("document" in block for block in blocks) and not any("text" in block for block in blocks):
        raise no("document_text")


def document(block: Doc, names: set[str]) -> None:
    if not NAME.fullmatch(block["name"]):
        raise no("document_name")
    if block["name"] in names:
        raise no("document_twice")
    names.add(block["name"])


def results(messages: list[Doc]) -> None:
    called: list[str] = []
    for at, message in enumerate(messages):
        given = [block["toolResult"]["toolUseId"] for block in message["content"] if "toolResult" in block]
        if len(given) > len(called):
            raise no("results_exceed", at=at)
        missing = [name for name in called if name not in given]
        if missing:
            raise no("results_missing", at=at, ids=", ".join(missing))
        called = [block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block]


# To the words of Messages, which the model behind Converse speaks, and back.


def most(model: str) -> int:
    """The output limit of a model in tokens."""
    real = MODELS[model]
    return CLAUDES[real].max_output if real else NOVA_OUTPUT


def to_messages(doc: Doc, model: str) -> Doc:
    limits = doc.get("inferenceConfig") or {}
    found: Doc = {
        "model": MODELS[model] or model,
        "max_tokens": limits.get("maxTokens", most(model)),
        "messages": [{"role": message["role"], "content": marked(message["content"])} for message in doc["messages"]],
    }
    for name, other in (("temperature", "temperature"), ("topP", "top_p"), ("stopSequences", "stop_sequences")):
        if name in limits:
            found[other] = limits[name]
    if doc.get("system"):
        found["system"] = marked(doc["system"])
    output: Doc = doc.get("outputConfig") or {}
    if output:
        found["output_config"] = {"effort": output["effort"]} if "effort" in output else {}
        if "textFormat" in output:
            schema = json.loads(output["textFormat"]["structure"]["jsonSchema"]["schema"])
            found["output_config"]["format"] = {"type": "json_schema", "schema": schema}
    found |= to_tools(doc.get("toolConfig") or {})
    return found | {name: value for name, value in (doc.get("additionalModelRequestFields") or {}).items() if name != "anthropic_beta"}


def to_tools(config: Doc) -> Doc:
    if not config:
        return {}
    tools: list[Doc] = []
    for tool in config["tools"]:
        if "cachePoint" in tool:
            tools[-1]["cache_control"] = mark(tool["cachePoint"])
        else:
            spec = tool["toolSpec"]
            extra = {name: spec[name] for name in ("description", "strict") if name in spec}
            tools.append({"name": spec["name"], "input_schema": spec["inputSchema"]["json"]} | extra)
    kind, value = next(iter((config.get("toolChoice") or {"auto": {}}).items()))
    return {"tools": tools, "tool_choice": {"type": kind} | value}


def mark(point: Doc) -> Doc:
    return {"type": "ephemeral"} | ({"ttl": point["ttl"]} if "ttl" in point else {})


def marked(blocks: list[Doc]) -> list[Doc]:
    """Content blocks; a cachePoint becomes the mark of the block before it."""
    found: list[Doc] = []
    for block in blocks:
        if "cachePoint" not in block:
            found.append(from_block(block))
        elif found:
            found[-1]["cache_control"] = mark(block["cachePoint"])
    return found


def from_block(block: Doc) -> Doc:
    kind, value = next(iter(block.items()))
    match kind:
        case "text":
            return {"type": "text", "text": value}
        case "image":
            return {"type": "image", "source": base64_source(f"image/{value['format']}", value["source"])}
        case "document":
            return {"type": "document", "source": document_source(value)}
        case "toolUse":
            return {"type": "tool_use", "id": value["toolUseId"], "name": value["name"], "input": value["input"]}
        case "toolResult":
            inner = [{"type": "text", "text": plain(one["json"])} if "json" in one else from_block(one) for one in value["content"]]
            return {"type": "tool_result", "tool_use_id": value["toolUseId"], "content": inner, "is_error": value.get("status") == "error"}
        case "reasoningContent" if "redactedContent" in value:
            return {"type": "redacted_thinking", "data": base64.b64decode(value["redactedContent"]).decode()}
        case "reasoningContent":
            thought = value["reasoningText"]
            signature = {"signature": thought["signature"]} if "signature" in thought else {}
            return {"type": "thinking", "thinking": thought["text"]} | signature
        case _:
            raise no("refused", message=f"{kind} is not supported")


def base64_source(kind: str, source: Doc) -> Doc:
    if "bytes" not in source:
        raise no("refused", message="s3Location is not supported")
    return {"type": "base64", "media_type": kind, "data": source["bytes"]}


def document_source(value: Doc) -> Doc:
    if value.get("format") == "pdf":
        return base64_source("application/pdf", value["source"])
    source = value["source"]
    text = base64.b64decode(source["bytes"]).decode() if "bytes" in source else source.get("text", "")
    return {"type": "text", "media_type": "text/plain", "data": text}


def to_block(block: Doc) -> Doc:
    match block["type"]:
        case "text":
            return {"text": block["text"]}
        case "thinking":
            return {"reasoningContent": {"reasoningText": {"text": block["thinking"], "signature": block["signature"]}}}
        case "redacted_thinking":
            return {"reasoningContent": {"redactedContent": base64.b64encode(block["data"].encode()).decode()}}
        case _:
            return {"toolUse": {"toolUseId": block["id"], "name": block["name"], "input": block["input"]}}


def events(blocks: list[Doc], stop: str, counts: Doc) -> list[bytes]:
    """The whole stream. Only tool calls have a start of their block (model: ContentBlockStart)."""
    found: list[tuple[str, Doc]] = [("messageStart", {"role": "assistant"})]
    for index, block in enumerate(blocks):
        if block["type"] == "tool_use":
            start = {"toolUse": {"toolUseId": block["id"], "name": block["name"]}}
            found.append(("contentBlockStart", {"start": start, "contentBlockIndex": index}))
        if block["type"] == "redacted_thinking":
            found.append(("contentBlockDelta", {"delta": to_block(block), "contentBlockIndex": index}))
        for delta in split(block)[1]:
            found.append(("contentBlockDelta", {"delta": to_delta(delta), "contentBlockIndex": index}))
        found.append(("contentBlockStop", {"contentBlockIndex": index}))
    found += [("messageStop", {"stopReason": stop}), ("metadata", {"usage": counts, "metrics": {"latencyMs": 1}})]
    return [event(name, value) for name, value in found]


def to_delta(delta: Doc) -> Doc:
    match delta["type"]:
        case "text_delta":
            return {"text": delta["text"]}
        case "thinking_delta":
            return {"reasoningContent": {"text": delta["thinking"]}}
        case "signature_delta":
            return {"reasoningContent": {"signature": delta["signature"]}}
        case _:
            return {"toolUse": {"input": delta["partial_json"]}}


def event(name: str, value: Doc) -> bytes:
    padded = value | {"p": "abcdefghijklmnopqrstuvwxyz"[: 1 + len(name) % 26]}
    return frame({":event-type": name, ":content-type": "application/json", ":message-type": "event"}, dumps(padded))
