"""Earlier turns of Responses: what is kept of a turn comes back as the same messages, and the endpoints around it answer as OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import openai.types.responses as r
import pytest

from backends import wire
from backends.dialects.responses import (
    Responses,
    counted,
    deleted,
    history,
    input_items,
    join,
    listing,
    references,
    resolve,
    response_of,
)
from backends.dialects.responses_history import named
from backends.dialects.types import Context
from backends.types import Fault

TOOLS = [{"type": "function", "name": "look", "parameters": {"type": "object"}}, {"type": "custom", "name": "patch"}]


def doc(**keys: Any) -> wire.Doc:
    return wire.parse(wire.encode({"model": "m", "tools": TOOLS} | keys))


def chat(asked: wire.Doc) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(bytes(Responses().request(asked)[0]["messages"]))
    return messages


ANSWER = {
    "reasoning_content": "Hm.",
    "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}],
    "content": "Look.",
    "tool_calls": [
        {"id": "c1", "function": {"name": "look", "arguments": "{}"}, "extra_content": {"google": {"thought_signature": "g"}}},
        {"id": "c2", "function": {"name": "patch", "arguments": '{"input":"p"}'}},
    ],
}


def test_a_conversation_on_the_store_is_the_one_that_a_client_would_send() -> None:
    surface = Responses()
    first = doc(input="Hi", instructions="Be brief.")
    body = wire.encode({"choices": [{"message": ANSWER, "finish_reason": "tool_calls"}]})
    answer = surface.reply(body, first, Context("req-1", 1, "m"))
    second = doc(
        previous_response_id="resp_req-1",
        input=[
            {"type": "custom_tool_call_output", "call_id": "c2", "output": "P"},
            {"type": "function_call_output", "call_id": "c1", "output": "L"},
        ],
    )
    kept = [(wire.encode(input_items(first, "req-1")), answer)]
    joined = join(second, history(kept))
    assert "previous_response_id" not in joined and "previous_response_id" in second
    user, assistant, one, two = chat(joined)  # instructions are not carried over
    assert user == {"role": "user", "content": "Hi"}
    assert assistant["thinking_blocks"] == ANSWER["thinking_blocks"] and assistant["content"] == "Look."
    assert assistant["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "g"}}
    assert [(m["role"], m["content"]) for m in (one, two)] == [("tool", "L"), ("tool", "P")]

    by_hand = [{"role": "user", "content": "Hi"}, *json.loads(answer)["output"], *json.loads(bytes(second["input"]))]
    assert chat(doc(input=by_hand)) == chat(joined)


def test_references_are_resolved_from_what_is_stored() -> None:
    stored = input_items(doc(input=[{"role": "user", "content": "a"}]), "req-1")
    known = named([*stored, wire.raw({"id": None}), wire.raw({"type": "message"})])
    (id_,) = known
    assert response_of(id_) == "resp_req-1"
    asked = doc(input=[{"type": "item_reference", "id": id_}, {"type": "item_reference", "id": "msg_x_0"}, {"type": "item_reference"}, 3])
    assert references(asked) == [id_, "msg_x_0"] and references(doc(input="x")) == [] == references(doc())
    resolved = json.loads(bytes(resolve(asked, known)["input"]))
    assert resolved[0]["content"] == [{"type": "input_text", "text": "a"}] and resolved[1:] == json.loads(bytes(asked["input"]))[1:]
    with pytest.raises(Fault) as e:
        Responses().request(resolve(asked, known))
    assert e.value.param == "input[1].id" and "msg_x_0" in e.value.message


LISTED = [
    {"role": "user", "content": "a"},
    {"type": "message", "role": "user", "id": "msg_own", "content": [{"type": "input_text", "text": "b"}]},
    {"role": "assistant", "content": "c"},
    {"role": "assistant", "content": [{"type": "output_text", "text": "d"}, {"type": "refusal", "refusal": "e"}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "A", "status": "incomplete"},
    {"type": "reasoning", "encrypted_content": "x"},
    {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": "p"},
    {"type": "custom_tool_call_output", "call_id": "c2", "output": "B"},
]


def test_input_items_are_listed_as_the_sdk_reads_them() -> None:
    stored = input_items(doc(input=[*LISTED, {"type": "else"}, {"type": 3}, 3]), "req-1")[:-1]
    found = r.ResponseItemList.model_validate_json(listing(stored[: len(LISTED)], order="asc", limit=100))
    assert len(found.data) == len(LISTED) and not found.has_more
    ids = [item["id"] for item in json.loads(listing(stored, order="asc"))["data"]]
    assert ids[:3] == ["msg_req-1_i0", "msg_own", "msg_req-1_i2"] and ids[-1] == "item_req-1_i9" and len(set(ids)) == len(ids)
    assert len(input_items(doc(input="x"), "req-1")) == 1 and input_items(doc(), "req-1") == []


def test_listing_goes_page_by_page_both_ways() -> None:
    stored = input_items(doc(input=[{"role": "user", "content": str(n)} for n in range(5)]), "r")
    ids = [f"msg_r_i{n}" for n in range(5)]
    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen: list[str] = []
        more, after = True, None
        while more:
            page = json.loads(listing(stored, order=order, after=after, limit=2))  # type: ignore[arg-type]
            seen += [item["id"] for item in page["data"]]
            more, after = page["has_more"], page["last_id"]
            assert page["first_id"] == seen[-len(page["data"])]
        assert seen == expected
    assert json.loads(listing([])) == {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
    for bad, param in (({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"after": "nope"}, "after")):
        with pytest.raises(Fault) as e:
            listing(stored, **bad)  # type: ignore[arg-type]
        assert e.value.param == param


def test_small_answers() -> None:
    assert json.loads(deleted("resp_1")) == {"id": "resp_1", "object": "response", "deleted": True}
    assert json.loads(counted(7)) == {"object": "response.input_tokens", "input_tokens": 7}
