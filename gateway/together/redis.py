"""Packets over Redis pub/sub, for gateways on several hosts. Redis is never waited for: while it is away, this gateway decides alone.

One task connects, subscribes, sends what has gathered every 20 ms, and hears everybody, itself too: a line on which even our own beats do
not come back is dead. What a subscriber missed while it was away it asks for anew; what was published meanwhile is lost, and its hearers
notice by the count. Needs redis-py (the extra `redis`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import msgspec

from gateway.together.line import Received

log = logging.getLogger("pointsman.together")

EVERY_SECONDS = 0.02
CALL_SECONDS = 2.0  # for one command
QUIET_SECONDS = 15.0  # without hearing even ourselves
STEADY_SECONDS = 10.0  # that a connection must hold before it counts as back
AGAIN_SECONDS, AGAIN_MAX = 0.25, 10.0
FAREWELL_SECONDS = 0.5
OUT_BYTES = 4 << 20  # waiting to be sent; with more, all of it is dropped
IN_PACKETS = 1 << 14  # heard and not received yet, likewise
MOST_MESSAGE = 8 << 20  # bytes of one publication

Errors = tuple[type[Exception], ...]

_PACKETS = msgspec.msgpack.Decoder(tuple[int, list[bytes]])


def problem(url: str) -> str:
    """What is wrong with `server.redis`, empty when nothing is. Never quotes the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        whole = bool(parts.path) if parts.scheme == "unix" else bool(parts.hostname) and parts.port != 0
    except ValueError:
        return "is not a URL; write redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]"
    if parts.scheme not in ("redis", "rediss", "unix") or not whole:
        return "is not the URL of a Redis; write redis://HOST[:PORT][/DATABASE], rediss:// for TLS, or unix:///PATH"
    if parts.scheme != "unix" and not parts.path.strip("/").isdecimal() and parts.path.strip("/"):
        return "names a database that is not a number; write redis://HOST[:PORT]/0 or leave it out"
    if find_spec("redis") is None:
        return "needs redis-py, which is not installed; run `pip install 'pointsman[redis]'`"
    return ""


def place(url: str) -> str:
    """Where a Redis URL leads, without who may enter: `host:port/database`."""
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"


def channel(url: str) -> str:
    """The channel that gateways with this URL share. Publications know no databases, so its number is in the name."""
    return f"pointsman/1/{urlsplit(url).path.strip('/') or '0'}" if not url.startswith("unix:") else "pointsman/1/0"


class RedisLine:
    """The gateways on one Redis. Make it in a running loop. `host`: what those share who hear each other in another way already, so that
    nothing of theirs is looked at here; `draw` gives numbers in [0, 1) for the spread of new attempts."""

    near = False

    def __init__(self, url: str, host: int, draw: random.Random | None = None) -> None:
        self._url, self._host, self._draw = url, host, (draw or random.Random()).random
        self._out: deque[bytes] = deque()
        self._size = 0
        self._in: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._deaf = False
        self._warned = False
        self._since = 0.0  # the loop's time when the connection was made
        self._closing = False
        self.connected = asyncio.Event()
        self.dropped = self.bad = self.attempts = self.echoes = 0
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(self._ended)

    # --- Line
    def send(self, packet: bytes) -> None:
        if not self.connected.is_set():
            self.dropped += 1
            return
        if self._size + len(packet) > OUT_BYTES:
            self._drop()
        self._out.append(packet)
        self._size += len(packet)
        self._wake.set()

    def receive(self, now: float) -> Received:
        out = Received([(0, p) for p in self._in], deaf=self._deaf)
        self._in.clear()
        self._deaf = False
        return out

    async def close(self) -> None:
        self._closing = True
        self._wake.set()
        await asyncio.wait([self._task], timeout=FAREWELL_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    # --- the task
    async def _run(self) -> None:
        redis = import_module("redis.asyncio")
        errors: Errors = (import_module("redis.exceptions").RedisError, OSError, TimeoutError)
        self._retry = import_module("redis.asyncio.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)  # that is ours to do
        failed = 0
        while not self._closing:
            self.attempts += 1
            try:
                async with contextlib.AsyncExitStack() as stack:
                    await self._serve(redis, stack, errors)
                return
            except errors as e:
                failed = 0 if self._steady() else failed + 1
                self._lose(e)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout((0.5 + self._draw()) * min(AGAIN_MAX, AGAIN_SECONDS * 2 ** min(failed, 10))):
                    await self._closed()

    async def _serve(self, redis: Any, stack: contextlib.AsyncExitStack, errors: Errors) -> None:
        """Connects and serves until closing. Raises what ends the connection."""
        client = redis.from_url(self._url, socket_connect_timeout=CALL_SECONDS, socket_timeout=CALL_SECONDS, protocol=2, retry=self._retry)
        stack.push_async_callback(_quietly, client.aclose, errors)
        hears = client.pubsub()
        stack.push_async_callback(_quietly, hears.aclose, errors)
        name = channel(self._url)
        async with asyncio.timeout(CALL_SECONDS):
            await hears.subscribe(name)
            await hears.get_message(timeout=CALL_SECONDS)  # that it is so
        self._deaf = True
        self._since = asyncio.get_running_loop().time()
        self.connected.set()
        hearing = asyncio.create_task(self._hear(hears))
        telling = asyncio.create_task(self._tell(client, name))
        try:
            done, _ = await asyncio.wait([hearing, telling], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            hearing.cancel()
            telling.cancel()
            await asyncio.gather(hearing, telling, return_exceptions=True)

    async def _hear(self, hears: Any) -> None:
        while True:
            message = await hears.get_message(timeout=QUIET_SECONDS)
            if message is None:
                raise TimeoutError(f"nothing was heard for {QUIET_SECONDS:g} s, not even our own messages")
            self._take(message["data"])
            if self._warned and self._steady():
                self._warned = False
                log.info("Redis at %s is back: load is shared with the other gateways again", place(self._url))

    async def _tell(self, client: Any, name: str) -> None:
        while not self._closing or self._out:
            await self._wake.wait()
            self._wake.clear()
            packets = [*self._out]
            self._out.clear()
            self._size = 0
            if packets:
                async with asyncio.timeout(CALL_SECONDS):
                    await client.publish(name, msgspec.msgpack.encode((self._host, packets)))
            if not self._closing:
                await asyncio.sleep(EVERY_SECONDS)

    async def _closed(self) -> None:
        while not self._closing:
            await self._wake.wait()
            self._wake.clear()

    # --- state
    def _steady(self) -> bool:
        return self.connected.is_set() and asyncio.get_running_loop().time() - self._since >= STEADY_SECONDS

    def _take(self, data: Any) -> None:
        try:
            if not isinstance(data, bytes) or len(data) > MOST_MESSAGE:
                raise msgspec.DecodeError("no bytes, or too many")
            host, packets = _PACKETS.decode(data)
        except msgspec.MsgspecError:
            self.bad += 1
            return
        if host == self._host:
            self.echoes += 1
            return
        if len(self._in) + len(packets) > IN_PACKETS:
            self._in.clear()
            self._deaf = True
            return
        self._in += packets

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.connected.clear()
            log.error("sharing load over Redis has ended by an error of ours (%s); restart to share again", type(task.exception()).__name__)

    def _drop(self) -> None:
        self.dropped += len(self._out)
        self._out.clear()
        self._size = 0

    def _lose(self, error: Exception) -> None:
        """The connection is gone, or did not come to be. Says so once until it is back; never with the error's own text, which may quote
        the URL."""
        self.connected.clear()
        self._drop()
        if not self._warned:
            self._warned = True
            log.warning(
                "Redis at %s (server.redis) cannot be reached (%s): this gateway decides without the other hosts' load until it is back; "
                "it goes on trying", place(self._url), type(error).__name__,
            )  # fmt: skip


async def _quietly(close: Any, errors: Errors) -> None:
    """Closes what may be broken already."""
    with contextlib.suppress(*errors):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await close()
