"""A gateway running for a test: in a thread with its own loop, on free ports, spoken to by raw sockets.

`running(config)` starts it; `Running.settled()` is the check that nothing is left over. `Client` reads answers strictly.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import pytest
import uvloop

from gateway.config import Config, parse
from gateway.record import Record
from gateway.wiring import Gateway
from tests.fakes.engine import DEADLINE, Engine
from tests.fakes.reader import Answer, AnswerReader

T = TypeVar("T")
both_ways = pytest.mark.parametrize("asgi", [False, True], ids=["own", "asgi"])


def merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid over it, dictionaries key by key."""
    out = dict(base)
    for key, value in over.items():
        inner = base.get(key)
        out[key] = merged(inner, value) if isinstance(value, Mapping) and isinstance(inner, dict) else value
    return out


def config_for(
    engines: Sequence[Engine | str],
    *,
    server: Mapping[str, Any] | None = None,
    backend: Mapping[str, Any] | None = None,
    route: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Config:
    """One route `m` to model `fake` on one backend whose replicas are the engines (or URLs). The rest is laid over that."""
    urls = [engine if isinstance(engine, str) else engine.url for engine in engines]
    base: dict[str, Any] = {
        "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}},
        "backends": {"fake": {"urls": urls}},
        "routes": {"m": {"targets": [{"backend": "fake", "model": "fake"}]}},
    }
    over = {"server": server or {}, "backends": {"fake": backend or {}}, "routes": {"m": route or {}}}
    return parse(json.dumps(merged(merged(base, over), more or {})), {})


class Running:
    """A started gateway. Methods are called from the test's thread."""

    def __init__(self, config: Config, asgi: bool) -> None:
        self.config, self.asgi = config, asgi
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self.gateway: Gateway

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def start(self) -> None:
        """Blocks until the gateway accepts connections. Raises what its start raised."""
        self.thread.start()
        self.run(self._start())

    async def _start(self) -> None:
        self.gateway = Gateway(self.config, asgi=self.asgi)
        await self.gateway.start()

    def stop(self) -> None:
        """Blocks until the gateway has stopped and its loop is closed."""
        try:
            if hasattr(self, "gateway"):
                self.run(self.gateway.stop())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(DEADLINE)
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 2 * DEADLINE) -> T:
        """Runs a coroutine on the gateway's loop and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def call(self, work: Callable[[], T]) -> T:
        """Runs a plain function on the gateway's loop and waits for it."""

        async def inner() -> T:
            return work()

        return self.run(inner())

    @property
    def port(self) -> int:
        return self.gateway.port

    @property
    def url(self) -> str:
        """The base URL for SDKs."""
        return f"http://127.0.0.1:{self.port}/v1"

    def held(self) -> tuple[int, dict[str, int]]:
        """Requests in flight, and the calls under way of every replica where that is not zero."""
        snapshot = self.call(self.gateway.snapshot)
        return snapshot.inflight_total, {replica.name: replica.inflight for replica in snapshot.replicas if replica.inflight}

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Blocks until `holds()` on the gateway's loop, looking once each turn of it. Raises TimeoutError naming `what`."""

        async def wait() -> bool:
            end = time.monotonic() + DEADLINE
            while not holds():
                if time.monotonic() > end:
                    return False
                await asyncio.sleep(0)  # one turn of the loop: whatever is due happens
            return True

        if not self.run(wait()):
            raise TimeoutError(f"never came: {what}; {self.held()}")

    def settled(self) -> None:
        """Blocks until nothing is in flight and every replica's count is zero: what each request held was released, once."""

        def idle() -> bool:
            snapshot = self.gateway.snapshot()
            return snapshot.inflight_total == 0 and all(replica.inflight == 0 for replica in snapshot.replicas)

        self.until(idle, "all counters at zero")

    def records(self) -> list[Record]:
        """The records of all requests so far, newest first, also of those that the recorder would only get to in a moment."""

        def read() -> list[Record]:
            while self.gateway.recorder.drain():
                pass
            return self.gateway.recent(10_000)

        return self.call(read)

    def dial(self, **options: Any) -> Client:
        return Client(self.port, **options)

    def ask(self, doc: Any, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None) -> Answer:
        """One POST on a connection of its own."""
        with self.dial() as client:
            return client.ask(doc, path, headers)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        """One GET on a connection of its own."""
        with self.dial() as client:
            return client.get(path, headers)


@contextmanager
def running(config: Config, asgi: bool = False) -> Iterator[Running]:
    """A gateway on free ports for the time of the block; at its end nothing may be in flight."""
    gateway = Running(config, asgi)
    try:
        gateway.start()
        yield gateway
        gateway.settled()
    finally:
        gateway.stop()


def request(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """A request as bytes. `headers` replace the ordinary ones of the same name; a value of "" leaves that one out."""
    lines = {"host": "127.0.0.1", "content-type": "application/json", "content-length": str(len(body))}
    if method == "GET" and not body:
        lines = {"host": "127.0.0.1"}
    lines |= {name.lower(): value for name, value in (headers or {}).items()}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return head.encode("latin-1") + b"\r\n" + body


def encoded(doc: Any) -> bytes:
    return doc if isinstance(doc, bytes) else json.dumps(doc).encode()


class Client:
    """A raw client connection with a strict reader. Every wait has a deadline."""

    def __init__(self, port: int, *, rcvbuf: int = 0, seconds: float = DEADLINE) -> None:
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(seconds)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = AnswerReader(self.sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Writes raw bytes. A server that has closed already is no error here: reading tells."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def post(self, doc: Any, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None) -> None:
        self.send(request("POST", path, encoded(doc), headers))

    def ask(self, doc: Any, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None) -> Answer:
        self.post(doc, path, headers)
        return self.reader.read()

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        self.send(request("GET", path, b"", headers))
        return self.reader.read("GET")

    def finish(self) -> None:
        """Closes our sending side; a connection that is gone already is no error."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset(self) -> None:
        """Closes with RST: what a killed client looks like."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()


def chat(text: str = "two words", **more: Any) -> dict[str, Any]:
    """A chat request for route `m`."""
    return {"model": "m", "messages": [{"role": "user", "content": text}]} | more
