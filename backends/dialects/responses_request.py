"""A Responses request as a chat document. Pure; raises `Fault` (bad_request, client) with the client's own parameter names.

Parameters, beside those in the tables below: unknown ones pass as they came, since many backends have parameters of their own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects.responses_input import Conversation
from backends.dialects.responses_tools import Notes, a_string, choice, response_format, toolbox
from backends.dialects.types import Note
from backends.wire import Doc

LOGPROBS = "message.output_text.logprobs"
_HERE = frozenset({"reasoning.encrypted_content", LOGPROBS})  # what `include` may name and is given

_SAME = (
    "model", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier",
)  # fmt: skip
# Read below, by the surface's answers, or by whoever keeps responses.
_READ = frozenset({
    *_SAME, "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "include", "top_logprobs",
    "max_output_tokens", "stream", "stream_options", "store", "metadata", "truncation", "background", "conversation", "prompt",
    "previous_response_id", "max_tool_calls", "background_options", "context_management", "access_programs", "image",
    "prompt_cache_options", "client_metadata",
})  # fmt: skip
_REFUSED = {
    "background": "answers in the background are not made here; leave it out and stream instead.",
    "conversation": "conversations are not kept here; use 'previous_response_id' or send the items.",
    "prompt": "prompt templates are kept at OpenAI and cannot be read here; send the text itself.",
    "previous_response_id": "no responses are kept here, so there is none to follow; send the earlier items in 'input'.",
}
_LOST = {
    "context_management": "contexts are not compacted here.",
    "access_programs": "no other backend has access programs.",
    "image": "no other backend has this setting.",
    "prompt_cache_options": "no other backend has this setting; mark parts with 'prompt_cache_breakpoint' instead.",
}
_NEEDLESS = {
    "max_tool_calls": "it counts calls of tools that OpenAI runs, of which there are none.",
    "background_options": "nothing runs in the background.",
    "client_metadata": "it tells OpenAI about the client.",
}
_UNSET = frozenset({b"null", b"false", b"{}", b"[]", b'""'})


def set_(doc: Doc, key: str) -> bool:
    """Whether a parameter says anything."""
    return key in doc and bytes(doc[key]) not in _UNSET


def translate(doc: Doc, strict: bool) -> tuple[Doc, tuple[Note, ...]]:
    """The chat document and what became of what was not simply sent. `doc` holds the whole input: earlier items are joined already."""
    notes = Notes(strict)
    _refuse(doc, notes)
    out: Doc = {key: doc[key] for key in _SAME if key in doc and doc[key] != wire.NULL}
    out["messages"] = wire.raw(_messages(doc, notes))
    out |= _tools(doc, notes)
    out |= _text(doc, notes)
    out |= _reasoning(doc, notes)
    out |= _logprobs(doc, notes)
    if set_(doc, "max_output_tokens"):
        out["max_completion_tokens"] = doc["max_output_tokens"]
    if set_(doc, "metadata"):
        notes.add("metadata", "mapped", "kept with the response, not sent.")
    if wire.flag(doc, "stream"):
        out |= {"stream": wire.TRUE, "stream_options": wire.raw({"include_usage": True})}
        if wire.flag(wire.sub(doc, "stream_options"), "include_obfuscation"):
            notes.add("stream_options.include_obfuscation", "dropped", "events are not padded.")
    out |= {key: value for key, value in doc.items() if key not in _READ}
    return out, tuple(notes.list)


def _refuse(doc: Doc, notes: Notes) -> None:
    for key, why in _REFUSED.items():
        if set_(doc, key):
            raise wire.bad(f"'{key}': {why}", param=key)
    for key, why in _LOST.items():
        if set_(doc, key):
            notes.lost(key, why)
    for key, why in _NEEDLESS.items():
        if set_(doc, key):
            notes.add(key, "dropped", why)
    if wire.text(doc, "truncation") not in (None, "disabled"):
        notes.lost("truncation", "inputs are not shortened here; leave it out or send 'disabled'.")


def _messages(doc: Doc, notes: Notes) -> list[dict[str, Any]]:
    talk = Conversation(notes)
    instructions = wire.text(doc, "instructions")
    if instructions:
        talk.system(instructions)
    for i, item in enumerate(given(doc)):
        talk.add(item, f"input[{i}]")
    messages = talk.messages()
    if not messages:
        raise wire.bad("'input' is missing.", param="input")
    return messages


def given(doc: Doc) -> list[Any]:
    """The input as a list of decoded items; a string is one message of the user."""
    raw = doc.get("input")
    try:
        value = msgspec.json.decode(raw) if raw is not None else None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise wire.bad("'input' holds a value that cannot be read; check its strings and its depth.", param="input") from None
    if value is None:
        return []
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise wire.bad("'input' must be a string or a list of items.", param="input")
    return value


def _tools(doc: Doc, notes: Notes) -> Doc:
    box = toolbox(doc, notes)
    chosen = choice(doc, box, notes)
    if not box.functions:  # without tools chat takes no settings of them either
        if chosen == "required":
            raise wire.bad("'tool_choice' is required, but there is no tool to call.", param="tool_choice")
        return {}
    out: Doc = {"tools": wire.raw(list(box.functions.values()))}
    if chosen is not None:
        out["tool_choice"] = wire.raw(chosen)
    if doc.get("parallel_tool_calls", wire.NULL) != wire.NULL:
        out["parallel_tool_calls"] = doc["parallel_tool_calls"]
    return out


def _text(doc: Doc, notes: Notes) -> Doc:
    text = wire.sub(doc, "text")
    out: Doc = {}
    form = response_format(text)
    if form is not None:
        out["response_format"] = wire.raw(form)
    if set_(text, "verbosity"):
        out["verbosity"] = text["verbosity"]
    _others(text, "text", ("format", "verbosity"), notes)
    return out


def _reasoning(doc: Doc, notes: Notes) -> Doc:
    reasoning = wire.sub(doc, "reasoning")
    _others(reasoning, "reasoning", ("effort", "summary", "generate_summary"), notes)
    if wants_summary(doc):
        notes.add("reasoning.summary", "mapped", "what the model shows of its reasoning is given as the summary.")
    return {"reasoning_effort": wire.raw(a_string(reasoning, "effort", "reasoning"))} if set_(reasoning, "effort") else {}


def _others(doc: Doc, path: str, known: tuple[str, ...], notes: Notes) -> None:
    for key in doc:
        if key not in known and set_(doc, key):
            notes.add(f"{path}.{key}", "dropped", "chat has no such setting.")


def wants_summary(doc: Doc) -> bool:
    """Whether reasoning is to be shown as a summary, and not as the reasoning's own text."""
    reasoning = wire.sub(doc, "reasoning")
    return set_(reasoning, "summary") or set_(reasoning, "generate_summary")


def included(doc: Doc) -> frozenset[str]:
    """What `include` names."""
    raw = doc.get("include")
    if raw is None or raw == wire.NULL:
        return frozenset()
    try:
        return frozenset(msgspec.json.decode(raw, type=list[str]))
    except (msgspec.MsgspecError, RecursionError):
        raise wire.bad("'include' must be a list of strings.", param="include") from None


def wants_logprobs(doc: Doc) -> bool:
    """Whether log probabilities are to be in the answer."""
    return LOGPROBS in included(doc) or bytes(doc.get("top_logprobs", b"0")) not in (b"0", b"null")


def _logprobs(doc: Doc, notes: Notes) -> Doc:
    for name in sorted(included(doc) - _HERE):
        notes.add("include", "dropped", f"'{name}' belongs to tools that OpenAI runs.")
    if not wants_logprobs(doc):
        return {}
    out: Doc = {"logprobs": wire.TRUE}
    if set_(doc, "top_logprobs"):
        out["top_logprobs"] = doc["top_logprobs"]
    return out
