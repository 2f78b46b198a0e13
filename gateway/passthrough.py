"""The surfaces that are only relayed: which there are, how the route of a request is found, and how its body passes through.

A JSON body is read whole, since its `model` is replaced. A form passes piece by piece; only what comes before its field `model` is held.
Files and batches name no model: they go to the one backend that has them, or to that of the route which the header or query
parameter `x-pointsman-route` names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from backends import wire
from backends.http import Pool
from backends.openai import OpenAILink, target_raw
from backends.types import Fault, Target
from gateway import multipart
from gateway.asgi import AsgiSink, Gone, Receive, Scope, Send, headers_of, pump, read_body, until_gone
from gateway.limits import too_large, too_slow
from gateway.passage import Passage, can
from gateway.serve import Core
from routing.types import Route

ROUTE = "x-pointsman-route"
MAX_ID, MAX_QUERY = 128, 2048
_ID = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-.:")
_JSON = b"application/json"


class Surface(NamedTuple):
    """One relayed surface. `need`: what the catalogue calls it; `model`: its body has one; `form`: it may be a form."""

    need: str
    model: bool = True
    form: bool = False
    body: bool = True


_FILES, _BATCHES = Surface("files", model=False, body=False), Surface("files", model=False)
SURFACES: Mapping[tuple[str, str], Surface] = {
    ("POST", "/audio/transcriptions"): Surface("audio", form=True),
    ("POST", "/audio/translations"): Surface("audio", form=True),
    ("POST", "/audio/speech"): Surface("audio"),
    ("POST", "/images/generations"): Surface("images"),
    ("POST", "/images/edits"): Surface("images", form=True),
    ("POST", "/images/variations"): Surface("images", form=True),
    ("POST", "/moderations"): Surface("moderations"),
    ("POST", "/files"): Surface("files", model=False, form=True),
    ("GET", "/files"): _FILES,
    ("GET", "/files/{id}"): _FILES,
    ("DELETE", "/files/{id}"): _FILES,
    ("GET", "/files/{id}/content"): _FILES,
    ("POST", "/batches"): _BATCHES,
    ("GET", "/batches"): _FILES,
    ("GET", "/batches/{id}"): _FILES,
    ("POST", "/batches/{id}/cancel"): _FILES,
}
_PATHS = frozenset(path for _, path in SURFACES)


class Found(NamedTuple):
    """A request of a relayed surface: what it is, its pattern and its path below the base URL."""

    surface: Surface
    method: str
    pattern: str
    path: str


def find(method: str, path: str) -> Found | None:
    """The relayed surface at a path, with or without /v1. None: there is none. Raises `Fault` (405) for another method."""
    below = path.removeprefix("/v1")
    parts = below.split("/")
    pattern = below
    if len(parts) > 2 and parts[1] in ("files", "batches"):
        if not 0 < len(parts[2]) <= MAX_ID or not _ID.issuperset(parts[2]) or not parts[2].strip("."):
            return None
        pattern = "/".join(["", parts[1], "{id}", *parts[3:]])
    if pattern not in _PATHS:
        return None
    surface = SURFACES.get((method, pattern))
    if surface is None:
        right = " or ".join(sorted(m for m, p in SURFACES if p == pattern))
        why = f"{path[:200]} takes {right}, not {method[:20]}."
        raise Fault("bad_request", why, origin="client", status=405, code="method_not_allowed")
    return Found(surface, method, pattern, below)


class Incoming:
    """The client's body as it comes, under the caps: `next` until it gives None. `read` says whether all of it has been."""

    def __init__(self, core: Core, headers: Mapping[bytes, bytes], receive: Receive) -> None:
        self.limits, self.receive = core.limits, receive
        length = headers.get(b"content-length", b"")
        self.length = int(length) if length.isdigit() else None
        self.read, self.size = self.length == 0, 0
        if self.length is not None and self.length > self.limits.upload_bytes:
            raise too_large(self.limits.upload_bytes)

    async def next(self) -> bytes | None:
        """The next piece, None at the end. Raises `Fault` (too large, too slow) or `Gone`."""
        while not self.read:
            try:
                async with asyncio.timeout(self.limits.body_seconds):
                    message = await self.receive()
            except TimeoutError:
                raise too_slow("next piece of the body", self.limits.body_seconds) from None
            if message["type"] == "http.disconnect":
                raise Gone
            data: bytes = message.get("body", b"")
            self.size += len(data)
            self.read = not message.get("more_body") or self.size == self.length
            if self.size > self.limits.upload_bytes:
                raise too_large(self.limits.upload_bytes)
            if data:
                return data
        return None


class Run:
    """One request from its head to the moment when its body has been sent on."""

    def __init__(self, core: Core, found: Found, scope: Scope, receive: Receive) -> None:
        self.core, self.found, self.receive = core, found, receive
        self.headers = headers_of(scope)
        self.named, self.query = _query(scope.get("query_string", b""), self.headers)
        self.sink = AsgiSink(whole=scope.get("http_version") == "1.0")
        api = found.pattern[1:].removesuffix("/{id}").replace("/{id}", "")
        self.passage = self.sink.exchange = Passage(core, self.sink, api, self.headers, found.surface.need)
        self.passage.sized = not self.sink.whole

    @property
    def path(self) -> str:
        """Where the request goes, below the base URL."""
        return self.found.path + (f"?{self.query}" if self.query else "")

    async def start(self) -> Callable[[], bool]:
        """Reads as much as decides the way and sends that. Gives whether the client's body has been read whole. Raises `Fault`, `Gone`."""
        passage = self.passage
        passage.unread = lambda: True
        passage.enter()
        mark = multipart.boundary(self.headers.get(b"content-type", b"")) if self.found.surface.form else None
        if mark is not None:
            incoming = Incoming(self.core, self.headers, self.receive)
            passage.unread = lambda: not incoming.read
            await (self._form(mark, incoming) if self.found.surface.model else self._plain(mark, incoming))
            return lambda: incoming.read
        body = await read_body(self.core, self.headers, self.receive)
        passage.unread = bool
        if self.found.surface.model:
            self._json(body)
        else:
            passage.take(*self._backend())
            content = body if self.found.surface.body else None
            if content is not None:
                content = wire.encode(wire.parse(content))
            elif self.found.method == "POST":
                content = b""
            passage.whole(self.found.method, self.path, _JSON, lambda target: content)
        passage.dispatch()
        return lambda: True

    def _json(self, body: bytes) -> None:
        self.passage.doc = doc = wire.parse(body)
        self.passage.take(*self._route(wire.text(doc, "model")))
        self.passage.whole("POST", self.path, _JSON, lambda target: wire.encode({**doc, "model": target_raw(target.model)}))

    # --- forms
    async def _form(self, mark: bytes, incoming: Incoming) -> None:
        """A form with a model: held until that is found, then sent on as it comes."""
        form = multipart.Form(mark)
        held = b""
        while form.span is None and (data := await incoming.next()) is not None:
            form.feed(data)
            held += data
            if len(held) > self.core.limits.body_bytes and form.span is None:
                message = f"The field 'model' does not come within {self.core.limits.body_bytes} bytes; put it before the files."
                raise wire.bad(message, param="model", code="late_model")
        if form.span is None:
            form.close()
        self.passage.take(*self._route(form.model))
        if form.span is None:
            extra = _Around(b"", lambda model: multipart.field(mark, b"model", model), held)
        else:
            extra = _Around(held[: form.span[0]], lambda model: model, held[form.span[1] :])
        length = None if incoming.length is None else incoming.length - (form.span[1] - form.span[0] if form.span else 0)
        await self._send(mark, incoming, extra, length, form)

    async def _plain(self, mark: bytes, incoming: Incoming) -> None:
        """A form without a model."""
        self.passage.take(*self._backend())
        await self._send(mark, incoming, _Around(b"", lambda model: b"", b""), incoming.length, None)

    async def _send(self, mark: bytes, incoming: Incoming, around: _Around, length: int | None, form: multipart.Form | None) -> None:
        """Sends what is held, and lets the rest follow. `length`: bytes of the whole body without what `around` puts in."""
        passage, kind = self.passage, multipart.content_type(mark)
        if form is not None and incoming.read:
            form.close()
        links = [r.link for r in passage.route.replicas if r not in passage.cannot]
        if not all(isinstance(link, OpenAILink) and isinstance(link.pool, Pool) for link in links):
            rest = await self._gathered(incoming, form)  # httpx, or an engine that is not there yet: it wants the body whole
            passage.whole("POST", self.path, kind, lambda target: around(target) + rest)
            passage.dispatch()
            return
        passage.streams(self.path, kind, lambda target: None if length is None else length + len(around.put(target)))
        passage.dispatch()
        if not await passage.piece(around):
            return
        while (data := await incoming.next()) is not None:
            _seen(form, data, incoming.read)
            if not await passage.piece(lambda target, data=data: data):  # type: ignore[misc]
                return
        if form is not None:
            form.close()
        await passage.done()

    async def _gathered(self, incoming: Incoming, form: multipart.Form | None) -> bytes:
        parts: list[bytes] = []
        data: bytes | None = b""
        while data is not None:
            if incoming.size > self.core.limits.body_bytes:
                raise too_large(self.core.limits.body_bytes)
            parts.append(data)
            if (data := await incoming.next()) is not None:
                _seen(form, data, incoming.read)
        if form is not None:
            form.close()
        return b"".join(parts)

    # --- routes
    def _route(self, model: str | None) -> tuple[str, Route]:
        """The route of a request with a model, or that is named beside it."""
        if model is None:
            model = self.named
        if model is None:
            routes = self._having()
            if len({id(route) for route in routes}) == 1:
                return routes[0].name, routes[0]
            raise wire.bad(f"'model' is missing; GET /v1/models lists what there is.{_list(routes)}", param="model", code="missing_model")
        return model, self.core.route(model, self.passage.tenant)

    def _backend(self) -> tuple[str, Route]:
        """The route that leads to the one backend which has files."""
        if self.named is not None:
            route = self.core.route(self.named, self.passage.tenant)
            if len({arm.target.backend for arm in route.arms}) > 1:
                message = f"Route '{self.named}' has several backends, and a file is on one; name a route that has one backend."
                raise wire.bad(message, param=ROUTE, code="ambiguous_route")
            return self.named, route
        routes = self._having()
        backends = {arm.target.backend for route in routes for arm in route.arms if any(can(r, "files") for r in arm.replicas)}
        plain = [route for route in routes if len({arm.target.backend for arm in route.arms}) == 1]
        if len(backends) == 1 and plain:
            return plain[0].name, plain[0]
        if not routes:
            raise wire.bad("No model of yours is on a backend with files.", code="unsupported_api")
        message = f"Say whose files these are: name a model in the header '{ROUTE}', or in the query parameter of that name.{_list(plain)}"
        raise wire.bad(message, param=ROUTE, code="missing_route")

    def _having(self) -> list[Route]:
        """The caller's routes with a backend that has this surface, each once, by name."""
        routes = self.core.routes_of(self.passage.tenant)
        return [route for route in routes if any(can(r, self.found.surface.need) for r in route.replicas)]


class _Around:
    """What of a form is held, with the model's place in it: called with a target it gives the bytes for that one."""

    def __init__(self, before: bytes, put: Callable[[bytes], bytes], after: bytes) -> None:
        self.before, self.made, self.after = before, put, after

    def put(self, target: Target) -> bytes:
        """What goes into the model's place."""
        return self.made(target.model.encode())

    def __call__(self, target: Target) -> bytes:
        return self.before + self.put(target) + self.after


def _seen(form: multipart.Form | None, data: bytes, last: bool) -> None:
    """Looks at a piece before it is sent: the last one must not go out when the form is none."""
    if form is not None:
        form.feed(data)
        if last:
            form.close()


def _query(query: bytes, headers: Mapping[bytes, bytes]) -> tuple[str | None, str]:
    """The route that a request names beside its body, and its query without that. Raises `Fault` when the query is too long."""
    if len(query) > MAX_QUERY:
        raise wire.bad(f"The query is longer than {MAX_QUERY} bytes.")
    given = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    named = [value for name, value in given if name.lower() == ROUTE]
    header = headers.get(ROUTE.encode())
    if header is not None:
        named.append(header.decode("utf-8", "replace"))
    return (named[-1] if named else None), urlencode([(name, value) for name, value in given if name.lower() != ROUTE])


def _list(routes: list[Route]) -> str:
    return f" There is: {', '.join(route.name for route in routes[:8])}." if routes else ""


async def run_passage(core: Core, found: Found, scope: Scope, receive: Receive, send: Send) -> None:
    """Serves one relayed request. Returns when the answer is out or the client has left."""
    run = Run(core, found, scope, receive)
    passage, sink = run.passage, run.sink
    reading = asyncio.ensure_future(_read(run, receive))
    try:
        await pump(sink, send)
    finally:
        reading.cancel()
        passage.gone()  # nothing, unless sending failed or the client has left


async def _read(run: Run, receive: Receive) -> None:
    """Takes the request in, then waits for the client to leave."""
    passage, sink = run.passage, run.sink
    try:
        read = await run.start()
        if read():
            await until_gone(passage, sink, receive)
    except Fault as fault:
        if passage.flight is not None:
            passage.flight.cancel()
        passage.refuse(fault)
    except Gone:
        passage.gone()
        sink.break_off()
