"""The control plane's endpoints for what is in memory: list, load, unload."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import FastAPI, Path, Query
from starlette.responses import Response

from gateway.admin.state import AdminState
from gateway.residency_api import MAX_WAIT
from gateway.residency_view import ResidencyView, ResidentView

NAME = Path(max_length=256, description="An engine's name, or that of a model that it serves")
WAIT = Query(ge=0, le=MAX_WAIT, description="Seconds to wait for it at most")
SHAPES: list[type] = [ResidencyView, ResidentView]


def add(app: FastAPI, state: AdminState) -> None:
    """Adds the endpoints to the control plane's app."""

    @app.get("/api/residency", tags=["engines"], responses=_shape(ResidencyView), summary="Which engines are in memory")
    async def listing() -> Response:
        return _json(state.residency.view())

    @app.get("/api/residency/{name:path}", tags=["engines"], responses=_shape(ResidentView), summary="One of them, when it changes")
    async def one(name: Annotated[str, NAME], wait: Annotated[float, WAIT] = 0.0) -> Response:
        return _json(await state.residency.changed(name, wait))

    @app.post("/api/residency/{name:path}/load", tags=["engines"], responses=_shape(ResidentView), summary="Load it now")
    async def load(name: Annotated[str, NAME], wait: Annotated[float, WAIT] = 0.0) -> Response:
        return _json(await state.residency.load(name, wait))

    @app.post("/api/residency/{name:path}/unload", tags=["engines"], responses=_shape(ResidentView), summary="Unload it")
    async def unload(name: Annotated[str, NAME], wait: Annotated[float, WAIT] = 0.0) -> Response:
        return _json(await state.residency.unload(name, wait))


def _shape(shape: type) -> dict[int | str, dict[str, object]]:
    schema = {"$ref": f"#/components/schemas/{shape.__name__}"}
    return {200: {"description": "OK", "content": {"application/json": {"schema": schema}}}}


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
