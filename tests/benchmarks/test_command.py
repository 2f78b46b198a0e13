"""The whole command as a user runs it, on a gateway that is started as Pointsman is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.overhead.proc import port_in_use
from tests.benchmarks.programs import needs_cc
from tests.ports import free_port

pytestmark = needs_cc
ROOT = Path(__file__).resolve().parents[2]
FAKE = f"{sys.executable} {Path(__file__).with_name('relay.py')}"


def command(cache: Path, port: int, *arguments: str) -> list[str]:
    """The command with what every test gives it."""
    return [sys.executable, "-m", "benchmarks.overhead", "--cache", str(cache), "--port", str(port), "--pointsman", FAKE, *arguments]


def test_smoke(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, free_port(100, 150), "--smoke", "--peers", "direct,pointsman,pointsman-asgi"),
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["direct", "pointsman", "pointsman-asgi"]
    assert all("67 events, 16551 bytes, usage passed on" in line for line in lines)


def test_soak(tmp_path: Path) -> None:
    out, page = tmp_path / "soak.json", tmp_path / "soak.html"
    done = subprocess.run(
        [*command(tmp_path, free_port(100, 150), "--soak", "--soak-scale", "0.0005", "--peers", "pointsman"), "--out", str(out),
         "--html", str(page)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (soaked,) = json.loads(out.read_text())["soaks"]
    assert [(p["stage"], p["answers"], p["chunks"]) for p in soaked["points"]] == [
        ("idle", 0, 0), ("10 answers", 10, 0), ("100 answers", 100, 0), ("100 chunks", 100, 132), ("1,000 chunks", 100, 1056),
    ]  # fmt: skip
    assert "| pointsman | " in done.stdout and "<svg" in page.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_was_started_is_ended_with_it(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port(100, 150)
    process = subprocess.Popen(command(tmp_path, port, "--soak", "--peers", "pointsman"), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while not port_in_use(port + 100):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and said.endswith("interrupted; what this run started was ended\n")
    assert not port_in_use(port) and not port_in_use(port + 100)
