"""chat → Anthropic Messages: requests, whole answers, streams. Pure.

Source: the types of the official SDK (`anthropic.types`). What a model can do is told by `Facts`.
"""

from __future__ import annotations

from typing import Any, Literal

from backends import wire
from backends.dialects import anthropic_params as params
from backends.dialects import anthropic_read as read
from backends.dialects.anthropic_report import Block, Report, value
from backends.dialects.anthropic_stream import AnthropicStream
from backends.dialects.anthropic_tools import Toolbox
from backends.dialects.anthropic_turns import Message, Turns
from backends.dialects.types import Context, Request, Stream

VERSION = "2023-06-01"
VERTEX_VERSION = "vertex-2023-10-16"
FIRST = "."  # the text of a user turn before a conversation that the assistant begins


class Anthropic:
    """The dialect of `api.anthropic.com`, or of Claude on Vertex AI, which has the model in the path and the version in the body."""

    def __init__(self, form: Literal["api", "vertex"] = "api") -> None:
        self.name = "anthropic"
        self.form = form

    def request(self, doc: wire.Doc, context: Context) -> Request:
        """`doc` as Anthropic takes it. Raises `Fault` (bad_request) for what must not be sent. Leaves `doc` as it is."""
        facts, report = context.facts, Report(context.strict)
        out: Block = {"model": context.model, "max_tokens": params.max_tokens(doc, facts, report)}
        turns = _conversation(doc, context, report)
        if turns.system:
            out["system"] = _system(turns.system)
        out["messages"] = turns.turns
        params.leftovers(doc, out, report)
        params.thinking(doc, out, facts, report)
        params.unsigned_loop(doc, out, report)
        params.sampling(doc, out, facts, report)
        params.stops(doc, out, report)
        params.account(doc, out, report)
        toolbox = Toolbox(doc, out, facts, report)
        toolbox.fill(turns.names)
        _prefilled(out, context, report)
        params.cap_marks(out, report)
        if context.stream:
            out["stream"] = True
        return self._request(out, context, report, read.Memo(toolbox.format))

    def _request(self, out: Block, context: Context, report: Report, memo: read.Memo) -> Request:
        notes = tuple(report.notes)
        if self.form == "api":
            return Request("/v1/messages", wire.encode(out), (("anthropic-version", VERSION),), notes, memo)
        del out["model"]
        out["anthropic_version"] = VERTEX_VERSION
        verb = "streamRawPredict" if context.stream else "rawPredict"
        return Request(f"/publishers/anthropic/models/{context.model}:{verb}", wire.encode(out), (), notes, memo)

    def reply(self, body: bytes, request: Request, context: Context) -> bytes:
        """A whole message as a `chat.completion`. Raises `Fault` (upstream) when it is none."""
        return read.reply(body, request.memo, context)

    def stream(self, request: Request, context: Context) -> Stream:
        """A translator of one event stream."""
        return AnthropicStream(request.memo, context)


def _conversation(doc: wire.Doc, context: Context, report: Report) -> Turns:
    messages = value(doc, "messages", list[Message])
    if not messages:
        raise wire.bad("'messages' must be a list with at least one message.", param="messages")
    turns = Turns(context.facts, report)
    for i, message in enumerate(messages):
        turns.add(message, f"messages[{i}]")
    turns.close()
    if turns.turns and turns.turns[0]["role"] == "assistant":
        turns.turns.insert(0, {"role": "user", "content": [{"type": "text", "text": FIRST}]})
        report.tell("messages", "emulated", f"Anthropic wants a user message first; one with {FIRST!r} was put before the assistant's")
    if not turns.turns:
        raise wire.bad("'messages' needs at least one message with content that is no system message.", param="messages")
    return turns


def _system(blocks: list[Block]) -> Any:
    """One text, unless a cache mark needs the blocks."""
    if any("cache_control" in block for block in blocks):
        return blocks
    return "\n\n".join(block["text"] for block in blocks)


def _prefilled(out: Block, context: Context, report: Report) -> None:
    """A last message of the assistant, which the model would continue: not every model does, none while it thinks, and its text
    may not end in white space. Mutates `out`; raises `Fault` (bad_request)."""
    last = out["messages"][-1]
    if last["role"] != "assistant":
        return
    if not context.facts.prefill:
        raise wire.bad("'messages' ends with an assistant message, which this model does not continue.", param="messages")
    if params.thinks(out):
        raise wire.bad("'messages' ends with an assistant message, which a model that thinks does not continue.", param="messages")
    block = last["content"][-1]
    if block["type"] == "text" and block["text"] != block["text"].rstrip():
        last["content"][-1] = {**block, "text": block["text"].rstrip()}
        report.tell("messages", "clamped", "the last message may not end in white space; it was taken off")
