"""What is read off the bytes of an answer: its id, and whether the model refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Target
from gateway.experiments.ended import Ended, seen

CHOICE: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi", "refusal": None}}


def of(answer: bytes) -> Ended:
    return (("e", 0, "a"), 1, "t", b"req-1", 1.0, 0.5, None, False, 200, "", Target("b", "m"), False, None, answer, None)


def whole(**more: Any) -> bytes:
    return json.dumps({"id": "chatcmpl-1", "choices": [{**CHOICE, **more}]}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("answer", "refused"),
    [
        (whole(), False),
        (whole(message={"role": "assistant", "content": "hi"}), False),
        (whole(message={"role": "assistant", "content": None, "refusal": "I can not help"}), True),
        (whole(finish_reason="content_filter"), True),
        (whole(message={"role": "assistant", "content": "on refusal: see content_filter", "refusal": None}), False),
        (whole(message={"role": "assistant", "content": 'they wrote "refusal":"no"', "refusal": None}), False),
        (b'{"id": "msg_1", "type": "message", "stop_reason": "refusal"}', True),
        (b'{"id":"resp_1","output":[{"content":[{"type": "refusal","refusal":"no"}]}]}', True),
        (b'{"id":"resp_1","incomplete_details": {"reason":"content_filter"}}', True),
        (b'data: {"id":"c","choices":[{"delta":{"refusal":null}}]}\n\ndata: {"id":"c","choices":[{"delta":{"refusal":"no"}}]}', True),
    ],
)
def test_refusals_are_the_models_own_word(answer: bytes, refused: bool) -> None:
    assert seen(of(answer)).refused is refused


@pytest.mark.parametrize(
    ("answer", "id"),
    [
        (whole(), "chatcmpl-1"),
        (b'{"id":"a\\u0062c"}', "abc"),
        ('{"id":"\u00e9"}'.encode(), "\u00e9"),
        (b'{"object":"x","id":"late"}', "late"),
        (b'{"id":"', ""),
        (b'{"id":"cut', ""),
        (b'{"id":null}', ""),
        (b"no JSON", ""),
        (b"", ""),
    ],
)
def test_an_answer_is_known_by_its_id(answer: bytes, id: str) -> None:
    assert seen(of(answer)).response == id


@given(st.text(max_size=40))
def test_any_id_is_read_as_json_has_it(id: str) -> None:
    try:
        id.encode()
    except UnicodeEncodeError:
        return
    assert seen(of(json.dumps({"id": id}, separators=(",", ":")).encode())).response == id


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(answer: bytes) -> None:
    assert seen(of(b'{"id":"' + answer)).unit == 1
