"""CPU over a window: the gateway's, how busy its core and the load's were, and how much of both went to somebody else."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.overhead.proc import HZ, cpu_seconds, tree

STAT = Path("/proc/stat")
QUIET_SECONDS = 2.0  # how long both cores must be idle
QUIET_BUSY = 0.10  # ... to this share


@dataclass(frozen=True)
class Cores:
    """Which core runs the gateway and which the load and the mock. None: not pinned (a machine with one core)."""

    gateway: int | None
    load: int | None

    @classmethod
    def choose(cls, allowed: set[int]) -> Cores:
        """The first two of `allowed`; no pinning where there is one only."""
        first = sorted(allowed)[:2]
        return cls(first[0], first[1]) if len(first) == 2 else cls(None, None)


@dataclass(frozen=True)
class CoreTimes:
    """Seconds since boot of one core, or the sum over all. `busy` is all but idle and waiting for input; it has `irq` and `steal` in it."""

    busy: float
    irq: float
    steal: float


def core_times(core: int | None, text: str) -> CoreTimes:
    """Reads the line of `core` (None: the sum over all) from the text of /proc/stat (proc(5))."""
    name = "cpu" if core is None else f"cpu{core}"
    for line in text.splitlines():
        parts = line.split()
        if parts and parts[0] == name:
            # user nice system idle iowait irq softirq steal; guest times are within user
            v = [int(x) / HZ for x in parts[1:9]]
            return CoreTimes(busy=sum(v) - v[3] - v[4], irq=v[5] + v[6], steal=v[7])
    raise ValueError(f"no {name} in /proc/stat")


@dataclass(frozen=True)
class Sample:
    """One reading. Seconds. `ours` is what the mock, the load and this process used."""

    wall: float
    gateway: float
    ours: float
    gateway_core: CoreTimes
    load_core: CoreTimes


def difference(a: Sample, b: Sample, pinned: bool, gateway_runs: bool) -> dict[str, float]:
    """What happened between two samples. `wall` and `gw_cpu` in seconds, the rest are shares of one core.

    `gw_cpu` is the process tree's time and the soft interrupts of its core (the kernel's network work, which it causes); depending on
    the kernel these are in the process's time already, so it is never more than its core had. `foreign0` and `foreign1` are what others
    took from the gateway's and from the load's core, time stolen by the hypervisor included. Not pinned: both are of the whole machine.
    """
    wall = b.wall - a.wall
    own, ours = b.gateway - a.gateway, b.ours - a.ours
    busy = [y.busy - x.busy for x, y in ((a.gateway_core, b.gateway_core), (a.load_core, b.load_core))]
    irq = [y.irq - x.irq for x, y in ((a.gateway_core, b.gateway_core), (a.load_core, b.load_core))]
    steal = [y.steal - x.steal for x, y in ((a.gateway_core, b.gateway_core), (a.load_core, b.load_core))]
    if pinned:
        cpu = min(own + irq[0], busy[0]) if gateway_runs else 0.0
        foreign = (max(0.0, busy[0] - cpu), max(0.0, busy[1] - irq[1] - ours))
    else:
        cpu = own if gateway_runs else 0.0
        rest = max(0.0, busy[0] - irq[0] - cpu - ours)
        foreign = (rest, rest)
    return {
        "wall": wall,
        "gw_cpu": cpu,
        "gw_util": cpu / wall,
        "core0": busy[0] / wall,
        "core1": busy[1] / wall,
        "foreign0": foreign[0] / wall,
        "foreign1": foreign[1] / wall,
        "steal": (sum(steal) if pinned else steal[0]) / wall,
    }


class Meter:
    """Measures one window: `start`, the load, `stop`. `root` is the gateway's process (None: the load goes to the mock directly)."""

    def __init__(self, cores: Cores, mock: int, root: int | None) -> None:
        self.cores, self.mock, self.root = cores, mock, root
        self._first: Sample | None = None

    def _now(self, client: int | None) -> Sample:
        own = os.times()
        ours = sum(own[:4]) + cpu_seconds(tree(self.mock)) + cpu_seconds([client] if client is not None else [])
        stat = STAT.read_text()
        return Sample(
            wall=time.monotonic(),
            gateway=cpu_seconds(tree(self.root)) if self.root is not None else 0.0,
            ours=ours,
            gateway_core=core_times(self.cores.gateway, stat),
            load_core=core_times(self.cores.load, stat),
        )

    def start(self, client: int | None = None) -> None:
        """Begins the window. `client`: the load generator's pid where it runs already."""
        self._first = self._now(client)

    def stop(self, client: int | None = None) -> dict[str, float]:
        """Ends the window; see `difference`. `client`: where it still runs (once waited for, its time is in ours)."""
        if self._first is None:
            raise RuntimeError("the meter was not started")
        return difference(self._first, self._now(client), self.cores.gateway is not None, self.root is not None)


def wait_quiet(cores: Cores, limit: float) -> float:
    """Waits until both cores are mostly idle for two seconds, at most `limit` seconds; returns the seconds waited."""
    began = time.monotonic()
    which = (cores.gateway, cores.load)
    while time.monotonic() - began < limit:
        text = STAT.read_text()
        before = [core_times(c, text).busy for c in which]
        time.sleep(min(QUIET_SECONDS, limit))
        text = STAT.read_text()
        if all(core_times(c, text).busy - b < QUIET_BUSY * QUIET_SECONDS for c, b in zip(which, before, strict=True)):
            break
    return time.monotonic() - began


def drain(root: int | None, limit: float = 10.0) -> None:
    """Waits until the gateway is idle (at most `limit` seconds): an overloaded one still works off requests whose client has left."""
    end = time.monotonic() + limit
    while root is not None and time.monotonic() < end:
        before = cpu_seconds(tree(root))
        time.sleep(0.25)
        if cpu_seconds(tree(root)) - before <= 0.02:
            return
