"""Tools and formats of Responses as chat has them. Pure; raises `Fault` (bad_request, client) with the path in the client's document."""

from __future__ import annotations

from typing import Any

import msgspec

from backends import wire
from backends.dialects.types import Fate, Note
from backends.types import Fault
from backends.wire import Doc

INPUT = "input"  # the one argument of the function that stands for a custom tool
_INPUT_SCHEMA = {
    "type": "object",
    "properties": {INPUT: {"type": "string", "description": "The whole input of this tool, as plain text."}},
    "required": [INPUT],
    "additionalProperties": False,
}
_SENT = ("name", "description", "parameters", "strict")
_FUNCTION = frozenset({"type", "cache_control", *_SENT})
_CUSTOM = frozenset({"type", "cache_control", "name", "description", "format"})
_FALSE = frozenset({b"false", b"null"})


class Notes:
    """What became of parameters, and whether what cannot be honoured is refused."""

    __slots__ = ("list", "strict")

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.list: list[Note] = []

    def add(self, param: str, fate: Fate, why: str) -> None:
        """One more note."""
        self.list.append(Note(param, fate, why))

    def lost(self, param: str, why: str) -> None:
        """Something that cannot be honoured: a Fault when strict, else a note that it was dropped."""
        if self.strict:
            raise wire.bad(f"'{param}': {why}", param=param)
        self.add(param, "dropped", why)


def a_string(doc: Doc, key: str, path: str) -> str:
    """The string that must be under `key`."""
    try:
        value = wire.text(doc, key)
    except Fault as e:
        raise wire.bad(f"'{path}.{key}' must be a string.", param=f"{path}.{key}") from e
    if not value:
        raise wire.bad(f"'{path}.{key}' is missing.", param=f"{path}.{key}")
    return value


def an_object(doc: Doc, key: str, path: str) -> Doc:
    """The object under `key`, empty when there is none."""
    try:
        return wire.sub(doc, key)
    except Fault as e:
        raise wire.bad(f"'{path}.{key}' must be a JSON object.", param=f"{path}.{key}") from e


class Toolbox(msgspec.Struct):
    """The functions that chat gets, by name and in order, and which of them stand for custom tools."""

    functions: dict[str, dict[str, Any]] = {}
    custom: set[str] = set()


def toolbox(doc: Doc, notes: Notes) -> Toolbox:
    """The client's tools. Functions are sent; custom tools become functions with one string; tools that OpenAI runs are lost."""
    box = Toolbox()
    for i, tool in enumerate(wire.items(doc, "tools")):
        path = f"tools[{i}]"
        kind = a_string(tool, "type", path)
        if kind not in ("function", "custom"):
            notes.lost(path, f"the tool '{kind}' is run by OpenAI and by no other backend; tools of type function and custom work here.")
            continue
        name = a_string(tool, "name", path)
        if name in box.functions:
            raise wire.bad(f"'{path}.name': two tools are named '{name}'.", param=f"{path}.name")
        known, made = (_FUNCTION, _function) if kind == "function" else (_CUSTOM, _custom)
        for key in tool:
            if key not in known and bytes(tool[key]) not in _FALSE:
                notes.add(f"{path}.{key}", "dropped", "chat tools have no such setting.")
        box.functions[name] = made(tool, path, notes)
        if kind == "custom":
            box.custom.add(name)
        if "cache_control" in tool:
            box.functions[name]["cache_control"] = tool["cache_control"]
    return box


def _function(tool: Doc, path: str, notes: Notes) -> dict[str, Any]:
    sent = {key: tool[key] for key in _SENT if key in tool and tool[key] != wire.NULL}
    return {"type": "function", "function": sent}


def _custom(tool: Doc, path: str, notes: Notes) -> dict[str, Any]:
    form = an_object(tool, "format", path)
    try:
        description = wire.text(tool, "description") or ""
        syntax, grammar = wire.text(form, "syntax"), wire.text(form, "definition")
    except Fault as e:
        raise wire.bad(f"'{path}' is not a custom tool: {e.message}", param=path) from e
    why = "a function with one string stands for it."
    if grammar:
        description = f"{description}\n\nThe input must follow this {syntax or ''} grammar:\n{grammar}".lstrip()
        why = "a function with one string stands for it; its grammar is told to the model, not enforced."
    notes.add(path, "emulated", why)
    function = {"name": tool["name"], "description": description, "parameters": _INPUT_SCHEMA}
    return {"type": "function", "function": function}


def choice(doc: Doc, box: Toolbox, notes: Notes) -> Any:
    """`tool_choice` as chat has it, or None. `allowed_tools` narrows the box to the named tools."""
    raw = doc.get("tool_choice")
    if raw is None or raw == wire.NULL:
        return None
    if bytes(raw).startswith(b'"'):
        mode = wire.text(doc, "tool_choice")
        if mode not in ("auto", "none", "required"):
            raise wire.bad(f"'tool_choice' is '{mode}'; it may be auto, none, required or an object.", param="tool_choice")
        return mode
    wanted = wire.sub(doc, "tool_choice")
    kind = a_string(wanted, "type", "tool_choice")
    if kind in ("function", "custom"):
        return {"type": "function", "function": {"name": _known(wanted, "tool_choice", box)}}
    if kind == "allowed_tools":
        return _allowed(wanted, box, notes)
    notes.lost("tool_choice", f"'{kind}' is a tool that OpenAI runs; no other backend has it.")
    return None


def _known(wanted: Doc, path: str, box: Toolbox) -> str:
    name = a_string(wanted, "name", path)
    if name not in box.functions:
        raise wire.bad(f"'{path}.name': no tool is named '{name}'.", param=f"{path}.name")
    return name


def _allowed(wanted: Doc, box: Toolbox, notes: Notes) -> str:
    mode = a_string(wanted, "mode", "tool_choice")
    if mode not in ("auto", "required"):
        raise wire.bad(f"'tool_choice.mode' is '{mode}'; it may be auto or required.", param="tool_choice.mode")
    names = set()
    for i, tool in enumerate(wire.items(wanted, "tools")):
        path = f"tool_choice.tools[{i}]"
        kind = a_string(tool, "type", path)
        if kind in ("function", "custom"):
            names.add(_known(tool, path, box))
        else:
            notes.lost(path, f"'{kind}' is a tool that OpenAI runs; no other backend has it.")
    box.functions = {name: tool for name, tool in box.functions.items() if name in names}
    notes.add("tool_choice", "emulated", "only the allowed tools are sent.")
    return mode


_SCHEMA_KEYS = ("name", "description", "schema", "strict")


def response_format(text: Doc) -> Any:
    """`text.format` as chat's `response_format`, or None for plain text."""
    form = an_object(text, "format", "text")
    if not form:
        return None
    kind = a_string(form, "type", "text.format")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind != "json_schema":
        raise wire.bad(f"'text.format.type' is '{kind}'; it may be text, json_object or json_schema.", param="text.format.type")
    a_string(form, "name", "text.format")
    if "schema" not in form:
        raise wire.bad("'text.format.schema' is missing.", param="text.format.schema")
    return {"type": "json_schema", "json_schema": {k: form[k] for k in _SCHEMA_KEYS if k in form and form[k] != wire.NULL}}
