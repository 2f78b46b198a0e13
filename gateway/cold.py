"""Where uvicorn's own protocol stands on a connection that it was lent. The only place that looks inside it."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def at_boundary(inner: HttpToolsProtocol) -> bool:
    """Whether the inner protocol has answered a whole request and holds no part of another. False when that cannot be told."""
    try:
        cycle = inner.cycle
        return cycle is not None and cycle.response_complete and not cycle.more_body and not inner.pipeline and inner.scope is cycle.scope
    except AttributeError:
        return False


def within_head(inner: HttpToolsProtocol) -> bool:
    """Whether the inner protocol has answered all that came whole, and holds the beginning of a head (a new message has a scope of its
    own from its first byte on, its cycle from its last header on). False when that cannot be told."""
    try:
        cycle = inner.cycle
        return cycle is not None and cycle.response_complete and inner.scope is not cycle.scope
    except AttributeError:
        return False


def closes(inner: object) -> None:
    """The answer under way, where it has not begun, will say that its connection closes. Mutates it; nothing where that cannot be told."""
    cycle = getattr(inner, "cycle", None)
    if cycle is not None and not getattr(cycle, "response_started", True):
        cycle.keep_alive = False


def begun(inner: HttpToolsProtocol, transport: asyncio.Transport) -> HttpToolsProtocol:
    """A fresh inner protocol, on a connection that is not its own. Mutates it."""
    inner.connection_made(transport)
    # Only the connection itself is registered, or shutdown would wait for the inner one for ever.
    inner.server_state.connections.discard(inner)
    return inner
