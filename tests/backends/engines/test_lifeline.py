"""No engine outlives its gateway, in whatever order processes are killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.engines.process import WRAPPER

# The engine, a child in its group, and a child in a session of its own. All say their pids (in one piece each), then sleep.
FAMILY = r"""
import os, subprocess, sys, signal
deep = [sys.executable, '-c', 'import os, time; os.write(1, b"%d\\n" % os.getpid()); [time.sleep(9) for _ in iter(int, 1)]']
if len(sys.argv) > 1: signal.signal(signal.SIGTERM, signal.SIG_IGN)
one = subprocess.Popen(deep); two = subprocess.Popen(deep, start_new_session=True)
os.write(1, b"%d\n" % os.getpid())
one.wait(); two.wait()
"""
# A gateway: starts a wrapper with a plan from its arguments and waits for ever.
GATEWAY = """
import subprocess, sys
p = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, start_new_session=True)
d = sys.argv[1].encode(); p.stdin.write(len(d).to_bytes(4, 'big') + d); p.stdin.flush()
p.wait(); sys.stdin.read()
"""


class Running:
    """A wrapper started by us (or by a gateway process of ours), with its status and log pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def status(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        reply: dict[str, Any] = json.loads(self.process.stdout.readline() or b"{}")
        return reply

    def said(self) -> list[str]:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode().split()

    def line(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().decode().strip()


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def begin(started: list[subprocess.Popen[bytes]], plan: dict[str, Any], *, gateway: bool = False) -> Running:
    argv = [sys.executable, "-c", GATEWAY, json.dumps(plan), *WRAPPER] if gateway else list(WRAPPER)
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=not gateway
    )  # fmt: skip
    started.append(process)
    if not gateway:
        assert process.stdin is not None
        data = json.dumps(plan).encode()
        process.stdin.write(len(data).to_bytes(4, "big") + data)
        process.stdin.flush()
    return Running(process)


def wait_gone(pids: list[int]) -> None:
    """Blocks until these processes (not ours) are gone."""
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([handle], [], [], 30)[0], f"{pid} is still there"
        os.close(handle)


def family(running: Running) -> list[int]:
    return [int(running.line()) for _ in range(3)]


def plan(*extra: str, **fields: Any) -> dict[str, Any]:
    return {"argv": [sys.executable, "-c", FAMILY, *extra], **fields}


def test_gateway_killed(started: list[subprocess.Popen[bytes]]) -> None:
    running = begin(started, plan(), gateway=True)
    pids = family(running)
    running.process.kill()
    wait_gone(pids)


def test_gateway_killed_and_the_engine_does_not_listen(started: list[subprocess.Popen[bytes]]) -> None:
    running = begin(started, plan("deaf"), gateway=True)
    pids = family(running)
    running.process.kill()
    wait_gone(pids)


def test_wrapper_killed(started: list[subprocess.Popen[bytes]]) -> None:
    running = begin(started, {"argv": [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(999)"]})
    pid = running.status()["pid"]
    assert running.line() == str(pid)
    running.process.kill()
    wait_gone([pid])


def test_gateway_and_wrapper_killed_together(started: list[subprocess.Popen[bytes]]) -> None:
    simple = {"argv": [sys.executable, "-c", "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(999)"]}
    running = begin(started, simple, gateway=True)
    pid, wrapper = (int(word) for word in running.line().split())
    os.kill(wrapper, signal.SIGSTOP)  # it cannot react to the gateway's end any more
    running.process.kill()
    os.kill(wrapper, signal.SIGKILL)
    wait_gone([pid, wrapper])


def test_engine_killed(started: list[subprocess.Popen[bytes]]) -> None:
    running = begin(started, plan())
    engine = running.status()["pid"]
    pids = family(running)
    os.kill(engine, signal.SIGKILL)
    assert running.status() == {"exit": -9, "why": ""}
    assert running.process.wait() == 128 + 9
    wait_gone(pids)


@pytest.mark.parametrize(("extra", "status"), [((), -15), (("deaf",), -9)])
def test_told_to_stop(started: list[subprocess.Popen[bytes]], extra: tuple[str, ...], status: int) -> None:
    running = begin(started, plan(*extra, grace=0.3))
    running.status()
    pids = family(running)
    running.process.send_signal(signal.SIGTERM)
    assert running.status() == {"exit": status, "why": "stopped"}
    wait_gone(pids)


def test_ctrl_c_is_not_for_engines(started: list[subprocess.Popen[bytes]]) -> None:
    code = "import sys; print('up', flush=True); sys.exit(len(sys.stdin.read()))"
    running = begin(started, {"argv": [sys.executable, "-c", code], "stdin": "abc"})
    running.status()
    running.process.send_signal(signal.SIGINT)
    assert running.line() == "up" and running.status() == {"exit": 3, "why": ""}


def test_status_log_files_and_stdin(started: list[subprocess.Popen[bytes]]) -> None:
    code = (
        "import os, stat, sys; path = sys.argv[1]; s = os.stat(path); d = os.stat(os.path.dirname(path))\n"
        "print(open(path).read(), oct(s.st_mode & 0o777), oct(d.st_mode & 0o777), len(sys.stdin.read()), os.environ['A'], path)\n"
        "sys.exit(7)"
    )
    fields = {"files": {"k.yaml": "secret"}, "stdin": "x" * 200_000, "env": {"A": "b"}}
    running = begin(started, {"argv": [sys.executable, "-c", code, "{dir}/k.yaml"], **fields})
    assert isinstance(running.status()["pid"], int) and running.status() == {"exit": 7, "why": ""}
    *words, path = running.said()
    assert words == ["secret", "0o600", "0o700", "200000", "b"]
    assert running.process.wait() == 7
    assert not Path(path).exists() and not Path(path).parent.exists()


def test_reports_are_passed_on(started: list[subprocess.Popen[bytes]]) -> None:
    running = begin(started, {"argv": [sys.executable, "-c", "print('{\"port\": 5}')"], "report": True})
    assert [list(running.status()) for _ in range(3)] == [["pid"], ["port"], ["exit", "why"]]


def test_program_not_found(started: list[subprocess.Popen[bytes]]) -> None:
    running = begin(started, {"argv": ["/no/such/program"]})
    assert running.status() == {"error": "/no/such/program cannot be run: No such file or directory", "fatal": True}
    assert running.process.wait() == 127


def test_no_plan_no_engine(started: list[subprocess.Popen[bytes]]) -> None:
    process = subprocess.Popen(WRAPPER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.append(process)
    assert process.communicate() == (b"", b"") and process.returncode == 0


def test_starts_without_site_packages() -> None:
    code = "import sys; exec(compile(open(sys.argv[1]).read(), 'lifeline', 'exec'), {'__name__': 'x'}); print(*sys.modules)"
    modules = subprocess.run([*WRAPPER[:4], "-c", code, WRAPPER[4]], capture_output=True, text=True, check=True).stdout.split()
    assert "json" in modules and not {"msgspec", "asyncio", "subprocess", "ctypes", "typing", "tempfile"} & set(modules)
