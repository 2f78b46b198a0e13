"""The control plane's endpoints for experiments: list, result, report, and what may be done to one."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import FastAPI, Path, Request
from starlette.responses import Response

from backends.types import Fault
from gateway.admin.chat import read_body
from gateway.admin.state import AdminState
from gateway.experiments.api import Action, ExperimentView
from routing.experiments.words import Result

NAME = Path(max_length=256, description="The experiment's name in the configuration")
CLIENTS = ("command line", "status page")  # who may say that it is who speaks, where no key tells


class Listing(msgspec.Struct):
    experiments: list[ExperimentView]


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """Body of an action. `arm`: which one to promote. `reason`: for the audit trail."""

    arm: str | None = None
    reason: str = ""


SHAPES: list[type] = [Listing, ExperimentView, Result, Wanted]
_wanted = msgspec.json.Decoder(Wanted)


def add(app: FastAPI, state: AdminState) -> None:
    """Adds the endpoints to the control plane's app."""

    @app.get("/api/experiments", tags=["experiments"], responses=_shape(Listing), summary="All experiments and how they stand")
    async def listing() -> Response:
        return _json(Listing(await state.experiments.listing()))

    @app.get("/api/experiments/{name}", tags=["experiments"], responses=_shape(Result), summary="All that is known of an experiment")
    async def result(name: Annotated[str, NAME]) -> Response:
        return _json(await state.experiments.result(name))

    @app.get("/api/experiments/{name}/report", tags=["experiments"], summary="The same as a page", response_class=Response)
    async def report(name: Annotated[str, NAME]) -> Response:
        page = await state.experiments.report(name)
        return Response(page, media_type="text/html; charset=utf-8", headers={"content-security-policy": policy()})

    @app.post(
        "/api/experiments/{name}/{action}",
        tags=["experiments"],
        responses=_shape(ExperimentView),
        summary="Start, stop, promote, roll back",
    )
    async def act(name: Annotated[str, NAME], action: Action, request: Request) -> Response:
        wanted = await _read(request)
        return _json(await state.experiments.act(name, action, wanted.arm, wanted.reason, _actor(state, request)))


def policy() -> str:
    """The policy under which a report is served: its own, which lets through its script and style alone, in a sandbox, so that it gets
    nothing of the control plane's, whatever comments stand in it."""
    from gateway.experiments.report import POLICY  # only who wants a report needs it

    return f"{POLICY}; frame-ancestors 'none'; sandbox allow-scripts allow-downloads"


async def _read(request: Request) -> Wanted:
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return Wanted()
    try:
        return _wanted.decode(await read_body(request))
    except (msgspec.MsgspecError, RecursionError) as error:
        why = f"The body must be a JSON object with 'arm' and 'reason': {str(error)[:200]}."
        raise Fault("bad_request", why, origin="client") from None


def _actor(state: AdminState, request: Request) -> str:
    """Whom the audit trail names: the key, else the client that says who it is."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    named = state.who(key.strip()) if scheme.lower() == "bearer" else ""
    client = request.headers.get("x-pointsman-client", "")
    return named or (client if client in CLIENTS else "admin API")


def _shape(shape: type) -> dict[int | str, dict[str, object]]:
    schema = {"$ref": f"#/components/schemas/{shape.__name__}"}
    return {200: {"description": "OK", "content": {"application/json": {"schema": schema}}}}


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
