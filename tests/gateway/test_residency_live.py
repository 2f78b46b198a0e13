"""Engines that come and go, as a user starts them: real processes of the built-in model behind `pointsman serve`."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import cli
from tests.gateway.serving import Process, eventually, serving

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def config(count: int, *, memory: Any = "120MiB", workers: int = 1, resident: dict[str, Any] | None = None) -> dict[str, Any]:
    toy = {"engine": "llamacpp", "model": "builtin", "context": 512, "slots": 2, "threads": 1, "resident": resident or {}}
    server = {"port": 0, "admin": {"port": 0}, "memory": memory, "workers": workers, "log": {"level": "info", "format": "json"}}
    return {"server": server, "backends": {f"toy{i}": toy for i in range(count)}}


def engines(process: Process) -> dict[str, Any]:
    view = process.status()["residency"]
    assert view["budget"] is None or sum(e["held"] for e in view["engines"]) <= 1.03 * view["budget"], view
    return {e["name"]: e for e in view["engines"]}


def states(process: Process) -> dict[str, str]:
    return {name: e["state"] for name, e in engines(process).items()}


def ask(process: Process, model: str, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    body = {"model": model, "messages": QUESTION, **more}
    return httpx.post(f"{process.base}/v1/chat/completions", json=body, headers=headers, timeout=60)


def pointsman(process: Process, *words: str) -> int:
    return cli.main([*words, "--admin-url", process.admin])


def test_models_come_with_their_calls_and_go_for_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path, config(3)) as process:
        assert set(states(process).values()) == {"unloaded"}
        assert httpx.get(f"{process.base}/ready").status_code == 200, "it can answer, if not at once"
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda n=n: answers.append(ask(process, f"toy{n % 3}"))) for n in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 9 and all(a.status_code == 200 for a in answers), [a.text for a in answers]
        found = engines(process)
        assert sum(e["loads"] for e in found.values()) == 3 and len([e for e in found.values() if e["state"] == "loaded"]) <= 2
        metrics = process.get("/metrics").text
        assert 'pointsman_engine_unloads_total{backend="' in metrics and 'why="room"' in metrics
        assert "pointsman_memory_budget_bytes 125829120" in metrics

        assert pointsman(process, "ps") == 0
        told = capsys.readouterr().out
        assert "toy2" in told and "a budget of 120 MiB" in told
        gone = next(name for name, state in states(process).items() if state == "unloaded")
        assert pointsman(process, "load", gone) == 0 and f"{gone} is loaded" in capsys.readouterr().out
        assert pointsman(process, "unload", gone, "--json") == 0
        assert json.loads(capsys.readouterr().out)["state"] == "unloaded"
        assert pointsman(process, "load", "none") == 1
        assert "There is no engine 'none'; there are: toy0, toy1, toy2." in capsys.readouterr().err


def test_a_stream_hears_how_far_its_model_is(tmp_path: Path) -> None:
    slow = config(1, memory=None)
    # The gate lets the engine start only once the client has read a comment: no race, whatever the machine does.
    gate = tmp_path / "gate"
    slow["backends"]["toy0"] |= {
        "engine": "command",
        "memory": None,
        "command": ["sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done; exec false"],
    }
    for field in ("model", "context", "memory"):
        slow["backends"]["toy0"].pop(field)
    with serving(tmp_path, slow) as process:
        body = {"model": "toy0", "messages": QUESTION, "stream": True}
        with httpx.stream("POST", f"{process.base}/v1/chat/completions", json=body, timeout=60) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            assert next(lines) == ": loading toy0 0 %"
            gate.touch()
            rest = [line for line in lines if line.startswith("data:")]
        error = json.loads(rest[-1].removeprefix("data: "))["error"]
        assert error["code"] == "no_replica" and "toy0" in error["message"]
        assert states(process) == {"toy0": "failed"}


def test_run_loads_a_model_and_talks_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path, config(1)) as process:
        monkeypatch.setattr("sys.stdin", io.StringIO("What is the capital of France?\n"))
        assert pointsman(process, "run", "toy0", "--url", process.base) == 0
        assert "Paris" in capsys.readouterr().out and engines(process)["toy0"]["loads"] == 1
        assert pointsman(process, "run", "toy7", "--url", process.base) == 1
        assert "there is no model toy7; there are: toy0" in capsys.readouterr().err


def test_how_long_it_stays_is_said_by_the_model_and_by_a_request(tmp_path: Path) -> None:
    with serving(tmp_path, config(2, memory=None, resident={"idle_seconds": 600})) as process:
        assert ask(process, "toy0", headers={"x-pointsman-keep-loaded": "0"}).status_code == 200
        assert ask(process, "toy1", headers={"x-pointsman-keep-loaded": "forever"}).status_code == 200
        eventually(lambda: states(process) == {"toy0": "unloaded", "toy1": "loaded"} or None, "the end of toy0")
        assert engines(process)["toy1"]["unload_in"] is None
        bad = ask(process, "toy1", headers={"x-pointsman-keep-loaded": "-1"})
        assert bad.status_code == 400 and bad.json()["error"]["code"] == "bad_keep_loaded"


def test_an_engine_that_dies_idle_is_not_there_and_the_next_call_loads_it(tmp_path: Path) -> None:
    with serving(tmp_path, config(1)) as process:
        assert ask(process, "toy0").status_code == 200
        pid = next(e["pid"] for e in process.status()["engines"])
        os.killpg(pid, signal.SIGKILL)
        eventually(lambda: states(process) == {"toy0": "unloaded"} or None, "the engine's end")
        assert ask(process, "toy0").status_code == 200
        assert states(process) == {"toy0": "loaded"}


def test_a_reload_of_residency_alone_keeps_the_engine_and_what_cannot_fit_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, config(1)) as process:
        assert ask(process, "toy0").status_code == 200
        pid = process.status()["engines"][0]["pid"]
        process.write(config(1, resident={"pin": True}))
        process.process.send_signal(signal.SIGHUP)
        eventually(lambda: engines(process)["toy0"]["pinned"] or None, "the reload")
        assert process.status()["engines"][0]["pid"] == pid
        made = config(2, memory="10MiB")
        process.write(made)
        process.process.send_signal(signal.SIGHUP)
        # Not by `engines`: the pinned one holds more than this budget already, and stays.
        eventually(lambda: len(process.status()["residency"]["engines"]) == 2 or None, "the second reload")
        refused = ask(process, "toy1")
        assert refused.status_code == 503, refused.text
        assert "the budget is 10.0 MiB" in refused.json()["error"]["message"]


def test_workers_tell_the_parent_what_they_want(tmp_path: Path) -> None:
    with serving(tmp_path, config(3, workers=2)) as process:
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda n=n: answers.append(ask(process, f"toy{n % 3}"))) for n in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 12 and all(a.status_code == 200 for a in answers), [a.text for a in answers]
        assert sum(e["loads"] for e in engines(process).values()) >= 3
        assert 'pointsman_engine_loads_total{backend="toy0"}' in process.get("/metrics").text
