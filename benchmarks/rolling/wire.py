"""A strict client: one call at a time on a connection that is kept, whole answers and streams, every byte accounted for (RFC 9112; the
event stream of the HTML standard, 9.2)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

SECONDS = 60.0  # the longest wait for one answer
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
WORD = "word"  # what the scripted upstream says again and again


# EOFError: asyncio.IncompleteReadError; then JSON that is none, or not of a chat.
FAULTS = (OSError, EOFError, asyncio.LimitOverrunError, ValueError, LookupError, TypeError, AttributeError)


class Broken(Exception):
    """An answer that is not what was asked for, in a few words."""


class Client:
    """One connection to `port` on this host, made when it is needed and again when the server said that it closes."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def close(self) -> None:
        """Idempotent."""
        writer, self._reader, self._writer = self._writer, None, None
        if writer is not None:
            writer.close()
            try:
                await writer.wait_closed()
            except OSError:
                return  # it was broken already

    async def call(self, tokens: int, stream: bool) -> None:
        """One chat of `tokens` words. Raises Broken, the connection closed, when anything of its answer is missing, wrong or too much."""
        try:
            async with asyncio.timeout(SECONDS):
                keep = await self._call(tokens, stream)
        except Broken:
            await self.close()
            raise
        except FAULTS as e:
            await self.close()
            raise Broken(f"{type(e).__name__}: {e}" if str(e) else type(e).__name__) from None
        if not keep:
            await self.close()

    async def _call(self, tokens: int, stream: bool) -> bool:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        assert self._reader is not None
        doc = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "count"}], "script": {"tokens": tokens}}
        body = json.dumps(doc).encode()
        self._writer.write(HEAD % len(body) + body)
        status, headers = await _head(self._reader)
        if status != 200:
            raise Broken(f"status {status}: {(await _body(self._reader, headers))[:200].decode(errors='replace')}")
        (_streamed if stream else _whole)(await _body(self._reader, headers), tokens)
        return headers.get("connection", "").lower() != "close"


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = raw[:-4].split("\r\n")
    version, status, *_ = first.split(" ", 2)
    if version != "HTTP/1.1" or not status.isdigit():
        raise Broken(f"not an answer: {first[:60]!r}")
    return int(status), {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    if headers.get("transfer-encoding", "").lower() != "chunked":
        raise Broken("an answer without a length")
    body = bytearray()
    while True:
        size = int((await reader.readuntil(b"\r\n"))[:-2].split(b";")[0], 16)
        piece = await reader.readexactly(size + 2)
        if piece[-2:] != b"\r\n":
            raise Broken("a chunk that does not end")
        if not size:
            return bytes(body)
        body += piece[:-2]


def _whole(body: bytes, tokens: int) -> None:
    choice = json.loads(body)["choices"][0]
    if choice["message"]["content"] != f"{WORD} " * tokens or choice["finish_reason"] != "stop":
        raise Broken("another answer than was asked for")


def _streamed(body: bytes, tokens: int) -> None:
    """All words in order, a finish, `[DONE]` last, and no error event."""
    events = [line[6:] for event in body.split(b"\n\n") for line in event.splitlines() if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        raise Broken("a stream without its end")
    said, finished = "", False
    for event in events[:-1]:
        doc: dict[str, Any] = json.loads(event)
        if "error" in doc:
            raise Broken(f"an error in the stream: {str(doc['error'])[:200]}")
        for choice in doc["choices"]:
            said += choice["delta"].get("content") or ""
            finished |= choice["finish_reason"] is not None
    if said != "".join(f"{WORD}{at} " for at in range(tokens)) or not finished:
        raise Broken("a stream with other words than were asked for")
