"""Processes: what /proc says of them (proc(5)), starting them pinned to a core, ending the ones that we started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

HZ = os.sysconf("SC_CLK_TCK")  # ticks a second of the times in /proc
PROC = Path("/proc")


def fields(pid: int, proc: Path = PROC) -> list[str]:
    """The fields of /proc/PID/stat after the command, so that [0] is field 3 (state). Empty when the process is gone."""
    try:
        return (proc / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return []


def tree(root: int, proc: Path = PROC) -> list[int]:
    """`root`, its descendants, and whatever else runs in the session that `root` leads (workers whose parent has ended)."""
    children: dict[int, list[int]] = {}
    found = [root]
    for name in os.listdir(proc):
        stat = fields(int(name), proc) if name.isdigit() else []
        if not stat:
            continue
        pid, parent, session = int(name), int(stat[1]), int(stat[3])
        children.setdefault(parent, []).append(pid)
        if session == root and pid != root:
            found.append(pid)
    seen: list[int] = []
    while found:
        pid = found.pop()
        if pid not in seen:
            seen.append(pid)
            found += children.get(pid, [])
    return sorted(seen)


def cpu_seconds(pids: Iterable[int], proc: Path = PROC) -> float:
    """User and system seconds of `pids`, with those of their children that have ended and were waited for.

    A process's own time moves into its parent's when it is waited for, so the sum over a tree never falls.
    """
    ticks = 0
    for pid in pids:
        stat = fields(pid, proc)
        if stat:
            ticks += sum(int(x) for x in stat[11:15])  # utime, stime, cutime, cstime
    return ticks / HZ


def memory_mib(pids: Iterable[int], key: str = "VmRSS", proc: Path = PROC) -> float:
    """Sum over `pids` of a size from /proc/PID/status, MiB. `key`: VmRSS (resident now) or VmHWM (the most it was)."""
    kib = 0
    for pid in pids:
        try:
            lines = (proc / str(pid) / "status").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
    return kib / 1024


def spawn(
    command: Sequence[str], log: IO[bytes] | int, core: int | None = None, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts `command` in its own session, held to one core if `core` is given. `env` is added to ours, but for what would
    have Python compile every module anew at each start: users' processes do not."""
    pin = ["taskset", "-c", str(core)] if core is not None else []
    return subprocess.Popen(
        [*pin, *command],
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env={**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, **(env or {})},
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], term_seconds: float = 5.0, kill_seconds: float = 5.0) -> None:
    """Ends a process that `spawn` started and everything under it, by pid: SIGTERM, then SIGKILL. An interrupt that comes again (see `cli`)
    does not stop this; where it is not what brought us here it was lost, and comes again after."""
    again, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        _end(process, term_seconds, kill_seconds)
    finally:
        if again and sys.exc_info()[0] is None:
            signal.setitimer(signal.ITIMER_REAL, again)


def _end(process: subprocess.Popen[bytes], term_seconds: float, kill_seconds: float) -> None:
    pids = tree(process.pid)
    for sig, seconds in ((signal.SIGTERM, term_seconds), (signal.SIGKILL, kill_seconds)):
        for pid in pids:
            _signal(pid, sig)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if process.poll() is not None and not any(_alive(pid) for pid in pids):
                return
            time.sleep(0.02)


def _alive(pid: int) -> bool:
    stat = fields(pid)
    return bool(stat) and stat[0] != "Z"  # a zombie whose parent is not us cannot be waited for here


def _signal(pid: int, sig: signal.Signals) -> None:
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def port_in_use(port: int) -> bool:
    """Whether something listens on 127.0.0.1:`port`."""
    with socket.socket() as s:
        s.settimeout(1.0)
        return s.connect_ex(("127.0.0.1", port)) == 0
