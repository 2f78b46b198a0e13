"""A server that speaks the OpenAI dialect: how a call is written for it. The only state is what was prepared at start."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from backends import wire
from backends.fetch import Answer, Carrier, fetch
from backends.heads import DECIMAL, DECIMALS
from backends.quirks import QUIRKS, TELL_USAGE
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts

PATHS: Mapping[str, str] = {
    "chat": "/chat/completions", "completions": "/completions", "embeddings": "/embeddings", "rerank": "/rerank",
}  # fmt: skip
_ASK_USAGE = msgspec.Raw(b'{"include_usage":true}')
_FORWARDED = (b"traceparent", b"tracestate")
AGENT = b"pointsman"
MODELS = 4096  # names whose JSON is kept
JOIN = 16 * 1024  # bytes of a body; a smaller one goes out in one write with its head
Guard = Callable[[Mapping[str, msgspec.Raw]], Fault | None]


def api_base(path: str) -> str:
    """The path under which a base URL has the OpenAI surfaces: as written, or /v1 where the URL has none."""
    return path or "/v1"


_models: dict[str, msgspec.Raw] = {}


def target_raw(model: str) -> msgspec.Raw:
    """A model's name as JSON: there are few, and each is needed at every call."""
    found = _models.get(model)
    if found is None:
        if len(_models) >= MODELS:
            _models.clear()
        found = _models[model] = wire.raw(model)
    return found


def _encoded(doc: wire.Doc, model: str) -> bytes:
    """The document as JSON, with `model` in place of what it asks for."""
    try:
        # It stands in the document for as long as that is written, which costs less than a copy.
        name, asked = _models[model], doc["model"]
    except KeyError:
        return wire.encode({**doc, "model": target_raw(model)})
    doc["model"] = name
    try:
        return wire.encode(doc)
    finally:
        doc["model"] = asked


def _ask_usage(doc: wire.Doc) -> None:
    """Asks for token counts on the client's behalf. Mutates `doc`. Raises `Fault` for options that are none."""
    options = doc.get("stream_options")
    if options is None or options == wire.NULL:
        doc["stream_options"] = _ASK_USAGE
    elif b'"include_usage":true' not in bytes(options):
        told = wire.sub(doc, "stream_options")
        wire.flag(told, "include_usage")
        doc["stream_options"] = wire.raw({**told, "include_usage": wire.TRUE})


class OpenAILink:
    """One address: a pool and the request heads for it, ready but for the length. A `routing.types.Link`."""

    __slots__ = ("asks", "base", "extra", "guard", "heads", "kind", "pool", "quirks", "root", "timeouts")

    def __init__(
        self,
        pool: Carrier,
        *,
        kind: str = "openai",
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.pool, self.timeouts, self.guard = pool, timeouts or Timeouts(), guard
        self.kind = kind
        self.quirks = QUIRKS.get(kind, ())
        self.asks = kind not in TELL_USAGE  # for the usage of a stream
        self.base = api_base(pool.origin.path)
        self.root = self.base.removesuffix("/v1")
        lines = [f"host: {pool.origin.authority}", f"user-agent: {AGENT.decode()}"]
        lines += ["content-type: application/json", "accept-encoding: identity"]
        if key is not None:
            lines.append(f"authorization: Bearer {key}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError(f"backend '{pool.name}': a header or key has a line break in it")
        self.extra = ("\r\n".join(lines) + "\r\n").encode("latin-1")
        self.heads = {api: self.head("POST", self.base + path) + b"x-request-id: " for api, path in PATHS.items()}  # up to the id

    def head(self, method: str, path: str) -> bytes:
        """A request's head without its length and its end."""
        return f"{method} {path} HTTP/1.1\r\n".encode() + self.extra

    def get(self, path: str) -> tuple[bytes, bytes]:
        """A GET request, whole."""
        return self.head("GET", path) + b"\r\n", b""

    def post(self, path: str, body: bytes) -> tuple[bytes, bytes]:
        """A POST request of a JSON body, whole."""
        return self.head("POST", path) + b"content-length: %d\r\n\r\n" % len(body), body

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        """Encodes the call for `target` and sends it. Raises `Fault` when this server must not or cannot be asked that."""
        doc = call.doc
        if self.guard is not None or self.quirks:
            doc = self._guarded(doc)
        if call.stream and self.asks:
            doc = {**doc, "model": target_raw(target.model)}
            _ask_usage(doc)
            body = wire.encode(doc)
        else:
            body = _encoded(doc, target.model)
        head = self.heads[call.api]
        if b"traceparent" in call.headers:
            head = self._traced(head, call.headers)
        length = len(body)
        if length < JOIN:
            number = DECIMAL[length] if length < DECIMALS else b"%d" % length
            payload = (b"".join((head, call.id, b"\r\ncontent-length: ", number, b"\r\n\r\n", body)), b"")
        else:
            payload = (b"%b%b\r\ncontent-length: %d\r\n\r\n" % (head, call.id, length), body)
        return self.pool.send(payload, receiver, timeouts or self.timeouts)

    def _guarded(self, doc: wire.Doc) -> wire.Doc:
        if self.guard is not None and (refused := self.guard(doc)) is not None:
            raise refused
        for quirk in self.quirks:
            doc = quirk(doc)
        return doc

    def _traced(self, head: bytes, headers: Mapping[bytes, bytes]) -> bytes:
        first, _, rest = head.partition(b"\r\n")
        lines = b"".join(b"%b: %b\r\n" % (name, headers[name]) for name in _FORWARDED if name in headers)
        return b"%b\r\n%b%b" % (first, lines, rest)

    async def ask(self, payload: tuple[bytes, bytes], timeouts: Timeouts | None = None) -> Answer:
        """Sends a request made by `get` or `post` and waits for the whole answer: (status, headers, body). Raises `Fault`."""
        return await fetch(self.pool, payload, timeouts or self.timeouts)

    def close(self) -> None:
        """Closes idle connections; flights under way finish."""
        self.pool.drop()

    async def stop(self) -> None:
        """Closes everything, at the gateway's end. Returns when it is done."""
        self.close()
