"""Where a backend is, read from its base URL, and how far its certificate is trusted."""

from __future__ import annotations

import ssl
from urllib.parse import urlsplit

from backends.types import Fault


class Origin:
    """Where to connect: parsed from a base URL (`http://h:p/prefix`, `https://…`, `unix:///path.sock:/prefix`). Immutable."""

    __slots__ = ("authority", "host", "path", "port", "tls", "unix", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.unix: str | None = None
        if url.startswith("unix://"):
            sock, _, prefix = url[len("unix://") :].partition(":")
            self.unix, self.host, self.port, self.tls, self.path = sock, "localhost", 0, False, prefix.rstrip("/")
            self.authority = "localhost"
            return
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"'{url}' is not an http://, https:// or unix:// URL")
        self.tls, self.host = parts.scheme == "https", parts.hostname
        self.port = parts.port or (443 if self.tls else 80)
        self.path = parts.path.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = host if parts.port is None else f"{host}:{parts.port}"

    def __str__(self) -> str:
        return self.url


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """A client's context. `verify`: the system's authorities, the path of a PEM file, or False for none. OSError: no such file."""
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def unreachable(name: str, error: Exception, seconds: float, where: str = "") -> Fault:
    """The fault of a connection that could not be made. `seconds`: how long it may take. `where`: the address, where the error
    does not tell it."""
    if isinstance(error, ssl.SSLError):
        why, code = f"TLS failed: {error.reason or error}", "tls_failed"
    elif isinstance(error, TimeoutError):
        why, code = f"no connection within {seconds:g} s", "connect_timeout"
    else:
        why, code = getattr(error, "strerror", None) or str(error) or type(error).__name__, "connect_failed"
    at = f" ({where})" if where else ""
    return Fault("unavailable", f"Backend {name} cannot be reached: {why}{at}.", origin="backend", status=502, code=code, retry=True)
