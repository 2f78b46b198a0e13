"""A real llama.cpp engine is killed with -9 in the middle of 16 streams: every client gets a well-formed error, the engine comes
back by itself, and another route never notices."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from typing import Any

import pytest

from gateway.config import parse
from tests.fakes.engine import Engine
from tests.harness import Client, Running, chat, encoded, request, running

STREAMS = 16
WAIT = 60.0  # a generous bound: how fast it really is, is measured in benchmarks


def config(engine: Engine) -> Any:
    return parse(
        json.dumps(
            {
                "server": {"port": 0, "admin": {"port": 0}, "log": {"level": "error"}},
                "backends": {
                    "toy": {"engine": "llamacpp", "model": "builtin", "slots": STREAMS, "context": 2048},
                    "fake": {"url": engine.url},
                },
                "routes": {
                    "toy": {"targets": [{"backend": "toy"}]},
                    "m": {"targets": [{"backend": "fake", "model": "fake"}]},
                },
            }
        ),
        {},
    )


def until_ready(gateway: Running) -> None:
    async def wait() -> None:
        replica = gateway.gateway.fleet.replicas["toy"][0]
        end = time.monotonic() + WAIT
        while replica.health != "ready":
            assert time.monotonic() < end, replica.reason
            await asyncio.sleep(0.01)

    gateway.run(wait(), WAIT + 5)


class Stream(threading.Thread):
    """One client that reads a long answer to its end, whatever that is."""

    def __init__(self, gateway: Running) -> None:
        super().__init__(daemon=True)
        self.begun = threading.Event()
        self.data = b""
        self.ended = 0.0
        self.client: Client = gateway.dial()
        doc = {"model": "toy", "messages": [{"role": "user", "content": "Count to 5"}], "stream": True}
        doc |= {"max_tokens": 1800, "ignore_eos": True}
        self.client.sock.sendall(request("POST", "/v1/chat/completions", encoded(doc)))
        self.client.sock.settimeout(WAIT)

    def run(self) -> None:
        while not self.data.endswith(b"0\r\n\r\n"):
            piece = self.client.sock.recv(65536)
            if not piece:
                break
            self.data += piece
            if self.data.count(b'"delta":{"content"') > 3:
                self.begun.set()
        self.ended = time.monotonic()
        self.begun.set()
        self.client.sock.close()


@pytest.mark.timeout(180)
def test_kill_9_of_the_engine_during_16_streams() -> None:
    with Engine() as fake, running(config(fake)) as gateway:
        until_ready(gateway)
        streams = [Stream(gateway) for _ in range(STREAMS)]
        for stream in streams:
            stream.start()
        for stream in streams:
            assert stream.begun.wait(WAIT)
        instance = gateway.gateway.fleet.instance("toy#0")
        assert instance is not None and instance.pid is not None
        assert all(not s.ended for s in streams), "an answer ended before the kill; it proves nothing"
        os.kill(_engine_pid(instance.pid), signal.SIGKILL)
        assert gateway.ask(chat()).status == 200  # the other route, in the middle of it
        for stream in streams:
            stream.join(WAIT)
            _well_formed_end(stream.data)
        until_ready(gateway)
        answer = gateway.ask({"model": "toy", "messages": [{"role": "user", "content": "What is the capital of France?"}]})
        assert answer.status == 200, answer.body
        assert instance.restarts >= 1 or gateway.gateway.fleet.instance("toy#0").restarts >= 1  # type: ignore[union-attr]


def _engine_pid(wrapper: int) -> int:
    """The engine itself, below the process that guards it; the process itself when there is none below."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as f:
                    if int(f.read().rsplit(")", 1)[1].split()[1]) == wrapper:
                        return int(entry)
            except OSError:
                continue
    return wrapper


def _well_formed_end(data: bytes) -> None:
    """Chunked to its end; whole events; the last one an error; no [DONE]."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    text = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            break
        text += body[:length]
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]
    events = text.split(b"\n\n")
    assert events[-1] == b""
    assert b"[DONE]" not in text
    error = json.loads(events[-2].removeprefix(b"data: "))["error"]
    assert error["origin"] == "backend"
    assert all(b'"error"' not in e for e in events[:-2])
