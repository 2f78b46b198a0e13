"""Tools, tool choice and structured output of a chat request as Anthropic's. Pure.

Sources: `ToolParam`, `ToolChoiceParam` and `OutputConfigParam` of the official SDK; wire traps 9, 11, 13, 14, 38.
"""

from __future__ import annotations

from typing import Any

from backends import wire
from backends.dialects.anthropic_params import thinks
from backends.dialects.anthropic_report import Block, Report, value
from backends.dialects.anthropic_schema import Fitter
from backends.dialects.types import Facts

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_JSON_ONLY = "Answer with one JSON object and nothing else: no introduction, no code fence."


class Toolbox:
    """The tools of one request. `format` is the name of the tool that stands for a response format, once there is one."""

    __slots__ = ("doc", "facts", "format", "out", "report")

    def __init__(self, doc: wire.Doc, out: Block, facts: Facts, report: Report) -> None:
        self.doc, self.out, self.facts, self.report = doc, out, facts, report
        self.format: str | None = None

    def fill(self, called: list[str]) -> None:
        """Adds tools, tool_choice and the response format to `out`, whose `thinking` is settled already. `called`: names of tools
        that the conversation has calls of. Raises `Fault` (bad_request) for what cannot be sent."""
        tools = [self._tool(t, f"tools[{i}]") for i, t in enumerate(value(self.doc, "tools", list[dict[str, Any]]) or ())]
        choice, tools = self._choice(tools)
        if called and not tools:
            choice = {"type": "none"}
            tools = [{"name": name, "input_schema": {"type": "object"}} for name in dict.fromkeys(called)]
            self.report.tell("tools", "emulated", "the conversation has calls and no tools; they were declared, and none may be called")
        if tools:
            self.out["tools"], self.out["tool_choice"] = tools, choice
        self._response_format()

    def _tool(self, tool: dict[str, Any], where: str) -> Block:
        function = tool.get("function")
        if tool.get("type", "function") != "function":
            if isinstance(tool.get("name"), str) and tool["type"] != "custom":
                return tool  # one of Anthropic's own
            raise wire.bad(f"'{where}.type' is {tool['type']!r}; send function tools.", param=f"{where}.type")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise wire.bad(f"'{where}.function' must be an object with a name.", param=f"{where}.function")
        out: Block = {"name": function["name"], "input_schema": _schema(function.get("parameters"), f"{where}.function.parameters")}
        if function.get("description"):
            out["description"] = function["description"]
        if function.get("strict"):
            if self.facts.json_schema == "native":
                out["strict"] = True
                out["input_schema"] = self._fitted(out["input_schema"], f"{where}.function.parameters")
            else:
                self.report.cannot(f"{where}.function.strict", "is not taken by this model")
        mark = tool.get("cache_control", function.get("cache_control"))
        if isinstance(mark, dict):
            out["cache_control"] = mark
        return out

    def _fitted(self, schema: Block, where: str) -> Block:
        """`schema` without what Anthropic cannot enforce, which is noted."""
        fitter = Fitter(where)
        out: Block = fitter.fit(schema)
        if fitter.changes:
            what = ", ".join(sorted(fitter.changes))
            self.report.tell(where, "mapped", f"Anthropic wants closed objects and cannot enforce bounds; changed: {what}")
        return out

    def _choice(self, tools: list[Block]) -> tuple[Block, list[Block]]:
        """Anthropic's tool_choice, and the tools that it leaves."""
        choice = self.doc.get("tool_choice")
        given: Any = None if choice is None or choice == wire.NULL else value(self.doc, "tool_choice", object)
        mode: Any = given
        name: str | None = None
        if isinstance(given, dict):
            mode, name, tools = self._named(given, tools)
        kinds = {None: "auto", "auto": "auto", "none": "none", "required": "any", "tool": "tool"}
        if not (mode is None or isinstance(mode, str)) or mode not in kinds:
            raise wire.bad(f"'tool_choice' is {mode!r}; use auto, none, required or a function's name.", param="tool_choice")
        kind = kinds[mode]
        if kind in ("any", "tool"):
            if not tools:
                raise wire.bad("'tool_choice' asks for a tool, and there are no tools.", param="tool_choice")
            kind = self._forced(kind)
        out: Block = {"type": kind}
        if kind == "tool":
            out["name"] = name
        if kind != "none" and value(self.doc, "parallel_tool_calls", bool) is False:
            out["disable_parallel_tool_use"] = True
        return out, tools

    def _named(self, given: dict[str, Any], tools: list[Block]) -> tuple[Any, str | None, list[Block]]:
        """(mode, name, tools) of the object form: one function, or the ones that are allowed."""
        if given.get("type") == "allowed_tools":
            allowed = given.get("allowed_tools")
            allowed = allowed if isinstance(allowed, dict) else given
            names = {_name_in(t) for t in allowed.get("tools") or ()}
            return allowed.get("mode", "auto"), None, [t for t in tools if t["name"] in names]
        name = _name_in(given)
        if all(t["name"] != name for t in tools):
            raise wire.bad(f"'tool_choice' names {name!r}, which is not among the tools.", param="tool_choice")
        return "tool", name, tools

    def _forced(self, kind: str) -> str:
        """`kind`, or `auto` where this model cannot be forced."""
        if thinks(self.out):
            self.report.cannot("tool_choice", "cannot force a tool while the model thinks; leave reasoning_effort out")
            return "auto"
        if not self.facts.forced_tools:
            self.report.cannot("tool_choice", "cannot force a tool on this model")
            return "auto"
        return kind

    def _response_format(self) -> None:
        given = value(self.doc, "response_format", dict[str, Any])
        kind = None if given is None else given.get("type")
        if given is None or kind == "text":
            return
        if kind == "json_object":
            self.report.tell("response_format", "emulated", "Anthropic has no JSON mode; the system prompt asks for JSON")
            self._ask(_JSON_ONLY)
            return
        schema = given.get("json_schema")
        if kind != "json_schema" or not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
            raise wire.bad("'response_format' must be text, json_object, or json_schema with a schema.", param="response_format")
        if self.facts.json_schema == "native":
            form = {"type": "json_schema", "schema": self._fitted(schema["schema"], "response_format.json_schema.schema")}
            self.out["output_config"] = {**self.out.get("output_config", {}), "format": form}
        elif self.facts.json_schema == "tool" and self.facts.forced_tools and not thinks(self.out):
            self._format_tool(schema)
        else:
            self.report.cannot("response_format", "cannot be enforced on this model" + (" while it thinks" if thinks(self.out) else ""))
            self._ask(f"{_JSON_ONLY} It must match this JSON Schema: {wire.encode(schema['schema']).decode()}")

    def _format_tool(self, schema: dict[str, Any]) -> None:
        """A tool whose arguments are the answer. With tools of the client's the model must call one: theirs, or this to answer."""
        tools: list[Block] = self.out.get("tools", [])
        choice = self.out.get("tool_choice", {"type": "none"})
        name = schema.get("name")
        if not isinstance(name, str) or not name or not _NAME.issuperset(name) or any(t["name"] == name for t in tools):
            name = "json_answer"
        described = schema.get("description") or "Gives the answer. Its arguments are the whole answer."
        tool = {"name": name, "description": described, "input_schema": _schema(schema["schema"], "response_format.json_schema.schema")}
        self.report.tell("response_format", "emulated", "a forced tool whose arguments become the answer")
        self.format = name
        self.out["tools"] = [*tools, tool]
        if choice["type"] == "none":
            self.out["tool_choice"] = {"type": "tool", "name": name, "disable_parallel_tool_use": True}
        elif choice["type"] == "auto":
            self.out["tool_choice"] = {**choice, "type": "any"}

    def _ask(self, text: str) -> None:
        """Adds a sentence to the system prompt."""
        system = self.out.get("system")
        if isinstance(system, list):
            system.append({"type": "text", "text": text})
        else:
            self.out["system"] = f"{system}\n\n{text}" if system else text


def _name_in(tool: Any) -> str | None:
    """The name that a reference to a function gives."""
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _schema(schema: Any, where: str) -> Block:
    """A schema of an object, as Anthropic wants one. Raises `Fault` (bad_request) for another kind."""
    if schema is None:
        return {"type": "object", "properties": {}}
    if not isinstance(schema, dict) or schema.get("type", "object") != "object":
        raise wire.bad(f"'{where}' must be a JSON Schema of type object.", param=where)
    return {"type": "object", **schema}
