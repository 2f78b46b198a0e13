"""The sidecar: what is kept, found, refused, forgotten."""

from __future__ import annotations

import base64
import json
import random
import zlib
from typing import Any

import pytest

from backends import wire
from backends.dialects import sidecar_wire as form
from backends.dialects.sidecar import MOST, OVERHEAD, Sidecar
from backends.dialects.sidecar_wire import MARK, State

BLOCK = {"type": "thinking", "thinking": "Hm.", "signature": "signed by A"}
HIDDEN = {"type": "redacted_thinking", "data": "hidden by A"}
SIGN = {"google": {"thought_signature": "signed by G"}}


def call(id: str, arguments: str = '{"city":"Paris"}', name: str = "get", **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def said(*calls: dict[str, Any], content: Any = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"tool_calls": [*calls]} if calls else {}), **more}


def doc(*messages: Any) -> wire.Doc:
    return wire.parse(json.dumps({"model": "m", "messages": messages}).encode())


def turns(found: wire.Doc) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = json.loads(bytes(found["messages"]))
    return out


USER = {"role": "user", "content": "Hi"}


def test_what_a_call_needs_is_found_by_its_id() -> None:
    sidecar = Sidecar()
    sidecar.keep("t", "anthropic", "", said(call("a"), call("b"), thinking_blocks=[BLOCK, HIDDEN]))
    asked = doc(USER, said(call("a", '{ "city": "Paris" }'), call("b")), {"role": "tool", "tool_call_id": "a", "content": "x"})
    found, place = sidecar.restore("t", "anthropic", asked)
    assert turns(found)[1]["thinking_blocks"] == [BLOCK, HIDDEN] and place
    assert [turns(found)[i] for i in (0, 2)] == [turns(asked)[i] for i in (0, 2)]
    for tenant, family in (("other", "anthropic"), ("t", "gemini")):
        assert sidecar.restore(tenant, family, asked)[0] is asked


def test_an_id_alone_proves_nothing() -> None:
    """Some engines number calls anew in each answer."""
    sidecar = Sidecar()
    sidecar.keep("t", "anthropic", "", said(call("0"), thinking_blocks=[BLOCK]))
    for other in (call("0", '{"city":"Rome"}'), call("0", name="put"), call("0", "no JSON"), {"id": "0"}, call("1")):
        asked = doc(USER, said(other))
        assert sidecar.restore("t", "anthropic", asked)[0] is asked


def test_signatures_of_calls_and_of_messages() -> None:
    sidecar = Sidecar()
    sidecar.keep("t", "gemini", "", said(call("a", extra_content=SIGN), call("b"), extra_content={"google": {"parts": []}}))
    first, second = turns(sidecar.restore("t", "gemini", doc(said(call("a"), call("b"))))[0])[0]["tool_calls"]
    assert first["extra_content"] == SIGN and "extra_content" not in second
    own = said(call("a", extra_content={"x": 1}), call("b"), extra_content={"y": 1}, thinking_blocks=[{"type": "thinking"}])
    asked = doc(own)
    assert sidecar.restore("t", "gemini", asked)[0] is asked  # what the client brings itself counts


@pytest.mark.parametrize("content", ["Yes.", [{"type": "text", "text": "Ye"}, {"type": "text", "text": "s."}, "odd"]])
def test_an_answer_without_calls_is_found_by_its_place(content: Any) -> None:
    sidecar = Sidecar()
    _, place = sidecar.restore("t", "anthropic", doc(USER))
    sidecar.keep("t", "anthropic", place, said(content="Yes.", thinking_blocks=[BLOCK]))
    found, _ = sidecar.restore("t", "anthropic", doc(USER, said(content=content), USER))
    assert turns(found)[1]["thinking_blocks"] == [BLOCK]
    elsewhere = doc({"role": "user", "content": "Other"}, said(content="Yes."), USER)
    assert sidecar.restore("t", "anthropic", elsewhere)[0] is elsewhere


def test_foreign_thinking_is_taken_out() -> None:
    sidecar = Sidecar()
    sidecar.keep("t", "anthropic", "", said(call("a"), thinking_blocks=[BLOCK]))
    unknown = {"type": "thinking", "thinking": "", "signature": "whose?"}
    carried = doc(said(call("a"), thinking_blocks=[BLOCK, unknown, {"type": "thinking", "signature": 1}, "odd"]))
    assert turns(sidecar.restore("t", "gemini", carried)[0])[0]["thinking_blocks"] == [unknown, {"type": "thinking", "signature": 1}, "odd"]
    assert sidecar.restore("t", "anthropic", carried)[0] is carried
    alone = turns(sidecar.restore("t", "gemini", doc(said(call("a"), thinking_blocks=[BLOCK])))[0])[0]
    assert "thinking_blocks" not in alone


@pytest.mark.parametrize(
    "messages", [b"3", b'["assistant"]', b'[{"role":"user"}]', b'[{"role":"tool","tool_call_id":3,"x":"_pms1_"}]', b"[]"]
)
def test_what_cannot_be_read_is_left_to_be_refused(messages: bytes) -> None:
    asked = wire.parse(b'{"messages":%b}' % messages)
    assert Sidecar().restore("t", "anthropic", asked)[0] is asked
    assert Sidecar().restore("t", "anthropic", {})[0] == {}


def test_it_is_bounded() -> None:
    small = Sidecar(count=3)
    for i in range(5):
        small.keep("t", "gemini", "", said(call(f"c{i}", extra_content=SIGN)))
    assert len(small) == 3
    few = Sidecar(size=3 * (OVERHEAD + 200))
    for i in range(50):
        few.keep("t", "gemini", "", said(call(f"c{i}", extra_content=SIGN)))
    assert 1 <= len(few) <= 5
    huge = Sidecar(size=1000)
    huge.keep("t", "gemini", "", said(call("c", extra_content={"google": {"thought_signature": "x" * 2000}})))
    assert len(huge) == 0 and repr(huge) == "<Sidecar 0 entries, 0 bytes>"
    assert Sidecar().count == MOST
    assert form.carries(b'"extra_content"') and form.carries(b'"thinking_blocks"') and not form.carries(b"content")


def test_what_is_used_stays() -> None:
    sidecar = Sidecar(count=2)
    for name in ("a", "b"):
        sidecar.keep("t", "gemini", "", said(call(name, extra_content=SIGN)))
    asked = doc(said(call("a")))
    assert sidecar.restore("t", "gemini", asked)[0] is not asked
    sidecar.keep("t", "gemini", "", said(call("c", extra_content=SIGN)))
    sidecar.keep("t", "gemini", "", said(call("c", extra_content=SIGN)))  # the same once more takes no more room
    assert sidecar.restore("t", "gemini", asked)[0] is not asked and len(sidecar) == 2


def test_nothing_is_kept_of_an_answer_without_state() -> None:
    sidecar = Sidecar()
    for message in (said(call("a")), said(content="x"), said(call("a"), thinking_blocks="odd", extra_content=[1]), {"tool_calls": 3}):
        sidecar.keep("t", "gemini", "", message)
    sidecar.keep("t", "gemini", "", said({"extra_content": SIGN}))  # a call without an id
    assert len(sidecar) == 0


# --- ids
def test_state_travels_in_an_id() -> None:
    state = form.id_state({"thinking_blocks": [BLOCK]}, call("a", extra_content=SIGN), "anthropic")
    assert state is not None
    id = form.with_state("a", state)
    assert id.startswith(f"a{MARK}") and id.replace("_", "").replace("-", "").isalnum()
    assert form.without_state(id) == ("a", state)
    asked = doc(USER, said(call(id)), {"role": "tool", "tool_call_id": id, "content": "x"})
    found = turns(Sidecar().restore("t", "anthropic", asked)[0])
    assert found[1]["thinking_blocks"] == [BLOCK]
    assert found[1]["tool_calls"][0]["id"] == found[2]["tool_call_id"] == "a"
    other = turns(Sidecar().restore("t", "gemini", asked)[0])
    assert "thinking_blocks" not in other[1] and other[1]["tool_calls"][0]["id"] == "a"
    assert form.id_state({}, call("a"), "gemini") is None


def test_an_id_with_what_is_no_state() -> None:
    good = form.with_state("a", State("gemini", b=[BLOCK]))
    bad = [f"a{MARK}", f"a{MARK}***", f"a{MARK}AAAA", good[:-8], f"a{MARK}" + "x" * form.MOST_ID]
    for id in bad:
        assert form.without_state(id) == ("a", None), id
    for id in ("a", MARK, f"{MARK}x"):
        assert form.without_state(id) == (id, None)
    mode = Sidecar(mode="id")
    mode.keep("t", "gemini", "", said(call("a", extra_content=SIGN)))
    assert len(mode) == 0


def test_what_is_too_much_for_an_id_stays_out() -> None:
    noise = random.Random(1).randbytes(30_000).hex()
    assert form.with_state("a", State("f", b=[{"signature": noise}])) == "a"
    assert form.with_state("a", State("f", b=[{"signature": "x" * form.MOST_STATE}])) == "a"


def test_a_bomb_in_an_id_is_not_unpacked() -> None:
    packed = base64.urlsafe_b64encode(zlib.compress(b"x" * (form.MOST_STATE * 8), 9)).rstrip(b"=").decode()
    assert len(packed) < form.MOST_ID
    assert form.without_state(f"a{MARK}{packed}") == ("a", None)
    assert form.decoded(b'"') is None and form.decoded(b"[]") is None and form.decoded(b"[" * 10_000) is None


# --- answers
def test_a_stream_adds_up_as_openais_sdk_adds_it() -> None:
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        {"thinking_blocks": [{"index": 0, **BLOCK}]},
        {"thinking_blocks": [{"index": 1, **HIDDEN}], "content": "Let "},
        {"content": "me."},
        {"tool_calls": [call("a", "", index=0)]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Paris"}'}}]},
        {"extra_content": {"google": {"parts": [1]}}},
        {"extra_content": {"google": {"parts": [2], "n": 1}}, "content": 3},
    ]
    events = [b"data: " + json.dumps({"choices": [{"index": 0, "delta": d}]}).encode() + b"\n\n" for d in deltas]
    odd = [b": comment\n\n", b"data: [DONE]\n\n", b"data: {]\n\n", b'data: {"choices":3}\n\n', b'data: {"choices":[{"delta":3},4]}\n\n']
    (message,) = form.streamed(b"".join([*events, *odd]) + b"data: {")
    assert message["content"] == "Let me." and message["tool_calls"][0]["function"]["arguments"] == '{"city":"Paris"}'
    assert [b["type"] for b in message["thinking_blocks"]] == ["thinking", "redacted_thinking"]
    assert message["extra_content"] == {"google": {"parts": [1, 2], "n": 1}}
    assert form.whole(b'{"choices":[{"message":{"role":"assistant"}},{}]}') == [{"role": "assistant"}]


def test_calls_are_the_same_however_they_are_written() -> None:
    same = [[call("a", '{"x":1,"y":2}')], [call("b", '{ "y": 2, "x": 1 }')]]
    assert form.call_digest(same[0]) == form.call_digest(same[1]) != form.call_digest([call("a", '{"x":1}')])
    assert form.call_digest([call("a", "")]) == form.call_digest([call("a", "{}")])
    assert form.call_digest([call("a", '{"x"')]) and form.call_digest([{"function": {"arguments": {"x": 1}}}])
    assert form.call_digest([]) == ""
