"""A scripted Anthropic: `/v1/messages` (whole and streamed), `/v1/messages/count_tokens`, `/v1/models`. As strict as the real one.

Types come from the official SDK (`MessageCreateParams`, extra keys refused; the beta types when `anthropic-beta` is sent), semantic
rules and their sources from `claude_rules`. Answers come from `brain`; event order and usage follow the SDK's stream types and
doc: streaming. Prompt caching is counted for real: what a marked prefix held before is read, what is new is written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from anthropic.types import MessageCountTokensParams, MessageCreateParams
from anthropic.types.beta import message_count_tokens_params as beta_count
from anthropic.types.beta import message_create_params as beta_create

from tests.fakes.answers import SSE, dumps
from tests.fakes.providers.brain import Answer, Call, Result, Settings, Tool, Turn, answer, tokens
from tests.fakes.providers.claude import Blocks, Doc, Keeper, blocks_of, check, no, thinks, turns_of
from tests.fakes.providers.claude_rules import MODELS, Claude
from tests.fakes.providers.common import Fault, Provider, Rejected, Reply, json_error, name_of, pieces, seal
from tests.fakes.providers.media import Media
from tests.fakes.providers.typed import Mismatch
from tests.fakes.providers.typed import check as check_type
from tests.fakes.request import Request
from tests.fakes.script import Script

KEY = "sk-ant-test-0123456789"
VERSIONS = ("2023-06-01", "2026-10-21")
SAMPLING: Mapping[str, Any] = {"temperature": float | None, "top_p": float | None, "top_k": int | None}
HEADERS_ONLY = ("betas", "user_profile_id", "workspace_id")  # the SDK's types have them beside the body
KINDS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
FINISHES = {"stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "calls": "tool_use"}


@dataclass
class Anthropic(Provider):
    """The fake. `key` is taken as `x-api-key` and as bearer. `redact`: thinking is preceded by a redacted block."""

    name: str = "anthropic"
    key: str = KEY
    redact: bool = False
    max_body: int = 32 * 1024 * 1024  # bytes
    call_prefix: str = "toolu_01"
    cached: dict[str, int] = field(default_factory=dict)  # tokens of every prefix that was marked, by its text
    keeper: Keeper = field(init=False)

    def __post_init__(self) -> None:
        self.keeper = Keeper(self.secret)

    def serve(self, request: Request) -> Reply:
        self._authorized(request)
        if (request.method, request.path) == ("GET", "/v1/models"):
            return Reply([dumps(models())])
        if request.method != "POST" or request.path not in ("/v1/messages", "/v1/messages/count_tokens"):
            raise no("path")
        if len(request.body) > self.max_body:
            raise no("too_large")
        version = self._version(request)
        doc = self._typed(request, version)
        model = check(doc, self.keeper, version)
        if size_of(doc) > model.context:
            raise no("context", given=size_of(doc), limit=model.context)
        if request.path.endswith("count_tokens"):
            return Reply([dumps({"input_tokens": size_of(doc)})], headers=self._headers())
        return self._answer(doc, model)

    # What is refused before the rules of the messages.

    def _authorized(self, request: Request) -> None:
        key, bearer = request.header("x-api-key"), request.header("authorization")
        if key is None and bearer is None:
            raise no("auth_missing")
        if (key if key is not None else (bearer or "").removeprefix("Bearer ")) != self.key:  # with both, x-api-key counts
            raise no("auth_invalid")

    def _version(self, request: Request) -> str:
        version = request.header("anthropic-version")
        if version is None:
            raise no("version_missing")
        if version not in VERSIONS:
            raise no("version_unknown", version=version)
        if (request.header("content-type") or "").partition(";")[0] != "application/json":
            raise no("content_type")
        if not isinstance(request.doc, dict):
            raise no("body")
        return version

    def _typed(self, request: Request, version: str) -> Doc:
        doc: Doc = request.doc
        counting, beta = request.path.endswith("count_tokens"), request.header("anthropic-beta") is not None
        wanted: Any = MessageCountTokensParams if counting else MessageCreateParams
        if beta:
            wanted = beta_count.MessageCountTokensParams if counting else beta_create.MessageCreateParams
        try:
            for name in HEADERS_ONLY:
                if name in doc:
                    raise Mismatch((name,), "extra", "Extra inputs are not permitted")
            for name in SAMPLING.keys() & doc.keys():
                if counting or version != VERSIONS[0]:
                    raise no("sampling_gone", param=name)
                check_type(doc[name], SAMPLING[name], (name,))
            check_type({name: value for name, value in doc.items() if name not in SAMPLING}, wanted)
        except Mismatch as mismatch:
            raise no("typed", where=".".join(mismatch.where), what=mismatch.what) from None
        return doc

    # Answers.

    def _answer(self, doc: Doc, model: Claude) -> Reply:
        self.made += 1
        said = answer(read_turns(doc), read_settings(doc))
        blocks = self.blocks(said, doc, model)
        counts = usage(self.counted(doc), said)
        message = {
            "id": name_of(self.made, "msg_01"), "type": "message", "role": "assistant", "model": doc["model"], "content": blocks,
            "stop_reason": FINISHES[said.finish], "stop_sequence": said.stop, "usage": counts,
        }  # fmt: skip
        if not doc.get("stream"):
            return Reply([dumps(message)], headers=self._headers())
        return Reply(events(message), SSE, stream=True, headers=self._headers())

    def blocks(self, said: Answer, doc: Doc, model: Claude) -> Blocks:
        """The content of an answer; its thinking is signed, and remembered by the calls that it led to."""
        thought: Blocks = []
        if said.thinking:
            shown = (doc["thinking"].get("display") or ("omitted" if model.omitted else "summarized")) == "summarized"
            if self.redact:
                thought.append({"type": "redacted_thinking", "data": seal(self.secret, b"R", said.thinking)})
            kind, text = (b"T", said.thinking) if shown else (b"O", "")
            thought.append({"type": "thinking", "thinking": text, "signature": seal(self.secret, kind, said.thinking)})
        blocks = list(thought)
        if said.text:
            blocks.append({"type": "text", "text": said.text})
        for at, call in enumerate(said.calls):
            name = name_of(self.made * 16 + at, self.call_prefix)
            self.keeper.turns[name] = thought
            blocks.append({"type": "tool_use", "id": name, "name": call.name, "input": call.arguments})
        return blocks

    def counted(self, doc: Doc) -> Doc:
        """Input tokens: read from, written to (up to the last mark), and beside the cache. All prefixes are kept for this fake's life."""
        text, total, read, written = doc["model"], 0, 0, 0
        ttl = "5m"
        for part, size, mark in prompt(doc):
            text, total = text + part, total + size
            if mark is None:
                continue
            ttl, written = mark.get("ttl", "5m"), total
            if text in self.cached:
                read = total
            self.cached[text] = total
        new = written - read
        return {
            "input_tokens": total - written, "cache_read_input_tokens": read, "cache_creation_input_tokens": new,
            "cache_creation": {
                "ephemeral_5m_input_tokens": new if ttl == "5m" else 0, "ephemeral_1h_input_tokens": new if ttl == "1h" else 0,
            },
        }  # fmt: skip

    # Refusals and faults.

    def _headers(self) -> tuple[tuple[str, str], ...]:
        return (("request-id", name_of(len(self.requests), "req_01")),)

    def _error(self, status: int, kind: str, message: str, details: Any = None, headers: tuple[tuple[str, str], ...] = ()) -> Script:
        error = {"type": kind, "message": message} | ({"details": details} if details is not None else {})
        own = self._headers()
        return json_error(status, {"type": "error", "error": error, "request_id": own[0][1]}, (*own, *headers))

    def refusal(self, rejected: Rejected) -> Script:
        return self._error(rejected.status, rejected.rule.kind, rejected.message)

    def failure(self, fault: Fault) -> Script:
        return self._error(fault.status, fault.kind or KINDS.get(fault.status, "api_error"), fault.message, fault.details, fault.headers)

    def error_event(self, fault: Fault) -> bytes:
        return event({"type": "error", "error": {"type": fault.kind or "overloaded_error", "message": fault.message}})


# Reading.


def read_turns(doc: Doc) -> list[Turn]:
    """The conversation as the mind knows it. A system message among the turns counts as the user's."""
    return [
        Turn(
            "assistant" if role == "assistant" else "user",
            "\n".join(block["text"] for block in blocks if block["type"] == "text"),
            files(blocks),
            tuple(Call(block["name"], block["input"], block["id"]) for block in blocks if block["type"] == "tool_use"),
            tuple(result(block) for block in blocks if block["type"] == "tool_result"),
            "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        )
        for _, role, blocks in turns_of(doc)
    ]


def files(blocks: Blocks) -> tuple[Media, ...]:
    found = []
    for block in blocks:
        source = block.get("source", {})
        if block["type"] in ("image", "document") and source["type"] == "base64":
            found.append(Media(source["media_type"], base64.b64decode(source["data"])))
        elif block["type"] in ("image", "document"):
            found.append(Media("", (source.get("url") or source.get("data") or "").encode()))
    return tuple(found)


def result(block: Doc) -> Result:
    content = blocks_of({"content": block.get("content", "")})
    text = "\n".join(part["text"] for part in content if part["type"] == "text")
    return Result(text, block["tool_use_id"], "", block.get("is_error", False), files(content))


def read_settings(doc: Doc) -> Settings:
    choice = doc.get("tool_choice") or {"type": "auto"}
    form = (doc.get("output_config") or {}).get("format")
    return Settings(
        system="\n".join(block["text"] for block in blocks_of({"content": doc.get("system") or []})),
        tools=tuple(Tool(tool["name"], tool["input_schema"]) for tool in doc.get("tools") or [] if "input_schema" in tool),
        force="=" + choice["name"] if choice["type"] == "tool" else choice["type"],
        parallel=not choice.get("disable_parallel_tool_use", False),
        schema=form["schema"] if form else None,
        thinking=thinks(doc),
        max_tokens=doc["max_tokens"],
        stops=tuple(doc.get("stop_sequences") or ()),
    )


def prompt(doc: Doc) -> list[tuple[str, int, Doc | None]]:
    """The prompt in order (tools, system, messages): each part's text, its tokens, and its cache_control."""
    parts: list[Doc] = [*(doc.get("tools") or []), *blocks_of({"content": doc.get("system") or []})]
    parts += [block | {"role": message["role"]} for message in doc["messages"] for block in blocks_of(message)]
    found = []
    for part in parts:
        text = json.dumps({name: value for name, value in part.items() if name != "cache_control"}, sort_keys=True)
        found.append((text, 3 + len(tokens(text)), part.get("cache_control")))
    if doc.get("cache_control"):  # the automatic form marks the last block
        found[-1] = (*found[-1][:2], doc["cache_control"])
    return found


def size_of(doc: Doc) -> int:
    """All input tokens."""
    return sum(size for _, size, _ in prompt(doc))


# Writing.


def usage(counts: Doc, said: Answer) -> Doc:
    details = {"output_tokens_details": {"thinking_tokens": said.thinking_tokens}} if said.thinking else {}
    return counts | {"output_tokens": said.output_tokens + said.thinking_tokens, "service_tier": "standard"} | details


def event(doc: Doc) -> bytes:
    """One named event, as Anthropic writes it."""
    return b"event: %s\ndata: %s\n\n" % (doc["type"].encode(), dumps(doc))


def events(message: Doc) -> list[bytes]:
    """The whole stream of a message. The usage of the start is partial, that of the end cumulative (doc: streaming; trap 41)."""
    opening = message | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": message["usage"] | {"output_tokens": 1}}
    opening["usage"].pop("output_tokens_details", None)
    found: list[Doc] = [{"type": "message_start", "message": opening}]
    for index, block in enumerate(message["content"]):
        start, deltas = split(block)
        found.append({"type": "content_block_start", "index": index, "content_block": start})
        if index == 0:
            found.append({"type": "ping"})
        found += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        found.append({"type": "content_block_stop", "index": index})
    final = {name: value for name, value in message["usage"].items() if name not in ("service_tier", "cache_creation")}
    delta = {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]}
    found += [{"type": "message_delta", "delta": delta, "usage": final}, {"type": "message_stop"}]
    return [event(one) for one in found]


def split(block: Doc) -> tuple[Doc, list[Doc]]:
    """A block as its start and its deltas. A tool without arguments has one delta, which is empty (trap 20)."""
    match block["type"]:
        case "text":
            return block | {"text": ""}, [{"type": "text_delta", "text": part} for part in tokens(block["text"])]
        case "thinking":
            parts: list[Doc] = [{"type": "thinking_delta", "thinking": part} for part in tokens(block["thinking"])]
            return block | {"thinking": "", "signature": ""}, [*parts, {"type": "signature_delta", "signature": block["signature"]}]
        case "tool_use":
            written = json.dumps(block["input"]) if block["input"] else ""
            return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in ("", *pieces(written))]
        case _:
            return block, []


def models() -> Doc:
    rows = [
        {
            "type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active",
            "max_tokens": model.max_output, "max_input_tokens": 200_000,
        }
        for name, model in MODELS.items()
    ]  # fmt: skip
    return {"data": rows, "has_more": False, "first_id": rows[0]["id"], "last_id": rows[-1]["id"]}
