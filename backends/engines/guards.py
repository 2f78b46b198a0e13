"""Refuses, before they reach llama.cpp, the inputs that are known to stop it: crash its process or keep it busy for minutes.

Found by experiment on xllamacpp 2026.10 (each in a process of its own): deeply nested grammars, schemas and template arguments overflow
its stack; optional items in a row, thousands of optional properties, enum values, sequence breakers or prompts stall every stream; regular
expressions as grammar triggers do both. The limits stand far below what hurts and far above what real requests have.
Pure; a request without any of the keys costs one set operation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from backends.engines import gbnf
from backends.types import Fault

MAX_DEPTH = 128  # brackets in a schema or in tools
ANY_DEPTH = 4096  # brackets in any other value
MAX_SCHEMA = 1 << 20  # bytes
MAX_NODES = 50_000
MAX_OPTIONAL = 300  # properties of one schema that are not required; their squares are added up
MAX_CHOICES = 2048  # enum values, alternatives
MAX_PROMPTS = 2048
MAX_STOPS = 256
MAX_BIASES = 10_000
MAX_BREAKERS = 64
MAX_PROBS = 1000
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)
_BRANCH = re.compile(rb"\$ref|anyOf|oneOf|allOf|\\u")
_IDS = msgspec.json.Decoder(list[int | str | list[int | str] | dict[str, msgspec.Raw]])
_ANY = msgspec.json.Decoder()
_FORMAT = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _bad(key: str, what: str) -> Fault:
    return Fault("bad_request", f"'{key}' is refused for the local engine: {what}.", origin="client", param=key, code="unsafe_for_engine")


def depth_over(raw: bytes, limit: int) -> bool:
    """Whether JSON text is nested deeper than `limit` brackets. Cheap while it has fewer brackets than that."""
    if raw.count(b"{") + raw.count(b"[") <= limit:
        return False
    bare = _STRING.sub(b"", raw)  # text full of brackets is no nesting
    if bare.count(b"{") + bare.count(b"[") <= limit:
        return False
    depth = 0
    for byte in re.findall(rb"[\[\]{}]", bare):
        depth += 1 if byte in b"[{" else -1
        if depth > limit:
            return True
    return False


# -- schemas ------------------------------------------------------------------------------------------------


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value; stops after `MAX_NODES` values."""
    todo, seen = [value], 0
    while todo and seen < MAX_NODES:
        node = todo.pop()
        seen += 1
        if isinstance(node, dict):
            yield node
            todo.extend(node.values())
        elif isinstance(node, list):
            todo.extend(node)


def _optional(node: dict[str, Any]) -> int:
    properties, required = node.get("properties"), node.get("required")
    if not isinstance(properties, dict):
        return 0
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    return len(properties.keys() - needed)


def _target(root: Any, reference: object) -> Any:
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    for step in reference[2:].split("/"):
        root = root.get(step) if isinstance(root, dict) else None
    return root


def _choices(root: Any) -> int:
    """How many alternatives llama.cpp meets when it follows every reference of the schema `root`: can grow exponentially."""
    known: dict[int, int] = {}

    def count(node: Any, path: frozenset[int]) -> int:
        if not isinstance(node, dict) or id(node) in path:
            return 1
        if id(node) not in known:
            inside = path | {id(node)}
            branches = [b for key in ("anyOf", "oneOf", "allOf") if isinstance(node.get(key), list) for b in node[key]]
            if "$ref" in node:
                branches.append(_target(root, node["$ref"]))
            known[id(node)] = min(MAX_CHOICES + 1, sum(count(b, inside) for b in branches) or 1)
        return known[id(node)]

    return max((count(node, frozenset()) for node in _nodes(root)), default=0)


def _schema_fault(schema: Any, branches: bool) -> str:
    """What is wrong with a decoded schema; `branches`: it has alternatives or references that may multiply."""
    total = squares = 0
    for node in _nodes(schema):
        total += 1
        squares += _optional(node) ** 2
        for key in ("enum", "anyOf", "oneOf", "allOf"):
            if isinstance(node.get(key), list) and len(node[key]) > MAX_CHOICES:
                return f"{key} has {len(node[key])} entries, more than {MAX_CHOICES}"
        pattern = node.get("pattern")
        if isinstance(pattern, str) and (wrong := gbnf.pattern_fault(pattern)):
            return f"the pattern {pattern[:40]!r} cannot be used: {wrong}"
    if squares > MAX_OPTIONAL**2:
        return f"it has too many optional properties (more than {MAX_OPTIONAL} in one object, or many in several); make some required"
    if total >= MAX_NODES:
        return f"it has more than {MAX_NODES} parts"
    try:
        choices = _choices(schema) if branches else 0
    except RecursionError:
        return "its references form too long a chain"
    return f"its alternatives multiply to more than {MAX_CHOICES}" if choices > MAX_CHOICES else ""


def _schema(raw: bytes) -> str:
    if len(raw) > MAX_SCHEMA:
        return f"it has {len(raw)} bytes, more than {MAX_SCHEMA}"
    if depth_over(raw, MAX_DEPTH):
        return f"it is nested more than {MAX_DEPTH} deep"
    try:
        return _schema_fault(_ANY.decode(raw), _BRANCH.search(raw) is not None)
    except msgspec.MsgspecError:
        return "it is not valid JSON"


def _response_format(raw: bytes, vocab: int | None) -> str:
    if len(raw) < 40:  # {"type":"json_object"} and the like
        return ""
    if depth_over(raw, MAX_DEPTH):
        return f"it is nested more than {MAX_DEPTH} deep"
    try:
        outer = _FORMAT.decode(raw)
        schema = outer.get("schema")
        if schema is None and "json_schema" in outer:
            schema = _FORMAT.decode(outer["json_schema"]).get("schema")
    except msgspec.MsgspecError:
        return "it must be an object, with an object under json_schema"
    return _schema(bytes(schema)) if schema is not None else ""


def _tools(raw: bytes, vocab: int | None) -> str:
    if len(raw) > MAX_SCHEMA:
        return f"it has {len(raw)} bytes, more than {MAX_SCHEMA}"
    if depth_over(raw, MAX_DEPTH):
        return f"it is nested more than {MAX_DEPTH} deep"
    try:
        tools = _ANY.decode(raw)
    except msgspec.MsgspecError:
        return "it is not valid JSON"
    branches = _BRANCH.search(raw) is not None
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        schema = function.get("parameters") if isinstance(function, dict) else None
        if wrong := _schema_fault(schema, branches):
            return wrong
    return ""


def _grammar(raw: bytes, vocab: int | None) -> str:
    grammar = _ANY.decode(raw)
    if grammar is None or grammar == "":
        return ""
    return gbnf.fault(grammar) if isinstance(grammar, str) else "it must be a string"


def _triggers(raw: bytes, vocab: int | None) -> str:
    triggers = _ANY.decode(raw) if not depth_over(raw, 8) else None
    if not isinstance(triggers, list) or len(triggers) > 64 or not all(isinstance(trigger, dict) for trigger in triggers):
        return "it must be a list of at most 64 objects"
    for trigger in triggers:
        if trigger.get("type") not in (0, 1):
            return "only tokens (type 0) and words (type 1) can be triggers here, as a regular expression can stop the engine"
        if trigger.get("type") == 0 and (wrong := _ids([trigger.get("token")], vocab)):
            return wrong
    return ""


# -- numbers and tokens -------------------------------------------------------------------------------------


def _ids(ids: list[Any], vocab: int | None) -> str:
    top = vocab or 1 << 31
    for token in ids:
        if type(token) is not int or not 0 <= token < top:
            return f"{str(token)[:40]!r} is not a token id from 0 to {top - 1}"
    return ""


def _prompt(raw: bytes, vocab: int | None) -> str:
    if raw[:1] != b"[":
        return ""
    if depth_over(raw, 8):
        return "it is nested too deeply"
    try:
        prompt = _IDS.decode(raw)
    except msgspec.MsgspecError:
        return "it must hold texts, whole token ids, or lists of these"
    lists = [part for part in prompt if isinstance(part, list)]
    if len(prompt) - sum(type(part) is int for part in prompt) > MAX_PROMPTS:
        return f"it has {len(prompt)} prompts, more than {MAX_PROMPTS}"
    for tokens in ([part for part in prompt if type(part) is int], *([token for token in part if type(token) is int] for part in lists)):
        if wrong := _ids(tokens, vocab):
            return wrong
    return ""


def _logit_bias(raw: bytes, vocab: int | None) -> str:
    if depth_over(raw, 8):
        return "it is nested too deeply"
    bias = _ANY.decode(raw)
    if bias is None:
        return ""
    if not isinstance(bias, (dict, list)):
        return "it must be an object (token id to bias)"
    if len(bias) > MAX_BIASES:
        return f"it has {len(bias)} entries, more than {MAX_BIASES}"
    if isinstance(bias, dict):
        keys: list[Any] = [int(key) for key in bias if re.fullmatch(r"-?\d{1,18}", key)]
        return _ids(keys, vocab)
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in bias):
        return "each entry must be [token id or text, bias]"
    return _ids([token for token, _ in bias if not isinstance(token, str)], vocab)


def _up_to(limit: int) -> Callable[[bytes, int | None], str]:
    def check(raw: bytes, vocab: int | None) -> str:
        value = _ANY.decode(raw) if len(raw) < 32 else None
        if raw in (b"null", b"true", b"false"):
            return ""
        if type(value) is not int or not 0 <= value <= limit:
            return f"it must be a whole number from 0 to {limit}"
        return ""

    return check


def _few(limit: int, length: int) -> Callable[[bytes, int | None], str]:
    def check(raw: bytes, vocab: int | None) -> str:
        if raw[:1] != b"[":
            return f"it has {len(raw)} bytes, more than {length}" if len(raw) > length else ""
        count = raw.count(b",") + 1  # an upper bound; exact only where it matters
        if count > limit and len(_ANY.decode(raw)) > limit:
            return f"it has more than {limit} entries"
        return f"it has {len(raw)} bytes, more than {length}" if len(raw) > length else ""

    return check


def _deep(raw: bytes, vocab: int | None) -> str:
    return f"it is nested more than {MAX_DEPTH} deep" if depth_over(raw, MAX_DEPTH) else ""


_CHECKS: Mapping[str, Callable[[bytes, int | None], str]] = {
    "grammar": _grammar, "grammar_triggers": _triggers, "json_schema": lambda raw, vocab: _schema(raw),
    "response_format": _response_format, "tools": _tools, "functions": _tools, "chat_template_kwargs": _deep,
    "prompt": _prompt, "input": _prompt, "logit_bias": _logit_bias, "n_probs": _up_to(MAX_PROBS), "logprobs": _up_to(MAX_PROBS),
    "top_logprobs": _up_to(MAX_PROBS), "stop": _few(MAX_STOPS, 65_536), "dry_sequence_breakers": _few(MAX_BREAKERS, 4096),
    "samplers": _few(MAX_BREAKERS, 4096), "preserved_tokens": _few(MAX_BIASES, 262_144), "tokens": _prompt,
}  # fmt: skip
_KEYS = frozenset(_CHECKS)


def refuse(doc: Mapping[str, msgspec.Raw], *, vocab: int | None) -> Fault | None:
    """The reason not to send `doc` to a llama.cpp engine, or None. `vocab` is the model's number of tokens, None when unknown."""
    for key in _KEYS & doc.keys():
        try:
            wrong = _CHECKS[key](bytes(doc[key]), vocab)
        except (msgspec.MsgspecError, RecursionError):
            wrong = "it is not valid JSON or nested too deeply"
        if wrong:
            return _bad(key, wrong)
    for key, raw in doc.items():
        if len(memoryview(raw)) > ANY_DEPTH and depth_over(bytes(raw), ANY_DEPTH):
            return _bad(key, f"it is nested more than {ANY_DEPTH} deep")
    return None
