"""The load generator's client: a pool of connections to one server, and requests as bytes.

It follows no redirect, uses no proxy, asks for no compression and retries nothing, with one exception that is counted: a request that
meets a kept connection which the server is just closing is sent once more, on a new one (RFC 9112, section 9.3.1).
"""

from __future__ import annotations

import asyncio
import errno
import re
import ssl
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from benchmarks.bench.answers import Answer
from benchmarks.bench.wire import Connection
from benchmarks.bench.words import Ask, Target, Timed

AGENT = "pointsman-bench"
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
_OURS = frozenset({  # what the client itself says, whatever a captured request said
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect", "accept-encoding",
})  # fmt: skip
_SECRET = 6  # a header's value of so many characters or more is hidden in errors


class Address(NamedTuple):
    """Where a target's API is: `path` is what requests are sent to, `host` with brackets for none."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def address(url: str, api: str) -> Address:
    """Takes a target's URL apart. Raises ValueError, whose text shows nothing of a password in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"the target's URL cannot be read ({error}); write it like http://127.0.0.1:8484/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("the target's URL holds a user or a password; give the key in the environment instead")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"the target's URL {url[:200]!r} is none of an API; write it like http://127.0.0.1:8484/v1")
    tls = parts.scheme == "https"
    path = parts.path.rstrip("/") + ("/chat/completions" if api == "chat" else "/completions")
    if not (path + parts.hostname).isascii() or re.search(r"[\s\x00-\x1f\x7f]", path + parts.hostname):
        raise ValueError(f"the target's URL {url[:200]!r} has characters that no request may have; percent-encode them")
    return Address(tls, parts.hostname, (443 if tls else 80) if port is None else port, path)


def fields(headers: Mapping[str, str]) -> bytes:
    """Headers as lines. Raises ValueError for what no header may be; the text shows a name, never a value."""
    lines = []
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:60]!r} is no name of a header; names have letters, digits and dashes")
        if not value.isascii() or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise ValueError(f"the value of the header {name} has line breaks or characters beyond ASCII; leave them out")
        lines.append(f"{name}: {value.strip()}\r\n")
    return "".join(lines).encode("ascii")


class Client:
    """Sends requests to one target, as many at a time as are asked of it, each on a connection of its own; those are kept and used again.

    `origin`: the monotonic time that stamps count from; 0: they are monotonic times themselves. `resent`: requests that were sent once
    more. Owns its connections: `close` it.
    """

    def __init__(self, target: Target, *, timeout: float = 600.0, ca: str | None = None) -> None:
        """`timeout`: seconds that one request may take, connecting included. `ca`: a file of certificates to trust, beside none of the
        system's. Raises ValueError for a URL or header that cannot be, OSError where `ca` cannot be read."""
        self.target = target
        self.timeout = timeout
        self.origin = 0.0
        self.resent = 0
        self._address = address(target.url, target.api)
        self._tls = ssl.create_default_context(cafile=ca) if self._address.tls else None
        self._limit = f"no whole answer within {timeout:g} s"
        own = {
            "user-agent": AGENT,
            "accept": "text/event-stream" if target.stream else "application/json",
            "content-type": "application/json",
            "accept-encoding": "identity",
        }
        if target.key:
            own["authorization"] = f"Bearer {target.key}"
        self._headers = {**own, **{name.lower(): value for name, value in target.headers.items() if name.lower() not in _OURS}}
        self._headers["accept-encoding"] = "identity"
        first = f"POST {self._address.path} HTTP/1.1\r\nhost: {self._address.authority}\r\n"
        self._first = first.encode("ascii")
        self._plain = fields(self._headers)
        self._secrets = [value for value in (target.key, *target.headers.values()) if len(value) >= _SECRET]
        self._idle: list[Connection] = []  # the last one used is the next: few connections stay warm
        self._all: set[Connection] = set()
        self._made = 0
        self._where: tuple[str, int] | None = None  # the address that answered, so that names are looked up once

    def __repr__(self) -> str:
        return f"<Client of {self.target!r}: {len(self._all)} connections, {len(self._idle)} idle>"

    async def send(self, ask: Ask, timed: Timed) -> None:
        """Sends one request and waits for its end; what was seen of it is in `timed`. Raises nothing for what a server or a network does.
        A header of `ask` that cannot be is such a failure too. Cancelled: its connection is closed."""
        try:
            data = self._request(ask)
        except ValueError as error:
            self._failed(Answer(timed, stream=False), str(error))
            return
        timed.asked_prompt, timed.asked_output = ask.prompt_tokens, ask.output_tokens
        deadline = time.monotonic() + self.timeout
        fresh = False
        while True:
            answer = Answer(timed, stream=self.target.stream, hide=self._hiding(ask))
            connection = None if fresh else self._kept()
            if connection is None:
                connection = await self._connected(deadline, answer)
                if connection is None:
                    return
            try:
                if await connection.exchange(data, answer, self.origin, deadline, self._limit):
                    return
            finally:
                self._back(connection)
            fresh = True
            self.resent += 1

    async def close(self) -> None:
        """Closes all connections and waits until they are gone; requests under way fail."""
        while self._all:
            gone = [connection.gone for connection in self._all]
            for connection in self._all:
                connection.close()
            self._all.clear()
            await asyncio.gather(*gone)
        self._idle.clear()

    def _request(self, ask: Ask) -> bytes:
        lines = self._plain
        if ask.headers:
            more = {name.lower(): value for name, value in ask.headers.items() if name.lower() not in _OURS}
            lines = fields({**self._headers, **more})
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (self._first, lines, len(ask.body), ask.body)

    def _hiding(self, ask: Ask) -> _Hiding:
        return _Hiding([*self._secrets, *(value for value in ask.headers.values() if len(value) >= _SECRET)])

    def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            self._all.discard(connection)
        return None

    def _back(self, connection: Connection) -> None:
        if connection.usable:
            self._idle.append(connection)
        elif connection.gone.done():
            self._all.discard(connection)
        else:  # `close` waits for it; else it leaves by itself
            connection.gone.add_done_callback(lambda _: self._all.discard(connection))

    async def _connected(self, deadline: float, answer: Answer) -> Connection | None:
        """A new connection; None: there is none, and the answer's `Timed` says why."""
        loop = asyncio.get_running_loop()
        host, port = self._where or (self._address.host, self._address.port)
        self._made += 1
        connection = Connection(self._made)
        try:
            async with asyncio.timeout_at(loop.time() + deadline - time.monotonic()):
                transport, _ = await loop.create_connection(
                    lambda: connection, host, port, ssl=self._tls, server_hostname=self._address.host if self._tls else None
                )
        except TimeoutError:
            self._failed(answer, self._limit)
        except OSError as error:
            self._failed(answer, f"cannot connect to {self._address.authority}: {_reason(error)}")
        else:
            self._all.add(connection)
            peer = transport.get_extra_info("peername")
            if self._where is None and peer:
                self._where = (peer[0], peer[1])
            return connection
        return None

    def _failed(self, answer: Answer, error: str) -> None:
        answer.fail(error)
        answer.timed.done = time.monotonic() - self.origin


class _Hiding:
    """Takes secrets out of texts."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = secrets

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            bare = secret.removeprefix("Bearer ").strip()
            text = text.replace(bare, "***") if bare else text
        return text


def _reason(error: OSError) -> str:
    """Why a connection failed, without addresses: the same cause is the same text."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, ConnectionRefusedError) or "Connect call failed" in str(error):
        return "connection refused"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "the client has no file descriptor left; raise `ulimit -n` or set a limit on concurrency"
    return str(error.strerror or error)[:160]
