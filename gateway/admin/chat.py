"""The status page's "try it" box: one POST, passed on to the gateway's own data port.

The page cannot call the data port itself (another origin, and it allows none). This goes to one fixed URL only, with the
client's own API key or none, so it opens nothing that the data port does not open to anybody on this address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import msgspec

from backends.types import Fault

if TYPE_CHECKING:
    import httpx
    from starlette.requests import Request

BODY_BYTES = 1 << 20
ANSWERS = 8  # under way at once
KEPT = ("content-type", "x-request-id", "retry-after")  # headers of the answer that the page is shown


class DataPort(msgspec.Struct, frozen=True):
    """Where this process reaches its own data port. `url` has no path; `ca` is the PEM file of its certificate when it has TLS."""

    url: str
    ca: str = ""


class Answer:
    """One answer under way. `close` must be called, whatever happens."""

    def __init__(self, response: httpx.Response, release: Callable[[], None]) -> None:
        self.status = response.status_code
        self.headers = {name: response.headers[name] for name in KEPT if name in response.headers}
        self._response = response
        self._release: Callable[[], None] | None = release

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes as they come; a broken connection ends them with an error event."""
        import httpx

        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except httpx.HTTPError as error:
            name = type(error).__name__
            yield f'data: {{"error":{{"message":"The answer broke off ({name}).","type":"upstream"}}}}\n\n'.encode()

    async def close(self) -> None:
        """Closes the connection, whereupon the engine stops writing. Idempotent."""
        release, self._release = self._release, None
        if release is not None:
            release()
            await self._response.aclose()


class Chat:
    """The connection to the data port, made when somebody looks at the page. At most `ANSWERS` at once."""

    def __init__(self, port: DataPort) -> None:
        self._port = port
        self._client: asyncio.Future[httpx.AsyncClient] | None = None
        self._open = 0

    async def ask(self, body: bytes, key: str) -> Answer:
        """Sends one chat completion and returns once the answer has begun. Fault: not reachable, or busy."""
        if self._open >= ANSWERS:
            raise Fault("overloaded", f"{ANSWERS} answers are being written on this page already; wait for one to end.", retry_after=5.0)
        headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "pointsman-status-page"}
        if not key.isascii() or not key.isprintable():
            raise Fault("bad_request", "The API key has characters in it that no key has; paste it again.", origin="client")
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._open += 1
        try:
            return Answer(await _send(await self._connect(), body, headers), self._ended)
        except BaseException:
            self._ended()
            raise

    def _ended(self) -> None:
        self._open -= 1

    def warm(self) -> None:
        """Begins to make the client, if that has not begun. Does not block: in a thread, for importing it and reading
        certificates takes some 0.3 s, and the data path runs on this very loop."""
        if self._client is None:
            self._client = asyncio.ensure_future(asyncio.to_thread(_client, self._port))
            self._client.add_done_callback(_seen)

    async def _connect(self) -> httpx.AsyncClient:
        self.warm()
        assert self._client is not None
        try:
            return await asyncio.shield(self._client)
        except OSError as error:
            self._client = None
            raise Fault("unavailable", f"The data port's certificate cannot be read: {error.strerror}.") from None

    async def close(self) -> None:
        """Closes what is open. Idempotent."""
        making, self._client = self._client, None
        if making is not None:
            with contextlib.suppress(OSError):
                await (await making).aclose()


def _seen(made: asyncio.Future[httpx.AsyncClient]) -> None:
    """Takes the exception, if there is one, so that it is not reported as lost: whoever asks next gets it."""
    if not made.cancelled():
        made.exception()


async def _send(client: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> httpx.Response:
    """Returns once the answer's head is here; its body is still to be read. Fault: nobody answers."""
    import httpx

    try:
        return await client.send(client.build_request("POST", "/v1/chat/completions", content=body, headers=headers), stream=True)
    except httpx.HTTPError as error:
        raise Fault("unavailable", f"The gateway's own data port did not answer ({type(error).__name__}).") from None


def _client(port: DataPort) -> httpx.AsyncClient:
    """Blocks. OSError: the certificate cannot be read."""
    import httpx

    # No authority is trusted at all, but for our own certificate, whatever name it bears.
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if port.ca:
        trust.load_verify_locations(port.ca)
        trust.check_hostname = False
        trust.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return httpx.AsyncClient(base_url=port.url, timeout=httpx.Timeout(600.0, connect=5.0), verify=trust, trust_env=False)


async def read_body(request: Request) -> bytes:
    """The request's JSON body. Fault: another content type, or over `BODY_BYTES`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Fault("bad_request", "Send the question as JSON, with content-type application/json.", origin="client")
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES:
            raise Fault("too_large", f"The status page takes up to {BODY_BYTES} bytes; use the API for more.", origin="client")
        parts.append(part)
    return b"".join(parts)
