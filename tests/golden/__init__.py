"""Whole answers as the engines write them, byte for byte, and what a client must get.

`cases/NAME.upstream.sse` is a stream as the engine sends it when usage was asked for; `cases/NAME.client.sse` is what a client
gets that did not ask for usage. A client that asked gets the upstream's bytes. `cases/NAME.json` must pass unchanged. Comments
before the first content are not part of an answer: proxies put them there to keep connections open.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.answers import Framing, respond, sse
from tests.fakes.reader import events
from tests.fakes.script import Script

CASES = Path(__file__).with_name("cases")
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "embeddings": "/v1/embeddings"}
CHAT_LIKE = {"tools": "chat", "reasoning": "chat"}


def doc(api: str, stream: bool, usage: bool) -> dict[str, Any]:
    """A small request for an API, as a client of route `m` would send it."""
    asked: dict[str, Any] = {"model": "m"}
    if api == "chat":
        asked["messages"] = [{"role": "user", "content": "Grüße \U0001f44b"}]
    else:
        asked["prompt" if api == "completions" else "input"] = "one two"
    if stream:
        asked["stream"] = True
    if usage:
        asked["stream_options"] = {"include_usage": True}
    return asked


@dataclass(frozen=True)
class Golden:
    """One case: what the client asks, what the engine answers (body), what the client must get (body)."""

    name: str
    api: str
    stream: bool
    usage: bool
    upstream: bytes
    client: bytes

    @property
    def path(self) -> str:
        return PATHS[self.api]

    @property
    def doc(self) -> dict[str, Any]:
        return doc(self.api, self.stream, self.usage)

    @property
    def client_events(self) -> list[bytes]:
        return events(self.client)

    def answer(self, framing: Framing = "chunked") -> Script:
        """The engine's answer as a script: each event a chunk and a write of its own."""
        if self.stream:
            return sse(events(self.upstream), framing=framing)
        return respond([self.upstream], framing=framing)


def without_first_comments(body: bytes) -> bytes:
    found = events(body)
    while found[0].startswith(b":"):
        found.pop(0)
    return b"".join(found)


def read(path: Path) -> list[Golden]:
    name = path.name.split(".")[0]
    word = name.split("-")[1]
    api = CHAT_LIKE.get(word, word)
    body = path.read_bytes()
    if path.suffix == ".json":
        return [Golden(name, api, False, False, body, body)]
    client = path.with_name(f"{name}.client.sse").read_bytes()
    return [
        Golden(name + "-stream", api, True, False, body, client),
        Golden(name + "-stream-usage", api, True, True, body, without_first_comments(body)),
    ]


GOLDEN: tuple[Golden, ...] = tuple(
    case for path in sorted(CASES.iterdir()) if path.name.endswith((".json", ".upstream.sse")) for case in read(path)
)
BY_NAME = {case.name: case for case in GOLDEN}
