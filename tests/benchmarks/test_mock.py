"""What the mock upstream sends, byte by byte: the yardstick must itself be right."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import pytest

from tests.benchmarks.programs import needs_cc

pytestmark = needs_cc
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = {
    "prompt_tokens": 128,
    "completion_tokens": 96,
    "total_tokens": 224,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {
        "reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
    },
}  # fmt: skip
TEXT = "The gateway forwards the request to the selected backend and relays the answer. " * 6


def request(call: dict[str, Any] | str, path: str = "/v1/chat/completions") -> bytes:
    """A POST as a client writes it."""
    body = (call if isinstance(call, str) else json.dumps(call)).encode()
    return b"POST %s HTTP/1.1\r\nHost: mock\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        path.encode(),
        len(body),
        body,
    )


class Wire:
    """A connection that is read to exact ends."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def until(self, end: bytes) -> bytes:
        """Everything up to and with `end`."""
        while end not in self.data:
            got = self.socket.recv(65536)
            assert got, f"closed after {self.data[-200:]!r}"
            self.data += got
        at = self.data.index(end) + len(end)
        out, self.data = self.data[:at], self.data[at:]
        return out

    def exactly(self, n: int) -> bytes:
        """The next `n` bytes."""
        while len(self.data) < n:
            got = self.socket.recv(65536)
            assert got
            self.data += got
        out, self.data = self.data[:n], self.data[n:]
        return out

    def answer(self) -> tuple[int, Any]:
        """An answer without streaming: its status and JSON; its head has exactly two fields."""
        head = self.until(b"\r\n\r\n")
        found = re.fullmatch(rb"HTTP/1\.1 (\d+) [A-Za-z ]+\r\nContent-Type: application/json\r\nContent-Length: (\d+)\r\n\r\n", head)
        assert found, head
        return int(found[1]), json.loads(self.exactly(int(found[2])) or "null")

    def stream(self) -> list[bytes]:
        """The HTTP chunks of a stream, unframed, to its end."""
        assert self.until(b"\r\n\r\n") == HEAD
        chunks: list[bytes] = []
        while True:
            size = int(self.until(b"\r\n"), 16)
            data = self.exactly(size)
            assert self.exactly(2) == b"\r\n"
            if size == 0:
                return chunks
            chunks.append(data)


def events(chunks: list[bytes]) -> list[dict[str, Any]]:
    """One event a chunk, the last chunk having [DONE] after its event."""
    done = b"data: [DONE]\n\n"
    assert chunks[-1].endswith(done) and chunks[-1].count(b"data: ") == 2
    found = []
    for chunk in [*chunks[:-1], chunks[-1].removesuffix(done)]:
        assert chunk.startswith(b"data: {") and chunk.endswith(b"}\n\n") and chunk.count(b"\n") == 2
        found.append(json.loads(chunk[6:-2]))
    return found


def test_a_whole_answer(mock_port: int) -> None:
    with Wire(mock_port) as wire:
        wire.socket.sendall(request({"model": "mock", "messages": []}))
        assert wire.answer() == (200, {
            "id": "chatcmpl-9f2c7d3a51e84b6f", "object": "chat.completion", "created": 1700000000, "model": "mock",
            "system_fingerprint": "fp_44709d6fcb",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []},
                         "logprobs": None, "finish_reason": "stop"}],
            "usage": USAGE, "service_tier": "default",
        })  # fmt: skip
        assert wire.data == b""


def test_a_whole_completion(mock_port: int) -> None:
    with Wire(mock_port) as wire:
        wire.socket.sendall(request({"model": "mock", "prompt": "", "stream": False}, "/v1/completions"))
        status, answer = wire.answer()
        assert (status, answer["object"], answer["choices"][0]["text"], answer["usage"]) == (200, "text_completion", TEXT, USAGE)


@pytest.mark.parametrize(
    "call", [{"model": "mock", "stream": True}, '{"stream":true,"model":"mock-64x0ms"}', {"model": "mock-64x1ms", "stream": True}]
)
def test_a_stream_is_one_chunk_an_event(mock_port: int, call: dict[str, Any] | str) -> None:
    with Wire(mock_port) as wire:
        wire.socket.sendall(request(call))
        found = events(wire.stream())
        assert wire.data == b""
    assert len(found) == 66
    common = {"id": "chatcmpl-9f2c7d3a51e84b6f", "object": "chat.completion.chunk", "created": 1700000000, "model": "mock",
              "system_fingerprint": "fp_44709d6fcb"}  # fmt: skip
    assert all({k: e[k] for k in common} == common for e in found)
    deltas = [e["choices"][0]["delta"] for e in found[:64]]
    assert deltas[0].pop("role") == "assistant" and all(set(d) == {"content"} for d in deltas)
    stamps = [re.fullmatch(r"t=(\d{13});", d["content"]) for d in deltas]
    assert all(stamps)
    times = [int(s[1]) for s in stamps if s]
    assert times == sorted(times) and times[0] > 0
    assert all(e["choices"][0]["finish_reason"] is None for e in found[:64])
    assert found[64]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}] and "usage" not in found[64]
    assert found[65]["choices"] == [] and found[65]["usage"] == USAGE


def test_one_model_is_whole_at_once_and_paced_as_a_stream(mock_port: int) -> None:
    with Wire(mock_port) as wire:
        wire.socket.sendall(request({"model": "mock-paced-3x2ms"}))
        status, answer = wire.answer()
        assert (status, answer["choices"][0]["message"]["content"]) == (200, TEXT)
        wire.socket.sendall(request({"model": "mock-paced-3x2ms", "stream": True}))
        assert len(events(wire.stream())) == 5


def test_the_stamps_keep_the_cadence(mock_port: int) -> None:
    with Wire(mock_port) as wire:
        wire.socket.sendall(request({"model": "mock-5x30ms", "stream": True}))
        found = events(wire.stream())
    times = [int(e["choices"][0]["delta"]["content"][2:-1]) for e in found[:5]]
    assert len(found) == 7
    assert times[4] - times[0] >= 4 * 30_000 - 2_000  # never early but for the timer's millisecond; how late is the machine's affair


def test_a_streamed_completion(mock_port: int) -> None:
    with Wire(mock_port) as wire:
        wire.socket.sendall(request({"model": "mock-2x0ms", "stream": True}, "/v1/completions"))
        found = events(wire.stream())
    assert [e["object"] for e in found] == ["text_completion"] * 4
    assert re.fullmatch(r"t=\d{13};", found[0]["choices"][0]["text"]) and found[2]["choices"][0]["finish_reason"] == "stop"
    assert found[3]["usage"] == USAGE


def test_a_connection_carries_many_answers_also_when_pipelined(mock_port: int) -> None:
    whole, stream = request({"model": "mock"}), request({"model": "mock-3x0ms", "stream": True})
    with Wire(mock_port) as wire:
        wire.socket.sendall(whole + stream + request({"model": "mock-1ms"}) + stream + whole)
        assert wire.answer()[0] == 200
        assert len(events(wire.stream())) == 5
        assert wire.answer()[0] == 200
        assert len(events(wire.stream())) == 5
        assert wire.answer()[0] == 200
        assert wire.data == b""


def test_a_request_may_come_in_pieces(mock_port: int) -> None:
    text = request({"model": "mock", "messages": [{"role": "user", "content": "x" * 50}]})
    with Wire(mock_port) as wire:
        for i in range(0, len(text), 7):
            wire.socket.sendall(text[i : i + 7])
        assert wire.answer()[0] == 200


def test_a_chunked_request_body(mock_port: int) -> None:
    body = b'{"model":"mock"}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: mock\r\nTransfer-Encoding: chunked\r\n\r\n"
    with Wire(mock_port) as wire:
        wire.socket.sendall(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
        assert wire.answer()[0] == 200


def test_what_routers_probe_and_what_is_not_there(mock_port: int) -> None:
    with Wire(mock_port) as wire:
        wire.socket.sendall(b"GET /v1/models HTTP/1.1\r\nHost: mock\r\n\r\n")
        status, models = wire.answer()
        assert (status, [m["id"] for m in models["data"]]) == (200, ["mock", "mock-paced-16x4ms"])
        for path in ("/health", "/get_server_info?x=1", "/get_model_info", "/version"):
            wire.socket.sendall(b"GET %s HTTP/1.1\r\nHost: mock\r\n\r\n" % path.encode())
            assert wire.answer()[0] == 200
        wire.socket.sendall(request({"model": "mock"}, "/v1/chat/completionsx"))
        assert wire.answer()[0] == 404


def test_a_client_that_leaves_does_not_hurt_others(mock_port: int) -> None:
    for _ in range(20):
        with Wire(mock_port) as wire:
            wire.socket.sendall(request({"model": "mock-64x1ms", "stream": True}))
            wire.until(b"\r\n\r\n")
    with Wire(mock_port) as wire:
        wire.socket.sendall(request({"model": "mock"}))
        assert wire.answer()[0] == 200
