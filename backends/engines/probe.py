"""Looks at an engine from outside: does it answer, does it compute, which port is free."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from pathlib import Path

import msgspec

_HEAD = 4096


class Pace(msgspec.Struct, frozen=True):
    """Seconds: between probes while an engine starts (from `first`, growing to `longest`), between probes of a ready engine
    (`check`), for one probe (`timeout`), for an engine to stop by itself (`grace`), for its requests to end before (`drain`)."""

    first: float = 0.02
    growth: float = 1.5
    longest: float = 0.5
    check: float = 2.0
    timeout: float = 5.0
    grace: float = 5.0
    drain: float = 30.0


LOWEST_PORT = 20_000  # below it live the servers that people know by their port
_TRIES = 50


def free_port() -> int:
    """A loopback port that nobody has at this moment, from below those that the system gives to outgoing connections where there is
    such room: an engine binds it only once it has loaded, seconds or minutes later, and no connection may take it by then."""
    highest = min(_first_ephemeral(), 65_536) - 1
    if highest - LOWEST_PORT >= 1000:
        for _ in range(_TRIES):
            port = random.randint(LOWEST_PORT, highest)
            if _bound(port):
                return port
    return _bound(0)


def _bound(port: int) -> int:
    """The port, having been bound for a moment (0: any); 0 when somebody has it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
        found: int = probe.getsockname()[1]
        return found


def _first_ephemeral() -> int:
    """The first port that Linux gives to outgoing connections; IANA's 49152 where the system does not tell."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 49_152


async def status(port: int, path: str, key: str, patience: float) -> int:
    """The HTTP status of `GET path` on the loopback `port`; 0 when there was no answer within `patience` seconds."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(patience):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_HEAD)
            head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n\r\n"
            writer.write(head.encode())
            line = await reader.readline()
    except (OSError, TimeoutError, ValueError):
        return 0
    finally:
        if writer is not None:
            writer.transport.abort()
    fields = line.split(b" ", 2)
    return int(fields[1]) if len(fields) > 1 and fields[0].startswith(b"HTTP/1.") and fields[1].isdigit() else 0


def cpu_ticks(group: int) -> int:
    """Clock ticks that the processes of a process group have used; 0 where there is no /proc. Blocks for file reads."""
    total = 0
    for entry in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{entry}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
                if int(fields[2]) == group:
                    total += int(fields[11]) + int(fields[12])
    return total
