"""Any dialect as a link: a chat call is written as one provider takes it, and what comes back is chat again for the receiver.

`TranslatedLink` is a `routing.types.Link`. The dialect is pure; here are its edges: the clock, the connection, authentication. Where a
target gives one choice only, a call for n > 1 becomes n requests (`backends/fanout`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from backends import wire
from backends.costed import costed
from backends.dialects.types import Context, Dialect, Facts, Headers, Note, Request, Stream
from backends.fanout import MAX_CHOICES, Fan
from backends.fetch import Carrier
from backends.naming import Naming
from backends.report import HEADER, parameters
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts

AGENT = "pointsman"
MAX_ANSWER = 64 << 20  # bytes of a whole answer before it is translated
_FORWARDED = (b"traceparent", b"tracestate")
_STREAMS = (b"text/event-stream", b"application/vnd.amazon.eventstream")
# They describe the body that came, not the one that goes on.
_OF_BODY = frozenset({
    b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"content-md5", b"digest", b"etag",
})  # fmt: skip
_SSE, _JSON = b"text/event-stream", b"application/json"


Keep = Callable[[Receiver], Receiver]


class Signer(Protocol):
    """Who authenticates requests."""

    def lines(self, method: str, path: str, body: bytes) -> bytes:
        """Header lines for one request, each ended by CRLF; none is fine. Called on the event loop, so it never blocks. `path` is
        the whole path with its query. Raises `Fault` when there are no credentials."""
        ...


class Unsigned:
    """A `Signer` for servers that ask for nothing."""

    def lines(self, method: str, path: str, body: bytes) -> bytes:
        return b""


class Translating:
    """A `Receiver` for the provider's answer and a `Flight` for who asked. `receiver` gets chat: stream by stream, or whole.

    An answer with another status than 200 passes as it came. What cannot be translated is a fault. After `cancel` and after an end
    nothing more is called. `told`: headers that are added to a good answer's, whatever the provider's say.
    """

    __slots__ = (
        "context", "dialect", "flight", "headers", "notes", "over", "parts", "raw", "receiver", "request", "size", "stream", "told",
    )  # fmt: skip

    def __init__(self, dialect: Dialect, request: Request, context: Context, receiver: Receiver, told: Headers | None = None) -> None:
        self.dialect, self.request, self.context, self.receiver = dialect, request, context, receiver
        self.notes: tuple[Note, ...] = request.notes
        self.told: Headers = told or {}
        self.flight: Flight | None = None
        self.stream: Stream | None = None
        self.headers: Headers = {}
        self.raw = False  # an error answer, which passes untouched
        self.over = False
        self.parts: list[bytes] = []
        self.size = 0

    # --- Receiver
    def on_whole(self, status: int, headers: Headers, body: bytes) -> None:
        if self.over:
            return
        self.over = True
        if status != 200:
            self.receiver.on_whole(status, headers, body)
        elif _streamed(headers):
            stream = self.dialect.stream(self.request, self.context)
            out = stream.feed(body) + stream.close()
            self.receiver.on_whole(200, self._headers(headers, _SSE), out)
        else:
            self._whole(headers, body)

    def on_head(self, status: int, headers: Headers) -> None:
        if self.over:
            return
        if status != 200:
            self.raw = True
            self.receiver.on_head(status, headers)
        elif _streamed(headers):
            self.stream = self.dialect.stream(self.request, self.context)
            self.receiver.on_head(200, self._headers(headers, _SSE))
        else:
            self.headers = headers

    def on_data(self, data: bytes) -> None:
        if self.over:
            return
        if self.stream is not None:
            out = self.stream.feed(data)
            if out:
                self.receiver.on_data(out)
        elif self.raw:
            self.receiver.on_data(data)
        else:
            self.parts.append(data)
            self.size += len(data)
            if self.size > MAX_ANSWER:
                self._fail(Fault("upstream", f"The answer exceeds {MAX_ANSWER} bytes.", origin="backend", code="answer_too_large"))

    def on_end(self) -> None:
        if self.over:
            return
        if self.stream is None and not self.raw:
            self.over = True
            self._whole(self.headers, b"".join(self.parts))
            return
        out = self.stream.close() if self.stream is not None else b""
        if out:
            self.receiver.on_data(out)
        if not self.over:  # what was sent last may have made the receiver cancel
            self.over = True
            self.receiver.on_end()

    def on_fault(self, fault: Fault) -> None:
        if not self.over:
            self.over = True
            self.receiver.on_fault(fault)

    def _whole(self, headers: Headers, body: bytes) -> None:
        try:
            out = self.dialect.reply(body, self.request, self.context)
        except Fault as fault:
            self.receiver.on_fault(fault)
            return
        self.receiver.on_whole(200, self._headers(headers, _JSON), out)

    def _headers(self, headers: Headers, kind: bytes) -> Headers:
        """The answer's headers with those of its body replaced, and what is told besides."""
        return {**{name: value for name, value in headers.items() if name not in _OF_BODY}, b"content-type": kind, **self.told}

    def _fail(self, fault: Fault) -> None:
        self.cancel()
        self.receiver.on_fault(fault)

    # --- Flight
    def pause(self) -> None:
        """Stops reading the answer."""
        if self.flight is not None:
            self.flight.pause()

    def resume(self) -> None:
        """Reads on."""
        if self.flight is not None:
            self.flight.resume()

    def cancel(self) -> None:
        """Gives the answer up. Idempotent."""
        self.over = True
        if self.flight is not None:
            self.flight.cancel()


class TranslatedLink:
    """One address of a provider: a pool, a dialect, and how requests are authenticated. A `routing.types.Link` for chat.

    `facts` tells what a model can do. ValueError: a header has a line break in it.
    """

    __slots__ = ("auth", "dialect", "extra", "facts", "others", "pool", "timeouts")

    def __init__(
        self,
        pool: Carrier,
        dialect: Dialect,
        auth: Signer,
        facts: Callable[[str], Facts],
        *,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.pool, self.dialect, self.auth, self.facts = pool, dialect, auth, facts
        self.others: Mapping[str, Dialect] = {}  # of other APIs than chat; given by who makes the link, before the first call
        self.timeouts = timeouts or Timeouts()
        lines = [f"host: {pool.origin.authority}", f"user-agent: {AGENT}", "content-type: application/json", "accept-encoding: identity"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError(f"backend '{pool.name}': a header has a line break in it")
        self.extra = ("\r\n".join(lines) + "\r\n").encode("latin-1")

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Translating | Fan:
        """Translates the call for `target` and sends it. What became of parameters is told in the flight's `notes` and in a header of the
        answer (`backends.report`). Raises `Fault` when this must not or cannot be sent."""
        return self.translated(call, target, timeouts, receiver)

    def translated(
        self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver, keep: Keep | None = None
    ) -> Translating | Fan:
        """The same; `keep` puts a receiver before the others, which sees all that the dialect gives."""
        chat = call.api == "chat"
        dialect = self.dialect if chat else self.others.get(call.api)
        if dialect is None:
            taken = ", ".join(["chat", *self.others])
            raise wire.bad(f"Backend '{self.pool.name}' does not take {call.api}; it takes: {taken}.", code="unsupported_api")
        context, receiver = self.context(call, target), _between(call, target, receiver)
        if keep is not None:
            receiver = keep(receiver)
        doc, n = call.doc, 1
        if chat and not context.facts.many and "n" in doc:
            doc, n = wire.drop(doc, ("n",)), choices(doc)
        request = dialect.request(doc, context)
        if n > 1:
            request.notes = (*request.notes, Note("n", "emulated", f"{n} requests were sent, one for each choice"))
        told = {HEADER: parameters(request.notes)} if request.notes else None

        def fly(to: Receiver) -> Translating:
            flight = Translating(dialect, request, context, to, told)
            flight.flight = self.pool.send(self.written(request, call), flight, timeouts or self.timeouts)
            return flight

        if n == 1:
            return fly(receiver)
        fan = Fan(n, receiver, request.notes, self.pool.name)
        try:
            for leg in fan.legs:
                leg.flight = fly(leg)
        except Fault:
            fan.cancel()
            raise
        return fan

    def context(self, call: Call, target: Target) -> Context:
        """What the dialect is told beside the call's document. Reads the clock."""
        id, facts = call.id.decode("latin-1"), self.facts(target.model)
        if target.facts:
            facts = msgspec.structs.replace(facts, **target.facts)
        return Context(id, int(time.time()), target.model, call.stream, facts, target.strict)

    def written(self, request: Request, call: Call) -> tuple[bytes, bytes]:
        """A request as it goes out: (head, body). Raises `Fault` when there are no credentials, or the path cannot be written."""
        path = self.pool.origin.path + request.path
        if not path.isascii() or not path.isprintable() or " " in path:
            message = f"Backend '{self.pool.name}': the model's name makes a path that cannot be sent; correct the target."
            raise Fault("not_found", message, code="bad_target")
        lines = [f"{name}: {value}\r\n".encode("latin-1") for name, value in request.headers]
        lines += [b"%b: %b\r\n" % (name, call.headers[name]) for name in _FORWARDED if name in call.headers]
        lines.append(self.auth.lines("POST", path, request.body))
        lines.append(b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (call.id, len(request.body)))
        return b"POST %b HTTP/1.1\r\n%b%b" % (path.encode(), self.extra, b"".join(lines)), request.body

    def close(self) -> None:
        """Closes idle connections; flights under way finish."""
        self.pool.drop()

    async def stop(self) -> None:
        """Closes everything, at the gateway's end."""
        self.close()


def _between(call: Call, target: Target, receiver: Receiver) -> Receiver:
    """What an answer passes on its way to `receiver`: its reasoning is renamed, its cost is told."""
    receiver = costed(call, target, receiver)
    if call.api == "chat" and target.reasoning != "reasoning_content" and not call.surface:
        receiver = Naming(receiver, target.reasoning)
    return receiver


def choices(doc: wire.Doc) -> int:
    """How many choices are asked for. Raises `Fault` (bad_request) when that is no number from 1 to `MAX_CHOICES`."""
    try:
        n = msgspec.json.decode(doc["n"], type=int | None)
    except msgspec.MsgspecError:
        n = 0
    if n is not None and not 1 <= n <= MAX_CHOICES:
        raise wire.bad(f"'n' must be a whole number from 1 to {MAX_CHOICES} for this model.", param="n")
    return 1 if n is None else n


def _streamed(headers: Headers) -> bool:
    return headers.get(b"content-type", b"").lower().startswith(_STREAMS)
