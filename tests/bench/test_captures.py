"""Captured requests, and the gateway's store of responses as one."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.captures import BadLine, Line, chat, kept
from benchmarks.bench.errors import BenchError
from benchmarks.bench.traces import Counts, lines
from gateway.responses_store import Kept, private_of
from gateway.responses_table import Table

HELLO = [{"role": "user", "content": "Hello"}]
NAMES = ["messages", "input", "role", "content", "text", "type", "tools", "instructions", "output", "system", "prompt"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.sampled_from(["", "user", "function_call", "ä"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


def read(path: Path, *rows: Any, counts: Counts | None = None) -> list[Line]:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return list(lines(path, counts=counts))


def body(line: Line) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(line.body or b"null")
    return found


def test_captured_requests_come_back_as_they_were(tmp_path: Path) -> None:
    first = {"model": "x", "messages": HELLO, "max_tokens": 5, "anything": [1, None]}
    one, two = read(
        tmp_path / "t",
        {"at": 1700000000.5, "body": first, "headers": {"X-Tenant": "a"}, "output_tokens": 3},
        {"at": 1700000001.0, "body": {"prompt": "x", "max_tokens": 9}, "input_tokens": 4},
    )
    assert (one.at, two.at, one.number, two.number) == (0.0, 0.5, 1, 2)
    assert body(one) == first
    assert (one.output_tokens, one.headers, one.timed) == (3, {"X-Tenant": "a"}, True)
    assert (two.output_tokens, two.input_tokens, body(two)) == (9, 4, {"prompt": "x", "max_tokens": 9})


def test_bodies_alone_have_no_times(tmp_path: Path) -> None:
    found = read(tmp_path / "t", {"messages": HELLO}, HELLO, {"body": {"messages": HELLO}}, {"prompt": "x", "max_completion_tokens": 8})
    assert [body(line).get("messages") for line in found] == [HELLO, HELLO, HELLO, None]
    assert not any(line.timed for line in found)
    assert [line.number for line in found] == [1, 2, 3, 4]
    assert found[3].output_tokens == 8


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"at": 1, "body": {"messages": HELLO}}, {"messages": HELLO}], "line 2 of t has no time"),
        ([{"messages": HELLO}, {"at": 1, "body": {"messages": HELLO}}], "line 2 of t has a time, but the first line has none"),
        ([{"at": 1, "messages": HELLO}], 'line 1 of t has "at" beside the request\'s own fields'),
        ([{"at": "soon", "body": {"messages": HELLO}}], "line 1 of t is bad"),
        ([{"at": 1, "body": {"model": "x"}}], "line 1 of t holds no messages and no prompt"),
        ([{"messages": HELLO}, "3"], "line 2 of t is no request"),
        ([{"messages": HELLO}, "{"], "line 2 of t is no JSON"),
        ([{"body": {"messages": HELLO}, "headers": {"a": "x\r\nb: c"}}], "line 1 of t has a header 'a' that cannot be sent"),
        ([{"body": {"messages": HELLO}, "headers": {"a b": "x"}}], "line 1 of t has a header 'a b'"),
        ([{"body": {"messages": HELLO}, "headers": {f"x-{n}": "" for n in range(65)}}], "line 1 of t has 65 headers"),
        ([{"body": {"messages": HELLO}, "output_tokens": -1}], "line 1 of t is bad"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, rows: list[Any], said: str) -> None:
    with pytest.raises(BenchError) as caught:
        read(tmp_path / "t", *rows)
    assert said in str(caught.value)


def test_headers_that_are_secret_or_of_the_connection_are_not_sent_again() -> None:
    secret = {name: "hunter2" for name in ("Authorization", "Cookie", "X-API-Key", "api-key", "X-Amz-Security-Token", "X-Signature")}
    theirs = {"Host": "a", "Content-Length": "1", "Transfer-Encoding": "chunked", "X-Forwarded-For": "1.2.3.4", "Connection": "close"}
    assert kept(secret | theirs | {"X-Tenant": "a"}) == {"X-Tenant": "a"}
    with pytest.raises(BadLine) as caught:
        kept({"X-Tenant": "hunter2\n"})
    assert "hunter2" not in str(caught.value)


def test_responses_become_chats() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
    asked = {
        "model": "x", "instructions": "Be brief.", "tools": [tool], "max_output_tokens": 7, "temperature": 0.5,
        "input": [
            {"role": "developer", "content": "D"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "yes"},
        ],
    }  # fmt: skip
    found = chat(asked)
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ("1", "2")]
    assert found == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "system", "content": "D"},
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "c", "tool_calls": calls},
            {"role": "tool", "tool_call_id": "1", "content": "yes"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        "temperature": 0.5,
        "max_tokens": 7,
    }
    assert chat({"input": "Hello"}) == {"messages": HELLO}


def test_system_of_messages_becomes_a_message() -> None:
    found = chat({"system": [{"type": "text", "text": "S"}], "messages": HELLO, "max_tokens": 4})
    assert found == {"messages": [{"role": "system", "content": "S"}, *HELLO], "max_tokens": 4}


@pytest.mark.parametrize(
    "asked",
    [
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": "x", "previous_response_id": "resp_1"},
        {"input": "x", "conversation": "c"},
        {"input": "x", "tools": [{"type": "web_search"}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": []},
        {"input": 3},
        {"input": [{"role": "tool", "content": "x"}]},
        {"system": 3, "messages": HELLO},
    ],
)
def test_what_no_chat_can_say_is_left_out_and_counted(tmp_path: Path, asked: dict[str, Any]) -> None:
    counts = Counts()
    assert len(read(tmp_path / "t", asked, HELLO, counts=counts)) == 1
    assert (counts.taken, counts.not_text) == (1, 1)
    assert "left out" in counts.notes()[0]


@given(JSON)
def test_whatever_a_line_holds_it_is_read_or_refused(value: Any) -> None:
    if isinstance(value, dict):
        found = chat(value)
        assert found is None or msgspec.json.encode(found)


# -- the store of responses ---------------------------------------------------------------------------------------------------------------


def stored(path: Path, *rows: tuple[str, str, Any, Any, float, str | None]) -> Path:
    with closing(Table(str(path))) as table:
        for tenant, id, items, response, unix, previous in rows:
            table.write(Kept(tenant, id, json.dumps(items).encode(), json.dumps(response).encode(), unix, previous))
    return path


def said(role: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": "output_text" if role == "assistant" else "input_text", "text": text}]}


def test_a_store_is_read_with_each_response_after_the_conversation_before_it(tmp_path: Path) -> None:
    first = {"output": [{"type": "reasoning", "summary": []}, said("assistant", "B")], "usage": {"input_tokens": 3, "output_tokens": 4}}
    second = {"output": [said("assistant", "D")], "instructions": "I", "max_output_tokens": 9, "usage": {"output_tokens": 5}}
    path = stored(
        tmp_path / "s",
        ("t", "r2", [said("user", "C")], second, 110.5, "r1"),
        ("t", "r1", [said("user", "A")], first, 100.0, None),
        ("other", "r1", [said("user", "X")], first, 105.0, None),
    )
    one, two, three = lines(path)
    assert [(line.at, line.input_tokens, line.output_tokens) for line in (one, two, three)] == [(0.0, 3, 4), (5.0, 3, 4), (10.5, 0, 5)]
    assert body(one) == {"messages": [{"role": "user", "content": "A"}]}
    assert body(two) == {"messages": [{"role": "user", "content": "X"}]}
    expected = [("system", "I"), ("user", "A"), ("assistant", "B"), ("user", "C")]
    assert body(three) == {"messages": [{"role": role, "content": text} for role, text in expected], "max_tokens": 9}


def test_what_a_store_holds_in_private_is_not_read(tmp_path: Path) -> None:
    answer = {"output": [said("assistant", "B")]}
    path = stored(
        tmp_path / "s",
        (private_of("t"), "r1", [said("user", "secret")], answer, 1.0, None),
        ("t", "r2", [said("user", "after it")], answer, 2.0, "r1"),
        ("t", "r3", [said("user", "A")], answer, 3.0, None),
        ("t", "r4", [said("user", "round")], answer, 4.0, "r4"),
        ("t", "r5", 7, answer, 5.0, None),
        ("t", "r6", [said("user", "A")], [], 6.0, None),
        ("t", "r7", [said("user", "A")], {}, 7.0, None),
        ("t", "r8", [said("user", "A")], answer, 8.0, "r7"),
    )
    counts = Counts()
    assert [line.number for line in lines(path, counts=counts)] == [3, 7]
    assert (counts.taken, counts.not_text) == (2, 6)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other")) as table:
        table.execute("CREATE TABLE x (y)")
        table.commit()
    with pytest.raises(BenchError, match="no store of responses"):
        list(lines(tmp_path / "other"))
    (tmp_path / "torn").write_bytes(b"SQLite format 3\0" + b"x" * 4096)
    with pytest.raises(BenchError, match="no store of responses"):
        list(lines(tmp_path / "torn"))
    path = stored(tmp_path / "later")
    with closing(sqlite3.connect(path)) as table:
        table.execute("PRAGMA user_version = 99")
    with pytest.raises(BenchError, match="later version"):
        list(lines(path))
