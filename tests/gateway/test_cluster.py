"""Several workers, as a user starts them: real processes on one port."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from tests.fakes.engine import Engine
from tests.gateway.serving import Process, eventually, serving


def config(engine: Engine, **more: Any) -> dict[str, Any]:
    server = {"port": 0, "admin": {"port": 0}, "workers": 2, "log": {"level": "error"}}
    routes = {"m": {"targets": [{"backend": "fake", "model": "fake"}]}}
    return {"server": server, "backends": {"fake": {"url": engine.url}}, "routes": routes, **more}


def counted(process: Process) -> int:
    """Good answers, as the metrics of all workers together say."""
    lines = process.get("/metrics").text.splitlines()
    good = [line for line in lines if line.startswith("pointsman_requests_total{") and 'code="200"' in line]
    return sum(int(float(line.split()[-1])) for line in good)


def sent(process: Process) -> int:
    """Calls sent to replicas, as the status page sums them up."""
    return sum(replica["total"] for replica in process.status()["replicas"])


def test_workers_serve_and_are_summed_up(tmp_path: Path) -> None:
    with Engine() as engine, serving(tmp_path, config(engine)) as process:
        assert len(process.children()) == 2
        kept = f"pointsman-answers-{os.getuid()}-{process.process.pid}-*"  # of responses, until the parent goes
        assert len([*Path(tempfile.gettempdir()).glob(kept)]) == 1
        for _ in range(12):
            assert process.chat().status_code == 200
        eventually(lambda: counted(process) == 12 or None, "twelve answers in the metrics")
        eventually(lambda: sent(process) == 12 or None, "twelve calls in the status")
        status = process.status()
        assert status["limits"]["workers"] == 2 and status["inflight_total"] == 0
        assert [m["name"] for m in status["models"]] == ["m"]
    assert not process.children() and not [*Path(tempfile.gettempdir()).glob(kept)]


def test_a_dead_worker_is_replaced_and_its_counts_are_kept(tmp_path: Path) -> None:
    with Engine() as engine, serving(tmp_path, config(engine)) as process:
        for _ in range(8):
            assert process.chat().status_code == 200
        eventually(lambda: counted(process) == 8 or None, "eight answers in the metrics")
        eventually(lambda: sent(process) == 8 or None, "the workers' reports")
        before = process.children()
        os.kill(before[0], signal.SIGKILL)
        after = eventually(lambda: now if len(now := process.children()) == 2 and before[0] not in now else None, "a new worker")
        assert before[1] in after
        for _ in range(8):
            assert eventually(process.chat, "an answer").status_code == 200
        eventually(lambda: counted(process) == 16 or None, "all answers in the metrics")


def test_a_reload_reaches_every_worker(tmp_path: Path) -> None:
    with Engine() as engine, serving(tmp_path, config(engine)) as process:
        assert process.models() == ["m"]
        targets = {"targets": [{"backend": "fake", "model": "fake"}]}
        process.write(config(engine, routes={"m": targets, "second": targets}))
        process.process.send_signal(signal.SIGHUP)
        eventually(lambda: all(len(process.models()) == 2 for _ in range(8)) or None, "the new route in every worker")
        assert process.chat(model="second").status_code == 200


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with Engine() as engine:
        process = Process(tmp_path, config(engine))
        workers = process.children()
        process.process.kill()
        process.process.wait()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers) or None, "the end of the workers")
        assert process.process.stdout is not None
        process.process.stdout.close()
