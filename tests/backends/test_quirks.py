"""What kinds of servers need changed in a document, and that a document that needs nothing is left alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from backends import wire
from backends.quirks import NAMED, QUIRKS, TELL_USAGE, UNSUPPORTED, developer_to_system, idle, named_tool_to_required, short_id
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
    assert {q for row in QUIRKS.values() for q in row} == set(NAMED.values())
    assert QUIRKS["vllm"] == (developer_to_system,)
    assert "compatible" not in QUIRKS  # a server that nobody named is taken at its word
    assert TELL_USAGE == {"mistral"}
    assert all("model" not in names and "messages" not in names for names in UNSUPPORTED.values())


@pytest.mark.parametrize("kind", ["llamacpp", "llama-server", "lmstudio"])
def test_llama_cpp_renders_no_tools_that_must_not_be_called(kind: str) -> None:
    given = doc(model="m", tools=[tool("a")], tool_choice="none", parallel_tool_calls=True)
    for quirk in QUIRKS[kind]:
        given = quirk(given)
    assert plain(given) == {"model": "m"}


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f"}}]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "x"}


@pytest.mark.parametrize(
    ("quirk", "before", "after"),
    [
        ("no_tools_when_none", {"tools": [tool("a")], "tool_choice": "none"}, {}),
        ("only_max_tokens", {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("only_max_tokens", {"max_completion_tokens": 5, "max_tokens": 9}, {"max_tokens": 5}),
        ("completion_tokens", {"messages": [], "max_tokens": 5}, {"messages": [], "max_completion_tokens": 5}),
        ("completion_tokens", {"messages": [], "max_tokens": 5, "max_completion_tokens": 6}, {"messages": [], "max_completion_tokens": 6}),
        ("seed_to_random_seed", {"messages": [], "seed": 5}, {"messages": [], "random_seed": 5}),
        ("no_stream_options", {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        ("no_names", {"messages": [{"role": "user", "name": "me"}]}, {"messages": [{"role": "user"}]}),
        ("no_reasoning", {"messages": [{"role": "assistant", "reasoning": "r", "reasoning_content": "c", "thinking_blocks": []}]},
         {"messages": [{"role": "assistant"}]}),
        ("reasoning_as_reasoning", {"messages": [{"reasoning_content": "c"}, {"role": "user"}]},
         {"messages": [{"reasoning": "c"}, {"role": "user"}]}),
        ("reasoning_as_content", {"messages": [{"reasoning": "c"}]}, {"messages": [{"reasoning_content": "c"}]}),
        ("plain_messages",
         {"messages": [{"role": "assistant", "reasoning_content": "c", "thinking_blocks": [], "cache_control": {}, "extra_content": {},
                        "content": [{"type": "text", "text": "t", "cache_control": {"type": "ephemeral"}}],
                        "tool_calls": [{"id": "a", "extra_content": {"google": {}}}]}, {"role": "user", "content": "cache_control"}],
          "tools": [{"type": "function", "cache_control": {}}]},
         {"messages": [{"role": "assistant", "content": [{"type": "text", "text": "t"}], "tool_calls": [{"id": "a"}]},
                       {"role": "user", "content": "cache_control"}], "tools": [{"type": "function"}]}),
    ],
)  # fmt: skip
def test_what_a_quirk_changes(quirk: str, before: dict[str, Any], after: dict[str, Any]) -> None:
    given = doc(**before)
    assert plain(NAMED[quirk](given)) == after
    assert plain(given) == before


@pytest.mark.parametrize("quirk", [name for name in NAMED if name != "developer_to_system"])
@pytest.mark.parametrize("body", [{}, {"messages": [{"role": "user", "content": "x"}], "tools": [tool("a")], "tool_choice": "auto"}])
def test_a_document_that_needs_nothing_stays_the_same(quirk: str, body: dict[str, Any]) -> None:
    given = doc(**body)
    out = NAMED[quirk](given)
    assert plain(out) == body
    assert out is given or quirk == "no_names"  # the name of a function looks like a message's


def test_a_prompt_keeps_max_tokens() -> None:
    given = doc(prompt="x", max_tokens=5, seed=1)
    assert NAMED["completion_tokens"](given) is given and NAMED["seed_to_random_seed"](given) is given


def test_ids_of_nine_for_calls_and_their_results_alike() -> None:
    after = plain(NAMED["short_tool_ids"](doc(messages=[CALL, RESULT])))["messages"]
    assert after[0]["tool_calls"][0]["id"] == after[1]["tool_call_id"] == short_id("call_1")
    assert after[1]["content"] == "x"
    nameless = doc(messages=[{"role": "assistant", "tool_calls": [{"type": "function"}]}, {"role": "assistant", "tool_calls": None}])
    assert plain(NAMED["short_tool_ids"](nameless)) == plain(nameless)


@for_all(st.text(), st.text())
def test_a_short_id_is_nine_letters_and_digits_and_its_own(one: str, other: str) -> None:
    short = short_id(one)
    assert len(short) == 9 and short.isascii() and short.isalnum()
    assert short_id(short) == short == short_id(one)
    assert one == other or short != short_id(other) or {short} & {one, other}


def test_what_says_nothing_may_be_left_out() -> None:
    given = doc(n=1, logprobs=False, seed=None, stop="x", temperature=0.5, presence_penalty=0)
    assert [name for name, value in given.items() if idle(name, value)] == ["n", "logprobs", "seed", "presence_penalty"]
