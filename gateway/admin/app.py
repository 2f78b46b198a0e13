"""The control plane: a status page, and the API behind it. Listens on its own address; never on the data path.

`create` builds the ASGI app from an `AdminState`; it does no I/O but to read the page's files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from backends.types import Fault
from gateway.admin import experiments, pages, residency
from gateway.admin.chat import Answer, Chat, DataPort, read_body
from gateway.admin.guard import HEADERS, Access, Guard, envelope
from gateway.admin.state import AdminState, Snapshot
from gateway.logs import redact, redact_value
from gateway.metrics import CONTENT_TYPE
from gateway.record import Record

NAME = Path(max_length=256, description="The engine's name, as in `engines[].name` of the status")


class Relayed(StreamingResponse):
    """An answer of the data port, passed on; closed however this ends, even if the page left before it began."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.chunks(), answer.status, answer.headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answer.close()


class LogLines(msgspec.Struct):
    engine: str
    lines: list[str]


class Requests(msgspec.Struct):
    requests: list[Record]


class Done(msgspec.Struct):
    ok: bool
    message: str


def create(state: AdminState, *, access: Access | None = None, loopback: bool = True, data: DataPort | None = None) -> FastAPI:
    """The control plane's ASGI app.

    `loopback`: it listens on this machine only. ValueError when it does not and `access.authorize` is missing.
    `data`: where the gateway's own data port is, for the page's "try it" box; None leaves the box out.
    """
    access = access or Access()
    if not loopback and access.authorize is None:
        raise ValueError("the control plane on an address that others can reach needs an admin key; set one, or keep it on 127.0.0.1")
    chat = Chat(data) if data is not None else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        if chat is not None:
            await chat.close()

    app = FastAPI(
        title="Pointsman control plane", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan,
        description="Status, engines and configuration of one running Pointsman. The OpenAI API itself is on the data port.",
    )  # fmt: skip
    app.add_middleware(Guard, access=access)
    app.add_exception_handler(Fault, _on_fault)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_bug)
    _add_reads(app, state, chat)
    _add_actions(app, state)
    experiments.add(app, state)
    residency.add(app, state)
    if chat is not None:
        _add_chat(app, chat)
    _add_documents(app, state)
    pages.add(app)
    return app


def _add_reads(app: FastAPI, state: AdminState, chat: Chat | None) -> None:
    @app.get("/api/status", tags=["status"], responses=_answers(Snapshot), summary="Everything the status page shows")
    async def status() -> Response:
        if chat is not None:
            chat.warm()  # whoever looks at the page may ask something next
        return _json(state.snapshot())

    @app.get("/api/requests", tags=["status"], responses=_answers(Requests), summary="Finished requests, newest first")
    async def requests(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        # What an upstream answered can hold the key it was sent.
        return _json(Requests([msgspec.structs.replace(r, message=redact(r.message[:1000])) for r in state.recent(limit)]))

    @app.get("/api/engines/{name:path}/log", tags=["engines"], responses=_answers(LogLines), summary="What an engine wrote last")
    async def engine_log(name: Annotated[str, NAME], lines: Annotated[int, Query(ge=1, le=5000)] = 200) -> Response:
        try:
            found = state.engine_log(name, lines)
        except KeyError:
            raise _no_engine(name) from None
        return _json(LogLines(name, [redact(line[:4000]) for line in found[-lines:]]))

    @app.get("/api/config", tags=["configuration"], responses=_answers(None), summary="The configuration in force, redacted")
    async def config() -> Response:
        return _json(redact_value(state.config(), depth=12))

    @app.get("/metrics", tags=["status"], summary="Prometheus text", response_class=Response)
    async def metrics() -> Response:
        return Response(state.metrics(), headers={"content-type": CONTENT_TYPE})


def _add_actions(app: FastAPI, state: AdminState) -> None:
    @app.post("/api/engines/{name:path}/restart", tags=["engines"], status_code=202, responses=_answers(Done, 202), summary="Restart it")
    async def restart(name: Annotated[str, NAME]) -> Response:
        try:
            await state.restart_engine(name)
        except KeyError:
            raise _no_engine(name) from None
        return _json(Done(True, f"{name} is being restarted"), 202)

    @app.post("/api/reload", tags=["configuration"], responses=_answers(None), summary="Read the configuration again")
    async def reload() -> Response:
        try:
            return _json(redact_value(await state.reload(), depth=12))
        except ValueError as error:
            raise Fault("bad_request", redact(str(error)[:4000]), status=422, code="config_refused") from None


def _add_chat(app: FastAPI, chat: Chat) -> None:
    @app.post("/api/chat", tags=["try it"], summary="A chat completion, passed on to the data port (key in X-Pointsman-Key)")
    async def ask(request: Request) -> Response:
        body = await read_body(request)
        answer = await chat.ask(body, request.headers.get("x-pointsman-key", ""))
        return Relayed(answer)


def _add_documents(app: FastAPI, state: AdminState) -> None:
    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return _json(app.openapi())

    def build() -> dict[str, Any]:
        if app.openapi_schema is None:
            version = state.snapshot().version
            schema = get_openapi(title=app.title, version=version, description=app.description, routes=app.routes)
            _, shapes = msgspec.json.schema_components(
                [Snapshot, Requests, LogLines, Done, *experiments.SHAPES, *residency.SHAPES], ref_template="#/components/schemas/{name}"
            )
            schema.setdefault("components", {}).setdefault("schemas", {}).update(shapes)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = build  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def _answers(shape: type | None, status: int = 200) -> dict[int | str, dict[str, Any]]:
    schema = {"$ref": f"#/components/schemas/{shape.__name__}"} if shape is not None else {"type": "object"}
    return {status: {"description": "OK", "content": {"application/json": {"schema": schema}}}}


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _no_engine(name: str) -> Fault:
    return Fault("not_found", f"There is no engine {name!r}; GET /api/status lists them.", origin="client", code="engine_not_found")


async def _on_fault(_: Request, error: Exception) -> Response:
    assert isinstance(error, Fault)
    headers = {"retry-after": str(max(1, round(error.retry_after)))} if error.retry_after is not None else {}
    return Response(envelope(error), error.status, media_type="application/json", headers=headers)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = "not_found" if error.status_code == 404 else "bad_request" if error.status_code < 500 else "upstream"
    message = "Nothing is here; GET /docs lists what is." if error.status_code == 404 else f"{error.detail}."
    fault = Fault(kind, message, origin="client", status=error.status_code)  # type: ignore[arg-type]
    return Response(envelope(fault), error.status_code, media_type="application/json", headers=error.headers)


async def _on_bug(_: Request, error: Exception) -> Response:
    # Answered outside of the middleware, so the headers are put on here. The traceback goes into the log.
    fault = Fault("upstream", f"The control plane failed ({type(error).__name__}); its log says where.", origin="gateway", status=500)
    headers = {name.decode(): value.decode() for name, value in HEADERS}
    return Response(envelope(fault), 500, media_type="application/json", headers=headers)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    fault = Fault("bad_request", f"{where}: {first['msg']}.", origin="client", param=where)
    return Response(envelope(fault), 400, media_type="application/json")
