"""Where Google's methods of a model are. Pure."""

from __future__ import annotations

from urllib.parse import quote


def path(model: str, method: str) -> str:
    """The path of a method below the carrier's base; a model that is a resource name (`tunedModels/x`) keeps its own collection."""
    name = quote(model.strip("/"), safe="/@-._~")
    return f"/{name}:{method}" if "/" in name else f"/models/{name}:{method}"
