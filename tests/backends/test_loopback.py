"""Connections within this machine are not paced; others are as the system wants them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
import uvloop

from backends import loopback
from backends.http import Clients
from backends.loopback import is_loopback, unpaced
from backends.types import Timeouts
from gateway.server import listen
from tests.backends.seen import Seen
from tests.backends.test_dial import OK, REQUEST, serving

CONGESTION = getattr(socket, "TCP_CONGESTION", 0)
here = pytest.mark.skipif(not CONGESTION, reason="this system has no congestion control to choose")


def control(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.IPPROTO_TCP, CONGESTION, 16).rstrip(b"\0")


def usual() -> bytes:
    with socket.socket() as sock:
        return control(sock)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_what_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org", ""])
def test_what_is_not(host: str) -> None:
    assert not is_loopback(host)


@here
def test_what_comes_in_over_loopback_is_not_paced() -> None:
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        sock.setblocking(True)
        accepted, _ = sock.accept()
        with accepted:
            assert control(accepted) == control(sock) == b"reno"
    with listen("0.0.0.0", 0) as sock:
        assert control(sock) == usual()


@here
@pytest.mark.parametrize("make", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_what_goes_out_over_loopback_is_not_paced(make: Callable[[], asyncio.AbstractEventLoop], host: str) -> None:
    async def work() -> bytes:
        clients = Clients(asyncio.get_running_loop())
        async with serving(OK, host) as port:
            pool, seen = clients.pool(f"http://{host}:{port}", "gpu"), Seen()
            pool.send(REQUEST, seen, Timeouts())
            assert (await seen.whole()).outcome == "ok"
            (conn,) = pool.idle
            found = control(conn.transport.get_extra_info("socket"))
            clients.close()
        await asyncio.sleep(0)
        return found

    with asyncio.Runner(loop_factory=make) as runner:
        assert runner.run(work()) == b"reno"


def test_a_system_without_it_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def __init__(self) -> None:
            self.asked: list[bytes] = []

        def setsockopt(self, level: int, name: int, value: bytes, /) -> None:
            self.asked.append(value)
            raise OSError("no such protocol")

    refusing = Refusing()
    monkeypatch.setattr(loopback, "_CONGESTION", 13)
    unpaced(refusing)
    assert refusing.asked == [b"reno"]
    monkeypatch.setattr(loopback, "_CONGESTION", None)  # nor is it asked where there is nothing to ask for
    unpaced(refusing)
    assert refusing.asked == [b"reno"]
