"""What kinds of servers need changed in a document, and that a document that needs nothing is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import wire
from backends.quirks import QUIRKS, UNSUPPORTED, developer_to_system, named_tool_to_required
from backends.types import Fault


def doc(**keys: Any) -> wire.Doc:
    return wire.parse(json.dumps(keys).encode())


def plain(found: wire.Doc) -> Any:
    return json.loads(wire.encode(found))


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def test_developer_becomes_system_and_nothing_else_changes() -> None:
    messages = [{"role": "developer", "content": "developer"}, {"role": "user", "content": [{"type": "text", "text": "é"}], "x": 1}]
    before = doc(model="m", messages=messages)
    after = developer_to_system(before)
    assert plain(after) == {"model": "m", "messages": [{"role": "system", "content": "developer"}, messages[1]]}
    assert plain(before)["messages"] == messages


@pytest.mark.parametrize("body", [{}, {"messages": [{"role": "user", "content": "x"}]}, {"messages": "nonsense"}])
def test_without_a_developer_nothing_is_touched(body: dict[str, Any]) -> None:
    given = doc(**body)
    assert developer_to_system(given) is given


def test_the_word_alone_changes_nothing() -> None:
    given = doc(messages=[{"role": "user", "content": "developer"}])
    assert plain(developer_to_system(given)) == plain(given)


@pytest.mark.parametrize("messages", ["developer", [["developer"]], [{"role": ["developer"]}]])
def test_malformed_messages_are_refused(messages: Any) -> None:
    with pytest.raises(Fault, match="must be"):
        developer_to_system(doc(messages=messages))


@pytest.mark.parametrize("choice", [None, "auto", "required", "none"])
def test_other_tool_choices_stay(choice: str | None) -> None:
    given = doc(tools=[tool("a")], tool_choice=choice)
    assert named_tool_to_required(given) is given
    assert named_tool_to_required(doc()) == {}


def test_a_named_tool_is_the_only_one_and_required() -> None:
    given = doc(tools=[tool("a"), tool("b")], tool_choice={"type": "function", "function": {"name": "b"}})
    assert plain(named_tool_to_required(given)) == {"tools": [tool("b")], "tool_choice": "required"}


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"type": "function", "function": {"name": "zz"}}, "names the function 'zz', which is not among the tools"),
        ({"type": "function"}, "must be none, auto, required or name a function"),
        ({"type": "function", "function": {"name": 1}}, "'name' must be a string"),
        ({"function": []}, "'function' must be a JSON object"),
    ],
)
def test_a_named_tool_that_is_none_is_refused(choice: Any, says: str) -> None:
    with pytest.raises(Fault, match=says) as caught:
        named_tool_to_required(doc(tools=[tool("a")], tool_choice=choice))
    assert caught.value.status == 400


def test_every_row_is_of_known_quirks() -> None:
    assert {q for row in QUIRKS.values() for q in row} == {developer_to_system, named_tool_to_required}
    assert QUIRKS["vllm"] == (developer_to_system,)
    assert all("model" not in names and "messages" not in names for names in UNSUPPORTED.values())
