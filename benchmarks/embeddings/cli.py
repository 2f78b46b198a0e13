"""Clients that ask for one embedding after another, so many at once: of a gateway that joins what comes together, of one that joins none.

The upstream takes `--call` seconds a call and `--item` seconds an input, one call at a time: as an engine does whose forward pass costs
little more for many short texts than for one. Ratios are between the two gateways in one round; the rounds take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accounting.world import free_ports, get, until
from benchmarks.overhead import proc, tools
from benchmarks.overhead.peers import find_pointsman
from benchmarks.overhead.run import order

MODES = {"joined": True, "single": False}
TEXT_BYTES = 200
Figures = dict[str, float]
Rounds = dict[int, dict[str, list[Figures]]]  # clients, mode: one a round


def config(port: int, upstream: int, joined: bool) -> str:
    """One backend, one route."""
    server = {"port": port, "admin": {"port": None}, "log": {"level": "error"}}
    backend = {"url": f"http://127.0.0.1:{upstream}/v1", "batch_embeddings": joined}
    return json.dumps(
        {"server": server, "backends": {"gpu": backend}, "routes": {"m": {"targets": [{"backend": "gpu", "model": "scripted"}]}}}
    )


async def client(port: int, number: int, end: float, waits: list[float]) -> None:
    """One client on one connection until `end`; `waits` gets the seconds of each answer. ValueError for one that is not good."""
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "m", "input": f"{number} ".ljust(TEXT_BYTES, "x")}).encode()
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    try:
        while loop.time() < end:
            began = loop.time()
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            data = json.loads(await reader.readexactly(length))
            if not answer.startswith(b"HTTP/1.1 200") or len(data["data"]) != 1 or data["usage"]["prompt_tokens"] != TEXT_BYTES:
                raise ValueError(f"not the answer to one text: {answer!r} {data!r}")
            waits.append(loop.time() - began)
    finally:
        writer.close()


def measure(port: int, upstream: int, clients: int, seconds: float) -> Figures:
    """So many clients for so long: requests, calls to the engine, seconds of the median and of 99 of 100."""
    before = json.loads(get(upstream, "/counts")[1])
    waits: list[float] = []

    async def all_of() -> None:
        end = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(client(port, number, end, waits) for number in range(clients)))

    asyncio.run(all_of())
    after = json.loads(get(upstream, "/counts")[1])
    waits.sort()
    if after["items"] - before["items"] != len(waits):
        raise RuntimeError(f"the engine was asked for {after['items'] - before['items']} texts, and {len(waits)} were answered")
    return {
        "rps": len(waits) / seconds, "calls": after["calls"] - before["calls"], "requests": len(waits),
        "p50": waits[len(waits) // 2], "p99": waits[int(len(waits) * 0.99)],
    }  # fmt: skip


def run(command: Sequence[str], a: argparse.Namespace, folder: Path) -> Rounds:
    """All rounds: two gateways over one upstream."""
    upstream, *ports = free_ports(1 + len(MODES))
    found: Rounds = {clients: {mode: [] for mode in MODES} for clients in a.clients}
    with (folder / "log").open("wb") as log:
        flags = ("--call", str(a.call), "--item", str(a.item))
        processes = [proc.spawn([sys.executable, "-m", "benchmarks.scripted", "--port", str(upstream), *flags], log)]
        for (mode, joined), port in zip(MODES.items(), ports, strict=True):
            file = folder / f"{mode}.json"
            file.write_text(config(port, upstream, joined))
            processes.append(proc.spawn([*command, "serve", "--config", str(file)], log))
    try:
        until(lambda: get(upstream, "/health")[0] == 200, "the upstream listens")
        for port in ports:
            until(lambda port=port: get(port, "/v1/models")[0] == 200, "the gateway answers")  # type: ignore[misc]
            measure(port, upstream, 4, 0.5)  # warm-up, not counted
        for turn in range(a.rounds):
            for clients in a.clients:
                for mode in order(list(MODES), turn):
                    found[clients][mode].append(measure(ports[list(MODES).index(mode)], upstream, clients, a.secs))
    finally:
        for process in processes:
            proc.stop(process)
    return found


def table(found: Rounds) -> str:
    """The ratios as Markdown, medians over the rounds."""
    heads = ["clients", "requests a call", "calls saved", "requests/s joined / single", "p50 joined / single", "p99 joined / single"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " ---: |" * len(heads)]
    for clients, modes in found.items():
        joined, single = modes["joined"], modes["single"]
        each = statistics.median(one["requests"] / one["calls"] for one in joined)
        ratio = [statistics.median(a[key] / b[key] for a, b in zip(joined, single, strict=True)) for key in ("rps", "p50", "p99")]
        lines.append(f"| {clients} | {each:.1f} | {1 - 1 / each:.0%} | " + " | ".join(f"{one:.2f}" for one in ratio) + " |")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__)
    p.add_argument("--clients", type=int, nargs="+", default=[1, 2, 8, 32, 64], metavar="N", help="at once (default 1 2 8 32 64)")
    p.add_argument("--rounds", type=int, default=3, choices=range(1, 51), metavar="N", help="rounds (default 3)")
    p.add_argument("--secs", type=float, default=3.0, metavar="S", help="seconds of a load (default 3)")
    p.add_argument("--call", type=float, default=0.004, metavar="S", help="seconds that the engine takes a call (default %(default)g)")
    p.add_argument("--item", type=float, default=0.0002, metavar="S", help="seconds that it takes an input (default %(default)g)")
    p.add_argument("--pointsman", metavar="CMD", help="how Pointsman is called (default: the one beside this Python, or on PATH)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it and prints the table. 0: measured; 1: something failed; 2: no gateway."""
    a = parser().parse_args(argv)
    command = find_pointsman(a.pointsman)
    if command is None:
        sys.stderr.write("not installed: pip install pointsman, or say how it is called with --pointsman 'COMMAND'\n")
        return 2
    tools.raise_file_limit()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = run(command, a, Path(folder))
        except (OSError, ValueError, LookupError, RuntimeError, EOFError, http.client.HTTPException) as e:
            sys.stderr.write(f"failed: {e}\n")
            return 1
    sys.stdout.write(table(found))
    return 0
