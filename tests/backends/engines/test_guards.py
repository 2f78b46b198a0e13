"""Inputs that stop llama.cpp are refused; what real clients send passes, and costs nothing when none of the keys is there."""

from __future__ import annotations

import json
import math

import msgspec
import pytest

from backends.engines import gbnf
from backends.engines.guards import refuse


def doc(**fields: object) -> dict[str, msgspec.Raw]:
    raw = {name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in fields.items()}
    return {name: msgspec.Raw(value) for name, value in raw.items()}


def verdict(**fields: object) -> str:
    fault = refuse(doc(**fields), vocab=262)
    if fault is None:
        return ""
    assert (fault.status, fault.kind, fault.origin, fault.param) == (400, "bad_request", "client", next(iter(fields)))
    assert "\n" not in fault.message and fault.message.endswith(".") and len(fault.message) < 500
    return fault.message


def nested_schema(levels: int) -> bytes:
    return b'{"type":"object","properties":{"a":' * levels + b'{"type":"string"}' + b"}}" * levels


def schema(value: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}


def response_format(raw: bytes) -> bytes:
    return b'{"type":"json_schema","json_schema":{"name":"x","schema":' + raw + b"}}"


def tools(raw: bytes) -> bytes:
    return b'[{"type":"function","function":{"name":"f","parameters":' + raw + b"}}]"


def properties(count: int) -> dict[str, object]:
    return {f"p{i}": {"type": "string"} for i in range(count)}


GROWING = {f"a{i}": {"anyOf": [{"$ref": f"#/$defs/a{i + 1}"}] * 2} for i in range(30)}
# Every one of these crashed a real engine process or kept it from answering anybody for seconds to minutes.
KILLERS: dict[str, dict[str, object]] = {
    "nested grammar": {"grammar": "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000},
    "nested repeats": {"grammar": "root ::= " + "(" * 100_000 + '"a"' + ")*" * 100_000},
    "chain of rules": {"grammar": "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(100_000))},
    "optional items": {"grammar": "root ::= " + '"a"? ' * 200},
    "optional groups": {"grammar": "root ::= " + '("a" | "b" | "ab")? ' * 300},
    "stars in a row": {"grammar": "root ::= " + '"a"* ' * 1000},
    "optional rules": {"grammar": "root ::= " + "x " * 500 + '\nx ::= "a"?'},
    "optional chain": {"grammar": "".join(f'{"root" if i == 0 else f"r{i}"} ::= "a"? r{i + 1}\n' for i in range(200)) + 'r200 ::= "b"'},
    "many alternatives": {"grammar": "root ::= " + " | ".join(['"a"'] * 100_000)},
    "doubling": {"grammar": "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1} | a{i + 1}\n" for i in range(24)) + 'a24 ::= "x"'},
    "doubling options": {"grammar": "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1}? a{i + 1}?\n" for i in range(20)) + 'a20 ::= "x"'},
    "left recursion": {"grammar": 'root ::= root "a" | "a"'},
    "nested schema": {"response_format": response_format(nested_schema(20_000))},
    "nested anyOf": {"response_format": response_format(b'{"anyOf":[' * 8000 + b'{"type":"null"}' + b"]}" * 8000)},
    "nested items": {"response_format": response_format(b'{"type":"array","items":' * 2000 + b"{}" + b"}" * 2000)},
    "nested json_schema": {"json_schema": nested_schema(20_000)},
    "nested json_object": {"response_format": b'{"type":"json_object","schema":' + nested_schema(20_000) + b"}"},
    "nested tools": {"tools": tools(nested_schema(200_000))},
    "nested kwargs": {"chat_template_kwargs": b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"},
    "nested messages": {"messages": b'[{"role":"user","content":"hi","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}]"},
    "optional properties": {"response_format": schema({"type": "object", "properties": properties(1000)})},
    "optional properties in a tool": {"tools": tools(json.dumps({"type": "object", "properties": properties(1000)}).encode())},
    "enum": {"response_format": schema({"enum": [f"p{i}" for i in range(10_000)]})},
    "references that multiply": {"json_schema": {"$ref": "#/$defs/a0", "$defs": {**GROWING, "a30": {"type": "null"}}}},
    "pattern of options": {"json_schema": {"type": "string", "pattern": "^" + "a?" * 500 + "$"}},
    "breakers": {"dry_sequence_breakers": [f"s{i}" for i in range(100_000)]},
    "trigger nesting": {"grammar_triggers": [{"type": 2, "value": "(" * 20_000 + "a" + ")" * 20_000}]},
    "trigger backtracking": {"grammar_triggers": [{"type": 2, "value": "(.|.|.)*zz"}]},
    "trigger token": {"grammar_triggers": [{"type": 0, "value": "x", "token": 99_999_999}]},
    "prompts": {"prompt": ["hi"] * 20_000},
    "stops": {"stop": [f"s{i}" for i in range(100_000)]},
    "probabilities": {"n_probs": 1_000_000},
    "token too high": {"prompt": [1, 2, 262]},
    "token negative": {"prompt": [1, -1]},
    "token in a list": {"input": [[1, 2], [999_999]]},
    "token with text": {"prompt": ["hi", 99_999_999]},
    "token not whole": {"prompt": [1, 2.5]},
    "token huge": {"prompt": [1 << 64]},
    "prompt nested": {"prompt": b"[" * 5000 + b"]" * 5000},
    "bias id": {"logit_bias": {"999999": 5}},
    "bias id negative": {"logit_bias": [[-1, 5]]},
    "bias id not whole": {"logit_bias": [[1.5, 5]]},
    "bias shape": {"logit_bias": [[1]]},
    "detokenize": {"tokens": [999_999]},
}


@pytest.mark.parametrize("name", KILLERS)
def test_refuses(name: str) -> None:
    assert verdict(**KILLERS[name]), name


JSON_GRAMMAR = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws  # any value
object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
NAME = {"type": "string", "pattern": "^[A-Z][a-z]+( [A-Z][a-z]*)?$"}
PERSON = {"type": "object", "properties": {"name": NAME, "age": {"type": "integer"}}}
TREE = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/n"}}}}}}
LEGAL: dict[str, dict[str, object]] = {
    "nothing special": {"messages": [{"role": "user", "content": "hi " * 5000}], "temperature": 0.1, "n": 2, "max_tokens": 5},
    "much code": {"messages": [{"role": "user", "content": "{[" * 50_000}]},
    "many messages": {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}] * 5000},
    "json grammar": {"grammar": JSON_GRAMMAR},
    "choice grammar": {"grammar": "root ::= " + " | ".join(f'"word{i}"' for i in range(500))},
    "some options": {"grammar": "root ::= " + '"a"? ' * 40},
    "bounded repeat": {"grammar": 'root ::= "a"{0,2000} [b-c]{2} .{3,}'},
    "token grammar": {"grammar": "root ::= <[12]> !<think> foo-bar\nfoo-bar ::= ( )"},
    "empty grammar": {"grammar": ""},
    "no grammar": {"grammar": None},
    "json object": {"response_format": {"type": "json_object"}},
    "text": {"response_format": {"type": "text"}},
    "no format": {"response_format": None},
    "person": {"response_format": schema(PERSON)},
    "recursive": {"response_format": schema(TREE)},
    "nested": {"json_schema": nested_schema(30)},
    "wide": {"json_schema": {"type": "object", "properties": properties(200)}},
    "wide and required": {"json_schema": {"type": "object", "properties": properties(1000), "required": list(properties(1000))}},
    "enum": {"json_schema": {"enum": [f"p{i}" for i in range(1000)]}},
    "a property called enum": {"json_schema": {"type": "object", "properties": {"enum": {"type": "string"}, "properties": {}}}},
    "schema true": {"json_schema": True},
    "tools": {"tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": PERSON}}] * 50},
    "tool without parameters": {"tools": [{"type": "function", "function": {"name": "f"}}]},
    "no tools": {"tools": None},
    "kwargs": {"chat_template_kwargs": {"enable_thinking": False}},
    "word trigger": {"grammar_triggers": [{"type": 1, "value": "<tool>"}, {"type": 0, "value": "x", "token": 5}]},
    "text prompt": {"prompt": "[not a list"},
    "prompts": {"prompt": ["a", "b"]},
    "ids": {"prompt": [0, 1, 261]},
    "many ids": {"prompt": [5] * 100_000},
    "lists of ids": {"input": [[0, 261], [5]]},
    "mixed": {"prompt": ["hi", 5, "there"]},
    "object prompt": {"prompt": [{"prompt_string": "hi"}]},
    "no ids": {"prompt": []},
    "bias": {"logit_bias": {"5": -100, "261": 3.5}},
    "bias pairs": {"logit_bias": [[5, -100], ["the", 3], [7, False]]},
    "no bias": {"logit_bias": None},
    "chat logprobs": {"logprobs": True, "top_logprobs": 20},
    "completion logprobs": {"logprobs": 5},
    "no logprobs": {"logprobs": None, "top_logprobs": None},
    "probabilities": {"n_probs": 262},
    "stop": {"stop": ["\n", "</s>", ",,,,"]},
    "stop text": {"stop": "," * 1000},
    "breakers": {"dry_sequence_breakers": ["\n", ":", "*"]},
}


@pytest.mark.parametrize("name", LEGAL)
def test_passes(name: str) -> None:
    assert verdict(**LEGAL[name]) == ""


def test_unknown_vocab_checks_what_it_can() -> None:
    assert refuse(doc(prompt=[200_000]), vocab=None) is None
    assert refuse(doc(prompt=[-1]), vocab=None) is not None


def test_broken_values_are_refused_not_raised() -> None:
    for name in ("grammar", "tools", "response_format", "json_schema", "logit_bias", "prompt", "n_probs", "stop", "grammar_triggers"):
        for raw in (b'{"a":', b"[1", b'"\\ud800', b"[" * 3000):
            refuse({name: msgspec.Raw(raw)}, vocab=10)


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        ('root ::= ("a"', "not closed"), ('root ::= "a")', "not opened"), ("root ::= *", "nothing before it"),
        ('"a"', "does not begin with a rule"),
        ('root ::= "', "cannot be read"), ("| a", "does not begin with a rule"), ('root ::= ("a" x ::= "b"', "not closed"),
    ],
)  # fmt: skip
def test_grammar_faults_are_named(grammar: str, says: str) -> None:
    assert says in gbnf.fault(grammar)


def test_weights_count_ways_and_skips() -> None:
    rules = gbnf.parse('root ::= a? b? "c"\na ::= "x" | "y"\nb ::= ""')
    assert not isinstance(rules, str)
    weight = gbnf.measure(rules)
    assert weight is not None and (weight.peak, weight.peak_skips) == (4, 3)  # x, y, c past an absent and past an empty b


def test_patterns_are_measured_like_grammars() -> None:
    assert gbnf.pattern_fault(r"^(?:\d{3}-)?[a-z\]]+?\.(com|org)$") == ""
    assert gbnf.pattern_fault("(a|b|c|d)?" * 65)
    assert gbnf.pattern_fault("a" * 5000)
    assert math.isfinite(len(gbnf.pattern_fault("(" * 300 + ")" * 300)))
