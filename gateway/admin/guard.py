"""Who may talk to the control plane: this machine's own pages and tools, and whoever holds the admin key.

A browser that visits any page on the web can be made to send requests to 127.0.0.1. So a Host must be an address or a
configured name (a rebound DNS name is neither), a request that changes something must come from our own page, and
nothing may frame us. There is no CORS. Pure decisions first, then the ASGI middleware that applies them.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from backends.types import Fault

Scope = Any  # ASGI's own dictionaries and callables; Starlette's types would be imported for their names alone
App = Callable[[Scope, Any, Any], Any]

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN = frozenset({"/", "/docs", "/favicon.ico"})  # pages without any data in them; they ask for the key themselves
HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_.-]{1,253})(?::[0-9]{1,5})?\Z")


class Access(msgspec.Struct, frozen=True):
    """What the middleware checks against. `names`: host names allowed beside addresses and localhost, lower case.

    `authorize(key)` says whether an admin key is right; None: no key is asked for.
    """

    names: frozenset[str] = frozenset()
    authorize: Callable[[str], bool] | None = None


def key_check(keys: Collection[str]) -> Callable[[str], bool]:
    """`authorize` for some plain keys: only their hashes are kept, and all are compared, in constant time."""
    digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def check(given: str) -> bool:
        digest = hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()
        return sum(hmac.compare_digest(digest, known) for known in digests) > 0

    return check


def host_allowed(host: str, names: frozenset[str]) -> bool:
    """Whether a Host header can be ours: an IP address, localhost, or a configured name. Pure."""
    match = _HOST.match(host)
    if match is None:
        return False
    name = match.group(1).lower().rstrip(".")
    if name == "localhost" or name in names:
        return True
    try:
        return not ipaddress.ip_address(name.strip("[]")).is_unspecified
    except ValueError:
        return False


def check(method: str, path: str, headers: Mapping[str, str], access: Access) -> None:
    """Raises the Fault that this request deserves; returns for one that may go on. `headers` by lower-case name. Pure."""
    host = headers.get("host", "")
    if not host_allowed(host, access.names):
        raise Fault(
            "forbidden",
            f"Host {host[:80]!r} is not a name of this control plane; use its IP address or localhost.",
            origin="client", status=421, code="host_not_allowed",
        )  # fmt: skip
    if method not in SAFE or path.startswith("/api/"):
        _check_origin(host, headers)
    open_path = path in OPEN or path.startswith("/static/")
    if access.authorize is None or (open_path and method in SAFE):
        return
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not access.authorize(key.strip()):
        raise Fault("auth", "The control plane needs its admin key, as 'Authorization: Bearer KEY'.", origin="client", code="admin_key")


def _check_origin(host: str, headers: Mapping[str, str]) -> None:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    # Only browsers send these two. Without them it is a tool on its user's own behalf.
    crossed = site not in (None, "same-origin", "none")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        crossed = True
    if crossed:
        raise Fault("forbidden", "This request comes from a page of another site; only this control plane's own page may send it.",
                    origin="client", code="origin_not_allowed")  # fmt: skip


def envelope(fault: Fault) -> bytes:
    """The OpenAI error shape, with who failed. Pure."""
    error = {"message": fault.message, "type": fault.type or fault.kind, "code": fault.code, "param": fault.param, "origin": fault.origin}
    return json.dumps({"error": error}).encode()


class Guard:
    """ASGI middleware: checks each request, adds the security headers to each answer."""

    def __init__(self, app: App, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            # A second Host or Origin must not hide behind the first: joined, they are no valid value.
            headers[key] = f"{headers[key]}, {value.decode('latin-1')}" if key in headers else value.decode("latin-1")
        try:
            check(scope["method"], scope["path"], headers, self._access)
        except Fault as fault:
            await _refuse(_secured(send, scope["path"]), fault)
            return
        await self._app(scope, receive, _secured(send, scope["path"]))


def _secured(send: Any, path: str) -> Any:
    async def wrapped(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in message["headers"]}  # a report has a policy of its own
            extra = [line for line in HEADERS if line[0] not in given]
            if b"cache-control" not in given:
                extra.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return wrapped


async def _refuse(send: Any, fault: Fault) -> None:
    body = envelope(fault)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if fault.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="pointsman admin"'))
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
