"""Calls for embeddings as one document: joined and divided they are what each would have got alone, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import wire
from backends.embeddings import Asked, apportioned, asked, divided, joined, key, shares
from backends.types import Call, Target, Timeouts

LIMIT = 32 * 1024
VECTORS = ("[0.1,-0.02,1e-05]", "[0.0, 1.0 ,-0.0]", '"AAAAAAAAgD8="', "[]")  # as engines write them; never read
TEXTS = st.text(min_size=1, max_size=12)
TOKENS = st.lists(st.integers(0, 99_999), min_size=1, max_size=6)
OF_TEXT = st.one_of(TEXTS, st.lists(TEXTS, min_size=1, max_size=4))
OF_TOKENS = st.one_of(TOKENS, st.lists(TOKENS, min_size=1, max_size=4))


def call(given: Any, *, raw: bool = False, **more: Any) -> Call:
    text = given if raw else json.dumps(given)
    rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in more.items())
    doc = wire.parse(f'{{"model": "m", "input": {text}{rest}}}'.encode())
    return Call(b"req-1", "embeddings", "m", bool(more.get("stream")), doc, "", {}, 0.0)


def inputs_of(given: Any) -> list[Any]:
    return given if isinstance(given, list) and isinstance(given[0], str | list) else [given]


def engine(body: bytes, *, order: int = 1, plain: bool = False) -> bytes:
    """An engine's answer: a token a byte of JSON text within the quotes, or as many as were sent."""
    doc = json.loads(body)
    raw = wire.parse(body)["input"]
    many = isinstance(doc["input"], list) and isinstance(doc["input"][0], str | list)
    raws = [bytes(one) for one in msgspec.json.decode(raw, type=list[msgspec.Raw])] if many else [bytes(raw)]
    items, tokens = [], 0
    for index, (one, raw) in enumerate(zip(inputs_of(doc["input"]), raws, strict=True)):
        place = "" if plain else f'"index":{index},'
        items.append(f'{{"object":"embedding",{place}"embedding":{VECTORS[hash(json.dumps(one)) % len(VECTORS)]}}}')
        tokens += len(raw) - 2 if isinstance(one, str) else len(one)
    usage = f'{{"prompt_tokens":{tokens},"total_tokens":{tokens},"prompt_tokens_details":null}}'
    return f'{{"object":"list","data":[{",".join(items[::order])}],"model":"own","usage":{usage},"x_new":[1, 2]}}'.encode()


def all_asked(calls: list[Call]) -> list[Asked]:
    found = [asked(one, LIMIT) for one in calls]
    assert all(one is not None for one in found)
    return [one for one in found if one is not None]


@given(st.one_of(st.lists(OF_TEXT, min_size=1, max_size=6), st.lists(OF_TOKENS, min_size=1, max_size=6)), st.sampled_from((1, -1)))
def test_joined_and_divided_is_each_by_itself(given: list[Any], order: int) -> None:
    calls = [call(one) for one in given]
    parts = all_asked(calls)
    answer = engine(wire.encode(joined(calls[0], parts)), order=order)
    found = divided(answer, parts)
    assert found is not None
    assert [wire.encode(one) for one in found] == [engine(wire.encode(one.doc), order=order) for one in calls]


def test_items_without_an_index_stand_in_the_order_asked() -> None:
    calls = [call("a"), call(["b", "c"])]
    parts = all_asked(calls)
    found = divided(engine(wire.encode(joined(calls[0], parts)), plain=True), parts)
    assert found is not None and [wire.encode(one) for one in found] == [engine(wire.encode(one.doc), plain=True) for one in calls]


@pytest.mark.parametrize(
    "text",
    [
        '""', "[]", '["a", ""]', "[[]]", "[[1], []]", '["a", 1]', '[1, "a"]', "[[1], 2]", "[-1]",
        "[1.5]", "{}", '[{"text": "a"}]', "null", "7",
        "true", '[["a"]]', '["a", null]', '"' + "x" * LIMIT + '"',
    ],
)  # fmt: skip
def test_what_goes_by_itself(text: str) -> None:
    assert asked(call(text, raw=True), LIMIT) is None


def test_a_call_without_an_input_or_for_a_stream_goes_by_itself() -> None:
    doc = wire.parse(b'{"model": "m"}')
    assert asked(Call(b"r", "embeddings", "m", False, doc, "", {}, 0.0), LIMIT) is None
    assert asked(call("a", stream=True), LIMIT) is None


def test_what_is_asked_and_how_much_it_weighs() -> None:
    assert asked(call('["é", "bc"]', raw=True), LIMIT) == Asked("text", (wire.raw("é"), wire.raw("bc")), 4, 8)
    assert asked(call("[ 1, 2,3 ]", raw=True), LIMIT) == Asked("tokens", (msgspec.Raw(b"[ 1, 2,3 ]"),), 3, 10)
    assert asked(call([[1], [2, 3]]), LIMIT) == Asked("tokens", (msgspec.Raw(b"[1]"), msgspec.Raw(b"[2, 3]")), 3, 13)


def test_only_the_same_question_is_joined() -> None:
    target, limits = Target("gpu", "own"), Timeouts(idle=3.0)
    same = key(call("a", dimensions=8, user="u"), target, None, "text")
    assert same == key(call(["b"], user="u", dimensions=8), target, None, "text")
    for other in (
        key(call("a", dimensions=9, user="u"), target, None, "text"), key(call("a", dimensions=8), target, None, "text"),
        key(call("a", dimensions=8, user="v"), target, None, "text"),
        key(call("a", dimensions=8, user="u", x=None), target, None, "text"),
        key(call("a", dimensions=8, user="u"), Target("gpu", "other"), None, "text"),
        key(call("a", dimensions=8, user="u"), target, limits, "text"), key(call("a", dimensions=8, user="u"), target, None, "tokens"),
    ):  # fmt: skip
        assert other != same


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"no json", b"{}", b'{"data":null}', b'{"data":[{"index":0}]}', b'{"data":[{"index":0},{"index":0}]}',
        b'{"data":[{"index":0},{"index":2}]}', b'{"data":[{"index":0},{}]}', b'{"data":[{"index":"0"},{"index":1}]}', b'{"data":[1,2]}',
        b'{"data":[{},{},{}]}', b'{"data":[{},{}],"usage":7}', b'{"error":{"message":"no"}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_answer_for_all(body: bytes) -> None:
    assert divided(body, all_asked([call("a"), call("b")])) is None


def test_an_answer_without_usage_has_none_for_anybody() -> None:
    parts = all_asked([call("a"), call("b")])
    for told in (b',"usage":null', b""):
        found = divided(b'{"data":[{},{}]%b}' % told, parts)
        assert found is not None and [wire.encode(one) for one in found] == [b'{"data":[{}]%b}' % told] * 2


WEIGHTS = st.lists(st.integers(1, 10**6), min_size=1, max_size=40)


@given(st.integers(0, 10**7), WEIGHTS)
def test_apportioned(total: int, weights: list[int]) -> None:
    found = apportioned(total, weights)
    assert sum(found) == total and min(found) >= (1 if total >= len(weights) else 0)
    exact = [total * weight / sum(weights) for weight in weights]
    if min(exact) >= 1:
        assert all(abs(a - b) < 1 + 1e-6 * b for a, b in zip(found, exact, strict=True))
    assert apportioned(sum(weights), weights) == weights


def test_shares_of_a_usage() -> None:
    usage = {
        "prompt_tokens": 10, "total_tokens": 10, "completion_tokens": 0, "details": {"cached_tokens": 4, "x": None}, "cost": 0.5,
        "tier": "a",         "odd": -3, "flag": True,
    }  # fmt: skip
    one, two = shares(usage, [1, 4])
    rest = {"completion_tokens": 0, "tier": "a", "odd": -3, "flag": True}
    assert one == {**rest, "prompt_tokens": 2, "total_tokens": 2, "details": {"cached_tokens": 1, "x": None}, "cost": 0.1}
    assert two == {**rest, "prompt_tokens": 8, "total_tokens": 8, "details": {"cached_tokens": 3, "x": None}, "cost": 0.4}
