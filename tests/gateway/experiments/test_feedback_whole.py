"""Feedback, results and actions through whole gateways, with one process and with workers, over restarts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import main
from tests.fakes.engine import Engine
from tests.gateway.serving import DEADLINE, Process, eventually, serving

USERS = 24


def config(engine: Engine, folder: Path, workers: int) -> dict[str, Any]:
    return {
        "server": {
            "port": 0, "workers": workers, "admin": {"port": 0}, "experiments": {"path": str(folder / "experiments.db")},
            "log": {"level": "warning", "format": "json"},
        },
        "backends": {"fake": {"url": engine.url}},
        "routes": {"m": {"targets": [{"backend": "fake", "model": "fake"}]}},
        "experiments": {
            "mini": {
                "route": "m", "key": "user", "primary": "feedback:thumbs", "feedback": {"thumbs": {}, "stars": {"kind": "mean"}},
                "arms": {"control": {}, "small": {"parameters": {"temperature": 0}}},
            }
        },
    }  # fmt: skip


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A connection of its own for each request, so that every worker gets some; certificates are read just once."""
    with httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=DEADLINE, trust_env=False) as client:
        yield client


def ask(http: httpx.Client, process: Process) -> list[httpx.Response]:
    """One answer for each user."""
    body = {"model": "m", "messages": [{"role": "user", "content": "two words"}]}
    return [http.post(process.base + "/v1/chat/completions", json={**body, "user": f"user-{n}"}) for n in range(USERS)]


def say(http: httpx.Client, process: Process, doc: Any, key: str = "") -> httpx.Response:
    return http.post(process.base + "/v1/feedback", json=doc, headers={"idempotency-key": key} if key else {})


def known(http: httpx.Client, process: Process) -> dict[str, Any]:
    found: dict[str, Any] = http.get(process.admin + "/api/experiments/mini").json()
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_what_clients_say_counts_and_what_operators_do_holds(
    workers: int, tmp_path: Path, http: httpx.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    with Engine() as engine:
        made = config(engine, tmp_path, workers)
        with serving(tmp_path, made) as process:
            answers = ask(http, process)
            ids = [answer.headers["x-request-id"] for answer in answers]
            assert len(set(ids)) == USERS and all(answer.status_code == 200 for answer in answers)
            compared = say(http, process, {"request": ids[0], "name": "thumbs", "value": {"better_than": ids[1]}})
            assert compared.status_code == 200 and compared.json()["accepted"] == 1, compared.text
            assert say(http, process, {"session": "user-2", "name": "stars", "value": 4}).status_code == 200
            rest = {"items": [{"request": id, "name": "thumbs", "value": True} for id in ids[3:]]}
            first, again = say(http, process, rest, "k"), say(http, process, rest, "k")
            assert first.status_code == again.status_code == 200 and first.json() == again.json()
            wrong = say(http, process, {"request": ids[0], "name": "thumb", "value": True})
            assert wrong.status_code == 400 and "did you mean 'thumbs'?" in wrong.text
            said = 2 + 1 + USERS - 3

            found = eventually(
                lambda: r if (r := known(http, process))["feedback"] == said and r["units"] == USERS else None, "all of it to count"
            )
            assert found["requests"] == USERS and sum(arm["units"] for arm in found["arms"]) == USERS
            report = http.get(process.admin + "/api/experiments/mini/report")
            assert report.status_code == 200 and found["headline"][:20] in report.text
            assert process.status()["experiments"] == 1

            assert main(["experiments", "stop", "mini", "--promote", "small", "--reason", "enough", "--admin-url", process.admin]) == 0
            assert main(["experiments", "ls", "--admin-url", process.admin]) == 0
            assert capsys.readouterr().out.splitlines()[0] == "mini is promoted: everybody gets small"
            assert say(http, process, {"request": ids[2], "name": "thumbs", "value": False}).status_code == 200
        with serving(tmp_path, made) as process:
            found = eventually(lambda: r if (r := known(http, process))["feedback"] == said + 1 else None, "late feedback, after a restart")
            assert (found["status"], found["winner"], found["units"]) == ("promoted", "small", USERS)
            assert [(act["actor"], act["action"], act["detail"]) for act in found["audit"]][-1] == (
                "command line",
                "promote",
                "small: enough",
            )

            del made["experiments"]
            process.write(made)
            gone = eventually(lambda: a if (a := say(http, process, rest, "k")).status_code == 404 else None, "the reload")
            assert gone.json()["error"]["code"] == "no_experiments"
            assert http.get(process.admin + "/api/experiments").json() == {"experiments": []}
    assert main(["experiments", "show", "mini", "--json", "--store", str(tmp_path / "experiments.db")]) == 0
    assert json.loads(capsys.readouterr().out)["feedback"] == said + 1
