"""Whether an engine makes the same tokens of a prompt as we do: questions whose answers we know. Pure but for `fetch`.

vLLM and SGLang take messages at `/tokenize` and answer `{"tokens": [...]}`. llama-server renders at `/apply-template` (`{"prompt"}`) and
tokenises text at `/tokenize`. What differs in tools, lists of parts, developers' messages or plain prompts only, is left to text mode by
itself; what differs in a plain conversation ends token mode.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, cast, get_args

import msgspec

from backends.prompts import body
from backends.prompts.prompter import Prompter
from backends.prompts.rendered import Feature, Rendered
from backends.prompts.types import Unreadable
from backends.types import Call, Fault

Fetch = Callable[[str, bytes], Awaitable[bytes]]
_LLAMA = frozenset({"llamacpp", "llama-server"})

_TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "  What is 12 + 7?\n\n"},
    {"role": "assistant", "content": "It is 19 – “neunzehn”. 你好 😀"},
    {"role": "user", "content": "def f(x):\n\treturn [x, 'y']  "},
]
_SYSTEM: dict[str, Any] = {"role": "system", "content": "You are brief.\nSpeak plainly. "}
_TOOLS: list[dict[str, Any]] = [{
    "type": "function",
    "function": {
        "description": "The weather at a place", "name": "weather",
        "parameters": {"type": "object", "required": ["place"], "properties": {"place": {"type": "string", "description": "a <town>"}}},
    },
}]  # fmt: skip
_CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "Rain in Ulm?"},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "call00001", "type": "function", "function": {"name": "weather", "arguments": '{"place":"Ulm"}'}},
    ]},
    {"role": "tool", "tool_call_id": "call00001", "content": '{"rain": true}'},
]  # fmt: skip
_PARTS: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "One part."}, {"type": "text", "text": " And another."}]}
]
_PLAIN = "Once upon a time,\n there  was <a> café. 12345"
_QUESTIONS: list[tuple[Feature | Literal[""], dict[str, Any]]] = [
    ("", {"messages": _TALK}),
    ("", {"messages": [_SYSTEM, _TALK[0]]}),
    ("tools", {"messages": _CALLS, "tools": _TOOLS}),
    ("parts", {"messages": _PARTS}),
    ("developer", {"messages": [{**_SYSTEM, "role": "developer"}, _TALK[0]]}),
    ("completions", {"prompt": _PLAIN}),
]


class Probe(msgspec.Struct, frozen=True):
    """One question: what to POST where, and the call whose prompt it is. `feature`: what it is about, "" for plain conversations."""

    path: str
    body: bytes
    feature: Feature | Literal[""]
    call: Call


def probes(prompter: Prompter, model: str = "") -> list[Probe]:
    """The questions for the prompter's engine; none in text mode. `model`: the name that the engine serves it under."""
    rendered = prompter.rendered
    return [] if rendered is None else [_probe(rendered.engine, feature, doc, model) for feature, doc in _QUESTIONS]


def agrees(prompter: Prompter, probe: Probe, answer: bytes) -> bool:
    """Whether the engine's answer is what we compute, or both refuse. Never raises; False in text mode."""
    rendered = prompter.rendered
    return rendered is not None and _agrees(rendered.adapted(rendered.form, rendered.shape), probe, answer)


async def verify(prompter: Prompter, fetch: Fetch, model: str = "") -> bool:
    """Asks the engine and adapts the prompter: True when it is in token mode afterwards, and otherwise `prompter.reason` says why not.

    `fetch(path, body)` POSTs and returns the answer's body whatever its status. A `Fault` of the kinds bad_request and not_found counts as
    a refusal of that question; what else it raises passes through, and nothing is changed then. Of several replicas each is asked,
    one after the other: the first one's ways are kept, and what any does otherwise is left to text mode.
    """
    answers = [(probe, await _ask(fetch, probe)) for probe in probes(prompter, model)]
    rendered = prompter.rendered  # it may have been left meanwhile
    if rendered is None:
        return False
    base = [pair for pair in answers if not pair[0].feature]
    told = [pair for pair in base if _told(rendered, pair[1]) is not None]
    if not told:
        prompter.drop("the engine does not tell how it tokenises a conversation, so that it cannot be compared.")
        return False
    trials = [rendered.adapted(rendered.form, rendered.shape)] if prompter.verified else rendered.trials()
    trial = max(trials, key=lambda one: sum(_agrees(one, *pair) for pair in answers))
    if not all(_agrees(trial, *pair) for pair in base):
        prompter.drop("the engine tokenises a plain conversation otherwise: its tokenizer or chat template is another than the one found.")
        return False
    differs = {probe.feature for probe, answer in answers if not _agrees(trial, probe, answer)}
    refused = rendered.refused | {f for f in get_args(Feature) if f in differs}
    prompter.adapt(trial.adapted(trial.form, trial.shape, refused))
    return True


async def _ask(fetch: Fetch, probe: Probe) -> bytes:
    try:
        return await fetch(probe.path, probe.body)
    except Fault as fault:
        if fault.kind not in ("bad_request", "not_found"):
            raise
        return b""


def _probe(engine: str, feature: Feature | Literal[""], doc: dict[str, Any], model: str) -> Probe:
    raw = {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in doc.items()}
    api = "completions" if "prompt" in doc else "chat"
    call = Call(b"probe", api, model, False, raw, "", {}, 0.0)
    if engine not in _LLAMA:
        return Probe("/tokenize", msgspec.json.encode({**({"model": model} if model else {}), **doc}), feature, call)
    if "prompt" in doc:
        question = {"content": doc["prompt"], "add_special": True, "parse_special": True}
        return Probe("/tokenize", msgspec.json.encode(question), feature, call)
    return Probe("/apply-template", msgspec.json.encode(doc), feature, call)


def _agrees(rendered: Rendered, probe: Probe, answer: bytes) -> bool:
    told = _told(rendered, answer)
    try:
        if probe.call.api == "completions":
            return told == rendered.completion(probe.call, _PLAIN).ids.tolist()
        messages = body.messages(probe.call)
        if isinstance(told, str):
            return told == rendered.text(probe.call, messages)
        return told == rendered.chat(probe.call, messages).ids.tolist()
    except Unreadable:
        return told is None


def _told(rendered: Rendered, answer: bytes) -> list[int] | str | None:
    """Token ids or rendered text out of an answer; None when it tells neither."""
    try:
        found = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        return None
    if not isinstance(found, dict):
        return None
    tokens, text = found.get("tokens"), found.get("prompt")
    if isinstance(tokens, list) and all(type(one) is int for one in tokens):
        return cast("list[int]", tokens)
    return text if isinstance(text, str) and rendered.engine in _LLAMA else None
