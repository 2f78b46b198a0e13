"""Single questions to a server, outside of any measurement: its models, its version, a token count.

The standard library's client, so that nothing of what is measured goes through it. Blocks: call it in a thread.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import threading
from typing import Any
from urllib.parse import urlsplit

import msgspec

_MOST = 16 << 20  # bytes of one answer


class FetchError(Exception):
    """No answer came; the text says why, without the request's headers."""


class Reply(msgspec.Struct):
    """An answer: its status, its headers (names in lower case), its body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


def fetch(url: str, *, body: bytes | None = None, headers: dict[str, str] | None = None, timeout: float = 30.0) -> Reply:
    """GETs `url`, or POSTs `body` as JSON to it. Blocks for `timeout` seconds at most between two bytes. Raises FetchError; a status of
    400 and more is an answer like any other."""
    parts = urlsplit(url)
    connection = _connection(parts.scheme, parts.hostname or "", parts.port, timeout)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    more = {"Content-Type": "application/json"} if body is not None else {}
    try:
        connection.request("GET" if body is None else "POST", path, body=body, headers={"Accept": "*/*", **more, **(headers or {})})
        answer = connection.getresponse()
        data = answer.read(_MOST + 1)
        if len(data) > _MOST:
            raise FetchError(f"{url} answered with more than {_MOST >> 20} MiB")
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(_why(error)) from None
    except ValueError:  # its text may hold a header's value
        raise FetchError("the request cannot be written: a header or the URL has characters that none may have") from None
    finally:
        connection.close()


async def ask(url: str, *, body: bytes | None = None, headers: dict[str, str] | None = None, patience: float = 30.0) -> Reply:
    """`fetch` in a daemon thread, so that neither the loop waits for it nor the end of the process. Raises FetchError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Reply] = loop.create_future()

    def tell(reply: Reply | None, error: FetchError | None) -> None:
        if done.done():
            return
        if reply is not None:
            done.set_result(reply)
        else:
            done.set_exception(error or FetchError("no answer"))

    def work() -> None:
        reply, problem = None, None
        try:
            reply = fetch(url, body=body, headers=headers, timeout=patience)
        except FetchError as error:
            problem = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, reply, problem)

    threading.Thread(target=work, name="bench-fetch", daemon=True).start()
    return await done


def _connection(scheme: str, host: str, port: int | None, timeout: float) -> http.client.HTTPConnection:
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
    return http.client.HTTPConnection(host, port, timeout=timeout)


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
