"""Checks of tools and structured output. Grammars make even a toy model comply; where only its wits could, that is no failure."""

from __future__ import annotations

from typing import Any

import msgspec

from backends.probe.ask import Asker, Heard
from backends.probe.types import Check, Outcome, Refused, failed, passed, unshown

_WHERE = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city", "parameters": _WHERE}}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The local time in a city", "parameters": _WHERE}}
TWO_CITIES = "What is the weather in Paris and in Tokyo? Look up both at once."
ASK = "What is the weather in Paris?"
PERSON = {
    "type": "object", "additionalProperties": False, "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}  # fmt: skip
LINKED = {
    "type": "object", "additionalProperties": False, "required": ["who"], "properties": {"who": {"$ref": "#/$defs/person"}},
    "$defs": {"person": PERSON},
}  # fmt: skip
_object = msgspec.json.Decoder(dict[str, Any])


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        return _object.decode(text or "{}")
    except (msgspec.MsgspecError, RecursionError):
        return None


async def _auto(ask: Asker) -> Outcome:
    heard = await ask.say(ASK, tools=[WEATHER], max_tokens=128)
    if not heard.tools:
        return unshown(f"the model answered instead of calling: {heard.text!r}")
    return _called(heard, {"get_weather"})


async def _required(ask: Asker) -> Outcome:
    heard = await ask.say(ASK, tools=[WEATHER, TIME], tool_choice="required", max_tokens=128)
    if not heard.tools:
        return failed(f"required, and no tool was called: {heard.text!r}", forced_tools=False)
    said = _called(heard, {"get_weather", "get_time"})
    return passed(said.evidence, forced_tools=True) if said.verdict == "pass" else said


async def _named(ask: Asker) -> Outcome:
    choice = {"type": "function", "function": {"name": "get_time"}}
    heard = await ask.say(ASK, tools=[WEATHER, TIME], tool_choice=choice, max_tokens=128)
    if not heard.tools or {name for name, _ in heard.tools} != {"get_time"}:
        return failed(f"get_time was to be called, and was not: {heard.tools or heard.text!r}", forced_tools=False)
    said = _called(heard, {"get_time"})
    return passed(said.evidence, forced_tools=True) if said.verdict == "pass" else said


async def _none(ask: Asker) -> Outcome:
    heard = await ask.say(ASK, tools=[WEATHER], tool_choice="none", max_tokens=48)
    return failed(f"none, and called all the same: {heard.tools}") if heard.tools else passed(f"{heard.text!r}")


def _called(heard: Heard, names: set[str]) -> Outcome:
    for name, arguments in heard.tools:
        found = _arguments(arguments)
        if name not in names:
            return failed(f"a call of {name!r}, which is not among the tools")
        if found is None or not isinstance(found.get("city"), str):
            cut = heard.finishes == ["length"]
            return unshown("max_tokens cut the call") if cut else failed(f"{name} with arguments {arguments!r}")
    if heard.finishes not in (["tool_calls"], ["stop"]):
        return unshown("max_tokens cut the calls") if heard.finishes == ["length"] else failed(f"finish reasons: {heard.finishes}")
    return passed(", ".join(f"{name}({arguments})" for name, arguments in heard.tools))


async def _parallel(ask: Asker) -> Outcome:
    heard = await ask.say(TWO_CITIES, tools=[WEATHER], parallel_tool_calls=True, max_tokens=256)
    return _called(heard, {"get_weather"}) if len(heard.tools) > 1 else unshown(f"{len(heard.tools)} calls; the model may not be up to it")


async def _single(ask: Asker) -> Outcome:
    heard = await ask.say(TWO_CITIES, tools=[WEATHER], parallel_tool_calls=False, max_tokens=256)
    if len(heard.tools) > 1:
        return failed(f"{len(heard.tools)} calls at once", "parallel_tool_calls")
    return passed(f"{len(heard.tools)} call")


async def _stream(ask: Asker) -> Outcome:
    heard = await ask.say(ASK, tools=[WEATHER], tool_choice="required", max_tokens=128, stream=True)
    pieces = [call for delta in heard.deltas for call in delta.get("tool_calls") or ()]
    if not pieces:
        return failed("no delta holds a call")
    first = pieces[0]
    if not isinstance(first.get("index"), int) or not first.get("id") or not (first.get("function") or {}).get("name"):
        return failed(f"the first delta lacks index, id or name: {str(first)[:120]}")
    said = _called(heard, {"get_weather"})
    return passed(f"{len(pieces)} deltas: {said.evidence}") if said.verdict == "pass" else said


def _history(content: str | None) -> list[dict[str, Any]]:
    call = {"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    return [
        {"role": "user", "content": ASK},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call12345", "content": '{"celsius":21,"sky":"hail"}'},
    ]


async def _round(ask: Asker) -> Outcome:
    heard = await ask.ask({"messages": _history(None), "tools": [WEATHER], "max_tokens": 64})
    if not heard.text and not heard.tools:
        return failed("nothing was said to the tool's result")
    known = "hail" in heard.text.lower() or "21" in heard.text
    return passed(f"{heard.text!r}" if known else f"taken, though the answer does not use it: {heard.text!r}")


async def _empty(ask: Asker) -> Outcome:
    heard = await ask.ask({"messages": _history(""), "tools": [WEATHER], "max_tokens": 16})
    return passed(f"{heard.text!r}")


async def _schema(ask: Asker) -> Outcome:
    return await _formed(ask, PERSON)


async def _linked(ask: Asker) -> Outcome:
    said = await _formed(ask, LINKED)
    settled = {"pass": {"full_schema": True}, "fail": {"full_schema": False}}.get(said.verdict, {})
    return Outcome(said.verdict, said.evidence, settled)


async def _formed(ask: Asker, schema: dict[str, Any]) -> Outcome:
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    heard = await ask.say("Invent a person and tell her name and age.", response_format=form, max_tokens=256)
    found = _arguments(heard.text)
    if found is None:
        if heard.finishes == ["length"]:
            return unshown("max_tokens cut the object")
        return failed(f"no JSON: {heard.text!r}", "response_format", json_schema="none")
    person = found.get("who") if schema is LINKED else found
    good = isinstance(person, dict) and isinstance(person.get("name"), str) and isinstance(person.get("age"), int) and len(person) == 2
    return passed(heard.text, json_schema="native") if good else failed(f"not by the schema: {heard.text!r}", json_schema="none")


async def _object_mode(ask: Asker) -> Outcome:
    heard = await ask.say("Give a JSON object with the key city.", response_format={"type": "json_object"}, max_tokens=256)
    if _arguments(heard.text) is not None and heard.text:
        return passed(heard.text)
    return unshown("max_tokens cut the object") if heard.finishes == ["length"] else failed(f"no JSON object: {heard.text!r}")


async def _both(ask: Asker) -> Outcome:
    form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    try:
        heard = await ask.say(ASK, tools=[WEATHER], response_format=form, max_tokens=256)
    except Refused as refused:
        return Outcome("unsupported", f"the two together are refused, clearly: {refused.fault.message}")
    if heard.tools:
        return _called(heard, {"get_weather"})
    if heard.finishes == ["length"]:
        return unshown("max_tokens cut the object")
    return passed(f"answered by the schema: {heard.text}") if _arguments(heard.text) else failed(f"neither: {heard.text!r}")


_FORCED: dict[str, Any] = {"forced_tools": True}
CHECKS = (
    Check("tools", "a tool is called when it helps", _auto, input=200, output=128, shows=("tools",)),
    Check("tool-required", "tool_choice required", _required, input=260, output=128, assume=_FORCED, denies={"forced_tools": False}),
    Check("tool-named", "tool_choice that names one", _named, input=260, output=128, assume=_FORCED, denies={"forced_tools": False}),
    Check("tool-none", "tool_choice none", _none, input=200, output=48),
    Check("tools-parallel", "two calls at once", _parallel, input=200, output=256),
    Check("tools-one", "parallel_tool_calls false", _single, input=200, output=256, shows=("parallel_tool_calls",)),
    Check("tool-stream", "a call in the deltas of a stream", _stream, input=200, output=128, assume=_FORCED),
    Check("tool-results", "a call and its result in the history", _round, input=260, output=64),
    Check("tool-empty-text", "an empty text beside a call", _empty, input=260, output=16),
    Check("json-schema", "an answer by a schema", _schema, input=160, output=256, assume={"json_schema": "native"},
          denies={"json_schema": "none"}),
    Check("json-schema-refs", "a schema with $ref", _linked, input=200, output=256, assume={"json_schema": "native", "full_schema": True},
          denies={"full_schema": False}),
    Check("json-object", "an answer that is some JSON object", _object_mode, output=256),
    Check("tools-and-schema", "tools and a schema in one call", _both, input=260, output=256),
)  # fmt: skip
