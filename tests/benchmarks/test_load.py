"""The load generator counts what it asked for, and calls a failure a failure."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.programs import free_port, load, needs_cc

pytestmark = needs_cc
DONE = b"data: [DONE]\n\n"
EVENT = b'data: {"x":1}\n\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


class Server:
    """Answers every request with the same bytes, written in pieces of `size`; closes after an answer if told to."""

    def __init__(self, answer: bytes, close: bool = False, size: int = 1 << 20) -> None:
        self.answer, self.close, self.size = answer, close, size
        self.heads: list[bytes] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Server:
        self.threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for t in self.threads:
            t.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self.threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = b""
        with connection:
            while True:
                try:
                    got = connection.recv(65536)
                except OSError:
                    return
                data += got
                if not got:
                    return
                if b"\r\n\r\n" not in data or not data.endswith(b"}"):
                    continue
                self.heads.append(data)
                data = b""
                try:
                    for i in range(0, len(self.answer), self.size):
                        connection.sendall(self.answer[i : i + self.size])
                except OSError:
                    return
                if self.close:
                    return


@pytest.fixture
def body(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a body to a file."""

    def write(text: str) -> Path:
        path = tmp_path / "body.json"
        path.write_text(text)
        return path

    return write


Body = Callable[[str], Path]


def test_whole_answers_by_count(built: dict[str, Path], mock_port: int, body: Body) -> None:
    found = load(built["load"], mock_port, body('{"model":"mock"}'), "events=0", "answers=1001", "streams=16", "measure=60")
    assert (found["answers"], found["issued"], found["failed"], found["events"], found["reconnects"]) == (1001, 1001, 0, 0, 0)


def test_streams_by_count(built: dict[str, Path], mock_port: int, body: Body) -> None:
    text = body('{"model":"mock-64x0ms","stream":true}')
    found = load(built["load"], mock_port, text, "events=64", "answers=101", "streams=8", "measure=60")
    assert (found["answers"], found["finished"], found["failed"], found["events"]) == (101, 101, 0, 101 * 66)
    assert (found["ttft_n"], found["gap_n"], found["relay_n"]) == (101, 101 * 65, 101 * 64)
    assert 0 <= found["relay_p50"] <= found["relay_p99"] <= found["relay_max"]


def test_streams_by_chunks_and_by_time(built: dict[str, Path], mock_port: int, body: Body) -> None:
    text = body('{"model":"mock-64x0ms","stream":true}')
    found = load(built["load"], mock_port, text, "chunks=5000", "streams=4", "measure=60")
    assert found["events"] >= 5000 and found["failed"] == 0 and found["window_s"] < 60
    timed = load(built["load"], mock_port, text, "streams=4", "measure=0.2", "warmup=0.1", "ramp=0.1")
    assert timed["window_s"] == 0.2 and timed["failed"] == 0 and timed["events"] > 0


def test_headers_are_sent(built: dict[str, Path], body: Body) -> None:
    with Server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as server:
        found = load(built["load"], server.port, body("{}"), "events=0", "answers=2", "streams=1", "Authorization: Bearer x", path="/p?q=1")
        assert (found["answers"], found["failed"]) == (2, 0)
    assert (
        server.heads
        == [
            b"POST /p?q=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
            b"Authorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}" % server.port
        ]
        * 2
    )


GOOD = {
    "one write": STREAM + chunk(EVENT) * 3 + chunk(DONE) + b"0\r\n\r\n",
    "events in one chunk": STREAM + chunk(EVENT * 3 + DONE) + b"0\r\n\r\n",
    "events across chunks": STREAM + b"".join(chunk(bytes([b])) for b in EVENT * 3 + DONE) + b"0\r\n\r\n",
    "trailers": STREAM + chunk(EVENT * 3 + DONE) + b"0\r\nA: b\r\nC: d\r\n\r\n",
    "a length": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(EVENT * 3 + DONE) + EVENT * 3 + DONE,
    "comments": STREAM + chunk(b": ping\n\n") + chunk(EVENT * 3) + chunk(b": ping\n\n" + DONE) + b"0\r\n\r\n",
}


@pytest.mark.parametrize("size", [1 << 20, 1, 13])
@pytest.mark.parametrize("name", GOOD)
def test_good_streams(built: dict[str, Path], body: Body, name: str, size: int) -> None:
    with Server(GOOD[name], size=size) as server:
        found = load(built["load"], server.port, body("{}"), "events=3", "answers=4", "streams=2", "measure=60")
    assert (found["answers"], found["failed"], found["events"], found["reconnects"]) == (4, 0, 12, 0)


def test_a_stream_may_end_with_its_connection(built: dict[str, Path], body: Body) -> None:
    with Server(b"HTTP/1.0 200 OK\r\n\r\n" + EVENT * 3 + DONE, close=True) as server:
        found = load(built["load"], server.port, body("{}"), "events=3", "answers=4", "streams=2", "measure=60")
    assert (found["answers"], found["failed"]) == (4, 0) and found["reconnects"] in (2, 3)  # whether the last one opens once more is a race


BAD = {
    "bad_status": (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", False),
    "short": (STREAM + chunk(EVENT * 2 + DONE) + b"0\r\n\r\n", False),
    "short without done": (STREAM + chunk(EVENT * 3) + b"0\r\n\r\n", False),
    "error_events": (STREAM + chunk(EVENT * 3) + chunk(b'data: {"error":{"message":"x"}}\n\n' + DONE) + b"0\r\n\r\n", False),
    "error_events spaced": (STREAM + chunk(EVENT * 3) + chunk(b'data: {"error": {"message":"x"}}\n\n' + DONE) + b"0\r\n\r\n", False),
    "excess": (STREAM + chunk(EVENT * 3 + DONE) + b"0\r\n\r\nHTTP/1.1 200 OK", False),
    "eof_early": (STREAM + chunk(EVENT * 3 + DONE), True),
    "eof_early in a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + EVENT * 3 + DONE, True),
    "eof_early in the head": (b"HTTP/1.1 200 OK\r\n", True),
    "short by connection": (b"HTTP/1.0 200 OK\r\n\r\n" + EVENT * 3, True),
    "bad_status for an endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000, True),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_streams_are_failures(built: dict[str, Path], body: Body, name: str) -> None:
    answer, close = BAD[name]
    with Server(answer, close) as server:
        found = load(built["load"], server.port, body("{}"), "events=3", "answers=4", "streams=2", "measure=60")
    assert (found["answers"], found["failed"], found["issued"]) == (0, 4, 4)
    kinds = ("bad_status", "short", "error_events", "excess", "eof_early")
    assert {k: found[k] for k in kinds} == {k: 4 if name.split()[0] == k else 0 for k in kinds}


def test_nobody_listening_ends_at_once(built: dict[str, Path], body: Body) -> None:
    found = load(built["load"], free_port(), body("{}"), "streams=5", "measure=60")
    assert (found["conn_err"], found["failed"], found["issued"]) == (5, 5, 0)


def test_silence_is_a_stall_and_ends_with_the_time(built: dict[str, Path], body: Body) -> None:
    with Server(b"") as server:
        found = load(built["load"], server.port, body("{}"), "streams=3", "measure=2.2")
    assert (found["stalled"], found["failed"], found["answers"], found["ttft_n"]) == (3, 0, 0, 0)


@pytest.mark.parametrize(
    "settings", [("streams=0",), ("streams=9000",), ("measure=0",), ("measure=4000",), ("warmup=-1",), ("nonsense",), ("x=1",)]
)
def test_bad_settings_are_refused(built: dict[str, Path], body: Body, settings: tuple[str, ...]) -> None:
    done = subprocess.run([str(built["load"]), "1", "/", str(body("{}")), *settings], capture_output=True, check=False, timeout=20)
    assert done.returncode == 2 and done.stdout == b"" and done.stderr
