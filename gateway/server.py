"""A uvicorn server inside our own loop: started on a socket that we made, stopped when we say, its signals left to us."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn

from backends.loopback import is_loopback, unpaced
from gateway.accept import Accepting
from gateway.config import ServerConfig

BACKLOG = 4096
CLOSE = (b"connection", b"close")


class SocketError(OSError):
    """The address cannot be listened on."""


def listen(host: str, port: int, *, shared: bool = False, later: bool = False) -> socket.socket:
    """A listening socket. `shared`: several processes may listen on the same port. `later`: the address is taken, and whoever connects is
    refused until a `Server` starts on it, so that a balancer goes elsewhere meanwhile. Raises SocketError with one clear sentence."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, or asyncio leaves Nagle on
    except OSError as e:
        raise SocketError(f"cannot listen on {host}:{port}: {e.strerror or e}") from None
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if is_loopback(host):
            unpaced(sock)
        sock.bind(address)
        if not later:
            sock.listen(BACKLOG)
    except OSError as e:
        sock.close()
        raise SocketError(f"cannot listen on {host}:{port}: {e.strerror or e}; choose another with --port") from None
    sock.setblocking(False)
    return sock


class Server:
    """One listening socket with its uvicorn server."""

    def __init__(self, config: uvicorn.Config, sock: socket.socket) -> None:
        self.uvicorn = uvicorn.Server(config)
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self._loop: asyncio.Task[None] | None = None
        self._accepting: Accepting | None = None

    @property
    def connections(self) -> set[Any]:
        """The open connections' protocols."""
        return self.uvicorn.server_state.connections

    async def start(self) -> None:
        """Begins to accept connections. Raises SocketError."""
        server = self.uvicorn
        if not server.config.loaded:
            server.config.load()
        server.lifespan = server.config.lifespan_class(server.config)
        try:
            await server.startup(sockets=[self.sock])
        except OSError as e:  # another has taken the same address at the same moment, and was first to listen
            raise SocketError(f"cannot listen on port {self.port}: {e.strerror or e}; choose another with --port") from None
        if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
            self._accepting = Accepting(self.sock, self._protocol, server.config.ssl)
        self._loop = asyncio.create_task(server.main_loop())

    def _protocol(self) -> asyncio.Protocol:
        """One connection's, as uvicorn makes it."""
        server = self.uvicorn
        made: asyncio.Protocol = server.config.http_protocol_class(  # type: ignore[call-arg]
            config=server.config, server_state=server.server_state, app_state=server.lifespan.state
        )
        return made

    def leave(self) -> None:
        """From now on every answer of the ASGI application says that its connection closes. Idempotent."""
        server = self.uvicorn
        if CLOSE not in server.config.encoded_headers:
            server.config.encoded_headers.append(CLOSE)  # what the tick of each second takes
            server.server_state.default_headers = [*server.server_state.default_headers, CLOSE]

    async def stop(self, seconds: float) -> bool:
        """Stops accepting, waits at most `seconds` for what is under way. True when nothing was left."""
        server = self.uvicorn
        if self._loop is None:
            self.sock.close()
            return True
        if self._accepting is not None:
            self._accepting.close()
        server.should_exit = True
        await self._loop
        stopping = asyncio.create_task(server.shutdown(sockets=[self.sock]))
        done, _ = await asyncio.wait([stopping], timeout=seconds)
        if self._accepting is not None:
            self._accepting.cut()
        if done:
            return True
        server.force_exit = True
        for connection in [*self.connections]:
            connection.transport.abort()
        await stopping
        return False


def settings(server: ServerConfig, app: Any, http: Any = "httptools", *, tls: bool = True) -> uvicorn.Config:
    """uvicorn's settings for one of our sockets. What uvicorn offers on top (access log, proxy headers, reload) stays off."""
    cert = server.tls if tls else None
    return uvicorn.Config(
        app, http=http, ws="none", loop="none", lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
        timeout_keep_alive=max(1, round(server.limits.keep_alive_seconds)), h11_max_incomplete_event_size=int(server.limits.header_bytes),
        ssl_certfile=cert.cert if cert is not None else None, ssl_keyfile=cert.key if cert is not None else None, backlog=BACKLOG,
    )  # fmt: skip
