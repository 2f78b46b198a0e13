"""An open loop of chats: they begin when they would, however slow the answers are. Seconds are monotonic."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 30.0  # seconds that answers may take once no more is sent


@dataclass
class Load:
    """What a tenant sends and what it got. `ttft`: seconds to the first content of those that had some; who gave up while it waited counts
    with the seconds until then. `in_time`: whole answers before the last was sent."""

    key: str
    rate: float  # requests a second, on the mean
    prompt_bytes: int
    tokens: int
    most: int = 4000  # under way at once; beyond it a client is not begun, and counted as `not begun`
    ttft: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    in_time: int = 0

    async def run(self, port: int, seconds: float, rng: random.Random) -> None:
        """Sends for so long, with Poisson arrivals, and waits a while for the answers to those that were begun."""
        loop = asyncio.get_running_loop()
        end, at = loop.time() + seconds, loop.time()
        going: set[asyncio.Task[None]] = set()
        while (at := at + rng.expovariate(self.rate)) < end:
            await asyncio.sleep(max(0.0, at - loop.time()))
            if len(going) >= self.most:
                self.outcomes["not begun"] += 1
                continue
            task = asyncio.create_task(self._one(port, at, rng.getrandbits(48)))
            going.add(task)
            task.add_done_callback(going.discard)
        await asyncio.sleep(max(0.0, end - loop.time()))
        self.in_time = self.outcomes["200"]
        if going:
            await asyncio.wait(going, timeout=PATIENCE)
        for task in [*going]:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)

    async def _one(self, port: int, due: float, number: int) -> None:
        try:
            self.outcomes[await self._chat(port, due, number)] += 1
        except asyncio.CancelledError:
            self.outcomes["gave up"] += 1
            raise
        except (OSError, ValueError, asyncio.IncompleteReadError):
            self.outcomes["broken"] += 1

    async def _chat(self, port: int, due: float, number: int) -> str:
        text = f"{number:x} ".ljust(self.prompt_bytes, "x")  # its beginning is its own: nothing is cached
        doc: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": text}], "stream": True}
        body = json.dumps({**doc, "script": {"tokens": self.tokens}}).encode()
        seen = False
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {self.key}\r\nconnection: close\r\n"
            writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
            status = int((await reader.readline()).split(b" ", 2)[1])
            data = b""
            while part := await reader.read(65536):
                if not seen and b'"content"' in data + part:
                    seen = True
                    self.ttft.append(asyncio.get_running_loop().time() - due)
                data += part
            return str(status) if status != 200 or b"data: [DONE]" in data else "an error in the stream"
        except asyncio.CancelledError:
            if not seen:
                self.ttft.append(asyncio.get_running_loop().time() - due)
            raise
        finally:
            writer.close()

    def quantile(self, share: float) -> float:
        """Seconds to the first token of so many, 0 to 1; infinite when nobody had one."""
        found = sorted(self.ttft)
        return found[min(len(found) - 1, int(share * len(found)))] if found else float("inf")
