"""The twin of `backends/http` on httpx, for upstreams behind a proxy or over HTTP/2: the same seam, one task a request.

Redirects are not followed and the environment's proxies are not used. Reading happens only when asked for, so a slow client slows
the upstream and nothing piles up here. Over HTTP/2 each call under way has a connection of its own (they are kept and used again):
httpcore neither resets a stream that is given up nor returns its flow-control window, so that only closing the connection tells
an engine at once to stop, and it must not take other calls with it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TypeVar

import httpx

from backends.batched import BatchedLink
from backends.costed import PricedLink
from backends.dialects.types import Dialect, Facts
from backends.native import NativeMixin, ProviderLink
from backends.origin import Origin, tls_context, unreachable
from backends.translate import Signer
from backends.types import Fault, Receiver, Timeouts

T = TypeVar("T")
MAX_IDLE, IDLE_SECONDS = 1024, 60.0
_NO_LIMITS = httpx.Timeout(None)  # the flight's own deadlines hold; httpx's count differently
_BREAKS = (b"\r", b"\n", b"\0")


class TwinLink(NativeMixin, PricedLink):
    """An `OpenAILink` whose requests go out through httpx. Raises ValueError for what cannot be set up, in one sentence."""

    __slots__ = ()

    def __init__(
        self,
        url: str,
        name: str,
        *,
        kind: str = "openai",
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        proxy: str | None = None,
        http2: bool = False,
        verify: bool | str = True,
    ) -> None:
        super().__init__(TwinPool(url, name, proxy, http2, verify), kind=kind, key=key, headers=headers, timeouts=timeouts)

    @property
    def twin(self) -> TwinPool:
        """Its pool."""
        assert isinstance(self.pool, TwinPool)
        return self.pool

    async def stop(self) -> None:
        """Closes everything, at the gateway's end. Returns when it is done."""
        await self.twin.stop()


class BatchedTwin(TwinLink, BatchedLink):
    """A `TwinLink` that gathers calls for embeddings; see `backends.batched.batching`."""

    __slots__ = ()


class TwinTranslated(ProviderLink):
    """A `ProviderLink` whose requests go out through httpx."""

    __slots__ = ("twin",)

    def __init__(
        self,
        twin: TwinPool,
        dialect: Dialect,
        auth: Signer,
        facts: Callable[[str], Facts],
        *,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.twin = twin
        super().__init__(twin, dialect, auth, facts, headers=headers, timeouts=timeouts)

    async def stop(self) -> None:
        """Closes everything, at the gateway's end. Returns when it is done."""
        await self.twin.stop()


class TwinPool:
    """The httpx clients of one origin. A `backends.fetch.Carrier`."""

    def __init__(self, url: str, name: str, proxy: str | None, http2: bool, verify: bool | str) -> None:
        self.name, self.origin, self.http2, self.proxy = name, Origin(url), http2, proxy
        if self.origin.unix is not None and proxy is not None:
            raise ValueError(f"backend '{name}': a unix:// address cannot be reached through a proxy; leave one of them out")
        self.context = tls_context(verify)
        self.idle: list[httpx.AsyncClient] = []
        self.busy: set[TwinFlight] = set()
        self.closed = False
        self._closing: set[asyncio.Task[None]] = set()
        scheme = "https" if self.origin.tls else "http"
        self.base = httpx.URL(f"{scheme}://{self.origin.authority}")
        self.idle.append(self._client())  # what is missing or malformed shows now, not at the first call

    def __repr__(self) -> str:
        return f"<TwinPool {self.name} {self.origin}: {len(self.busy)} busy>"

    def _client(self) -> httpx.AsyncClient:
        # In the clear there is no ALPN to agree on HTTP/2 by: who asks for it there has a server that knows it.
        prior = self.http2 and not self.origin.tls and self.proxy is None
        limits = httpx.Limits(max_connections=1 if self.http2 else None, max_keepalive_connections=MAX_IDLE, keepalive_expiry=IDLE_SECONDS)
        try:
            if self.http2:
                import h2  # noqa: F401 - httpx itself would find out at the first call
            proxy = None if self.proxy is None else httpx.Proxy(self.proxy, ssl_context=_proxy_context(self.proxy))
            transport = httpx.AsyncHTTPTransport(
                verify=self.context, http1=not prior, http2=self.http2, limits=limits, trust_env=False, proxy=proxy, uds=self.origin.unix
            )
        except ImportError as e:
            extra = "HTTP/2 needs the package h2 (pip install 'pointsman[http2]')"
            if "socks" in str(e).lower():
                extra = "a SOCKS proxy needs the package socksio (pip install socksio)"
            raise ValueError(f"backend '{self.name}': {extra}.") from None
        except (httpx.InvalidURL, ValueError):
            raise ValueError(f"backend '{self.name}': 'proxy' is not a proxy's URL; write http://HOST:PORT.") from None
        return httpx.AsyncClient(transport=transport, trust_env=False, follow_redirects=False, timeout=_NO_LIMITS)

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> TwinFlight:
        """Sends a request (head, body) in a task of its own. The receiver is never called before this returns."""
        flight = TwinFlight(self, receiver, timeouts)
        self.busy.add(flight)
        flight.start(self._request(*payload))
        return flight

    def _request(self, head: bytes, body: bytes) -> httpx.Request:
        head, _, begun = head.partition(b"\r\n\r\n")  # a short body stands right behind its head
        first, *lines = head.split(b"\r\n")
        method, path, _ = first.split(b" ")
        headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
        return httpx.Request(method.decode(), self.base.copy_with(raw_path=path), headers=headers, content=begun + body)

    def take(self) -> httpx.AsyncClient:
        """The client for one flight: the shared one, or over HTTP/2 one that no other flight uses."""
        if self.http2:
            return self.idle.pop() if self.idle else self._client()
        if self.idle[0].is_closed:  # dropped since: an old call's retry
            self.idle[0] = self._client()
        return self.idle[0]

    async def give(self, client: httpx.AsyncClient, whole: bool) -> None:
        """Takes a client back at the end of a flight; closes it when its connection is of no more use."""
        if not self.http2:
            return
        if whole and not self.closed and len(self.idle) < MAX_IDLE:
            self.idle.append(client)
        else:
            await client.aclose()

    def over(self, flight: TwinFlight) -> None:
        """A flight's task has ended."""
        self.busy.discard(flight)
        if self.closed and not self.busy:
            self._close_idle()

    def drop(self) -> None:
        """Closes idle connections; flights under way finish, and close theirs. Needs a running loop."""
        if not self.closed:
            self.closed = True
            if self.http2 or not self.busy:
                self._close_idle()

    async def stop(self) -> None:
        """Cancels what is under way and closes every connection. Returns when all are closed."""
        tasks = [flight.task for flight in self.busy]
        for flight in [*self.busy]:
            flight.cancel()
        self.drop()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _close_idle(self) -> None:
        for client in self.idle:
            task = asyncio.get_running_loop().create_task(client.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        if self.http2:
            self.idle = []


def _proxy_context(proxy: str) -> ssl.SSLContext | None:
    return ssl.create_default_context() if proxy.startswith("https:") else None


class TwinFlight:
    """One request under way (a `Flight`)."""

    def __init__(self, pool: TwinPool, receiver: Receiver, timeouts: Timeouts) -> None:
        self.pool, self.timeouts = pool, timeouts
        self.receiver: Receiver | None = receiver
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.task: asyncio.Task[None]
        self.loop = asyncio.get_running_loop()
        self.begun = self.loop.time()
        self.dialled = self.headed = False

    # --- Flight
    def pause(self) -> None:
        """Reads no more until `resume`: httpx reads only when asked, so the upstream is held back."""
        self.flowing.clear()

    def resume(self) -> None:
        """Reads on."""
        self.flowing.set()

    def cancel(self) -> None:
        """Gives the answer up and closes its connection. Idempotent; nothing is called afterwards."""
        if self.receiver is not None:
            self.receiver = None
            self.task.cancel()

    # --- the task
    def start(self, request: httpx.Request) -> None:
        """Begins. Called once, by the pool."""
        request.extensions = {"trace": self._trace, "timeout": {}}
        self.task = self.loop.create_task(self._run(request))
        self.task.add_done_callback(self._over)

    async def _run(self, request: httpx.Request) -> None:
        client, whole = self.pool.take(), False
        try:
            await self._exchange(client, request)
            whole = True
        finally:
            await self.pool.give(client, whole)
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.on_end()

    def _over(self, task: asyncio.Task[None]) -> None:
        """Whatever ended the task, and were it before its first step: the receiver is told, once."""
        self.pool.over(self)
        error = None if task.cancelled() else task.exception()
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.on_fault(self._fault(error))

    async def _exchange(self, client: httpx.AsyncClient, request: httpx.Request) -> None:
        response = await self._open(client, request)
        try:
            headers = {name.lower(): value for name, value in response.headers.raw}
            if any(mark in value for value in headers.values() for mark in _BREAKS):
                raise httpx.RemoteProtocolError("a header has a line break in it")
            self.headed = True
            if self.receiver is not None:
                self.receiver.on_head(response.status_code, headers)
            chunks = response.aiter_raw()
            while (data := await self._next(chunks)) is not None:
                if data and self.receiver is not None:
                    self.receiver.on_data(data)
        finally:
            await response.aclose()

    async def _open(self, client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
        """The answer's head. A kept connection that closes before any of it is retried on another, once."""
        t = self.timeouts
        request.extensions["timeout"] = {"connect": t.connect, "pool": t.connect}
        try:
            return await self._in_time(client.send(request, stream=True), self.begun + t.first_byte)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if self.dialled:
                raise
        return await self._in_time(client.send(request, stream=True), self.begun + t.first_byte)

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        if not self.flowing.is_set():
            await self._in_time(self.flowing.wait(), float("inf"))
        return await self._in_time(anext(chunks, None), self.loop.time() + self.timeouts.idle)

    async def _trace(self, event: str, _: Mapping[str, object]) -> None:
        # Only the trace tells whether a connection is new or was kept.
        if event in ("connection.connect_tcp.started", "connection.connect_unix_socket.started"):
            self.dialled = True

    async def _in_time(self, step: Awaitable[T], at: float) -> T:
        """`step`, until the loop's time `at` or the end of the whole call's time. Raises TimeoutError."""
        async with asyncio.timeout_at(min(at, self.begun + self.timeouts.total)):
            return await step

    # --- what went wrong
    def _fault(self, error: BaseException | None) -> Fault:
        name, t = self.pool.name, self.timeouts
        if isinstance(error, TimeoutError):
            return self._late()
        if isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout)):
            return unreachable(name, TimeoutError(), t.connect)
        if isinstance(error, httpx.ProxyError):
            return unreachable(name, ConnectionError(f"the proxy said: {error}"), t.connect)
        if isinstance(error, (httpx.ConnectError, httpx.UnsupportedProtocol, OSError, ValueError)):
            return unreachable(name, _root(error), t.connect)
        if isinstance(error, httpx.ProtocolError) and "disconnected" not in str(error) and "closed connection" not in str(error):
            what, code = f"broke HTTP: {error}", "bad_framing"
        elif error is not None and not isinstance(error, httpx.HTTPError):
            what, code = f"could not be asked: {type(error).__name__}", "internal_error"
        else:
            what = "closed the connection in the middle of its answer" if self.headed else "closed the connection without an answer"
            code = "connection_lost"
        return Fault("upstream", f"Backend {name} {what}.", origin="backend", code=code, retry=True)

    def _late(self) -> Fault:
        t = self.timeouts
        if self.loop.time() >= self.begun + t.total:
            what, code = f"did not finish within {t.total:g} s", "total_timeout"
        elif not self.headed:
            what, code = f"did not answer within {t.first_byte:g} s", "first_byte_timeout"
        else:
            what, code = f"sent nothing for {t.idle:g} s", "idle_timeout"
        return Fault("timeout", f"Backend {self.pool.name} {what}.", origin="backend", code=code, retry=True)


def _root(error: BaseException) -> Exception:
    """The system's own error beneath httpx's, which says more."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, OSError) and (isinstance(at, ssl.SSLError) or at.strerror):
            return at
        at = at.__cause__ or at.__context__
    return ConnectionError(str(error) or type(error).__name__)
