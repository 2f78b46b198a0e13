"""The status page's "try it" box: one POST, passed on to the gateway's own data port.

The page cannot call the data port itself (another origin, and it allows none). This goes to one fixed URL only, with the
client's own API key or none, so it opens nothing that the data port does not open to anybody on this address.
"""

from __future__ import annotations

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
    """The connection to the data port, made at the first question. At most `ANSWERS` at once."""

    def __init__(self, port: DataPort) -> None:
        self._port = port
        self._client: httpx.AsyncClient | None = None
        self._open = 0

    async def ask(self, body: bytes, key: str) -> Answer:
        """Sends one chat completion and returns once the answer has begun. Fault: not reachable, or busy."""
        import httpx

        if self._open >= ANSWERS:
            raise Fault("overloaded", f"{ANSWERS} answers are being written on this page already; wait for one to end.", retry_after=5.0)
        headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "pointsman-status-page"}
        if not key.isascii() or not key.isprintable():
            raise Fault("bad_request", "The API key has characters in it that no key has; paste it again.", origin="client")
        if key:
            headers["authorization"] = f"Bearer {key}"
        client = self._connect()
        self._open += 1
        try:
            response = await client.send(client.build_request("POST", "/v1/chat/completions", content=body, headers=headers), stream=True)
        except httpx.HTTPError as error:
            self._ended()
            raise Fault("unavailable", f"The gateway's own data port did not answer ({type(error).__name__}).") from None
        except BaseException:
            self._ended()
            raise
        return Answer(response, self._ended)

    def _ended(self) -> None:
        self._open -= 1

    def _connect(self) -> httpx.AsyncClient:
        import httpx

        if self._client is None:
            verify: ssl.SSLContext | bool = True
            if self._port.ca:
                # Our own certificate is the only one that is trusted here, whatever name it bears.
                verify = ssl.create_default_context(cafile=self._port.ca)
                verify.check_hostname = False
                verify.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            timeout = httpx.Timeout(600.0, connect=5.0)
            self._client = httpx.AsyncClient(base_url=self._port.url, timeout=timeout, verify=verify, trust_env=False)
        return self._client

    async def close(self) -> None:
        """Closes what is open. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


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
