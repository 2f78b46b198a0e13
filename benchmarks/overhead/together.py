"""All gateways side by side before one mock, measured by `pointsman bench overhead` in turns: the table of the README, by one command.

The harness beside this (`run`) starts one gateway at a time and drives it to its limit; here all are up, idle but for the one whose turn it
is, and what each adds to a request is told request by request, with intervals. Streams are paced (16 chunks, one each 4 ms), so that the
client, which shares its core with the mock, is not what is measured; how many of them a gateway can carry is the harness's to say.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks.overhead import meter
from benchmarks.overhead.peers import BOTH, KEY, Peer, Site
from benchmarks.overhead.proc import port_in_use
from benchmarks.overhead.target import Broken, Mock, Target

Make = Callable[[str, Site], Peer | str]


def sites(site: Site, names: Sequence[str]) -> dict[str, Site]:
    """A folder and ports of its own for each gateway, before the same mock."""
    return {name: replace(site, run=site.run / name, port=site.port + at) for at, name in enumerate(names)}


def command(site: Site, placed: Mapping[str, Site], rounds: int, seconds: float, out: Path) -> list[str]:
    """How `pointsman bench overhead` is called. `seconds`: of one stage."""
    assert site.pointsman is not None
    doors = [f"{name}=http://127.0.0.1:{one.port}" for name, one in placed.items()]
    load = ["--model", BOTH, "--repeats", str(rounds), "--seconds", f"{seconds:g}"]
    return [*site.pointsman, "bench", "overhead", *doors, site.upstream, *load, "--out", str(out), "--overwrite"]


def run(site: Site, names: Sequence[str], make: Make, mock: Path, cores: meter.Cores, rounds: int, seconds: float, out: Path) -> int:
    """Starts all, measures, ends all; the exit status of the measurement. Raises Broken: one does not start, or a port is taken."""
    if site.pointsman is None:
        raise Broken("pointsman is not installed; say how it is called with --pointsman 'COMMAND'")
    placed = sites(site, names)
    for port in (site.upstream_port, *(one.port for one in placed.values())):
        if port_in_use(port):
            raise Broken(f"port {port} is in use; choose others with --port")
    with ExitStack() as stack:
        stack.enter_context(Mock(mock, site, cores.load))
        for name, one in placed.items():
            one.run.mkdir(parents=True, exist_ok=True)
            made = make(name, one)
            if isinstance(made, str):
                raise Broken(f"{name}: {made}")
            target = Target(name, one, made, cores.gateway)
            stack.callback(target.stop)
            target.start()
            target.check()
        asked = command(site, placed, rounds, seconds, out)
        return subprocess.run(asked, env={**os.environ, "POINTSMAN_KEY": KEY}, check=False).returncode
