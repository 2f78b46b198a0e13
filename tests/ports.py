"""Ports for programs that are told theirs before they listen: not of those that the system gives to outgoing connections meanwhile."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from backends.engines import probe


def free_port(*beside: int) -> int:
    """A loopback port that nobody has at this moment, and those so far above it that nobody has either."""
    for _ in range(1000):
        port = probe.free_port()
        if _free([port + more for more in beside]):
            return port
    raise AssertionError("no free ports")


def _free(ports: Sequence[int]) -> bool:
    for port in ports:
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
