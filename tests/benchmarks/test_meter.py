"""CPU accounting on made-up and on real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.overhead import meter, proc
from benchmarks.overhead.meter import Cores, CoreTimes, Sample, core_times, difference

HZ = proc.HZ
STAT = f"cpu  {8 * HZ} 0 0 {90 * HZ} 0 0 0 0 0 0\ncpu0 {HZ} {2 * HZ} {3 * HZ} {4 * HZ} {5 * HZ} {6 * HZ} {7 * HZ} {8 * HZ} {HZ} 0\nintr 1\n"
IDLE = CoreTimes(0, 0, 0)


def test_core_times() -> None:
    assert core_times(0, STAT) == CoreTimes(busy=27.0, irq=13.0, steal=8.0)
    assert core_times(None, STAT) == CoreTimes(busy=8.0, irq=0.0, steal=0.0)
    with pytest.raises(ValueError, match="no cpu1"):
        core_times(1, STAT)


@pytest.mark.parametrize(
    ("allowed", "expected"), [({0, 1}, Cores(0, 1)), ({7, 3, 5}, Cores(3, 5)), ({0}, Cores(None, None)), (set(), Cores(None, None))]
)
def test_the_first_two_cores_are_used(allowed: set[int], expected: Cores) -> None:
    assert Cores.choose(allowed) == expected


def test_difference_on_two_cores() -> None:
    a = Sample(10.0, 5.0, 2.0, CoreTimes(20, 1, 0), CoreTimes(30, 2, 0))
    b = Sample(14.0, 7.0, 4.0, CoreTimes(23, 1.5, 0.2), CoreTimes(33, 2.25, 0.2))
    assert difference(a, b, pinned=True, gateway_runs=True) == pytest.approx(
        {"wall": 4.0, "gw_cpu": 2.5, "gw_util": 0.625, "core0": 0.75, "core1": 0.75, "foreign0": 0.125, "foreign1": 0.1875, "steal": 0.1}
    )
    direct = difference(a, b, pinned=True, gateway_runs=False)
    assert (direct["gw_cpu"], direct["foreign0"]) == (0.0, 0.75)


def test_a_gateway_never_has_more_than_its_core_had() -> None:
    a = Sample(0.0, 0.0, 0.0, IDLE, IDLE)
    b = Sample(1.0, 0.9, 0.0, CoreTimes(1.0, 0.4, 0), IDLE)  # the interrupts are in the process's time already
    found = difference(a, b, pinned=True, gateway_runs=True)
    assert (found["gw_cpu"], found["foreign0"], found["foreign1"]) == (1.0, 0.0, 0.0)


def test_difference_on_one_core_shares_what_is_left() -> None:
    a = Sample(0.0, 0.0, 0.0, IDLE, IDLE)
    b = Sample(2.0, 0.5, 0.25, CoreTimes(1.5, 0.25, 0.1), CoreTimes(1.5, 0.25, 0.1))
    found = difference(a, b, pinned=False, gateway_runs=True)
    assert found["gw_cpu"] == 0.5 and found["foreign0"] == found["foreign1"] == 0.25 and found["steal"] == 0.05


def stat(pid: int, parent: int, session: int, *times: int) -> str:
    """A line of /proc/PID/stat whose command is as awkward as it can be."""
    return f"{pid} (a) b (c) S {parent} {pid} {session} 0 -1 0 0 0 0 0 {' '.join(map(str, times))} 20 0"


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """10 has child 11, it has 12; 13 belongs to 10's session though its parent is init; 20 is a stranger."""
    made: list[tuple[int, int, int, tuple[int, ...]]] = [
        (10, 1, 10, (1, 2, 3, 4)),
        (11, 10, 10, (10, 0, 0, 0)),
        (12, 11, 99, (0, 100, 0, 0)),
        (13, 1, 10, (0, 0, 1000, 0)),
        (20, 1, 20, (7, 7, 7, 7)),
    ]
    for pid, parent, session, times in made:
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(stat(pid, parent, session, *times))
        (tmp_path / str(pid) / "status").write_text(f"Name:\tx\nVmHWM:\t{pid * 2048} kB\nVmRSS:\t{pid * 1024} kB\n")
    (tmp_path / "21").mkdir()  # gone between listing and reading
    (tmp_path / "version").write_text("Linux")
    return tmp_path


def test_a_tree_has_descendants_and_the_session(fake: Path) -> None:
    assert proc.tree(10, fake) == [10, 11, 12, 13]
    assert proc.tree(11, fake) == [11, 12]
    assert proc.tree(77, fake) == [77]


def test_times_have_those_of_ended_children(fake: Path) -> None:
    assert proc.cpu_seconds([10, 11, 12, 13], fake) == (10 + 10 + 100 + 1000) / HZ
    assert proc.cpu_seconds([21, 77], fake) == 0.0


def test_memory(fake: Path) -> None:
    assert proc.memory_mib([10, 11, 21], "VmRSS", fake) == 21.0
    assert proc.memory_mib([10], "VmHWM", fake) == 20.0


def test_stop_ends_the_whole_tree_and_nothing_else() -> None:
    code = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(p.pid, flush=True); time.sleep(60)"
    )
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + code
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        for text in (code, stubborn):
            process = proc.spawn([sys.executable, "-c", text], subprocess.PIPE, min(os.sched_getaffinity(0)), {"X": "1"})
            assert process.stdout is not None
            with process.stdout:
                child = int(process.stdout.readline())
                assert proc.tree(process.pid) == sorted([process.pid, child])
                proc.stop(process, term_seconds=0.5)
            assert process.poll() is not None
            assert not proc.fields(child) or proc.fields(child)[0] == "Z"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_meter_sees_a_busy_process() -> None:
    core = min(os.sched_getaffinity(0))
    process = proc.spawn([sys.executable, "-c", "while True: pass"], subprocess.DEVNULL, core)
    idle = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        m = meter.Meter(Cores(core, core), idle.pid, process.pid)
        m.start()
        end = time.monotonic() + 20
        while proc.cpu_seconds([process.pid]) < 0.2 and time.monotonic() < end:
            time.sleep(0.02)
        found = m.stop()
        assert found["gw_cpu"] > 0 and found["core0"] > 0 and found["wall"] > 0
    finally:
        proc.stop(process)
        idle.kill()
        idle.wait()


def test_a_meter_must_be_started() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        meter.Meter(Cores(None, None), os.getpid(), None).stop()


def test_waiting_for_quiet_has_an_end() -> None:
    assert meter.wait_quiet(Cores(None, None), 0.0) < 1.0
