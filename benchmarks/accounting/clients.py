"""Clients that leave: in every state that a request can be in, politely or not, and some that stay and check what they get."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from typing import Any, Literal

from benchmarks.accounting.world import KEYS, ROUTES

Stage = Literal["stay", "head", "body", "sent", "wait", "first", "middle", "slow", "half"]
STAGES: dict[Stage, int] = {"stay": 10, "head": 1, "body": 1, "sent": 3, "wait": 4, "first": 3, "middle": 4, "slow": 2, "half": 1}  # shares
APIS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings", "messages": "/v1/messages"}
FAILURES = (None,) * 14 + (500, 429, 400, "cut", "error", "mute")
ANSWER_SECONDS = 90.0
WORDS = "the quick brown fox jumps over a lazy dog and then some more of it ".split()
Doc = dict[str, Any]


class Client:
    """One request of one client: what it asks, and when it goes."""

    def __init__(self, rng: random.Random, port: int) -> None:
        self.rng, self.port = rng, port
        self.stage: Stage = rng.choices([*STAGES], [*STAGES.values()])[0]
        self.api = rng.choices([*APIS], [8, 1, 3, 2])[0]
        self.fail = rng.choice(FAILURES)
        if self.fail == "mute" and self.stage not in ("head", "body", "sent"):
            self.stage = "wait"  # nobody else ends it
        self.stream = self.api != "embeddings" and rng.random() < 0.6
        self.reset = rng.random() < 0.4  # leaves with RST instead of FIN

    def body(self) -> bytes:
        """The request's body."""
        rng = self.rng
        doc: Doc = {"model": rng.choice(ROUTES), "script": {"tokens": rng.randint(1, 40), "fail": self.fail}}
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 400)))
        if self.api in ("chat", "messages"):
            turns = rng.randint(0, 3)
            past = [{"role": role, "content": f"{role} of turn {turn}"} for turn in range(turns) for role in ("user", "assistant")]
            doc["messages"] = [*past, {"role": "user", "content": text}]
            doc["max_tokens"] = 64
        elif self.api == "completions":
            doc["prompt"] = text
        else:
            doc["input"] = rng.choice([text, [text, "second"], [1, 2, 3]])
            del doc["script"]
        if self.stream:
            doc["stream"] = True
        if rng.random() < 0.2 and self.api in ("chat", "completions"):
            doc["temperature"] = 0  # may follow another's
        return json.dumps(doc).encode()

    async def run(self) -> str:
        """Lives through it; what came of it, in a word or two. A client that stays and is not answered whole has `BROKEN` in it."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return "no connection"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._talk(reader, writer)
        except TimeoutError:
            return f"BROKEN: no end within {ANSWER_SECONDS:.0f} s ({self.stage} {self.api})"
        except OSError:
            return "gone" if self.stage in ("head", "body", "sent") else f"BROKEN: connection lost ({self.stage} {self.api})"
        finally:
            self._leave(writer)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        rng, body = self.rng, self.body()
        key = rng.choice([*KEYS.values()])
        head = f"POST {APIS[self.api]} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        data = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        if self.stage in ("head", "body"):
            whole = len(data) - len(body)
            writer.write(data[: rng.randrange(1, whole) if self.stage == "head" else rng.randrange(whole, len(data))])
            await writer.drain()
            return f"left in its {self.stage}"
        writer.write(data)
        await writer.drain()
        if self.stage == "sent":
            return "left when it had asked"
        if self.stage == "half":
            writer.write_eof()
        if self.stage == "wait":
            await asyncio.sleep(rng.random() * 0.4)
            return "left while it waited"
        if self.stage in ("first", "middle"):
            for _ in range(1 if self.stage == "first" else rng.randint(2, 20)):
                if not await reader.read(256):
                    break
            return f"left at its {'first bytes' if self.stage == 'first' else 'middle'}"
        return await self._answer(reader)

    async def _answer(self, reader: asyncio.StreamReader) -> str:
        """Reads the whole answer, and says whether it is one."""
        head = (await self._until(reader, b"\r\n\r\n")).decode("latin-1")
        if not head:
            return "half-closed" if self.stage == "half" else f"BROKEN: no answer ({self.stage} {self.api})"
        status = int(head.split(" ", 2)[1])
        lines = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])}
        if lines.get("transfer-encoding") == "chunked":
            data = await self._chunks(reader)
        else:
            data = await reader.readexactly(int(lines["content-length"]))
        whole = _ended(data) if lines["content-type"].startswith("text/event-stream") else bool(json.loads(data) is not None)
        return f"{status}" if whole else f"BROKEN: {status} without an end ({self.stage} {self.api})"

    async def _until(self, reader: asyncio.StreamReader, mark: bytes) -> bytes:
        try:
            return await reader.readuntil(mark)
        except asyncio.IncompleteReadError as e:
            if e.partial:
                raise ConnectionResetError from None
            return b""

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        data = b""
        while True:
            size = int((await self._until(reader, b"\r\n") or b"0").strip() or b"0", 16)
            part = await reader.readexactly(size + 2)
            if not size:
                return data
            data += part[:-2]
            if self.stage == "slow" and self.rng.random() < 0.3:
                await asyncio.sleep(0.02)

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        if self.reset:
            sock: socket.socket | None = writer.get_extra_info("socket")
            if sock is not None and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.close()


def _ended(data: bytes) -> bool:
    """Whether a stream has its end: the last event is one, or an error."""
    last = data.rstrip().rpartition(b"\n\n")[2]
    return last.endswith(b"data: [DONE]") or b'"error"' in last or b"message_stop" in last


async def crowd(port: int, requests: int, at_once: int, rng: random.Random, every: int, chaos: Any) -> Counter[str]:
    """So many requests, so many at once. After each `every` of them `chaos` is called in a thread, one at a time."""
    outcomes: Counter[str] = Counter()
    left = iter(range(requests))
    acts: set[asyncio.Task[None]] = set()

    async def one() -> None:
        for number in left:
            if number % every == every - 1 and not any(not act.done() for act in acts):
                acts.add(asyncio.create_task(asyncio.to_thread(chaos)))
            outcomes[await Client(random.Random(rng.random()), port).run()] += 1

    await asyncio.gather(*(one() for _ in range(at_once)))
    for act in acts:
        await act
    return outcomes
