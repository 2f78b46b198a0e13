"""The analyst as a child of the gateway, and the store in one: what was served is in the file and in the result, whoever dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from backends.types import Fault
from gateway.config import Config, parse
from gateway.config_experiments import design
from gateway.experiments import running as module
from gateway.experiments.analyst import NICE, Order, analyse_file
from gateway.experiments.keeping import Retain
from gateway.experiments.running import Running
from gateway.experiments.wired import Wired, file_of
from gateway.experiments.words import State
from gateway.server import SocketError
from routing.experiments.words import Result
from tests.fakes.engine import Engine
from tests.gateway.experiments.recorded import DESIGN, made, opened, write
from tests.gateway.serving import Process, eventually, serving
from tests.harness import chat
from tests.harness import running as gateway_of


class Watched(Running):
    """One that lets a test wait for the ends of its processes."""

    def __init__(self, path: str, *argv: str) -> None:
        super().__init__(path, argv or (sys.executable, "-m", "gateway.experiments.analyst"))
        self.ends: asyncio.Queue[int] = asyncio.Queue()

    async def _run(self) -> None:
        try:
            await super()._run()
        finally:
            self.ends.put_nowait(self.starts)


def lived(path: Path, act: Callable[[Watched], Awaitable[None]], *argv: str) -> Running:
    """Runs `act` with an analyst that is started, and stops that."""

    async def run() -> Running:
        analyst = Watched(str(path), *argv)
        analyst.follow(Order((DESIGN,), retain=Retain()))
        analyst.start()
        try:
            await act(analyst)
        finally:
            await analyst.stop()
        return analyst

    return asyncio.run(run())


def test_it_looks_when_asked_and_ends_with_its_owner(tmp_path: Path) -> None:
    with opened(tmp_path / "e.db") as tables:
        write(tables, made(1, 500))
    pids: list[int] = []

    async def act(analyst: Watched) -> None:
        assert await analyst.look() == ""
        assert analyst.pid is not None and str(analyst.pid) in repr(analyst)
        pids.append(analyst.pid)

    analyst = lived(tmp_path / "e.db", act)
    assert analyst.pid is None and "not there" in repr(analyst) and analyst.starts == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    with opened(tmp_path / "e.db") as tables:
        result = tables.result("e")
    assert result is not None and result.requests > 300


def test_one_that_dies_is_started_anew_and_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    with opened(tmp_path / "e.db") as tables:
        write(tables, made(2, 500))

    async def act(analyst: Watched) -> None:
        assert await analyst.look() == ""
        assert analyst.pid is not None
        os.kill(analyst.pid, signal.SIGKILL)
        with opened(tmp_path / "e.db") as tables:
            write(tables, made(3, 500))
        assert await analyst.look(60.0) == ""  # asked while it is away, or dying
        assert analyst.starts == 2

    lived(tmp_path / "e.db", act)
    with opened(tmp_path / "e.db") as tables:
        result = tables.result("e")
    assert result is not None and result.requests > 700


def test_one_that_cannot_start_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.001)
    counter = tmp_path / "count"
    script = f"open({str(counter)!r}, 'a').write('x'); print('what', flush=True)"

    async def act(analyst: Watched) -> None:
        asking = asyncio.create_task(analyst.look(60.0))
        for _ in range(3):
            await analyst.ends.get()
        await analyst.stop()
        assert "stopped" in await asking

    lived(tmp_path / "e.db", act, sys.executable, "-c", script)
    assert "cannot be read" in caplog.text and "a new one starts" in caplog.text
    caplog.clear()

    async def nowhere(analyst: Watched) -> None:
        asking = asyncio.create_task(analyst.look(60.0))
        for _ in range(3):
            await analyst.ends.get()
        await analyst.stop()
        assert "stopped" in await asking

    assert lived(tmp_path / "e.db", nowhere, str(tmp_path / "none")).starts == 0
    assert "did not start" in caplog.text


def test_one_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
    script = "import signal, sys\nfor _ in sys.stdin:\n print('{\"number\":1}', flush=True)\nsignal.pause()"

    async def act(analyst: Watched) -> None:
        assert await analyst.look() == ""

    assert lived(tmp_path / "e.db", act, sys.executable, "-c", script).pid is None


@pytest.mark.parametrize("asked", [False, True], ids=["soon", "now"])
def test_one_that_nobody_waits_for_steps_back_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    monkeypatch.setattr(module, "DELAY_SECONDS", 0.01)
    script = "import sys\nfor _ in sys.stdin:\n print('{\"number\":1}', flush=True)"

    async def act(analyst: Watched) -> None:
        if asked:
            assert await analyst.look() == ""
        pid = await asyncio.to_thread(eventually, lambda: analyst.pid, "the process")
        assert os.getpriority(os.PRIO_PROCESS, pid) == (os.nice(0) if asked else NICE)

    lived(tmp_path / "e.db", act, sys.executable, "-c", script)


def experimenting(engine: Engine, path: Path | None, **more: Any) -> dict[str, Any]:
    """A configuration with one route and an experiment `e` on it whose arms answer alike."""
    server: dict[str, Any] = {"experiments": {"path": str(path)}} if path is not None else {}
    return {
        "server": {"port": 0, "admin": {"port": 0}, "log": {"level": "error"}, **server, **more},
        "backends": {"fake": {"url": engine.url}},
        "routes": {"m": {"targets": [{"backend": "fake", "model": "fake"}]}},
        "experiments": {"e": {"route": "m", "key": "user", "arms": {"a": {}, "b": {}}, "feedback": {"liked": {"kind": "boolean"}}}},
    }


def parsed(config: dict[str, Any]) -> Config:
    return parse(json.dumps(config), {})


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine() as engine:
        assert file_of(parsed(experimenting(engine, tmp_path / "e.db"))) == str(tmp_path / "e.db")
        monkeypatch.setenv("XDG_STATE_HOME", "/state")
        assert file_of(parsed(experimenting(engine, None))) == "/state/pointsman/experiments.db"
        monkeypatch.delenv("XDG_STATE_HOME")
        monkeypatch.setenv("HOME", "/home/anna")
        assert file_of(parsed(experimenting(engine, None))) == "/home/anna/.local/state/pointsman/experiments.db"


def test_a_file_has_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    async def act() -> None:
        with Engine() as engine:
            config = parsed(experimenting(engine, None))
        one, other, worker = Wired(owner=True), Wired(owner=True), Wired(owner=False)
        await one.open(config)
        await one.open(config)  # as every reload does
        with pytest.raises(Fault, match="in use by another gateway"):
            await other.open(config)
        await worker.open(config)
        await worker.stop()
        await one.stop()
        await other.open(config)
        await other.stop()
        await other.stop()
        assert (tmp_path / "pointsman" / "experiments.db").stat().st_mode & 0o777 == 0o600

    asyncio.run(act())


def test_a_gateway_whose_file_cannot_be_used_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "e.db").write_text("no database, but as long as one that is a file of this kind " * 40)
    with Engine() as engine:
        config = parsed(experimenting(engine, tmp_path / "e.db"))
        with pytest.raises(SocketError, match="cannot be used"), gateway_of(config):
            pass


def told(process: Process, requests: int) -> Result | None:
    """What the API tells of the experiment, once it is of so many requests and of all feedback."""
    answer = httpx.get(process.admin + "/api/experiments/e", timeout=60)
    result = msgspec.json.decode(answer.content, type=Result) if answer.status_code == 200 else None
    return result if result is not None and (result.requests, result.feedback) == (requests, requests // 20) else None


def test_what_was_served_is_in_the_result(tmp_path: Path) -> None:
    """Through real processes: requests and feedback, first with one process, then on the same file with two workers."""
    path = tmp_path / "e.db"
    with Engine() as engine:
        for start in range(2):
            config = experimenting(engine, path, workers=start + 1)
            with serving(tmp_path, config) as process:
                for n in range(20):
                    answer = process.chat(user=f"user {n}")
                    assert answer.status_code == 200
                said = {"request": answer.headers["x-request-id"], "name": "liked", "value": True, "comment": f"start {start}"}
                answer = httpx.post(process.base + "/v1/feedback", json=said, timeout=60)
                assert answer.status_code == 200, answer.text
                result = eventually(partial(told, process, 20 * (start + 1)), "a result of everything")
    with opened(path) as tables:
        seen = [one for chunk in tables.chunks(0, 10_000) for one in chunk.seen]
    assert len(seen) == 40 and len({(one.unit, one.arm) for one in seen}) == 20  # the same arms again
    assert (result.requests, result.units, result.feedback) == (40, 20, 2)
    again = analyse_file(str(path), design("e", parsed(config).experiments["e"]))
    assert (again.requests, again.units, again.comments) == (40, 20, ["start 1", "start 0"])


def test_a_reload_begins_and_ends_experiments_and_keeps_the_store(tmp_path: Path) -> None:
    with Engine() as engine:
        config = parsed(experimenting(engine, tmp_path / "e.db"))
        plain = msgspec.structs.replace(config, experiments={})
        with gateway_of(plain) as gateway:
            assert gateway.gateway.wired.store is None and gateway.ask(chat(user="u")).status == 200
            gateway.run(gateway.gateway.adopt(config))
            store = gateway.gateway.wired.store
            assert store is not None and gateway.ask(chat(user="u")).status == 200
            gateway.run(store.flush())
            gateway.run(store.act("e", State("e", "stopped"), "anna", "stop"))
            assert gateway.ask(chat(user="u")).status == 200  # by the route as it is
            gateway.run(gateway.gateway.adopt(plain))
            assert gateway.gateway.wired.store is store and gateway.gateway.core.trials is None
            assert gateway.ask(chat(user="u")).status == 200
            gateway.run(gateway.gateway.adopt(config))
            assert gateway.gateway.wired.store is store
            assert gateway.ask({"session": "u", "name": "liked", "value": True}, "/v1/feedback").status == 200
    with opened(tmp_path / "e.db") as tables:
        assert sum(len(chunk.seen) for chunk in tables.chunks(0, 100)) == 1
        assert tables.states()["e"].status == "stopped"


def test_a_reload_whose_file_is_taken_changes_nothing(tmp_path: Path) -> None:
    with Engine() as engine:
        config = parsed(experimenting(engine, tmp_path / "e.db"))
        plain = msgspec.structs.replace(config, experiments={})
        with gateway_of(config), gateway_of(plain) as other:
            with pytest.raises(ValueError, match="in use by another gateway"):
                other.run(other.gateway.adopt(config))
            assert other.gateway.configuration is plain and "in use" in other.gateway.warnings()[0]
            assert other.ask(chat(user="u")).status == 200
