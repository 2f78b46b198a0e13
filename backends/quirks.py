"""What kinds of servers need changed in an OpenAI document, as small pure functions `(doc) -> doc`; the catalogue's rows name them.

Each looks at raw slices first, so a document that needs nothing costs a few substring searches. Numbers refer to the list of
wire traps that the tests walk through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import msgspec

from backends import catalog, wire
from backends.wire import Doc

Quirk = Callable[[Doc], Doc]
_SYSTEM, _REQUIRED, _NONE = msgspec.Raw(b'"system"'), msgspec.Raw(b'"required"'), b'"none"'
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def _mentions(doc: Doc, key: str, words: Iterable[bytes]) -> bool:
    """Whether the raw value under `key` holds one of `words` anywhere: a cheap no for almost every document."""
    raw = doc.get(key)
    if raw is None:
        return False
    text = bytes(raw)
    return any(word in text for word in words)


# --- roles and tools of chat templates


def developer_to_system(doc: Doc) -> Doc:
    """Chat templates that lack `developer` leave such messages out without a word (trap 2): call the role `system`."""
    if not _mentions(doc, "messages", (b'"developer"',)):
        return doc
    turns = wire.items(doc, "messages")
    for turn in turns:
        if wire.text(turn, "role") == "developer":
            turn["role"] = _SYSTEM
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
    return {**doc, "tools": wire.raw(tools), "tool_choice": _REQUIRED}


def no_tools_when_none(doc: Doc) -> Doc:
    """llama.cpp renders the tools into the prompt whatever `tool_choice` says: with `none` they are not sent at all."""
    choice = doc.get("tool_choice")
    if choice is None or bytes(choice) != _NONE:
        return doc
    return wire.drop(doc, ("tools", "tool_choice", "parallel_tool_calls"))


# --- parameters by another name


def _renamed(doc: Doc, old: str, new: str) -> Doc:
    """`doc` with `old` called `new`; where both stand, `new` is what counts and `old` goes."""
    if old not in doc:
        return doc
    out = {key: value for key, value in doc.items() if key != old}
    out.setdefault(new, doc[old])
    return out


def only_max_tokens(doc: Doc) -> Doc:
    """Servers that know `max_tokens` alone: `max_completion_tokens` is refused or ignored there (trap 32)."""
    if "max_completion_tokens" not in doc:
        return doc
    out = wire.drop(doc, ("max_tokens",)) if "max_tokens" in doc else doc  # the newer name is what was meant
    return _renamed(out, "max_completion_tokens", "max_tokens")


def completion_tokens(doc: Doc) -> Doc:
    """OpenAI's reasoning models refuse `max_tokens`; all of its chat models take `max_completion_tokens` (trap 32)."""
    return _renamed(doc, "max_tokens", "max_completion_tokens") if "messages" in doc else doc


def seed_to_random_seed(doc: Doc) -> Doc:
    """Mistral's name for `seed` is `random_seed`."""
    return _renamed(doc, "seed", "random_seed") if "messages" in doc else doc


def no_stream_options(doc: Doc) -> Doc:
    """Servers that refuse `stream_options` and tell the usage of a stream anyhow (trap 42)."""
    return wire.drop(doc, ("stream_options",)) if "stream_options" in doc else doc


# --- fields of messages


def no_names(doc: Doc) -> Doc:
    """Servers that refuse `name` on a message."""
    if not _mentions(doc, "messages", (b'"name"',)):
        return doc
    return {**doc, "messages": wire.raw([wire.drop(turn, ("name",)) for turn in wire.items(doc, "messages")])}


_REASONING = (b'"reasoning', b'"thinking_blocks"')


def no_reasoning(doc: Doc) -> Doc:
    """Servers that refuse reasoning in the history under any name."""
    if not _mentions(doc, "messages", _REASONING):
        return doc
    gone = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks")
    return {**doc, "messages": wire.raw([wire.drop(turn, gone) for turn in wire.items(doc, "messages")])}


def reasoning_as_reasoning(doc: Doc) -> Doc:
    """Servers whose own name for reasoning is `reasoning`: they refuse `reasoning_content` in the history."""
    return _reasoning_under(doc, "reasoning_content", "reasoning")


def reasoning_as_content(doc: Doc) -> Doc:
    """Servers whose own name for reasoning is `reasoning_content`, which some want back with tool calls."""
    return _reasoning_under(doc, "reasoning", "reasoning_content")


def _reasoning_under(doc: Doc, old: str, new: str) -> Doc:
    if not _mentions(doc, "messages", (b'"%b"' % old.encode(),)):
        return doc
    return {**doc, "messages": wire.raw([_renamed(turn, old, new) for turn in wire.items(doc, "messages")])}


_EXTRAS = (b'"thinking_blocks"', b'"extra_content"', b'"cache_control"', b'"reasoning_content"')


def plain_messages(doc: Doc) -> Doc:
    """Strict servers refuse what our hub carries beyond OpenAI's own fields: thinking blocks, provider state, cache marks."""
    if _mentions(doc, "messages", _EXTRAS):
        doc = {**doc, "messages": wire.raw([_plain_turn(turn) for turn in wire.items(doc, "messages")])}
    if _mentions(doc, "tools", (b'"cache_control"',)):
        doc = {**doc, "tools": wire.raw([wire.drop(tool, ("cache_control",)) for tool in wire.items(doc, "tools")])}
    return doc


def _plain_turn(turn: Doc) -> Doc:
    out = wire.drop(turn, ("thinking_blocks", "extra_content", "cache_control", "reasoning_content"))
    for key, gone in (("content", "cache_control"), ("tool_calls", "extra_content")):
        raw = out.get(key)
        if raw is not None and bytes(raw).startswith(b"[") and gone.encode() in bytes(raw):
            out[key] = wire.raw([wire.drop(part, (gone,)) for part in wire.items(out, key)])
    return out


# --- ids of tool calls


def short_id(text: str) -> str:
    """Nine letters and digits for any id, always the same ones; an id that is of that form already stays."""
    if len(text) == 9 and text.isascii() and text.isalnum():
        return text
    number = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    out = ""
    for _ in range(9):
        number, digit = divmod(number, 62)
        out += _ALPHABET[digit]
    return out


def short_tool_ids(doc: Doc) -> Doc:
    """Mistral takes only ids of nine letters and digits, on calls and on their results alike."""
    if not _mentions(doc, "messages", (b'"tool_call',)):
        return doc
    turns = wire.items(doc, "messages")
    for turn in turns:
        if (answered := wire.text(turn, "tool_call_id")) is not None:
            turn["tool_call_id"] = wire.raw(short_id(answered))
        if calls := wire.items(turn, "tool_calls"):
            for call in calls:
                if (name := wire.text(call, "id")) is not None:
                    call["id"] = wire.raw(short_id(name))
            turn["tool_calls"] = wire.raw(calls)
    return {**doc, "messages": wire.raw(turns)}


NAMED: Mapping[str, Quirk] = {
    quirk.__name__: quirk
    for quirk in (
        developer_to_system, named_tool_to_required, no_tools_when_none, only_max_tokens, completion_tokens, seed_to_random_seed,
        no_stream_options, no_names, no_reasoning, reasoning_as_reasoning, reasoning_as_content, plain_messages, short_tool_ids,
    )
}  # fmt: skip

# What a kind needs, in the row's order.
QUIRKS: Mapping[str, tuple[Quirk, ...]] = {
    row.name: tuple(NAMED[entry.quirk] for entry in row.differences) for row in catalog.rows() if row.differences
}

# Parameters that a kind is known to ignore or misread; a route's policy says whether to refuse or drop them.
UNSUPPORTED: Mapping[str, frozenset[str]] = {row.name: row.refuses for row in catalog.rows() if row.unsupported}

# Kinds of servers that must not be asked for the usage of a stream: they refuse the question and tell it anyhow.
TELL_USAGE: frozenset[str] = frozenset(name for name, quirks in QUIRKS.items() if no_stream_options in quirks)

# What a parameter is when it is not given: sent like this it asks for nothing, so leaving it out loses nothing.
_IDLE: Mapping[str, tuple[bytes, ...]] = {
    "n": (b"1",), "logprobs": (b"false",), "top_logprobs": (b"0",), "logit_bias": (b"{}",), "store": (b"false",),
    "presence_penalty": (b"0", b"0.0"), "frequency_penalty": (b"0", b"0.0"), "parallel_tool_calls": (b"true",),
    "service_tier": (b'"auto"',), "modalities": (b'["text"]',), "stop": (b"[]",), "functions": (b"[]",), "temperature": (b"1", b"1.0"),
    "top_p": (b"1", b"1.0"), "tool_choice": (b'"auto"',),
}  # fmt: skip


def idle(name: str, value: msgspec.Raw) -> bool:
    """Whether a top-level parameter says no more than its absence does: null, or OpenAI's own default. Such a one may be left out of a
    call to a server that does not know it, under any policy."""
    return value == wire.NULL or bytes(value) in _IDLE.get(name, ())
