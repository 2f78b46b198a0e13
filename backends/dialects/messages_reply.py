"""Whole chat answers → Anthropic Messages, and the words that streams share with them. Pure.

Source of the format: the types of Anthropic's SDK (`Message`, `StopReason`, `Usage`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from backends import wire
from backends.dialects.types import Context
from backends.types import Fault, Usage
from backends.wire import Doc

Block = dict[str, Any]
_REASONS = {
    "stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "function_call": "tool_use", "content_filter": "refusal",
}  # fmt: skip
_NATIVE = frozenset({"end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal", "model_context_window_exceeded"})
_ID = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


class Ended(msgspec.Struct):
    """How a choice ended, in the words of OpenAI, vLLM (`stop_reason`), SGLang (`matched_stop`) and the provider."""

    finish_reason: Any = None
    native_finish_reason: Any = None
    stop_reason: Any = None
    matched_stop: Any = None


class _Function(msgspec.Struct):
    name: Any = None
    arguments: Any = None


class _Call(msgspec.Struct):
    id: Any = None
    function: _Function = msgspec.field(default_factory=_Function)


class _Message(msgspec.Struct):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    thinking_blocks: list[Block] | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Ended):
    message: _Message = msgspec.field(default_factory=_Message)


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: Any = None


_completion = msgspec.json.Decoder(_Completion)
_any = msgspec.json.Decoder()


def reply(body: bytes, asked: Doc, context: Context) -> bytes:
    """See `Surface.reply`."""
    try:
        answer = _completion.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise Fault("upstream", f"The backend's answer is no chat completion: {e}.", origin="backend", code="not_a_completion") from None
    if not answer.choices:
        raise Fault("upstream", "The backend's answer has no choices.", origin="backend", code="not_a_completion")
    choice = answer.choices[0]
    content = _content(choice.message, context)
    called = any(block["type"] == "tool_use" for block in content)
    refusal = choice.message.refusal if isinstance(choice.message.refusal, str) and choice.message.refusal else None
    reason, sequence = ("refusal", None) if refusal and not called else stopped(choice, called, asked)
    message: Block = {
        "id": f"msg_{safe(context.id)}", "type": "message", "role": "assistant",
        "model": answer.model if isinstance(answer.model, str) and answer.model else context.model,
        "content": content, "stop_reason": reason, "stop_sequence": sequence, "usage": counts(wire.usage(body)),
    }  # fmt: skip
    if reason == "refusal":
        message["stop_details"] = details(refusal)
    return wire.encode(message)


def _content(message: _Message, context: Context) -> list[Block]:
    thought, said = texts(message.content)
    out = list(thinking_blocks(message.thinking_blocks or ()))
    for text in () if out else (message.reasoning_content, message.reasoning, thought):
        if isinstance(text, str) and text:
            out.append({"type": "thinking", "thinking": text, "signature": ""})
            break
    if isinstance(message.refusal, str):
        said += message.refusal
    calls = [_tool_use(call, i, context) for i, call in enumerate(message.tool_calls or ())]
    if said and (not said.isspace() or not (out or calls)):  # Anthropic takes no blank text back
        out.append({"type": "text", "text": said})
    return out + calls


def texts(content: object) -> tuple[str, str]:
    """(thinking, text) of a message's content: a string, or parts as Mistral sends them."""
    if isinstance(content, str):
        return "", content
    thought, said = "", ""
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        text = part.get("text")
        if isinstance(text, str):
            said += text
        elif part.get("type") == "thinking":
            thought += texts(part.get("thinking"))[1]
    return thought, said


def thinking_blocks(given: Iterable[object]) -> Iterable[Block]:
    """Those of a hub message's `thinking_blocks` that are what they say."""
    for block in given:
        if not isinstance(block, dict):
            continue
        if block.get("type") == "thinking" and isinstance(block.get("thinking"), str):
            signature = block.get("signature")
            yield {"type": "thinking", "thinking": block["thinking"], "signature": signature if isinstance(signature, str) else ""}
        elif block.get("type") == "redacted_thinking" and isinstance(block.get("data"), str):
            yield {"type": "redacted_thinking", "data": block["data"]}


def _tool_use(call: _Call, index: int, context: Context) -> Block:
    name = call.function.name if isinstance(call.function.name, str) else ""
    return {"type": "tool_use", "id": call_id(call.id, index, context), "name": name, "input": parsed(call.function.arguments)}


def call_id(given: object, index: int, context: Context) -> str:
    """A call's own id, since the backend wants it back; one made of the request's where there is none."""
    return given if isinstance(given, str) and given else f"toolu_{safe(context.id)}_{index}"


def parsed(arguments: object) -> Block:
    """Arguments as the object that Messages wants. Empty means `{}`; what is no object is wrapped whole (trap 15)."""
    if isinstance(arguments, dict):
        return arguments
    if not isinstance(arguments, str):
        return {}
    if not arguments.strip():
        return {}
    try:
        value = _any.decode(arguments)
    except (msgspec.MsgspecError, RecursionError):
        value = None
    return value if isinstance(value, dict) else wrapped(arguments)


def wrapped(arguments: str) -> Block:
    """What a small model wrote instead of a JSON object, kept for the client to see."""
    return {"invalid_arguments": arguments}


def stopped(ended: Ended, called: bool, asked: Doc) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence). Calls make it `tool_use`: OpenAI says `stop` for a forced one (trap 25), and a client that
    reads anything else would not run them."""
    finish = ended.finish_reason if isinstance(ended.finish_reason, str) else "stop"
    native = ended.native_finish_reason
    reason = native if isinstance(native, str) and native in _NATIVE else _REASONS.get(finish, "end_turn")
    if called:
        return ("tool_use" if reason in ("end_turn", "stop_sequence") else reason), None
    if reason == "tool_use":
        reason = "end_turn"
    if reason not in ("end_turn", "stop_sequence"):
        return reason, None
    for matched in (ended.stop_reason, ended.matched_stop):
        if isinstance(matched, str) and matched in _sequences(asked):
            return "stop_sequence", matched
    return reason, None


def _sequences(asked: Doc) -> list[Any]:
    raw = asked.get("stop_sequences")
    value = _any.decode(raw) if raw is not None else None
    return value if isinstance(value, list) else []


def details(explanation: str | None) -> Block:
    """`stop_details` of a refusal."""
    return {"type": "refusal", "category": None, "explanation": explanation}


def counts(usage: Usage | None) -> Block:
    """Anthropic's counts are disjoint as ours: `input_tokens` excludes what was read from or written to a cache (trap 41)."""
    u = usage or Usage()
    out: Block = {
        "input_tokens": u.input, "cache_creation_input_tokens": u.cache_write, "cache_read_input_tokens": u.cached,
        "output_tokens": u.output + u.reasoning,
    }  # fmt: skip
    if u.reasoning:
        out["output_tokens_details"] = {"thinking_tokens": u.reasoning}
    return out


def safe(name: str) -> str:
    """A request's id with only what Anthropic's ids are made of."""
    return name if _ID.issuperset(name) else "".join(c if c in _ID else "_" for c in name)
