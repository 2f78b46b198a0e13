"""The scripted upstream's process: one asyncio server on 127.0.0.1, which ends with its parent.

A prompt of n bytes takes `prefill` seconds a byte, one prompt after the other in the order they came, as an engine without chunks computes
them; then each token takes `token` seconds, all streams at once. Embeddings take `call` seconds a call and `item` seconds an input, one
call at a time. The body may ask for more, under `script`, which gateways pass on as a parameter that they do not know:

    tokens   how many the answer has (default 8)
    fail     500, 429, 400: that status; "cut": the connection breaks after half of the answer; "mute": no answer until the client leaves;
             "error": an error event in the middle of a stream

GET /counts tells what it has done. Seconds everywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_BODY = 64 << 20
PARENT_SECONDS = 1.0  # between two looks whether the parent is still there
MODELS = ("scripted",)
Doc = dict[str, Any]


@dataclass
class Counts:
    """What a server has done. `begun` and `over` count generations; they are equal when nothing is under way."""

    calls: int = 0
    items: int = 0
    begun: int = 0
    over: int = 0
    left: int = 0  # whose client was gone before the end


@dataclass
class Times:
    """Seconds: a byte of a prompt, a token, a call for embeddings and one of its inputs."""

    prefill: float = 0.0
    token: float = 0.0
    call: float = 0.0
    item: float = 0.0


class Reader(asyncio.StreamReader):
    """A stream that says when its client has gone, whatever of it was read."""

    def __init__(self) -> None:
        super().__init__(limit=1 << 20)
        self.gone = asyncio.Event()

    def feed_eof(self) -> None:
        """The client has closed its side, or the connection broke."""
        super().feed_eof()
        self.gone.set()

    def set_exception(self, exc: Exception) -> None:
        """The connection broke."""
        super().set_exception(exc)
        self.gone.set()


@dataclass
class Server:
    """One server. All state belongs to its event loop."""

    times: Times
    counts: Counts = field(default_factory=Counts)
    engine: asyncio.Lock = field(default_factory=asyncio.Lock)  # first come, first served

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: its requests in order, until it ends."""
        assert isinstance(reader, Reader)
        try:
            while (request := await _request(reader)) is not None:
                if not await self._turn(*request, reader.gone, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # it broke, or was no HTTP
        finally:
            writer.close()

    async def _turn(self, method: str, path: str, body: bytes, left: asyncio.Event, writer: asyncio.StreamWriter) -> bool:
        """Answers one request; False when the connection is of no more use. Its client's leaving ends it at once."""
        if method != "POST":
            return await _send(writer, *self._fixed(path))
        self.counts.calls += 1
        work = asyncio.ensure_future(self._answer(path, json.loads(body), writer))
        gone = asyncio.ensure_future(left.wait())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            self.counts.left += 1
            return False
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)

    def _fixed(self, path: str) -> tuple[int, Doc]:
        if path == "/counts":
            return 200, asdict(self.counts)
        if path.endswith("/models"):
            return 200, {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "scripted"} for name in MODELS]}
        return (200, {"status": "ok"}) if path == "/health" else (404, {"error": {"message": f"no such path: {path}"}})

    async def _answer(self, path: str, doc: Doc, writer: asyncio.StreamWriter) -> bool:
        self.counts.begun += 1
        try:
            script = doc.get("script") or {}
            fail = script.get("fail")
            if isinstance(fail, int):
                return await _send(writer, fail, {"error": {"message": "as the script says", "type": "scripted", "code": fail}})
            if fail == "mute":
                await asyncio.Event().wait()
            if path.endswith("/embeddings"):
                return await self._embeddings(doc, writer)
            return await self._generate(doc, script, writer)
        finally:
            self.counts.over += 1

    async def _embeddings(self, doc: Doc, writer: asyncio.StreamWriter) -> bool:
        given = doc["input"]
        inputs = given if isinstance(given, list) and given and isinstance(given[0], str | list) else [given]
        self.counts.items += len(inputs)
        async with self.engine:
            await asyncio.sleep(self.times.call + self.times.item * len(inputs))
        data = [{"object": "embedding", "index": at, "embedding": [len(one) / 1024, 0.5]} for at, one in enumerate(inputs)]
        tokens = sum(map(len, inputs))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return await _send(writer, 200, {"object": "list", "data": data, "model": doc.get("model", ""), "usage": usage})

    async def _generate(self, doc: Doc, script: Doc, writer: asyncio.StreamWriter) -> bool:
        prompt, tokens = len(json.dumps(doc.get("messages") or doc.get("prompt") or "")), int(script.get("tokens", 8))
        async with self.engine:
            await asyncio.sleep(self.times.prefill * prompt)
        usage = {"prompt_tokens": prompt // 4, "completion_tokens": tokens, "total_tokens": prompt // 4 + tokens}
        chat = "messages" in doc
        base: Doc = {"id": "scripted", "created": 1_700_000_000, "model": doc.get("model", "")}
        if not doc.get("stream"):
            await asyncio.sleep(self.times.token * tokens)
            text = "word " * tokens
            said: Doc = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            kind = "chat.completion" if chat else "text_completion"
            choice = {"index": 0, **said, "finish_reason": "stop"}
            return await _send(writer, 200, {**base, "object": kind, "choices": [choice], "usage": usage}, script.get("fail") == "cut")
        return await self._stream(base, tokens, chat, usage, script.get("fail"), writer)

    async def _stream(self, base: Doc, tokens: int, chat: bool, usage: Doc, fail: str | None, writer: asyncio.StreamWriter) -> bool:
        base = {**base, "object": "chat.completion.chunk" if chat else "text_completion"}
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for at in range(tokens):
            if fail and at >= tokens // 2:
                if fail == "error":
                    _event(writer, {"error": {"message": "as the script says", "type": "scripted"}})
                await writer.drain()
                return False
            said: Doc = {"delta": {"content": f"word{at} "}} if chat else {"text": f"word{at} "}
            _event(writer, {**base, "choices": [{"index": 0, **said, "finish_reason": None}]})
            await writer.drain()
            await asyncio.sleep(self.times.token)
        _event(writer, {**base, "choices": [{"index": 0, **({"delta": {}} if chat else {"text": ""}), "finish_reason": "stop"}]})
        _event(writer, {**base, "choices": [], "usage": usage})
        _chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, bytes] | None:
    """Method, path and body of the next request; None at the end of the connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    lengths = [int(value) for name, _, value in (line.partition(":") for line in lines) if name.lower() == "content-length"]
    length = lengths[0] if lengths else 0
    if length > MAX_BODY:
        raise ValueError("too long")
    return method, path.partition("?")[0], await reader.readexactly(length)


async def _send(writer: asyncio.StreamWriter, status: int, doc: Doc, cut: bool = False) -> bool:
    body = json.dumps(doc, separators=(",", ":")).encode()
    head = b"HTTP/1.1 %d Scripted\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    writer.write(head + (body[: len(body) // 2] if cut else body))
    await writer.drain()
    return not cut


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _event(writer: asyncio.StreamWriter, doc: Doc) -> None:
    _chunk(writer, b"data: " + json.dumps(doc, separators=(",", ":")).encode() + b"\n\n")


async def _run(port: int, times: Times) -> None:
    server, loop, parent, orphaned = Server(times), asyncio.get_running_loop(), os.getppid(), asyncio.Event()

    def look() -> None:  # whoever started it may be killed, and cannot end it then
        if os.getppid() != parent:
            orphaned.set()
        else:
            loop.call_later(PARENT_SECONDS, look)

    look()
    async with await loop.create_server(lambda: asyncio.StreamReaderProtocol(Reader(), server.serve), "127.0.0.1", port, backlog=4096):
        await orphaned.wait()


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until a signal ends it, or its parent has."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.scripted", description=__doc__)
    p.add_argument("--port", type=int, required=True)
    for name in ("prefill", "token", "call", "item"):
        p.add_argument(f"--{name}", type=float, default=0.0, metavar="S")
    a = p.parse_args(argv)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(a.port, Times(a.prefill, a.token, a.call, a.item)))
    return 0
