"""Gateways as real processes on one ring, one of which is killed; and the workers of a real `pointsman serve`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.together.line import alive
from gateway.together.ring import Reader, Region
from tests.fakes.engine import Engine
from tests.gateway.serving import Process, eventually
from tests.gateway.test_cluster import config
from tests.gateway.together.gateways import Child

_WORD = re.compile(r"[0-9A-Za-z]+")


def left_behind(pids: Iterable[int]) -> set[str]:
    """What has a name in shared memory, and in it the number of one of these processes; not as a part of another number or word, as others'
    names may have it."""
    place, ours = Path("/dev/shm"), {str(pid) for pid in pids}
    return {p.name for p in place.iterdir() if not ours.isdisjoint(_WORD.findall(p.name))} if place.is_dir() else set()


@contextlib.contextmanager
def children(count: int) -> Iterator[tuple[Region, list[Child]]]:
    region = Region.create(count)
    made = [Child(region, slot) for slot in range(count)]
    try:
        yield region, made
    finally:
        for child in made:
            child.end(kill=child.process.poll() is None)
        region.close()


def until(ask: Callable[[], Any], wanted: Any) -> None:
    """Waits until a question has this answer."""
    eventually(lambda: ask() == wanted or None, f"the answer {wanted!r}")


@pytest.mark.parametrize("count", [2, 4])
def test_processes_know_of_each_other_and_of_a_sudden_death(count: int) -> None:
    pids: set[int] = set()
    with children(count) as (region, all):
        pids |= {child.process.pid for child in all}
        for child in all:
            until(lambda c=child: c("peers"), count - 1)
        names = [child("name") for child in all]
        for k, child in enumerate(all):
            child("ask", f"request {k}", 64 * 100, 1000 * k, 100)
            eventually(lambda c=child: c("where") or None, "its placement")
            for other in all:
                until(lambda c=other: len(c("foreign")) + len(c("where")), k + 1)
        where = [child("where")[f"request {k}"] for k, child in enumerate(all)]
        assert len(set(where)) == count  # each on a replica of its own, since all know what the others have placed
        for k, child in enumerate(all):
            others = sorted([names[j], where[j], False] for j in range(count) if j != k)
            until(lambda c=child: c("foreign"), others)
            until(lambda c=child: c("hits", 0, 100)[where[0]], 100)  # on its way there
        all[0]("answer", "request 0")
        until(lambda: [names[0], where[0], True] in all[-1]("foreign"), True)
        all[0].end(kill=True)
        for child in all[1:]:
            until(lambda c=child: c("peers"), count - 2)
            assert all[0].process.returncode == -signal.SIGKILL and names[0] not in [g for g, _, _ in child("foreign")]
        all[0] = Child(region, 0)
        for child in all:
            until(lambda c=child: c("peers"), count - 1)
        until(lambda: len(all[0]("foreign")), count - 1)
        assert all[0]("name") not in names
        for k, child in enumerate(all[1:], 1):
            child("end", f"request {k}")
        for child in all:
            until(lambda c=child: c("check"), {"bookings": 0, "bad": 0, "missed": child("check")["missed"]})
        assert all[1].end() == 0  # a farewell
        until(lambda: all[0]("peers"), count - 2)
        pids |= {child.process.pid for child in all}
    assert left_behind({*pids, os.getpid()}) == set()


def test_a_newcomer_learns_what_is_cached_where() -> None:
    with children(2) as (region, all):
        until(lambda: all[0]("peers"), 1)
        all[0]("ask", "x", 64 * 5000, 0, 4000)
        eventually(lambda: all[0]("where") or None, "its placement")
        (replica,) = all[0]("where").values()
        all[0]("answer", "x")
        all[0]("end", "x")
        all[1].end(kill=True)
        all[1] = Child(region, 1)
        until(lambda: all[1]("hits", 0, 4000)[replica], 4000)
        all[1]("check")


def test_a_process_is_alive_until_it_is_gone() -> None:
    assert alive(os.getpid()) and alive(1) and alive(1 << 40)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not alive(process.pid)


def shared_memory(pid: int) -> int:
    """The descriptor of the region that a process has mapped."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "memfd:pointsman" in os.readlink(link):
                return os.open(link, os.O_RDWR)
    raise AssertionError(f"process {pid} has no region")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")
def test_workers_have_slots_and_leave_nothing_when_all_are_killed(tmp_path: Path) -> None:
    with Engine() as engine:
        process = Process(tmp_path, config(engine))
        workers = process.children()
        region = Region(shared_memory(workers[0]), 2)
        readers = [Reader(region, slot) for slot in (0, 1)]
        assert all([reader.look() for reader in readers])
        names = [reader.name for reader in readers]
        assert sorted(reader.pid for reader in readers) == sorted(workers) and len({*names}) == 2
        os.kill(workers[0], signal.SIGKILL)
        eventually(lambda: any([reader.look() for reader in readers]) or None, "a successor in the slot")
        assert len({*names, *(reader.name for reader in readers)}) == 3
        for reader in readers:
            reader.close()
        region.close()
        workers = process.children()
        for pid in (process.process.pid, *workers):
            os.kill(pid, signal.SIGKILL)
        process.process.wait()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers) or None, "the end of the workers")
        assert process.process.stdout is not None
        process.process.stdout.close()
    assert left_behind({process.process.pid, *workers}) == set()
