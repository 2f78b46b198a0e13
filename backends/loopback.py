"""Connections within one machine: there is no path whose rate would have to be found out, so nothing should try."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from typing import Protocol

_CONGESTION = getattr(socket, "TCP_CONGESTION", None)  # Linux and FreeBSD have it


class Socket(Protocol):
    """As much of one as is used here; uvloop's transports give something like it."""

    def setsockopt(self, level: int, name: int, value: bytes, /) -> None: ...


def is_loopback(host: str) -> bool:
    """Whether an address, or the one name that always means one, is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unpaced(sock: Socket) -> None:
    """Takes Reno in place of the system's congestion control for a TCP socket, and for what is accepted on it. Where that is BBR (as many
    servers are set up), each packet would be paced and each answer measured, which costs a relayed request 3 % of its CPU time. Every
    Linux has Reno; where it cannot be had nothing changes."""
    if _CONGESTION is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _CONGESTION, b"reno")
