"""The ASGI app of the data port: every surface, for what the connection protocol does not answer itself and for other servers.

Bare ASGI: a dict from (method, path) to a handler. Every error is an OpenAI error object; nothing here raises to the server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import unquote

import msgspec

from backends import tokens, wire
from backends.openai import OpenAILink
from backends.types import Fault
from gateway import passthrough, surfaces
from gateway.asgi import Gone, Receive, Scope, Send, headers_of, read_body, reply, reply_fault, run_exchange, run_surface
from gateway.choosers import counting
from gateway.experiments.feedback import Feedbacks
from gateway.explain import explain
from gateway.limits import headers_too_large
from gateway.openapi import document
from gateway.responses_store import ResponsesStore
from gateway.serve import Core
from gateway.surface_api import SurfaceApi
from gateway.version import VERSION

log = logging.getLogger("pointsman")
Headers = Mapping[bytes, bytes]
Get = Callable[[Headers, Send], Awaitable[None]]
MODELS = ("/v1/models/", "/models/")


class App:
    """The data port's ASGI callable. `metrics` renders the Prometheus text; `store` keeps responses; `feedback` takes what clients say of
    answers."""

    def __init__(self, core: Core, metrics: Callable[[], Awaitable[str]], store: ResponsesStore, feedback: Feedbacks | None = None) -> None:
        self.core, self.metrics, self.feedback = core, metrics, Feedbacks() if feedback is None else feedback
        self.other = SurfaceApi(core, store)
        self.created = int(time.time())
        self.gets: dict[str, Get] = {
            "/v1/models": self.list_models, "/models": self.list_models, "/health": self.health, "/ping": self.health, "/ready": self.ready,
            "/metrics": self.show_metrics, "/version": self.version, "/openapi.json": self.openapi, "/": self.root,
        }  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await _lifespan(receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        else:  # a websocket that nobody offered
            await send({"type": "websocket.close", "code": 1002})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        try:
            await self._route(scope, headers, receive, send)
        except Fault as fault:
            await reply_fault(self.core, headers, send, fault)
        except Gone:
            return

    async def _route(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        limit = self.core.limits.header_bytes
        if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > limit:
            raise headers_too_large(limit)
        if method != "OPTIONS" and await self._other(method, path, scope, receive, send):
            return
        if method == "POST" and await self._post(path, scope, headers, receive, send):
            return
        if method in ("GET", "HEAD"):
            get = self.gets.get(path)
            if get is not None:
                await get(headers, send)
                return
            for prefix in MODELS:
                if path.startswith(prefix) and len(path) > len(prefix):
                    await self.one_model(unquote(path[len(prefix) :]), headers, send)
                    return
        elif method == "OPTIONS":
            await self.preflight(headers, send)
            return
        raise _nowhere(self.gets, method, path)

    async def _other(self, method: str, path: str, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answers what has more methods than one, or is only relayed; False when there is no such thing at this path."""
        if path in surfaces.COUNTS or path.startswith(surfaces.KEPT):
            await self.other.serve(method, path, scope, receive, send)
            return True
        found = passthrough.find(method, path)
        if found is not None:
            await passthrough.run_passage(self.core, found, scope, receive, send)
        return found is not None

    async def _post(self, path: str, scope: Scope, headers: Headers, receive: Receive, send: Send) -> bool:
        """Answers a call; False when there is none at this path."""
        if path in surfaces.CALLS:
            await run_exchange(self.core, surfaces.CALLS[path], scope, receive, send)
        elif path in surfaces.DIALECTS:
            await run_surface(self.core, self.other.makes[surfaces.DIALECTS[path]], scope, receive, send)
        elif path in surfaces.TOKENS:
            await self.count(surfaces.TOKENS[path], headers, receive, send)
        elif path in surfaces.EXPLAIN:
            self.core.door.identify(headers)  # before the body is read
            body = await read_body(self.core, headers, receive)
            await self._json(headers, send, await explain(self.core, self.other.makes, headers, body))
        elif path in surfaces.FEEDBACK:
            tenant = self.core.door.identify(headers)
            body = await read_body(self.core, headers, receive)
            await self._json(headers, send, await self.feedback.take(body, tenant.name, headers.get(b"idempotency-key", b"")))
        else:
            return False
        return True

    # --- what the gateway answers itself
    async def list_models(self, headers: Headers, send: Send) -> None:
        tenant = self.core.door.identify(headers)
        await self._json(headers, send, surfaces.models(self.core, tenant, self.created))

    async def one_model(self, name: str, headers: Headers, send: Send) -> None:
        route = self.core.route(name, self.core.door.identify(headers))
        await self._json(headers, send, msgspec.json.encode(surfaces.model_object(name, route, self.created)))

    async def health(self, headers: Headers, send: Send) -> None:
        await self._json(headers, send, surfaces.health(self.core))

    async def ready(self, headers: Headers, send: Send) -> None:
        status, body = surfaces.ready(self.core)
        await self._json(headers, send, body, status)

    async def version(self, headers: Headers, send: Send) -> None:
        await self._json(headers, send, msgspec.json.encode({"version": VERSION, "server": "pointsman"}))

    async def openapi(self, headers: Headers, send: Send) -> None:
        await self._json(headers, send, document())

    async def root(self, headers: Headers, send: Send) -> None:
        about = {
            "name": "pointsman", "version": VERSION, "openai_base": "/v1", "models": "/v1/models", "health": "/health", "ready": "/ready",
            "metrics": "/metrics", "openapi": "/openapi.json",
        }  # fmt: skip
        await self._json(headers, send, msgspec.json.encode(about))

    async def show_metrics(self, headers: Headers, send: Send) -> None:
        if not self.core.server.metrics_public:
            self.core.door.identify(headers)
        await reply(send, 200, (await self.metrics()).encode(), kind=b"text/plain; version=0.0.4; charset=utf-8")

    async def preflight(self, headers: Headers, send: Send) -> None:
        lines = self.core.door.cors(headers)
        if not lines:
            why = "This origin is not allowed; add it under server.cors_origins."
            raise Fault("forbidden", why, origin="client", code="origin_not_allowed")
        asked = headers.get(b"access-control-request-headers", b"authorization, content-type")
        lines += b"access-control-allow-methods: GET, POST, DELETE, OPTIONS\r\naccess-control-max-age: 600\r\n"
        lines += b"access-control-allow-headers: %b\r\n" % asked
        await reply(send, 204, b"", lines)

    # --- small calls to an engine
    async def count(self, what: str, headers: Headers, receive: Receive, send: Send) -> None:
        core = self.core
        tenant = core.door.identify(headers)
        doc = wire.parse(await read_body(core, headers, receive))
        name = wire.text(doc, "model")
        if name is None and len(core.generation.routes) == 1:
            name = next(iter(core.generation.routes))
        if name is None:
            raise wire.bad("'model' is missing; GET /v1/models lists what there is.", param="model", code="missing_model")
        route = core.route(name, tenant)
        decision = counting(core, route, what, doc, tenant, headers)
        if decision is None or not isinstance(decision.replica.link, OpenAILink):
            raise Fault("unavailable", f"No replica of '{name}' can count tokens now.", retry_after=2.0, code="no_replica")
        call = tokens.tokenize if what == "tokenize" else tokens.detokenize
        await self._json(headers, send, await call(decision.replica.link, doc, decision.target.model, time.time()))

    async def _json(self, headers: Headers, send: Send, body: bytes, status: int = 200) -> None:
        lines = b"x-request-id: %b\r\n" % self.core.request_id(headers) + self.core.door.cors(headers)
        await reply(send, status, body, lines)


def _nowhere(gets: Mapping[str, Get], method: str, path: str) -> Fault:
    posts = (surfaces.CALLS, surfaces.TOKENS, surfaces.DIALECTS, surfaces.EXPLAIN, surfaces.FEEDBACK)
    known = path in gets or any(path in some for some in posts)
    if known:
        right = "GET" if path in gets else "POST"
        why = f"{path[:200]} takes {right}, not {method[:20]}."
        return Fault("bad_request", why, origin="client", status=405, code="method_not_allowed")
    why = f"There is nothing at {method[:20]} {path[:200]}; GET /openapi.json lists what there is."
    return Fault("not_found", why, origin="client", code="unknown_url")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


def safely(app: App) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The outermost layer: a bug of ours becomes an OpenAI error and a log entry, never a traceback in a reply."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def watch(message: dict[str, object]) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await app(scope, receive, watch)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("a bug: %s %s", scope.get("method"), scope.get("path"))
            if scope["type"] == "http" and not begun:
                fault = Fault("upstream", "The gateway failed; its log says why.", status=500, code="internal_error")
                await reply_fault(app.core, {}, send, fault)

    return run
