"""What engines do to a chat request before their template sees it. Pure; nothing that is given is changed.

Sources: vLLM 0.32 `renderers/chat_utils.py`, `renderers/hf.py`, `renderers/online_renderer.py`; SGLang 0.5.23
`entrypoints/openai/serving_chat.py`, `parser/jinja_template_utils.py`; llama.cpp `common/chat.cpp`. `verify` asks the engine whether it
is so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from backends.prompts import body, media
from backends.prompts.types import Unreadable

Messages = list[dict[str, Any]]
Form = Literal["string", "openai"]  # of contents: flat texts, or lists of parts as the template iterates over
Arrange = Callable[[Sequence[Mapping[str, Any]], Form], Messages]
Shape = Callable[[Any], Any]  # of one tool


def vllm(messages: Sequence[Mapping[str, Any]], form: Form) -> Messages:
    """Texts joined by line ends, or all wrapped as parts; arguments as objects; of other keys only those it knows."""
    return [_vllm(m, form) for m in messages]


def sglang(messages: Sequence[Mapping[str, Any]], form: Form) -> Messages:
    """Texts joined by spaces, or lists kept; keys that are null dropped; an assistant's last words count as the user's."""
    out = [_sglang(m, form) for m in messages]
    if out and out[-1].get("role") == "assistant" and isinstance(out[-1].get("content"), str):
        out[-1] = {"role": "user", "content": out[-1]["content"]}
    return out


def plain(messages: Sequence[Mapping[str, Any]], form: Form) -> Messages:
    """As they came, but for arguments (objects) and media (placeholders)."""
    return [_plain(m, form) for m in messages]


def _vllm(m: Mapping[str, Any], form: Form) -> dict[str, Any]:
    role, content = _role(m), m.get("content")
    if form == "string" and type(content) is str and m.keys() <= _BARE and role != "developer":
        return {"role": role, "content": content}
    parts: Any = [] if content is None else [{"type": "text", "text": content}] if isinstance(content, str) else content
    wrapped = [_part(p) for p in _list(parts)]
    if form == "string":
        wrapped = [p for p in wrapped if p.get("text", True)]  # empty texts are dropped before they are joined
    texts = all(p["type"] == "text" for p in wrapped)
    flat = form == "string" or (role == "tool" and texts)
    out: dict[str, Any] = {"role": role, "content": _joined(wrapped, "\n") if flat else wrapped}
    if role == "assistant":
        if calls := m.get("tool_calls"):
            out["tool_calls"] = [_call(c) for c in _list(calls)]
        if m.get("reasoning") is not None:
            out["reasoning"] = out["reasoning_content"] = m["reasoning"]
    elif role == "tool" and "tool_call_id" in m:
        out["tool_call_id"] = m["tool_call_id"]
    for key in ("name", "task"):
        if isinstance(m.get(key), str):
            out[key] = m[key]
    if role == "developer":
        out["tools"] = m.get("tools")
    return out


_BARE = frozenset({"role", "content"})


def _sglang(m: Mapping[str, Any], form: Form) -> dict[str, Any]:
    role, content = _role(m), m.get("content")
    known = _SGLANG_USER if role == "user" else _SGLANG
    out = {k: m[k] for k in known if m.get(k) is not None} | {"content": "" if content is None else content}
    if isinstance(content, list):
        wrapped = [_part(p) for p in content]
        texts = all(p["type"] == "text" for p in wrapped)
        out["content"] = _joined(wrapped, " ") if form == "string" or (role == "tool" and texts) else wrapped
    if role == "assistant" and isinstance(out.get("tool_calls"), list):
        out["tool_calls"] = [_sglang_call(c) for c in out["tool_calls"]]
    return out


_SGLANG_USER = ("role", "content")
_SGLANG = ("role", "content", "tool_call_id", "name", "phase", "reasoning_content", "tool_calls", "tools", "prefix")


def _sglang_call(call: Any) -> dict[str, Any]:
    made = _call(call, strict=True)
    function = made["function"]
    return {
        "id": made.get("id"), "index": made.get("index"), "type": "function",
        "function": {"name": function.get("name"), "arguments": function.get("arguments")},
    }  # fmt: skip


def _plain(m: Mapping[str, Any], form: Form) -> dict[str, Any]:
    out = dict(m) | {"role": _role(m)}
    if isinstance(m.get("content"), list):
        wrapped = [_part(p) for p in m["content"]]
        out["content"] = wrapped if form == "openai" else _joined(wrapped, "\n")
    if isinstance(m.get("tool_calls"), list):
        out["tool_calls"] = [_call(c) for c in m["tool_calls"]]
    return out


def _role(m: Mapping[str, Any]) -> str:
    role = m.get("role")
    if not isinstance(role, str):
        raise Unreadable("a message has no 'role'.")
    return role


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise Unreadable("a content or 'tool_calls' is not a list.")
    return value


def _part(part: Any) -> dict[str, Any]:
    """A content part as templates iterate over it. Media become the placeholder that their kind is named by."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if isinstance(part, dict):
        kind = part.get("type")
        text = part.get("text", part.get("refusal"))
        if kind in ("text", "input_text", "refusal", "output_text") and isinstance(text, str):
            return {"type": "text", "text": text}
        if isinstance(kind, str) and kind in media.KINDS:
            return {"type": media.PLACEHOLDERS[media.KINDS[kind]]}
    raise Unreadable("a content part is of a kind that templates are not given.")


def _joined(wrapped: Iterable[Mapping[str, Any]], between: str) -> str:
    return between.join(p["text"] for p in wrapped if p["type"] == "text")


def _call(call: Any, strict: bool = False) -> dict[str, Any]:
    """A tool call with its arguments as an object. `strict`: what is none is refused, as the engine will."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise Unreadable("a tool call has no 'function'.")
    given = function.get("arguments")
    if isinstance(given, str) and given:
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = None
    if strict and not isinstance(given, dict):
        raise Unreadable("a tool call's arguments are no JSON object.")
    return {**call, "function": {**function, "arguments": given if isinstance(given, dict) else {}}}


def all_tools(tools: Sequence[Any], choice: object) -> list[Any]:
    """vLLM renders every tool, whatever `tool_choice` is."""
    return list(tools)


def chosen_tools(tools: Sequence[Any], choice: object) -> list[Any]:
    """SGLang: none with `tool_choice` "none", and of a named choice only that one."""
    if choice == "none":
        return []
    named = choice.get("function") if isinstance(choice, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    return [t for t in tools if name is None or _function(t).get("name") == name]


def tools_unless_none(tools: Sequence[Any], choice: object) -> list[Any]:
    """llama.cpp: all, but none with `tool_choice` "none"."""
    return [] if choice == "none" else list(tools)


def ordered(tool: Any) -> dict[str, Any]:
    """A tool in the order of vLLM's types, with what is absent as null."""
    function = _function(tool)
    made = {key: function.get(key) for key in ("name", "description", "parameters")}
    made |= {key: function[key] for key in ("strict", "defer_loading") if function.get(key) is not None}
    return {"type": "function", "function": made}


def as_sent(tool: Any) -> dict[str, Any]:
    """SGLang: a function's keys as they came, then null for those that it misses."""
    function = _function(tool)
    made = {k: v for k, v in function.items() if k in _SGLANG_FUNCTION and not (v is None and k in ("strict", "defer_loading"))}
    return {"type": "function", "function": made | {k: None for k in ("description", "parameters") if k not in made}}


def as_sent_deferred(tool: Any) -> dict[str, Any]:
    """The same with one field more of SGLang 0.5.23 (seen there), null as a rule."""
    return {**as_sent(tool), "defer_loading": tool.get("defer_loading")}


def untouched(tool: Any) -> Any:
    """A tool as it came."""
    return tool


_SGLANG_FUNCTION = frozenset({"name", "description", "parameters", "strict", "defer_loading"})


def _function(tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        raise Unreadable("a tool has no 'function'.")
    return function


def without_developer(messages: Messages) -> Messages:
    """vLLM, for templates that know no developer: those are system messages, and several of them one, at the beginning."""
    if not any(m["role"] == "developer" for m in messages):
        return messages
    turned = [{**{k: v for k, v in m.items() if k != "tools"}, "role": "system"} if m["role"] == "developer" else m for m in messages]
    at = [i for i, m in enumerate(turned) if m["role"] == "system"]
    if at == [0]:
        return turned
    texts = [c if isinstance(c := m["content"], str) else _joined(body.parts(m), "\n") for m in turned if m["role"] == "system"]
    merged = {"role": "system", "content": "\n\n".join(t for t in texts if t)}
    return [merged, *(m for m in turned if m["role"] != "system")]


class Engine(msgspec.Struct, frozen=True):
    """How one kind of engine treats a request: its messages, which tools it renders, and in what shapes it may, likeliest first."""

    arrange: Arrange
    tools: Callable[[Sequence[Any], object], list[Any]]
    shapes: Sequence[Shape]


ENGINES: Mapping[str, Engine] = {
    "vllm": Engine(vllm, all_tools, (ordered, untouched)),
    "sglang": Engine(sglang, chosen_tools, (as_sent_deferred, as_sent, ordered)),
    "": Engine(plain, tools_unless_none, (untouched,)),
}
