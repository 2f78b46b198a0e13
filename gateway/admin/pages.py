"""The pages' own files: a fixed set, read once into memory, served with an entity tag."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class File:
    """One file: its bytes, type and tag."""

    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.type = TYPES[path.suffix]
        self.tag = f'"{hashlib.sha256(self.body).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        """The file, or 304 when the browser has this very one."""
        headers = {"etag": self.tag, "cache-control": "no-cache", "content-type": self.type}
        if request.headers.get("if-none-match") == self.tag:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers)


def add(app: FastAPI) -> None:
    """Adds the page, its files and the API's document page. Reads them now: what is not in the folder is never served."""
    files = {path.name: File(path) for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return files["index.html"].answer(request)

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return files["docs.html"].answer(request)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        return files["icon.svg"].answer(request)

    @app.get("/static/{name}", include_in_schema=False)
    async def static(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404)
        return files[name].answer(request)
