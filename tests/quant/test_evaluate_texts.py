"""What is read and asked: our own texts, users' chats in the forms in which they are kept, questions and their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant import evaluate_tasks
from quant.evaluate_jobs import Answered, EvaluateError, Question, Text
from quant.evaluate_tasks import Task, general, judged, of_the_toy, right
from quant.evaluate_texts import MAX_CHATS, built_in, digest, read_chats, spread, understood

USER = {"role": "user", "content": "Hello"}


def test_our_own_texts() -> None:
    texts = built_in()
    assert len(texts) == 20 and len({text.name for text in texts}) == 20
    size = sum(len(text.text.encode()) for text in texts)
    assert 18_000 < size < 26_000 and all(600 < len(text.text.encode()) < 2000 for text in texts)
    assert digest(texts) == digest(built_in()) != digest(texts[1:]) and len(digest(texts)) == 16


def test_every_way_to_write_a_chat() -> None:
    body: object
    plain = {"messages": [USER]}
    parts: Any = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    for body in (
        plain, [USER], {"body": plain, "custom_id": "1"}, {"input": "Hello"}, {"input": [{"role": "user", "content": parts}]},
        {"messages": [{"role": "user", "content": parts}], "temperature": 1, "tools": []},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]},
    ):  # fmt: skip
        assert understood(body) == plain, body
    system = {"messages": [{"role": "system", "content": "Be brief."}, USER]}
    for body in (
        {"system": "Be brief.", "messages": [USER]}, {"instructions": "Be brief.", "input": "Hello"},
        {"messages": [{"role": "developer", "content": "Be brief."}, USER]},
    ):  # fmt: skip
        assert understood(body) == system, body
    assert understood({"prompt": "Once upon"}) == "Once upon"
    tool = {"type": "function", "function": {"name": "f"}}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    found = understood({"messages": [USER, called, {"role": "tool", "tool_call_id": "1", "content": "3"}], "tools": [tool, 5]})
    assert found == {"messages": [USER, called, {"role": "tool", "content": "3", "tool_call_id": "1"}], "tools": [tool]}


def test_what_is_not_text_is_left_out() -> None:
    body: object
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    for body in (
        {}, 5, None, "x", [], {"messages": []}, {"messages": [image]}, {"messages": [USER, image]}, {"prompt": ""},
        {"messages": [{"role": "system", "content": "only"}]}, {"messages": [{"role": "robot", "content": "x"}]}, {"messages": [5]},
        {"input": [{"type": "function_call", "name": "f"}]}, {"messages": [{"role": "user", "content": None}]}, {"body": 5},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
    ):  # fmt: skip
        assert understood(body) is None, body


KEYS = st.sampled_from(
    ["messages", "input", "prompt", "body", "role", "content", "type", "text", "system", "tools", "tool_calls", "function"]
)
DOCUMENTS: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=20,
)


@given(DOCUMENTS)
def test_no_document_breaks_the_reader(body: object) -> None:
    found = understood(body)
    assert found is None or isinstance(found, (str, dict))


def test_a_file_of_chats(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    lines = [json.dumps({"messages": [{"role": "user", "content": str(at)}]}) for at in range(200)]
    path.write_text("\n\n".join(lines) + "\n")
    found = read_chats(path)
    assert len(found.chats) == MAX_CHATS and found.found == 200 and found.left_out == 0 and found.chats[0]["messages"][0]["content"] == "0"
    path.write_text('{"prompt": "a"}\n{"messages": []}\n')
    found = read_chats(path)
    assert (found.texts, found.chats, found.found, found.left_out) == (("a",), (), 2, 1)
    assert spread(list(range(MAX_CHATS))) == list(range(MAX_CHATS)) and len(set(spread(list(range(1000))))) == MAX_CHATS


def test_files_that_hold_no_chats(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    for raw, said in (
        (b'{"messages": [{"role": "user", "content": "x"}]}\n{"messages"\n', "Line 2 of bad.jsonl is no JSON"),
        (b"[" * 100_000, "Line 1 of bad.jsonl is no JSON"),
        (b"\xff\n", "Line 1 of bad.jsonl is no JSON"),
        (b"", "bad.jsonl holds no chat; write one a line"),
        (b"{}\n", "bad.jsonl holds no chat"),
        (b"x" * ((8 << 20) + 1), "bad.jsonl is too large"),
    ):
        path.write_bytes(raw)
        with pytest.raises(EvaluateError, match=said):
            read_chats(path)
    for place, said in ((tmp_path / "none", "does not exist"), (tmp_path, "cannot be read: Is a directory")):
        with pytest.raises(EvaluateError, match=said):
            read_chats(place)


def test_questions_have_answers() -> None:
    tasks = general()
    assert len(tasks) == 32 and len({str(task.question.messages) for task in tasks}) == 32
    for task in tasks:
        answer = task.wanted[0] if isinstance(task.wanted, tuple) else json.dumps(task.wanted)
        assert right(task, Answered(answer)), task
        assert not right(task, Answered("certainly not")) and not right(task, Answered("")) and not right(task, Answered("", ("f", {})))
        assert task.question.prompt.endswith("\nAnswer:") and "{}" not in task.question.prompt


def test_what_counts_as_the_same_answer() -> None:
    city, spelled = Task(Question([]), ("tokyo",)), Task(Question([]), ("RIVER",))
    for said in ("Tokyo", " tokyo.\n", "**Tokyo**", "<think>Japan... Kyoto?\nNo.</think>\n\nTokyo", "`Tokyo`", "“Tokyo”!"):
        assert right(city, Answered(said)), said
    assert not right(city, Answered("It is Tokyo")) and right(spelled, Answered("RIVER")) and not right(spelled, Answered("River"))
    document = Task(Question([]), {"city": "Oslo", "zip": 150})
    assert right(document, Answered('```json\n{"zip": 150, "city": "Oslo"}\n```')) and right(
        document, Answered('{"zip":150,"city":"Oslo"}')
    )
    assert not right(document, Answered('{"zip": "150", "city": "Oslo"}')) and not right(document, Answered("[" * 100_000))


def test_the_toys_own_questions() -> None:
    tasks = of_the_toy(2)
    assert len(tasks) == 38 and of_the_toy(2) == tasks
    perfect = [Answered("", task.wanted) if task.call else Answered(task.wanted[0]) for task in tasks]
    assert all(judged(tasks, perfect)) and any(task.call for task in tasks)
    assert not any(judged(tasks, [Answered("nothing", None)] * len(tasks)))
    assert evaluate_tasks.PER_TASK * 19 == len(of_the_toy())
    assert Text("a", "b").go_on == 0
