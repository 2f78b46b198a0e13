"""Opens streams through one gateway that then stay silent, and reads what its processes take for them: resident memory and descriptors. The
same for connections that idle after an answer."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead import proc
from benchmarks.overhead.peers import find_pointsman
from benchmarks.rolling.site import Gateway, free_port, until

SILENT_SECONDS = 3600.0  # that the upstream takes for its second token
ANSWER_SECONDS = 60.0
SLACK = 4  # descriptors that come and go by themselves
TOGETHER = 50  # connections that are made at the same time
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"

Held = list[asyncio.StreamWriter]


@dataclass
class Level:
    """What the gateway's processes take."""

    name: str
    count: int
    mib: float
    descriptors: int


def taken(pid: int, name: str, count: int) -> Level:
    """Reads /proc of a process and all below it."""
    pids = proc.tree(pid)
    return Level(name, count, proc.memory_mib(pids), sum(len(os.listdir(f"/proc/{p}/fd")) for p in pids))


async def opened(port: int, stream: bool, size: int) -> asyncio.StreamWriter:
    """A connection with its first event, or with its whole answer. Raises OSError, EOFError or RuntimeError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    messages = [{"role": "user", "content": "x" * size}]
    body = json.dumps({"model": "m", "stream": stream, "messages": messages, "script": {"tokens": int(stream)}}).encode()
    writer.write(HEAD % len(body) + body)
    async with asyncio.timeout(ANSWER_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            writer.close()
            raise RuntimeError(f"the gateway answered {head[:60]!r}")
        await reader.readuntil(b"word0" if stream else b"}}")
    return writer


async def hold(port: int, stream: bool, count: int, size: int) -> Held:
    """`count` of them, some at a time."""
    held: Held = []
    while len(held) < count:
        some = min(TOGETHER, count - len(held))
        held += await asyncio.gather(*(opened(port, stream, size) for _ in range(some)))
    return held


async def let_go(pid: int, held: Held, each: int) -> None:
    """Closes them, and waits until the gateway has done so too: `each` is how many descriptors one takes there. Raises
    RuntimeError when it does not."""
    most = taken(pid, "", 0).descriptors - each * len(held) + SLACK
    for writer in held:
        writer.close()
    await asyncio.gather(*(writer.wait_closed() for writer in held), return_exceptions=True)
    await asyncio.to_thread(until, lambda: taken(pid, "", 0).descriptors <= most, "the end of connections that were closed")


async def levels(pid: int, port: int, count: int, size: int) -> list[Level]:
    """Reads the gateway at rest, with idle connections, at rest again, and with silent streams."""
    await let_go(pid, await hold(port, True, TOGETHER, size), 2)  # pools and caches have their size
    found = [taken(pid, "at rest", 0)]
    idle = await hold(port, False, count, size)
    found.append(taken(pid, "idle connections", count))
    await let_go(pid, idle, 1)
    streams = await hold(port, True, count, size)
    found.append(taken(pid, "silent streams", count))
    await let_go(pid, streams, 2)
    return found


def table(found: Sequence[Level]) -> str:
    """Each level, and what one of its connections or streams takes beyond rest."""
    rest = found[0]
    lines = ["| | MiB | descriptors | KiB each | descriptors each |", "|---|---:|---:|---:|---:|"]
    for level in found:
        each = (
            f"{(level.mib - rest.mib) * 1024 / level.count:.1f} | {(level.descriptors - rest.descriptors) / level.count:.2f}"
            if level.count
            else "– | –"
        )
        lines.append(f"| {level.count:,} {level.name} | {level.mib:.1f} | {level.descriptors:,} | {each} |")
    return "\n".join(lines) + "\n"


def measure(command: Sequence[str], folder: Path, count: int, size: int, workers: int) -> list[Level]:
    """Starts an upstream and a gateway, and measures. Raises RuntimeError or OSError."""
    upstream, port = free_port(), free_port()
    server = {"port": port, "admin": {"port": None}, "workers": workers, "log": {"level": "warning"}, "drain_seconds": 1}
    config: dict[str, object] = {
        "server": {**server, "limits": {"connections": 2 * count + 100, "concurrency": 2 * count + 100}},
        "backends": {"up": {"url": f"http://127.0.0.1:{upstream}/v1"}},
        "routes": {"m": {"targets": [{"backend": "up", "model": "scripted"}]}},
    }
    with ExitStack() as stack:
        argv = [sys.executable, "-m", "benchmarks.scripted", "--port", str(upstream), "--token", str(SILENT_SECONDS)]
        process = proc.spawn(argv, subprocess.DEVNULL)
        stack.callback(proc.stop, process)
        until(lambda: proc.port_in_use(upstream), "the scripted upstream", process)
        gateway = Gateway(command, folder, "a", config, port)
        stack.callback(gateway.close)
        gateway.start()
        return asyncio.run(levels(gateway.pid, port, count, size))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and prints the table. 0: measured; 1: something failed; 2: not installed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    p.add_argument("--streams", type=int, default=1000, choices=range(1, 8001), metavar="N", help="at once (default 1000)")
    p.add_argument("--prompt", type=int, default=1000, metavar="BYTES", help="of each call (default 1000)")
    p.add_argument("--workers", type=int, default=1, metavar="N", help="processes of the gateway (default 1)")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    a = p.parse_args(argv)
    command = find_pointsman(a.pointsman)
    if command is None:
        sys.stderr.write("not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'\n")
        return 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # ours and that of the processes that we start
    try:
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            found = measure(command, Path(folder), a.streams, a.prompt, a.workers)
    except (RuntimeError, OSError, EOFError, ExceptionGroup) as e:
        sys.stderr.write(f"failed: {e}\n")
        return 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    sys.stdout.write(table(found))
    return 0
