"""Baseline: a bare ASGI application with a pooled aiohttp client, run under uvicorn. UPSTREAM in the environment is the base URL."""

from __future__ import annotations

import importlib
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from rewrite import rewrite  # type: ignore[import-not-found,unused-ignore]  # this folder is the path when it runs

aiohttp: Any = importlib.import_module("aiohttp")  # not a dependency of the project: no types to import
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class App:
    """The ASGI application: relays every POST to the upstream, streams as they come."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.session: Any = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One ASGI scope."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._relay(scope["path"], receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "lifespan.startup":
            pass
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=600),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )
        await send({"type": "lifespan.startup.complete"})
        while (await receive())["type"] != "lifespan.shutdown":
            pass
        await self.session.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _relay(self, path: str, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        headers = {"content-type": "application/json"}
        async with self.session.post(self.upstream + path, data=rewrite(body), headers=headers) as answer:
            kind = answer.headers.get("content-type", "")
            head = {"type": "http.response.start", "status": answer.status}
            if kind.startswith("text/event-stream"):
                await send({**head, "headers": [(b"content-type", kind.encode())]})
                async for chunk in answer.content.iter_any():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                return
            data = await answer.read()
            await send({**head, "headers": [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(data))]})
            await send({"type": "http.response.body", "body": data})


app = App(os.environ.get("UPSTREAM", ""))
