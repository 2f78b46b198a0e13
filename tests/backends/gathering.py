"""A world for what gathers calls for embeddings: a carrier that keeps what it is sent, clients, and good answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from backends import wire
from backends.batched import BatchedLink, PricedBatchedLink, batching
from backends.embeddings import BatchLimits
from backends.gather import Gatherer
from backends.origin import Origin
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts
from tests.backends.seen import DEADLINE, Seen

JSON: Mapping[bytes, bytes] = {b"content-type": b"application/json"}
TARGET = Target("gpu", "own")
LONG = BatchLimits(window=10.0)  # so long that nothing here leaves by it


class Sent:
    """One engine call under way, which a test answers."""

    def __init__(self, head: bytes, body: bytes, receiver: Receiver) -> None:
        self.head, self.body, self.receiver = head, body, receiver
        self.doc: dict[str, Any] = json.loads(body)
        self.asked: list[str] = []
        self.over = False

    @property
    def inputs(self) -> list[Any]:
        given = self.doc["input"]
        return given if isinstance(given, list) and isinstance(given[0], str | list) else [given]

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def cancel(self) -> None:
        self.asked.append("cancel")
        self.over = True

    def answer(self, *, parts: bool = False) -> None:
        """What `engine` says of it, whole or in pieces."""
        status, body = engine(self)
        self.over = True
        if not parts:
            self.receiver.on_whole(status, JSON, body)
            return
        self.receiver.on_head(status, JSON)
        self.receiver.on_data(body[:7])
        self.receiver.on_data(body[7:])
        self.receiver.on_end()

    def refuse(self, status: int, body: bytes = b'{"error":{"message":"no"}}') -> None:
        self.over = True
        self.receiver.on_whole(status, JSON, body)

    def fail(self, fault: Fault) -> None:
        self.over = True
        self.receiver.on_fault(fault)


def engine(sent: Sent) -> tuple[int, bytes]:
    """A deterministic server: it refuses an input with `bad` in it, and counts a token a byte."""
    if any("bad" in one for one in sent.inputs if isinstance(one, str)):
        return 400, b'{"error":{"message":"that input is bad","code":400}}'
    id = sent.head.partition(b"x-request-id: ")[2].partition(b"\r\n")[0].decode()
    data = [{"object": "embedding", "index": at, "embedding": [len(one) / 8]} for at, one in enumerate(sent.inputs)]
    tokens = sum(len(one) for one in sent.inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return 200, wire.encode({"id": f"embd-{id}", "object": "list", "data": data, "model": sent.doc["model"], "usage": usage})  # type: ignore[arg-type]


class Carrier:
    """A carrier whose calls a test answers. `refusing`: what it raises instead of sending."""

    def __init__(self) -> None:
        self.name, self.origin = "gpu", Origin("http://h:1")
        self.sent: list[Sent] = []
        self.refusing: Fault | None = None
        self.came = asyncio.Event()

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> Flight:
        if self.refusing is not None:
            raise self.refusing
        head, _, body = b"".join(payload).partition(b"\r\n\r\n")
        self.sent.append(Sent(head + b"\r\n\r\n", body, receiver))
        self.came.set()
        return self.sent[-1]

    def drop(self) -> None: ...

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE):
            while len(self.sent) < count:
                self.came.clear()
                await self.came.wait()


class World:
    """A link that gathers, and who asked over it."""

    def __init__(self, limits: BatchLimits = LONG, *, priced: bool = False) -> None:
        self.carrier = Carrier()
        self.link = batching((PricedBatchedLink if priced else BatchedLink)(self.carrier), limits)
        self.number = 0

    @property
    def gather(self) -> Gatherer:
        assert self.link.gather is not None
        return self.link.gather

    @property
    def sent(self) -> list[Sent]:
        return self.carrier.sent

    def call(self, given: Any, headers: Mapping[bytes, bytes] | None = None, **more: Any) -> Call:
        self.number += 1
        doc = wire.parse(json.dumps({"model": "m", "input": given, **more}).encode())
        return Call(b"req-%d" % self.number, "embeddings", "m", bool(more.get("stream")), doc, "", headers or {}, 0.0)

    def ask(self, given: Any, headers: Mapping[bytes, bytes] | None = None, **more: Any) -> tuple[Seen, Flight]:
        seen = Seen()
        return seen, self.link.send(self.call(given, headers, **more), TARGET, None, seen)

    async def turn(self) -> None:
        """One turn of the loop, and the next, in which what the first made ready runs."""
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    def at_rest(self) -> bool:
        return not self.gather.groups


def good(seen: Seen, *lengths: int, id: str) -> None:
    """That `seen` got the vectors of inputs so long, and nothing else."""
    told = json.loads(seen.body)
    assert seen.status == 200 and [item["index"] for item in told["data"]] == [*range(len(lengths))]
    assert [item["embedding"] for item in told["data"]] == [[length / 8] for length in lengths]
    assert told["usage"]["prompt_tokens"] == sum(lengths) and told["id"] == f"embd-{id}"
