"""What stands between a translated target and who asked: state is kept, ids carry it where they shall, and all else passes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import wire
from backends.dialects.sidecar import Sidecar
from backends.dialects.sidecar_wire import MARK, without_state
from backends.remember import MOST, Remembering
from backends.types import Fault

JSON, SSE = {b"content-type": b"application/json"}, {b"content-type": b"text/event-stream"}
BLOCK = {"type": "thinking", "thinking": "Hm.", "signature": "signed"}
DONE = b"data: [DONE]\n\n"


class Seen:
    """A `Receiver` that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.body = b""

    def on_whole(self, status: int, headers: Any, body: bytes) -> None:
        self.told.append(status)
        self.body = body

    def on_head(self, status: int, headers: Any) -> None:
        self.told.append(status)

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_end(self) -> None:
        self.told.append("end")

    def on_fault(self, fault: Fault) -> None:
        self.told.append(fault)


def between(mode: str = "sidecar") -> tuple[Remembering, Seen, Sidecar]:
    seen, sidecar = Seen(), Sidecar(mode=mode)
    return Remembering(seen, sidecar, "t", "anthropic", ""), seen, sidecar


def call(id: str, **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}, **more}


def whole(*messages: dict[str, Any]) -> bytes:
    return wire.encode({"choices": [{"index": i, "message": m} for i, m in enumerate(messages)]})


def event(delta: Any, index: int = 0) -> bytes:
    return b"data: " + wire.encode({"choices": [{"index": index, "delta": delta}]}) + b"\n\n"


def restored(sidecar: Sidecar, *calls: dict[str, Any]) -> dict[str, Any]:
    doc, _ = sidecar.restore("t", "anthropic", {"messages": wire.raw([{"role": "assistant", "content": None, "tool_calls": [*calls]}])})
    message: dict[str, Any] = json.loads(bytes(doc["messages"]))[0]
    return message


STREAM = [
    event({"role": "assistant", "content": ""}), event({"thinking_blocks": [{"index": 0, **BLOCK}]}),
    event({"tool_calls": [{"index": 0, **call("a", extra_content={"x": {}})}]}), event({"tool_calls": [{"index": 1, **call("b")}]}),
    event({"tool_calls": [{"index": 1, "function": {"arguments": ""}}]}), b": odd\n\n", b"data: {]\n\n",
    b'data: {"choices":[{"delta":3,"tool_calls":1}]}\n\n', DONE,
]  # fmt: skip


@pytest.mark.parametrize("cut", [False, True])
def test_a_stream_is_kept_and_passes_as_it_is(cut: bool) -> None:
    receiver, seen, sidecar = between()
    receiver.on_head(200, SSE)
    for data in [b"".join(STREAM)] if cut else STREAM:
        receiver.on_data(data)
    assert seen.body == b"".join(STREAM) and len(sidecar) == 0
    receiver.on_end()
    assert seen.told == [200, "end"] and restored(sidecar, call("a"), call("b"))["thinking_blocks"][0]["signature"] == "signed"


def test_a_whole_answer_is_kept_and_passes_as_it_is() -> None:
    for headers, body in ((JSON, whole({"tool_calls": [call("a")], "thinking_blocks": [BLOCK]})), (SSE, b"".join(STREAM[:4]) + DONE)):
        receiver, seen, sidecar = between()
        receiver.on_whole(200, headers, body)
        assert seen.body == body and len(sidecar) > 0


def test_ids_carry_state_where_they_shall() -> None:
    receiver, seen, sidecar = between("id")
    receiver.on_head(200, SSE)
    for data in STREAM:
        receiver.on_data(data)
    receiver.on_end()
    ids = [c["id"] for e in seen.body.split(b"\n\n") for c in calls_in(e) if "id" in c]
    assert [without_state(id)[0] for id in ids] == ["a", "b"] and MARK in ids[0] and ids[1] == "b"  # what the first took is gone
    assert restored(sidecar, call(ids[0]), call(ids[1]))["thinking_blocks"][0]["signature"] == "signed"
    receiver, seen, sidecar = between("both")
    answer = whole({"tool_calls": [call("a"), call("b", extra_content={"x": 1}), {"extra_content": {}}], "thinking_blocks": [BLOCK]}, {})
    receiver.on_whole(200, JSON, answer)
    first, second, third = json.loads(seen.body)["choices"][0]["message"]["tool_calls"]
    assert MARK in first["id"] and MARK in second["id"] and "id" not in third
    assert restored(Sidecar(), first, second)["tool_calls"][1]["extra_content"] == {"x": 1}


def calls_in(event: bytes) -> list[dict[str, Any]]:
    try:
        choices = json.loads(event.removeprefix(b"data: "))["choices"]
        return [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    except (ValueError, AttributeError):
        return []


def test_what_is_no_good_answer_passes() -> None:
    receiver, seen, sidecar = between("both")
    receiver.on_whole(500, JSON, b'{"error":{"extra_content":1}}')
    receiver.on_whole(200, JSON, b'{"choices":[]}')
    receiver.on_head(500, JSON)
    receiver.on_data(b"thinking_blocks")
    receiver.on_end()
    fault = Fault("upstream", "x")
    receiver.on_fault(fault)
    assert seen.told == [500, 200, 500, "end", fault] and len(sidecar) == 0


def test_what_is_too_long_is_not_kept() -> None:
    receiver, seen, sidecar = between()
    receiver.on_head(200, SSE)
    for data in (STREAM[1], event({"content": "x" * MOST}), *STREAM[2:]):
        receiver.on_data(data)
    receiver.on_end()
    assert len(sidecar) == 0 and seen.told == [200, "end"]
