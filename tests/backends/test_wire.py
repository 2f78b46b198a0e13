"""The shallow document: what is refused, what survives byte for byte, and that token counts are disjoint."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.types import DEFAULT_STATUS, Fault, Usage

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
counts = st.integers(min_value=0, max_value=10**12)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


prompt_details = st.fixed_dictionaries({}, optional={"cached_tokens": maybe(counts), "cache_write_tokens": maybe(counts)})
output_details = st.fixed_dictionaries({}, optional={"reasoning_tokens": maybe(counts), "audio_tokens": counts})
usages = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": maybe(counts),
        "completion_tokens": maybe(counts),
        "total_tokens": counts,
        "prompt_tokens_details": maybe(prompt_details),
        "completion_tokens_details": maybe(output_details),
    },
)


def refused(body: bytes) -> Fault:
    with pytest.raises(Fault) as caught:
        wire.parse(body)
    return caught.value


@given(st.dictionaries(st.text(), json_values, max_size=6), st.booleans())
def test_every_value_survives_byte_for_byte(doc: dict[str, Any], ascii_only: bool) -> None:
    slices = {key: json.dumps(value, ensure_ascii=ascii_only, indent=1).encode("utf-8", "surrogatepass") for key, value in doc.items()}
    if any(b"\xed\xa0" <= s[i : i + 2] <= b"\xed\xbf" for s in slices.values() for i in range(len(s))):
        return  # half a surrogate pair is not UTF-8
    body = b" {" + b" , ".join(json.dumps(key).encode() + b" :\t" + raw for key, raw in slices.items()) + b"}\n"
    try:
        parsed = wire.parse(body)
    except Fault as fault:
        assert "not valid JSON" in fault.message and "\\ud" in body.decode()  # an escaped half of a pair in a key
        return
    assert {key: bytes(raw) for key, raw in parsed.items()} == slices
    assert {key: bytes(raw) for key, raw in wire.parse(wire.encode(parsed)).items()} == slices


def test_a_duplicate_key_has_one_meaning_here_and_for_the_engine() -> None:
    doc = wire.parse(b'{"model":"a","n":1,"model":"b"}')
    assert wire.text(doc, "model") == "b"
    assert wire.encode(doc) == b'{"model":"b","n":1}'


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "has no body"),
        (b"[1]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"a":1}x', "trailing characters"),
        (b'{"a":1,}', "not valid JSON"),
        (b'{"a":NaN}', "not valid JSON"),
        (b"{a:1}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a":"\\ud800"}', "not valid JSON"),
        (b'{"a":"\xff"}', "not valid UTF-8 (byte 6)"),
        (b'{"a":"\xed\xa0\x80"}', "not valid UTF-8 (byte 6)"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ],
)
def test_what_is_no_document_is_the_clients_400(body: bytes, says: str) -> None:
    fault = refused(body)
    assert (fault.kind, fault.status, fault.origin) == ("bad_request", 400, "client")
    assert says in fault.message and "\n" not in fault.message


@given(st.binary(max_size=64))
def test_any_bytes_are_a_document_or_a_fault(body: bytes) -> None:
    try:
        doc = wire.parse(body)
    except Fault as fault:
        assert fault.origin == "client" and fault.status == 400
    else:
        assert set(doc) == set(json.loads(body))


def test_text() -> None:
    doc = wire.parse(b'{"s":"x\\n","n":null,"i":1}')
    assert wire.text(doc, "s") == "x\n"
    assert wire.text(doc, "n") is wire.text(doc, "absent") is None
    with pytest.raises(Fault, match="'i' must be a string") as caught:
        wire.text(doc, "i")
    assert caught.value.param == "i"


def test_flag() -> None:
    doc = wire.parse(b'{"t":true,"f":false,"n":null,"one":1,"s":"true"}')
    assert wire.flag(doc, "t") is True
    assert not wire.flag(doc, "f") and not wire.flag(doc, "n") and not wire.flag(doc, "absent")
    for key in ("one", "s"):
        with pytest.raises(Fault, match="must be true or false"):
            wire.flag(doc, key)


def test_sub_and_items() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    doc = wire.parse(b'{"o":{"a": 1},"l":[{"a":2},{}],"n":null,"s":"x","mixed":[1]}')
    assert wire.sub(doc, "o") == {"a": msgspec.Raw(b"1")}
    assert wire.sub(doc, "n") == wire.sub(doc, "absent") == {}
    assert wire.items(doc, "l") == [{"a": msgspec.Raw(b"2")}, {}]
    assert wire.items(doc, "n") == wire.items(doc, "absent") == []
    for key in ("s", "l"):
        with pytest.raises(Fault, match="must be a JSON object"):
            wire.sub(doc, key)
    for key in ("s", "o", "mixed"):
        with pytest.raises(Fault, match="must be a list of JSON objects"):
            wire.items(doc, key)
    nested = {"o": msgspec.Raw(b'{"a":' + deep + b"}"), "l": msgspec.Raw(b'[{"a":' + deep + b"}]")}
    with pytest.raises(Fault, match="'o' must be"):
        wire.sub(nested, "o")
    with pytest.raises(Fault, match="'l' must be"):
        wire.items(nested, "l")


def test_raw_and_drop_leave_the_original_alone() -> None:
    doc = wire.parse(b'{"a":1,"b":2}')
    assert wire.drop(doc, ["a", "zz"]) == {"b": msgspec.Raw(b"2")}
    assert set(doc) == {"a", "b"}
    assert wire.raw({"x": [1, "é"]}) == msgspec.Raw('{"x":[1,"é"]}'.encode())


@given(usages)
def test_token_counts_are_disjoint_and_add_up(fields: dict[str, Any]) -> None:
    found = wire.usage(json.dumps({"usage": fields}).encode())
    assert found is not None
    assert found.input + found.cached + found.cache_write == (fields.get("prompt_tokens") or 0)
    assert found.output + found.reasoning == (fields.get("completion_tokens") or 0)
    assert min(found.input, found.cached, found.cache_write, found.output, found.reasoning) >= 0
    told = found.input + found.cached + found.cache_write, found.cached, found.output + found.reasoning
    assert wire.told(json.dumps({"usage": fields}).encode()) == told


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", None),
        (b'{"usage":null}', None),
        (b'{"usage":{"prompt_tokens":-1}}', None),
        (b'{"usage":{"prompt_tokens":"7"}}', None),
        (b'{"usage":[]}', None),
        (b"garbage", None),
        (b'{"usage":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", None),
        (b'{"usage":{}}', Usage()),
        (b'{"usage":{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":99}}}', Usage(cached=9)),
    ],
)
def test_usage_of_odd_answers(body: bytes, expected: Usage | None) -> None:
    assert wire.usage(body) == expected
    assert wire.told(body) == (None if expected is None else (expected.input + expected.cached, expected.cached, 0))


def test_usage_adds() -> None:
    assert Usage(1, 2, 3, 4, 5) + Usage(10, 20, 30, 40, 50) == Usage(11, 22, 33, 44, 55)


texts = st.text() | st.sampled_from(["usage", '"usage"', '{"usage":{"prompt_tokens":1}}', "}", '"usage":{'])


extras = st.dictionaries(st.sampled_from(["timings", "id"]), texts)


@given(usages | st.none(), st.lists(texts, max_size=3), st.booleans(), st.sampled_from([None, 1]), extras)
def test_the_tail_says_what_the_whole_answer_says(
    fields: dict[str, Any] | None, said: list[str], first: bool, indent: int | None, more: dict[str, str]
) -> None:
    answer: dict[str, Any] = {"usage": fields} if first else {}
    answer |= {"choices": [{"message": {"content": text, "tool_calls": [{"function": {"name": text}}]}} for text in said], **more}
    answer["usage"] = fields
    body = json.dumps(answer, indent=indent).encode()
    tail = wire.usage_tail(body)
    assert (None if tail is None else wire.usage(tail)) == wire.usage(body)


@pytest.mark.parametrize(
    ("body", "tail"),
    [
        (b'{"usage":{"a":{"b":1}},"x":{}}', b'{"usage":{"a":{"b":1}}}'),
        (b'{"usage" : {"a":1}}', b'{"usage" : {"a":1}}'),
        (b'{"usage":{"a":1},"x":"usage"}', b'{"usage":{"a":1}}'),
        (b'{"x":["usage"]}', None),
        (b'{"usage":null}', None),
        (b'{"usage":{"a":1', None),
        (b'{"usage":{"a":{}', None),
        (b'{"usage":{"a":"' + b"x" * 5000 + b'"}}', None),
        (b'{"usage":' + b'{"a":{},' * 5 + b'"', None),
        (b"{}", None),
        (b'"usage"', None),
    ],
)
def test_tails(body: bytes, tail: bytes | None) -> None:
    assert wire.usage_tail(body) == tail


@pytest.mark.parametrize("kind", sorted(DEFAULT_STATUS))
def test_every_kind_of_fault_has_an_envelope(kind: Any) -> None:
    fault = Fault(kind, "what, where")
    assert fault.status == DEFAULT_STATUS[kind] and repr(fault) == f"Fault({kind} {fault.status} by gateway: what, where)"
    error = json.loads(wire.envelope(fault))["error"]
    assert error.pop("type") and error == {"message": "what, where", "param": None, "code": kind, "origin": "gateway"}


def test_an_envelope_keeps_what_the_backend_said() -> None:
    fault = Fault("rate_limited", "slow", origin="backend", code="c", type="t", param="p")
    assert json.loads(wire.envelope(fault))["error"] == {"message": "slow", "type": "t", "param": "p", "code": "c", "origin": "backend"}
