"""A scripted engine over HTTP/1.1 on real sockets: every byte controlled, every request and every leaving client recorded.

Runs in a thread with its own event loop. POSTs under /v1/ take the next queued `Script`, else the one of their model,
else the default responder (`tests.fakes.openai`). Anything else (models, health, tokenize) goes to the responder.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fakes.answers import openai_error
from tests.fakes.openai import respond
from tests.fakes.request import Request, RequestReader, Violation
from tests.fakes.script import Gate, Script

DEADLINE = 30.0  # seconds: how long a test waits for something that must happen
RESET = struct.pack("ii", 1, 0)
Responder = Callable[[Request], Script]


@dataclass(frozen=True)
class Left:
    """A client that closed while its answer was not whole. `sent`: raw bytes of that answer that the kernel had taken."""

    request: Request
    sent: int
    at: float


@dataclass
class Turn:
    """One request being answered: how many of its bytes were written, and whether the script ran to its end."""

    request: Request
    written: int = 0
    done: bool = False


class Connection(asyncio.Protocol):
    """One accepted connection: requests in order, one script at a time. All methods run on the engine's loop."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.transport: asyncio.Transport
        self.reader = RequestReader()
        self.waiting: deque[Request] = deque()
        self.turn: Turn | None = None
        self.task: asyncio.Task[None] | None = None
        self.writable = asyncio.Event()
        self.writable.set()
        self.stale = False
        self.alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=0)
        self.reader.connection = self.engine.connected(self)

    def data_received(self, data: bytes) -> None:
        if self.stale:
            self.engine.dropped()
            self.reset()
            return
        try:
            for request in self.reader.feed(data):
                self.waiting.append(request)
                self.engine.received(request)
        except Violation as violation:
            self.engine.violated(str(violation))
            self.transport.write(openai_error(400, str(violation)).raw)
            self.transport.close()
            return
        self._early()
        self._advance()

    def _early(self) -> None:
        """An early script answers a request whose body is still coming."""
        if self.turn is None and not self.waiting and b"\r\n\r\n" in self.reader.buffer and self.engine.next_is_early():
            head = bytes(self.reader.buffer)
            self._play(Request("POST", "", (), b"", head, self.reader.connection), self.engine.take())

    def _advance(self) -> None:
        if self.turn is None and self.waiting and self.alive:
            request = self.waiting.popleft()
            self._play(request, self.engine.choose(request))

    def _play(self, request: Request, script: Script) -> None:
        self.turn = Turn(request)
        self.engine.began(self.turn)
        self.task = asyncio.get_running_loop().create_task(self._run(script, self.turn))

    async def _run(self, script: Script, turn: Turn) -> None:
        for step in script.delivery():
            if isinstance(step, Gate):
                await step.wait()
                continue
            if not self.alive:
                return
            turn.written += len(step)
            self.transport.write(step)
            self.engine.progressed()
            await self.writable.wait()
        await self._end(script, turn)

    async def _end(self, script: Script, turn: Turn) -> None:
        ending = script.finally_
        if ending == "stall":
            return
        turn.done = True
        self.engine.finished()
        if ending == "rst":
            self.reset()
        elif ending == "fin" or (ending == "keep" and not turn.request.keep_alive):
            self.transport.close()
        elif ending == "half":
            self.transport.write_eof()
        else:
            self.stale = ending == "stale"
            self.turn = None
            self._advance()

    def reset(self) -> None:
        """Closes with RST instead of FIN."""
        sock: socket.socket = self.transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.transport.abort()

    def pause_writing(self) -> None:
        self.writable.clear()
        self.engine.blocked()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.alive = False
        self.writable.set()
        turn, self.turn = self.turn, None
        if turn is not None and not turn.done:
            held = self.transport.get_write_buffer_size()
            self.engine.abandoned(Left(turn.request, turn.written - held, time.monotonic()))
        if self.task is not None:
            self.task.cancel()
        self.engine.disconnected(self)


class Engine:
    """The fake, as a context manager. State is written on its own loop under one lock; `wait` reads it from the test."""

    def __init__(
        self,
        *,
        unix: Path | None = None,
        tls: ssl.SSLContext | None = None,
        responder: Responder = respond,
        port: int = 0,
        sndbuf: int = 0,
        strict: bool = True,
    ) -> None:
        self.unix, self.tls, self.responder, self.sndbuf, self.strict = unix, tls, responder, sndbuf, strict
        self.port = port
        self.requests: list[Request] = []
        self.left: list[Left] = []
        self.violations: list[str] = []
        self.turns: list[Turn] = []  # every answer begun, in order
        self.answered = 0  # scripts that ran to their end
        self.connections = 0  # ever accepted
        self.stale_drops = 0  # requests whose first bytes met a closing connection
        self.blocks = 0  # how often a write found the kernel's buffer full
        self._queue: deque[Script] = deque()
        self._models: dict[str, Script | Responder] = {}
        self._open: set[Connection] = set()
        self._changed = threading.Condition()
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fake-engine", daemon=True)

    # What tests call.

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(DEADLINE):
            raise TimeoutError("the fake engine did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
        if kind is None and self.strict:
            assert not self.violations, self.violations

    def stop(self) -> None:
        """Ends the engine as a killed one ends: every connection is dropped, the port is free. Idempotent; blocks until done."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(DEADLINE)

    @property
    def url(self) -> str:
        """The base URL for a backend of the gateway."""
        if self.unix is not None:
            return f"unix://{self.unix}:/v1"
        scheme, host = ("https", "localhost") if self.tls else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self.port}/v1"

    def queue(self, *scripts: Script) -> None:
        """Scripts for the next POSTs under /v1/, in order of arrival."""
        with self._changed:
            self._queue.extend(scripts)

    def on_model(self, model: str, script: Script | Responder) -> None:
        """What a model answers when nothing is queued."""
        with self._changed:
            self._models[model] = script

    def wait(self, holds: Callable[[Engine], bool], what: str, *, seconds: float = DEADLINE) -> None:
        """Blocks until `holds(self)`; raises TimeoutError naming `what`."""
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self), seconds):
                raise TimeoutError(f"the fake engine never saw: {what}; {self!r}")

    def posts(self, path: str = "/v1/") -> list[Request]:
        """The POST requests so far whose path starts with `path`."""
        with self._changed:
            return [request for request in self.requests if request.method == "POST" and request.path.startswith(path)]

    def forget(self) -> None:
        """Begins anew: no requests seen, nothing queued, nothing violated. Connections stay open."""
        with self._changed:
            for seen in (self.requests, self.left, self.violations, self.turns, self._queue, self._models):
                seen.clear()
            self.answered = self.stale_drops = self.blocks = 0

    def drop_idle(self) -> None:
        """Closes every open connection from the engine's side (a restart). Returns once that is done."""
        done = threading.Event()

        def close() -> None:
            for connection in tuple(self._open):
                connection.transport.abort()
            self._loop.call_soon(done.set)

        self._loop.call_soon_threadsafe(close)
        if not done.wait(DEADLINE):
            raise TimeoutError("the fake engine did not close its connections")

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def __repr__(self) -> str:
        return (
            f"Engine({self.url}: {len(self.requests)} requests, {self.answered} answered, {len(self.left)} left, "
            f"{self.connections} connections, {self.stale_drops} stale drops, violations {self.violations})"
        )

    # What connections report (on the engine's loop).

    def connected(self, connection: Connection) -> int:
        with self._changed:
            self._open.add(connection)
            self.connections += 1
            self._changed.notify_all()
            return self.connections

    def disconnected(self, connection: Connection) -> None:
        with self._changed:
            self._open.discard(connection)
            self._changed.notify_all()

    def received(self, request: Request) -> None:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def violated(self, what: str) -> None:
        with self._changed:
            self.violations.append(what)
            self._changed.notify_all()

    def began(self, turn: Turn) -> None:
        with self._changed:
            self.turns.append(turn)
            self._changed.notify_all()

    def progressed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def finished(self) -> None:
        with self._changed:
            self.answered += 1
            self._changed.notify_all()

    def abandoned(self, left: Left) -> None:
        with self._changed:
            self.left.append(left)
            self._changed.notify_all()

    def dropped(self) -> None:
        with self._changed:
            self.stale_drops += 1
            self._changed.notify_all()

    def blocked(self) -> None:
        with self._changed:
            self.blocks += 1
            self._changed.notify_all()

    def next_is_early(self) -> bool:
        with self._changed:
            return bool(self._queue) and self._queue[0].early

    def take(self) -> Script:
        with self._changed:
            return self._queue.popleft()

    def choose(self, request: Request) -> Script:
        """The script for a request: queued, by model, or the responder's."""
        with self._changed:
            if request.method == "POST" and request.path.startswith("/v1/"):
                if self._queue:
                    return self._queue.popleft()
                model = request.doc.get("model") if isinstance(request.doc, dict) else None
                chosen = self._models.get(model) if isinstance(model, str) else None
                if isinstance(chosen, Script):
                    return chosen
                if chosen is not None:
                    return chosen(request)
        return self.responder(request)

    # The thread.

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for connection in tuple(self._open):
            connection.transport.abort()
        self._loop.run_until_complete(self._drain())
        self._loop.close()

    async def _listen(self) -> asyncio.AbstractServer:
        loop = asyncio.get_running_loop()
        if self.unix is not None:
            return await loop.create_unix_server(lambda: Connection(self), str(self.unix))
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only if told the protocol
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self.sndbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.sndbuf)
        sock.bind(("127.0.0.1", self.port))
        self.port = sock.getsockname()[1]
        return await loop.create_server(lambda: Connection(self), sock=sock, ssl=self.tls, backlog=4096)

    async def _drain(self) -> None:
        """Lets cancelled scripts and closed transports finish, so that nothing warns at the end."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
