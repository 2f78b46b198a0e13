"""Looks at an engine from outside: does it answer, does it compute, which port is free."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

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


def free_port() -> int:
    """A loopback port that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
