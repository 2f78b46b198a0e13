"""What kinds of servers need changed in an OpenAI document, as rows of small pure functions `(doc) -> doc`.

Each looks at raw slices first, so a document that needs nothing costs a few substring searches. Numbers refer to the list of
wire traps that the tests walk through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from backends import wire
from backends.wire import Doc

Quirk = Callable[[Doc], Doc]


def developer_to_system(doc: Doc) -> Doc:
    """Chat templates that lack `developer` leave such messages out without a word (trap 2): call the role `system`."""
    messages = doc.get("messages")
    if messages is None or b'"developer"' not in bytes(messages):
        return doc
    turns = wire.items(doc, "messages")
    for turn in turns:
        if wire.text(turn, "role") == "developer":
            turn["role"] = msgspec.Raw(b'"system"')
    return {**doc, "messages": wire.raw(turns)}


def named_tool_to_required(doc: Doc) -> Doc:
    """llama.cpp reads the object form of `tool_choice` as `auto` (trap 12): send only that tool, and `required`."""
    choice = doc.get("tool_choice")
    if choice is None or not bytes(choice).startswith(b"{"):
        return doc
    name = wire.text(wire.sub(wire.sub(doc, "tool_choice"), "function"), "name")
    if name is None:
        raise wire.bad("'tool_choice' must be none, auto, required or name a function.", param="tool_choice")
    tools = [t for t in wire.items(doc, "tools") if wire.text(wire.sub(t, "function"), "name") == name]
    if not tools:
        raise wire.bad(f"'tool_choice' names the function '{name}', which is not among the tools.", param="tool_choice")
    return {**doc, "tools": wire.raw(tools), "tool_choice": msgspec.Raw(b'"required"')}


_LLAMA: tuple[Quirk, ...] = (developer_to_system, named_tool_to_required)
_LOCAL: tuple[Quirk, ...] = (developer_to_system,)

QUIRKS: Mapping[str, tuple[Quirk, ...]] = {
    "llamacpp": _LLAMA, "llama-server": _LLAMA, "llama-cpp-python": _LOCAL, "vllm": _LOCAL, "sglang": _LOCAL, "ollama": _LOCAL,
    "lmstudio": _LLAMA, "tgi": _LOCAL,
}  # fmt: skip

# Parameters that a kind is known to ignore or misread; a route's policy says whether to refuse or drop them.
UNSUPPORTED: Mapping[str, frozenset[str]] = {
    "llamacpp": frozenset({"audio", "prediction", "web_search_options", "functions", "function_call"}),
    "llama-server": frozenset({"audio", "prediction", "web_search_options", "functions", "function_call"}),
    "llama-cpp-python": frozenset({"audio", "prediction", "web_search_options", "parallel_tool_calls"}),
    "vllm": frozenset({"audio", "prediction", "web_search_options", "guided_json", "guided_choice", "guided_regex", "guided_grammar"}),
    "sglang": frozenset({"audio", "prediction", "web_search_options"}),
}
