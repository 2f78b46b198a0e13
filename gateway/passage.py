"""A request of an OpenAI surface that is only relayed: audio, images, moderations, files, batches.

Nothing of it is read but what decides its way. Its answer goes out as it comes, whatever it is; an error becomes our error object. What an
`Exchange` holds and ends in (lease, table of calls under way, record, limits of time) is its parent's; here is how it is sent and
answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache
from time import monotonic
from time import time as unix_time

from backends import catalog
from backends.faults import from_answer
from backends.http import Pool
from backends.openai import OpenAILink
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts
from backends.upload import Upload
from backends.wire import Doc
from gateway.answering import MAX_ERROR
from gateway.exchange import Exchange
from gateway.limits import route_busy
from gateway.serve import Core
from gateway.sink import Sink
from routing import health
from routing.lease import take
from routing.pool import pick
from routing.types import Replica, Route

ANY = frozenset({"audio", "images", "moderations", "files"})  # of an engine of a kind that the catalogue does not know
_PASSED = (b"content-disposition", b"content-type")
_JSON = b"content-type: application/json\r\n"
_FORWARDED = (b"accept", b"traceparent", b"tracestate")
# Nothing has reached the backend: what creates something may be sent elsewhere only then.
_UNSENT = frozenset({"connect_failed", "connect_timeout", "tls_failed"})

Send = Callable[[OpenAILink, Target, Timeouts, Receiver], Flight]


@lru_cache(maxsize=256)
def has(kind: str) -> frozenset[str]:
    """The relayed surfaces that a kind of backend has."""
    row = catalog.find(kind)
    return ANY if row is None else ANY.intersection(row.speaks)


def can(replica: Replica, need: str) -> bool:
    """Whether the replica may be asked for a surface. One that is not there yet may turn out to have it."""
    link = replica.link
    if isinstance(link, OpenAILink):
        return need in has(link.kind)
    return replica.managed


class Passage(Exchange):
    """One relayed request. Set `route` and `sends` and call `begin`; a form calls `upload` instead of setting `sends`."""

    __slots__ = ("cannot", "doc", "error", "is_events", "moved", "need", "once", "sends", "sized", "spent", "tail_seen", "unread")

    def __init__(self, core: Core, sink: Sink, api: str, headers: Mapping[bytes, bytes], need: str) -> None:
        super().__init__(core, sink, api, headers)
        self.need = need  # the surface, in the catalogue's words
        self.sends: Send | None = None
        self.doc: Doc = {}  # its document, where it has one: what a policy may look at
        self.cannot: frozenset[Replica] = frozenset()
        self.once = need == "files"  # it creates something, or is no use elsewhere
        self.moved = asyncio.Event()  # there is a flight to write to, or the request is over
        self.unread: Callable[[], bool] = bool  # whether a part of the request has not been read yet
        self.error: list[bytes] | None = None  # an error answer, as far as it has come
        self.spent = False  # a part of the body has gone out and is not kept
        self.is_events = False
        self.sized = True  # the client is told the length of a streamed answer where the backend tells it
        self.tail_seen = b""

    # --- towards a backend
    def enter(self) -> None:
        """Counts the request as under way. Raises the `Fault` that keeps it out."""
        core = self.core
        core.inflight.add(self)
        core.admit(self)
        if core.draining or len(core.inflight) > core.limits.concurrency:
            raise core.refusal()

    def take(self, model: str, route: Route) -> None:
        """Sets the route, counted. Raises `Fault` when it is busy, or has nothing that speaks this surface."""
        if route.concurrency is not None and route.inflight >= route.concurrency:
            raise route_busy(model, route.concurrency)
        self.cannot = frozenset(r for r in route.replicas if not can(r, self.need))
        if route.replicas and len(self.cannot) == len(set(route.replicas)):
            where = ", ".join(sorted({arm.target.backend for arm in route.arms}))
            message = f"Model '{model}' is on {where}, which has no {self.need}; ask for a model that is on a backend with {self.need}."
            raise Fault("bad_request", message, origin="client", param="model", code="unsupported_api")
        route.inflight += 1
        self.route = route
        self.call = Call(self.id, self.api, model, False, self.doc, self.tenant.name, self.headers, self.received)
        if route.chooser is not None:
            self.pilot = route.chooser.pilot(self)

    def head(self, link: OpenAILink, method: str, path: str, kind: bytes) -> bytes:
        """A request's head without its length. `kind`: its content type, empty for none."""
        lines = b"".join(b"%b: %b\r\n" % (name, self.headers[name]) for name in _FORWARDED if name in self.headers)
        if kind:
            lines += b"content-type: %b\r\n" % kind
        return link.head(method, link.base + path).replace(_JSON, lines, 1) + b"x-request-id: %b\r\n" % self.id

    def dispatch(self) -> None:
        """Sends the request to a replica that has the surface, parks it until one comes, or raises the `Fault` that says why not."""
        route, core = self.route, self.core
        excluded = self.cannot.union(self.excluded)
        pilot = self.pilot
        decision = pick(route, core.clients.now, core.draw(), excluded) if pilot is None else pilot.choose(excluded)
        if decision is None:
            self.excluded = set(excluded)
            if pilot is not None and pilot.holds:
                core.hold(self)
            else:
                core.park(self)
            return
        self.attempts += 1
        self.parked_at = None
        self.decision = decision
        target, link = decision.target, decision.replica.link
        if not isinstance(link, OpenAILink) or self.sends is None:
            raise Fault("unavailable", f"Backend '{target.backend}' cannot be asked now.", origin="backend", code="no_replica")
        self.flight = self.sends(link, target, route.timeouts.get(target.backend) or link.timeouts, self)
        if pilot is not None:
            pilot.sent(decision)
        self.held = take(decision.replica)
        self.moved.set()

    def whole(self, method: str, path: str, kind: bytes, body: Callable[[Target], bytes | None]) -> None:
        """The request is sent in one piece: the body that `body` makes for a target, or none."""

        def send(link: OpenAILink, target: Target, timeouts: Timeouts, receiver: Receiver) -> Flight:
            content = body(target)
            head = self.head(link, method, path, kind if content is not None else b"")
            length = b"\r\n" if content is None else b"content-length: %d\r\n\r\n" % len(content)
            return link.pool.send((head + length, content or b""), receiver, timeouts)

        self.sends = send

    def streams(self, path: str, kind: bytes, length: Callable[[Target], int | None]) -> None:
        """The request's body is written by `piece` and `done` as it comes. `length`: its bytes for a target, None when not known."""

        def send(link: OpenAILink, target: Target, timeouts: Timeouts, receiver: Receiver) -> Flight:
            assert isinstance(link.pool, Pool)
            return Upload.to(link.pool, self.head(link, "POST", path, kind), length(target), receiver, timeouts)

        self.sends = send

    async def piece(self, data: Callable[[Target], bytes]) -> bool:
        """Writes a piece of the body, made for the target that it goes to. False: the request is over, no more is wanted."""
        while True:
            upload = await self._upload()
            if upload is None:
                return False
            if await upload.write(data(self.decision.target)):
                self.spent = True
                return True
            if self.flight is upload:  # answered early; who answers will end it
                return False

    async def done(self) -> bool:
        """The body is whole. False: the request is over already."""
        upload = await self._upload()
        return upload is not None and await upload.finish()

    async def _upload(self) -> Upload | None:
        await self.moved.wait()
        return self.flight if isinstance(self.flight, Upload) and not self.ended else None

    # --- Receiver
    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None:
        flight, self.flight = self.flight, None
        if not 200 <= status < 300:
            self._failed(from_answer(status, headers, body[:MAX_ERROR], self.decision.target.backend, unix_time()))
        elif isinstance(flight, Upload) and not flight.whole:
            self._failed(self._early())
        else:
            self._good(status, headers)
            self.bytes_out, self.chunks = len(body), 1
            lines = self._lines(self._first(headers))
            self._release()
            self._end(status)
            self.sink.respond(status, lines, body)

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        self.status, self.upstream_headers = status, headers
        if not 200 <= status < 300:
            self.error = []
            return
        if isinstance(self.flight, Upload) and not self.flight.whole:
            self._over(self._early())
            return
        self._good(status, headers)
        self.begun = True
        length = headers.get(b"content-length", b"")
        first = b"content-length: %b\r\n" % length if length.isdigit() and self.sized else b""
        self.sink.begin(status, self._lines(first + self._first(headers)), b"")

    def on_data(self, data: bytes) -> None:
        error = self.error
        if error is None:
            self.chunks += 1
            self.bytes_out += len(data)
            if self.is_events:
                self.tail_seen = (self.tail_seen + data)[-4:] if len(data) < 4 else data[-4:]
            self.sink.send(data)
            return
        error.append(data)
        if sum(map(len, error)) >= MAX_ERROR:
            if self.flight is not None:
                self.flight.cancel()
            self.on_end()

    def on_end(self) -> None:
        if self.error is not None:
            body, self.error = b"".join(self.error), None
            self._failed(from_answer(self.status, self.upstream_headers, body, self.decision.target.backend, unix_time()))
            return
        self._release()
        self._end(self.status)
        self.sink.finish(b"")

    def on_fault(self, fault: Fault) -> None:
        self._failed(fault)

    def _good(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        replica = self.decision.replica
        if replica.failures:
            health.good(replica)
        self.status, self.upstream_headers, self.last_fault = status, headers, None
        self.ttft = monotonic() - self.received
        if self.pilot is not None:
            self.pilot.answered()
        self.stream = self.is_events = headers.get(b"content-type", b"")[:17].lower() == b"text/event-stream"

    def _first(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The header lines of a good answer up to the request's id."""
        told = {b"content-type": b"application/octet-stream", **headers}
        lines = b"".join(b"%b: %b\r\n" % (name, told[name]) for name in _PASSED if name in told)
        return lines + b"x-content-type-options: nosniff\r\nx-request-id: "

    def _early(self) -> Fault:
        where = self.decision.target.backend
        return Fault("upstream", f"Backend '{where}' answered before it had the whole request.", origin="backend", code="early_answer")

    def _over(self, fault: Fault) -> None:
        if self.flight is not None:
            self.flight.cancel()
        self._failed(fault)

    # --- ends
    def _failed(self, fault: Fault) -> None:
        """An attempt failed: elsewhere when the request can be sent again and nothing was promised, else told."""
        decision, route = self.decision, self.route
        health.bad(decision.replica, fault, monotonic())
        self.moved.clear()
        self._release()
        self.flight, self.last_fault = None, fault
        may = not self.begun and not self.spent and fault.retry and self.attempts <= route.retries
        if may and (not self.once or fault.code in _UNSENT):
            self.excluded = {*self.excluded, decision.replica}
            try:
                self.dispatch()
                self._pace()
                return
            except Fault as after:
                if after.code != "no_replica":
                    fault = after
        self.refuse(fault)

    def refuse(self, fault: Fault) -> None:
        """Ends the request with a fault: as a status; after the head as an error event between events, else by a cut."""
        if not self.begun or self.ended:
            super().refuse(fault)
            return
        self._release()
        self.last_fault = fault
        self._end(self.status)
        if self.is_events and self.tail_seen.endswith((b"\n\n", b"\r\n\r\n")):
            self.sink.finish(b"data: " + self.envelope(fault) + b"\n\n")
        else:
            self.sink.break_off()

    def _lines(self, first: bytes) -> bytes:
        lines = super()._lines(first)
        return lines + b"connection: close\r\n" if self.unread() else lines

    def _end(self, status: int) -> None:
        super()._end(status)
        self.moved.set()
