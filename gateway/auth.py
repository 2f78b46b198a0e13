"""Who calls: API keys by hash, and what a browser on the same machine must not do to a gateway without keys. Pure state, built
from configuration; nothing is kept of a key but its SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec

from backends.types import Fault
from gateway.config import KeyConfig

_EMPTY = hashlib.sha256()
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")


class Tenant(msgspec.Struct, frozen=True, eq=False):
    """Who a key belongs to and which routes it may call (None: all). `private`: what is called now must stay on local backends."""

    name: str
    routes: frozenset[str] | None = None
    admin: bool = False
    private: bool = False
    limited: bool = False  # it may not simply have any route: one look for the hot path


def _tenant(name: str, routes: frozenset[str] | None, admin: bool, private: bool) -> Tenant:
    return Tenant(name, routes, admin, private, private or routes is not None)


ANYONE = Tenant("")
_ANYONE_PRIVATE = _tenant("", None, False, True)
PRIVATE_HEADER = "x-pointsman-private"
_NOT = frozenset({b"false", b"0", b"no", b"off"})


def digest(key: str) -> bytes:
    """SHA-256 of a key, 32 bytes."""
    return hashlib.sha256(key.encode()).digest()


class Door:
    """Checks a request's headers (names in lower case) before anything else is done for it. The header `private` makes a call private,
    whatever it says but a plain no; it never makes one less so."""

    def __init__(self, keys: Iterable[KeyConfig], hosts: Iterable[str], origins: Iterable[str], private: str = PRIVATE_HEADER) -> None:
        self.private = private.lower().encode()
        self.tenants: dict[bytes, Tenant] = {}
        self._kept: dict[bytes, Tenant] = {}  # the same for private calls
        for k in keys:
            assert k.hash is not None  # the loader leaves only hashes
            routes = None if k.routes is None else frozenset(k.routes)
            hashed = bytes.fromhex(k.hash.removeprefix("sha256:"))
            self.tenants[hashed] = _tenant(k.name, routes, k.admin, k.private)
            self._kept[hashed] = _tenant(k.name, routes, k.admin, True)
        self.hosts = frozenset(h.lower() for h in (*hosts, *LOOPBACK))
        self.origins = frozenset(o.encode() for o in origins)

    @property
    def locked(self) -> bool:
        """Whether a key is needed."""
        return bool(self.tenants)

    def identify(self, headers: Mapping[bytes, bytes]) -> Tenant:
        """The caller. Raises Fault `auth` (no or unknown key) or, on a keyless gateway, `forbidden` (a foreign Host or Origin:
        what DNS rebinding and cross-site pages look like)."""
        if self.tenants:
            value = headers.get(b"authorization")
            if value is not None and value[:7].lower() == b"bearer ":
                key: bytes | None = value[7:].strip()
            else:
                key = headers.get(b"x-api-key") or headers.get(b"api-key")
            if not key:
                raise Fault("auth", "No API key: send 'Authorization: Bearer KEY'.", origin="client", code="missing_api_key")
            hashed = _EMPTY.copy()  # cheaper than a new one: OpenSSL looks the algorithm up only once
            hashed.update(key)
            tenants = self._kept if self.private in headers and self._says_private(headers) else self.tenants
            tenant = tenants.get(hashed.digest())
            if tenant is None:
                raise Fault("auth", "Unknown API key.", origin="client", code="invalid_api_key")
            return tenant
        self.local(headers)
        return _ANYONE_PRIVATE if self.private in headers and self._says_private(headers) else ANYONE

    def knows(self, headers: Mapping[bytes, bytes]) -> Tenant | None:
        """Who sends this head, so that it need not be asked again; None where the answer depends on more, or is a refusal."""
        if self.origins:
            return None
        try:
            return self.identify(headers)
        except Fault:
            return None

    def private_headers(self, headers: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
        """The same headers, of a private call."""
        return {**headers, self.private: b"true"}

    def _says_private(self, headers: Mapping[bytes, bytes]) -> bool:
        return headers[self.private].strip().lower() not in _NOT

    def local(self, headers: Mapping[bytes, bytes]) -> None:
        """Raises Fault `forbidden` when Host or Origin say that a web page of elsewhere sent this."""
        host = headers.get(b"host", b"")
        if _hostname(host) not in self.hosts:
            raise Fault(
                "forbidden", f"Host '{host[:100].decode('latin-1')}' is not one of this gateway's names; add it under server.hosts.",
                origin="client", code="host_not_allowed",
            )  # fmt: skip
        origin = headers.get(b"origin")
        if origin is not None and self.origins.isdisjoint((origin, b"*")) and _hostname(origin.partition(b"://")[2]) not in self.hosts:
            raise Fault(
                "forbidden", f"Origin '{origin[:100].decode('latin-1')}' is not allowed; add it under server.cors_origins.",
                origin="client", code="origin_not_allowed",
            )  # fmt: skip

    def cors(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The header lines that let a configured browser origin read the answer; empty otherwise."""
        if not self.origins:
            return b""
        origin = headers.get(b"origin")
        if origin is None or not (origin in self.origins or b"*" in self.origins):
            return b""
        return b"access-control-allow-origin: %b\r\nvary: origin\r\n" % origin


def _hostname(host: bytes) -> str:
    """A Host header without its port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]


def allowed(tenant: Tenant, route: str) -> bool:
    """Whether the caller may use the route."""
    return tenant.routes is None or route in tenant.routes
