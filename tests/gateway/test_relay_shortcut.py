"""Events that are like the one before pass a relay unread. With that or without it, whatever comes: the same bytes, the same end."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.relay import StreamRelay

LIMIT = 4096


class Unlearning(StreamRelay):
    """A relay that looks at every event."""

    def __init__(self) -> None:
        super().__init__("gpu", True, LIMIT)
        self.tries = 0


def chunk(delta: Any, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": None} | {k: more.pop(k) for k in ("finish_reason", "text") if k in more}
    return "data: " + json.dumps({"id": "c", "choices": [choice]} | more, separators=(",", ":"))


texts = st.one_of(
    st.sampled_from(["a", "b", "", " ", '"', "\\", 'say "hi"', "\n", "\n\n", "[DONE]", "data: [DONE]", '{"error":1}',
                     "event: error", "é", "x" * 300, "\\\\", "finish_reason"]),
    st.text(max_size=12),
)  # fmt: skip
contents = st.builds(lambda text: chunk({"content": text}), texts)
others = st.one_of(
    st.builds(lambda text: chunk({"reasoning_content": text}), texts),
    st.builds(lambda text: chunk({"role": "assistant", "content": text}), texts),
    st.builds(lambda text: chunk({"content": text}, usage={"prompt_tokens": 1, "completion_tokens": 2}), texts),
    st.builds(lambda text: chunk({"content": text, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}), texts),
    st.builds(lambda text: chunk({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}), texts),
    st.builds(lambda text: chunk({}, text=text), texts),
    st.builds(lambda text: chunk({"content": text}, finish_reason="stop"), texts),
    st.builds(lambda text: chunk({"content": "same"}, logprobs={"content": text}), texts),
)
ends = st.sampled_from([
    chunk({}, finish_reason="stop"), chunk({"content": "a"}, finish_reason="length"), "data: [DONE]", ": a comment", "",
    'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}', 'data: {"error":{"message":"boom"}}',
    "event: error\ndata: boom",
    'data: {"object":"error","message":"boom"}', chunk({"content": "a"}).replace('"finish_reason":null', '"finish_reason" : "stop"'),
    chunk({"content": "a"}).replace("data: ", "data:"), 'data: {"choices":[{"delta":{"content":"cut', "id: 7\n" + chunk({"content": "a"}),
])  # fmt: skip
streams = st.lists(st.one_of(contents, contents, contents, others, ends), min_size=1, max_size=14)
lines = st.sampled_from(["\n\n", "\n\n", "\n\n", "\r\n\r\n", "\n\r\n"])
cut_lists = st.lists(st.integers(0, 5000), max_size=8)


def seen(relay: StreamRelay, reads: list[bytes]) -> list[Any]:
    """What a relay makes of reads, step by step, up to its first fault or its close."""
    steps: list[Any] = []
    for data in reads:
        out = relay.feed(data)
        steps.append((out, relay.last, relay.finished, relay.committed, relay.done, relay.usage_event, repr(relay.fault)))
        if relay.fault is not None:
            return steps
    return [*steps, relay.close(), repr(relay.fault), relay.usage_event]


@settings(max_examples=400, deadline=None)
@given(streams, st.lists(lines, min_size=1, max_size=4), cut_lists, st.sampled_from(["events", "runs", "anywhere", "bytes"]))
@example([chunk({"content": t}) for t in ("a", "b", "c\\", "d")] + [chunk({}, finish_reason="stop")], ["\n\n"], [], "events")
@example([chunk({"content": "a"}), chunk({"content": "b"}), 'data: {"error":{"message":"boom"}}'], ["\n\n"], [1], "runs")
def test_with_the_shortcut_or_without(events: list[str], eols: list[str], cuts: list[int], how: str) -> None:
    parts = [(event + eol).encode() for event, eol in zip(events, itertools.cycle(eols), strict=False)]
    stream = b"".join(parts)
    bounds = [0, *itertools.accumulate(map(len, parts))]
    places = {"events": bounds, "runs": bounds[:: 1 + len(cuts) % 3], "anywhere": [*bounds, *cuts], "bytes": list(range(len(stream)))}[how]
    reads = [stream[a:b] for a, b in itertools.pairwise(sorted({0, len(stream), *(p % (len(stream) + 1) for p in places)})) if a < b]
    assert seen(StreamRelay("gpu", True, LIMIT), reads) == seen(Unlearning(), reads)


def test_the_shortcut_is_taken_and_left() -> None:
    relay = StreamRelay("gpu", True, LIMIT)
    plain = [(chunk({"content": text}) + "\n\n").encode() for text in ("one", "two", "three")]
    for event in plain:
        assert relay.feed(event) == event
    assert relay.before and relay.last == plain[-1]
    quoted = (chunk({"content": 'a "b"'}) + "\n\n").encode()
    assert relay.feed(quoted) == quoted and not relay.before
    assert relay.feed(plain[0]) == plain[0] and relay.before
    two = plain[0] + plain[1]
    assert relay.feed(two) == two and not relay.before
    finish = (chunk({}, finish_reason="stop") + "\n\n").encode()
    assert relay.feed(plain[0] + finish) == plain[0] + finish and relay.finished and not relay.before
    assert relay.feed(plain[0]) == plain[0] and not relay.before


def test_where_each_event_differs_the_learning_ends() -> None:
    relay = StreamRelay("gpu", True, LIMIT)
    tries = relay.tries
    for n in range(tries + 9):
        event = (chunk({"content": "a"}, created=n) + "\n\n").encode()
        assert relay.feed(event) == event
    assert relay.tries == 0 and not relay.before
