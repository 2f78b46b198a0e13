"""Chat tools and `tool_choice` → Gemini's `tools` and `toolConfig`. Pure. Wire traps 9, 10, 11, 13."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.dialects.gemini_chat import Chat, Choice, Function, Notes, Tool
from backends.dialects.schema import parameters
from backends.dialects.schema_tidy import tidy
from backends.dialects.types import Facts
from backends.wire import bad

_any = msgspec.json.Decoder()
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "any": "ANY"}
_EMPTY = frozenset({b"null", b"{}"})

Out = dict[str, Any]


def tools(chat: Chat, facts: Facts, notes: Notes) -> Out:
    """The keys `tools` and `toolConfig`, where there are any. Raises `Fault` (bad_request) for what is malformed or, when strict,
    cannot be honoured."""
    declared = {f.name: _declaration(f, facts, notes, f"tools[{i}].function") for i, f in _functions(chat.tools or [], notes)}
    searched = _search(chat, bool(declared), facts, notes)
    if not declared:
        if chat.tool_choice not in (None, "none", "auto"):
            raise bad("'tool_choice' asks for a tool, but there are no tools.", param="tool_choice")
        return {"tools": searched} if searched else {}
    config, only = _choice(chat.tool_choice, declared, facts, notes)
    if only is not None:
        declared = {name: value for name, value in declared.items() if name in only}
    out: Out = {"tools": [{"functionDeclarations": list(declared.values())}, *searched]}
    if config:
        out["toolConfig"] = {"functionCallingConfig": config}
    return out


def _functions(given: list[Tool], notes: Notes) -> list[tuple[int, Function]]:
    found: dict[str, tuple[int, Function]] = {}
    for i, tool in enumerate(given):
        where = f"tools[{i}]"
        if tool.type != "function":
            notes.lost(where, f"Gemini has no tools of type '{tool.type[:64]}' here")
            continue
        if tool.function is None or not tool.function.name:
            raise bad(f"'{where}.function.name' is missing.", param=f"{where}.function.name")
        if tool.cache_control is not None:
            notes.add(f"{where}.cache_control", "dropped", "Gemini caches by itself, or by google.cached_content")
        if tool.function.name in found:
            raise bad(f"'{where}.function.name' is '{tool.function.name[:64]}', the name of another tool.", param=f"{where}.function.name")
        found[tool.function.name] = (i, tool.function)
    return list(found.values())


def _declaration(function: Function, facts: Facts, notes: Notes, where: str) -> Out:
    out: Out = {"name": function.name}
    if function.description:
        out["description"] = function.description
    if function.strict:
        notes.add(f"{where}.strict", "dropped", "Gemini cannot be told to keep to a function's schema; it is sent as it is")
    raw, path = function.parameters, f"{where}.parameters"
    if bytes(raw) in _EMPTY:
        return out
    if facts.full_schema:
        out["parametersJsonSchema"], changed = tidy(raw, path)
    else:
        schema, changed = parameters(_any.decode(raw), path)
        if schema is not None:
            out["parameters"] = schema
    notes.extend(changed)
    return out


def _search(chat: Chat, declared: bool, facts: Facts, notes: Notes) -> list[Out]:
    """`web_search_options` as Google Search, which older models do not take beside functions."""
    if chat.web_search_options is None:
        return []
    if declared and facts.thinking != "level":
        notes.lost("web_search_options", "this model does not search the web beside function tools")
        return []
    notes.add("web_search_options", "mapped", "sent as the tool googleSearch, which takes no options")
    return [{"googleSearch": {}}]


def _choice(choice: str | Choice | None, declared: Out, facts: Facts, notes: Notes) -> tuple[Out, list[str] | None]:
    """(functionCallingConfig, the only tools to declare or None for all)."""
    if choice is None:
        return {}, None
    if isinstance(choice, str):
        if choice not in _MODES:
            raise bad("'tool_choice' must be none, auto, required or name a function.", param="tool_choice")
        return _forced({"mode": _MODES[choice]}, facts, notes), None
    if choice.type == "allowed_tools" and (allowed := choice.allowed_tools) is not None:
        names = [_known(c, declared, "tool_choice.allowed_tools.tools") for c in allowed.tools]
        if allowed.mode == "required":
            return _forced({"mode": "ANY", "allowedFunctionNames": names}, facts, notes), None
        notes.add("tool_choice", "emulated", "Gemini limits which tools may be used only when one must be: the others were not sent")
        return {"mode": "AUTO"}, names
    return _forced({"mode": "ANY", "allowedFunctionNames": [_known(choice, declared, "tool_choice")]}, facts, notes), None


def _known(choice: Choice, declared: Out, where: str) -> str:
    name = choice.function.name if choice.function is not None else ""
    if name not in declared:
        raise bad(f"'{where}' names the function '{name[:64]}', which is not among the tools.", param=where)
    return name


def _forced(config: Out, facts: Facts, notes: Notes) -> Out:
    if config["mode"] == "ANY" and not facts.forced_tools:
        notes.lost("tool_choice", "this model cannot be made to use a tool")
        return {}
    return config

