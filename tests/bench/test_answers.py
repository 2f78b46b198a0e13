"""What is read of answers: content, counts, ends, errors."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.answers import MOST_CHUNKS, MOST_WHOLE, SHOWN, Answer, message_of
from benchmarks.bench.words import Timed

BASE = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {**BASE, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def event(document: Any, **how: Any) -> bytes:
    return b"data: " + json.dumps(document, **how).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
FINISH = event(chunk({}, "stop"))


def stream(*pieces: bytes, status: int = 200, kind: str = "text/event-stream", asked: bool = True) -> Timed:
    """Reads pieces at 1, 2, ... and the end one later."""
    timed = Timed(0, 0.0)
    answer = Answer(timed, stream=asked, hide=lambda text: text.replace("sk-secret", "***"))
    answer.begin(status, kind, 0.5)
    for at, piece in enumerate(pieces, 1):
        answer.feed(piece, float(at))
    answer.end(len(pieces) + 1.0)
    return timed


@pytest.mark.parametrize(
    ("delta", "content"),
    [
        ({"content": "a"}, True),
        ({"content": ""}, False),
        ({"content": None, "role": "assistant"}, False),
        ({"role": "assistant"}, False),
        ({"reasoning_content": "hm"}, True),
        ({"reasoning": "hm"}, True),
        ({"refusal": "no"}, True),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}, True),
        ({"content": []}, False),
        ({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}, True),
        ({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}, True),
        ({"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}, False),
        ({"tool_calls": [None, {"function": 1}], "function_call": {"name": "f"}}, True),
        ({"tool_calls": 5, "content": 7}, False),
        (None, False),
    ],
)
def test_content_is_what_a_reader_gets(delta: dict[str, Any] | None, content: bool) -> None:
    timed = stream(event(chunk(delta)), FINISH, DONE)
    assert timed.good and timed.stamps == ([1.0] if content else []) and timed.done == 4.0


def test_completions_have_text() -> None:
    choices: list[dict[str, Any]] = [{"index": 0, "text": text, "finish_reason": None} for text in ("a", "", "b")]
    timed = stream(
        *(event({"id": "1", "choices": [choice]}) for choice in choices), event({"choices": [{"text": "", "finish_reason": "length"}]})
    )
    assert timed.good and timed.stamps == [1.0, 3.0] and timed.finish == "length"


def test_one_read_is_one_stamp() -> None:
    one = event(chunk({"content": "a"}))
    timed = stream(one * 3, one, FINISH + DONE)
    assert timed.stamps == [1.0, 1.0, 1.0, 2.0] and timed.counts == [0] * 4


TEXTS = st.lists(
    st.sampled_from(["a", "", "word ", '"', "\\", "\n", "é", "\U0001f600", '","finish_reason":"stop"', "]}", "\u2028"]), max_size=30
)


@given(TEXTS, st.booleans(), st.sampled_from([None, (",", ":")]), st.sampled_from(["content", "reasoning_content"]))
def test_chunks_known_by_their_bytes_are_those_that_decoding_finds(texts: list[str], ascii_: bool, separators: Any, key: str) -> None:
    events = [event(chunk({key: text}), ensure_ascii=ascii_, separators=separators) for text in texts]
    timed = stream(*events, FINISH, DONE)
    assert timed.good and timed.stamps == [at for at, text in enumerate(texts, 1) if text]


@given(st.integers(1, 7), st.lists(st.integers(0, 4000), max_size=10), st.booleans())
def test_wherever_reads_end_it_is_the_same(texts: int, at: list[int], crlf: bool) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": texts, "prompt_tokens_details": {"cached_tokens": 4}}
    events = [
        b": hello\n\n",
        *(event(chunk({"content": f"t{n}"})) for n in range(texts)),
        FINISH,
        event({**BASE, "choices": [], "usage": usage}),
    ]
    text = (
        b"".join(events)
        + b"event: message\ndata: "
        + json.dumps(chunk({"content": "x"})).encode().replace(b'"choices"', b'\ndata: "choices"')
    )
    text += b"\n\n" + DONE
    text = text.replace(b"\n", b"\r\n") if crlf else text
    edges = [0, *sorted(min(each, len(text)) for each in at), len(text)]
    timed = stream(*(text[a:b] for a, b in itertools.pairwise(edges)))
    assert timed.good and len(timed.stamps) == texts + 1
    assert (timed.prompt_tokens, timed.completion_tokens, timed.cached_tokens, timed.finish) == (9, texts, 4, "stop")


def test_counts_told_as_it_goes() -> None:
    events = [event(chunk({"content": "ab"}, usage={"completion_tokens": n, "prompt_tokens": 3})) for n in (2, 3, 6)]
    timed = stream(*events, FINISH, DONE)
    assert timed.counts == [2, 3, 6] and timed.completion_tokens == 6


def test_timings_of_llama_cpp_stand_in_where_there_is_no_usage() -> None:
    timings = {"cache_n": 10, "prompt_n": 5, "predicted_n": 2, "prompt_per_second": 50.5, "predicted_per_second": 9, "why": "x"}
    events = [event(chunk({"content": "a"}, timings={**timings, "predicted_n": n})) for n in (1, 2)]
    timed = stream(*events, event(chunk({}, "stop", timings=timings)), DONE)
    assert (timed.prompt_tokens, timed.completion_tokens, timed.cached_tokens, timed.counts) == (15, 2, 10, [1, 2])
    assert timed.timings["prompt_per_second"] == 50.5 and "why" not in timed.timings


def test_usage_goes_before_timings_and_reasoning_is_counted() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 3}, "prompt_cache_hit_tokens": 2}
    timed = stream(FINISH, event({"choices": [], "usage": usage, "timings": {"prompt_n": 1, "predicted_n": 9, "cache_n": 5}}), DONE)
    assert (timed.prompt_tokens, timed.completion_tokens, timed.cached_tokens, timed.reasoning_tokens) == (7, 4, 2, 3)


@pytest.mark.parametrize(
    "usage", [None, 5, [], {"prompt_tokens": "7", "completion_tokens": -1, "prompt_tokens_details": 3}, {"completion_tokens": True}]
)
def test_usage_that_says_nothing_is_none(usage: Any) -> None:
    timed = stream(FINISH, event({"choices": [], "usage": usage}), DONE)
    assert timed.good and timed.prompt_tokens is timed.completion_tokens is timed.cached_tokens is None


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([event(chunk({"content": "a"}))], "the stream ended without a finish reason and without [DONE]"),
        ([], "the stream ended without a finish reason and without [DONE]"),
        ([event({"error": {"message": "out of memory: sk-secret", "code": 500}}), DONE], "error event: out of memory: ***"),
        ([b'event: error\ndata: {"message": "gone"}\n\n', DONE], "error event: gone"),
        ([b"event: error\ndata: plain words\n\n"], "error event: plain words"),
        ([event({"object": "error", "message": "bad"}), DONE], "error event: bad"),
        ([event({"error": "short"})], "error event: short"),
        ([b"data: {nonsense sk-secret\n\n", DONE], "a chunk is not what the API says: {nonsense ***"),
        ([b'data: {"choices": 5}\n\n', DONE], 'a chunk is not what the API says: {"choices": 5}'),
        ([event(chunk({"content": "a"}))[:-9]], "a chunk is not what the API says: "),
        ([event(chunk({}, "error")), DONE], 'the server finished with "error"'),
    ],
)
def test_what_is_no_answer_under_200_is_an_error(pieces: list[bytes], error: str) -> None:
    timed = stream(*pieces)
    assert not timed.good and timed.status == 200 and timed.error.startswith(error)


def test_an_end_without_an_empty_line_is_read() -> None:
    assert stream(event(chunk({"content": "a"})), b"data: [DONE]").good
    assert stream(event(chunk({"content": "a"})), FINISH[:-2]).finish == "stop"


def test_an_answer_that_is_not_streamed_has_one_stamp() -> None:
    document = {
        "choices": [{"message": {"content": "x"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 8},
    }
    body = json.dumps(document).encode()
    for asked in (True, False):
        timed = stream(body[:20], body[20:], kind="application/json", asked=asked)
        assert timed.good and (timed.stamps, timed.counts, timed.done) == ([3.0], [8], 3.0)
        assert (timed.prompt_tokens, timed.completion_tokens, timed.finish) == (3, 8, "length")


@pytest.mark.parametrize(("body", "error"), [
    (b'{"error": {"message": "no"}}', "an error as an answer: no"),
    (b'{"choices": []}', "an error as an answer: it has no choices"),
    (b"<html>", "the answer is not what the API says: <html>"),
    (b"\xff\xfe", "the answer is not what the API says: "),
])  # fmt: skip
def test_a_whole_answer_may_be_none(body: bytes, error: str) -> None:
    timed = stream(body, kind="application/json", asked=False)
    assert not timed.good and timed.error.startswith(error) and not timed.stamps


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "m", "type": "t"}}', "m"),
        (b'{"error": "m"}', "m"),
        (b'{"detail": "m"}', "m"),
        (b'{"detail": [{"msg": "m", "loc": []}]}', "m"),
        (b'[{"error": {"message": "m"}}]', "m"),
        (b'{"message": "m"}', "m"),
        (b"plain", "plain"),
        (b"", ""),
        (b'{"what": 1}', '{"what":1}'),
        (b"[" * 5000, "[" * 5000),
    ],
)
def test_the_message_of_an_error(body: bytes, message: str) -> None:
    assert message_of(body) == message


def test_a_status_is_an_error_with_its_message_short_on_one_line_and_without_secrets() -> None:
    body = json.dumps({"error": {"message": "Incorrect key\nprovided: sk-secret " + "x" * 1000}}).encode()
    timed = stream(body, status=401, kind="application/json")
    assert timed.error.startswith("status 401: Incorrect key provided: *** xxx")
    assert len(timed.error) == len("status 401: ") + SHOWN and not timed.good and not timed.stamps
    assert stream(status=502).error == "status 502"


def test_what_is_longer_than_anything_is_not_kept() -> None:
    timed = Timed(0, 0.0)
    answer = Answer(timed, stream=False)
    answer.begin(200, "application/json", 0.0)
    piece = b"x" * (1 << 20)
    for _ in range((MOST_WHOLE >> 20) + 1):
        answer.feed(piece, 1.0)
    assert answer.over and timed.error == "the answer is longer than 64 MiB"


def test_there_is_a_most_number_of_chunks() -> None:
    timed = Timed(0, 0.0)
    answer = Answer(timed, stream=True)
    answer.begin(200, "text/event-stream", 0.0)
    one = event(chunk({"content": "a"}))
    answer.feed(one, 1.0)
    timed.stamps = [1.0] * MOST_CHUNKS
    answer.feed(one, 2.0)
    assert answer.over and len(timed.stamps) == MOST_CHUNKS and "million" in timed.error


def test_an_error_whose_body_is_endless_is_read_to_a_limit() -> None:
    timed = stream(b"y" * 100_000, b"z" * 100_000, status=500, kind="text/html")
    assert timed.error.startswith("status 500: yyy") and len(timed.error) <= SHOWN + 12


def test_an_event_without_an_end_ends_the_reading() -> None:
    timed = Timed(0, 0.0)
    answer = Answer(timed, stream=True)
    answer.begin(200, "text/event-stream", 0.0)
    for _ in range(70):
        answer.feed(b"data: " + b"x" * (1 << 16), 1.0)
    answer.end(2.0)
    assert answer.over and timed.error == "an event of the stream is longer than 4 MiB" and timed.done == 2.0
