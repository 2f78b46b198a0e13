"""The benchmarks that start gateways and judge them: accounting, fairness, embeddings. Small, against a real gateway."""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.accounting import cli as accounting
from benchmarks.accounting import clients
from benchmarks.accounting.world import POLICIES, ROUTES, UPSTREAMS, World
from benchmarks.embeddings import cli as embeddings
from benchmarks.fairness import cli as fairness
from benchmarks.fairness.load import Load
from gateway.config import parse

POINTSMAN = f"{sys.executable} -m gateway"


def test_every_topology_is_a_good_configuration(tmp_path: Path) -> None:
    world = World(["pointsman"], tmp_path, random.Random(5), 2, POLICIES)
    for number in range(50):
        world.write(world.config(full=not number))
        config = parse(world.file.read_text(), {})
        assert {*config.routes} == {*ROUTES} and config.server.workers == 2 and 2 <= len(config.backends["many"].urls) <= UPSTREAMS


def test_what_an_end_is() -> None:
    good = (b"data: {}\n\ndata: [DONE]\n\n", b'data: {"error":{}}\n\n', b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert all(clients._ended(one) for one in good) and not clients._ended(b"data: {}\n\n") and not clients._ended(b"")


def test_clients_leave_in_every_state() -> None:
    made = [clients.Client(random.Random(seed), 1) for seed in range(400)]
    assert {one.stage for one in made} == {*clients.STAGES} and {one.api for one in made} == {*clients.APIS}
    assert all(one.stage in ("head", "body", "sent", "wait") for one in made if one.fail == "mute")
    assert all(one.body() for one in made)


@pytest.mark.timeout(300)
def test_accounting(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--requests", "60", "--at-once", "12", "--every", "20", "--pointsman", POINTSMAN, "--keep", str(tmp_path)]
    assert accounting.main(flags) == 0, "".join(capsys.readouterr())
    out = capsys.readouterr().out
    assert out.startswith("60 requests in ") and "At rest: everything; looked at " in out and "pointsman_requests_in_flight" in out


def test_accounting_says_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(["pointsman"], tmp_path, random.Random(1), 1, POLICIES)
    gauges = {
        "pointsman_requests_in_flight": 0, 'pointsman_replica_in_flight{replica="a"}': 2, 'pointsman_scheduler_bookings{route="kv"}': 1,
        "other_total": 5,
    }  # fmt: skip
    counts = {port: b'{"begun": 0, "over": 0}' for port in world.ports} | {world.ports[0]: b'{"begun": 3, "over": 1}'}
    monkeypatch.setattr(World, "metrics", lambda self: "".join(f"{name} {value}\n" for name, value in gauges.items()))
    monkeypatch.setattr(World, "status", lambda self: {"inflight_total": 1, "replicas": [{"name": "a", "inflight": 2}]})
    monkeypatch.setattr(accounting, "get", lambda port, path: (200, counts[port]))
    left = accounting.left_over(world)
    assert left[:2] == ['pointsman_replica_in_flight{replica="a"} = 2', 'pointsman_scheduler_bookings{route="kv"} = 1'] and len(left) == 5
    report = accounting.report(world, Counter({"200": 2, "BROKEN: no": 1}), 3.0, left, 1)
    assert "3 requests in 3 s" in report and "At rest: NOT" in report and "| BROKEN: no | 1 |" in report and "tells of 1 bugs" in report


@pytest.mark.timeout(300)
def test_fairness(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.fairness.load.PATIENCE", 2.0)
    flags = ["--seconds", "2", "--upstreams", "2", "--prefill", "0.1", "--policy", "weighted", "--pointsman", POINTSMAN]
    assert fairness.main(flags) in (0, 1)
    out, err = capsys.readouterr()
    assert not err and out.startswith("2 upstreams, 0.1 s a prompt: 20 requests/s.") and out.count("(bar ") == 2 and "| the flood |" in out


def test_fairness_bars() -> None:
    def load(rate: float, ttft: float, **outcomes: int) -> Load:
        return Load("k", rate, 10, 1, ttft=[ttft] * 10, outcomes=Counter(outcomes), in_time=outcomes["200"])

    a = fairness.parser().parse_args(["--seconds", "10"])  # 100 requests
    flood, alone = load(1, 5.0, **{"200": 10, "429": 90}), load(1, 0.4, **{"200": 10})
    beside = {fairness.QUIET: load(1, 0.5, **{"200": 10}), fairness.LOUD: flood}
    text, held = fairness.report(a, alone, beside, load(1, 1.0, **{"200": 95}))
    assert held and "alone: 1.25 (bar 1.5: held)" in text and "gets 95% (bar 90%: held)" in text
    beside[fairness.QUIET] = load(1, 0.1, **{"200": 9, "429": 1})
    text, held = fairness.report(a, alone, beside, flood)
    assert not held and "alone: inf (bar 1.5: missed)" in text and "gets 10% (bar 90%: missed)" in text
    assert Load("k", 1.0, 1, 1).quantile(0.95) == float("inf")


@pytest.mark.timeout(300)
def test_embeddings(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--clients", "1", "12", "--rounds", "1", "--secs", "1", "--call", "0.02", "--pointsman", POINTSMAN]
    assert embeddings.main(flags) == 0, capsys.readouterr().err
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in capsys.readouterr().out.splitlines()]
    assert rows[0][0] == "clients" and [row[0] for row in rows[2:]] == ["1", "12"]
    assert float(rows[2][1]) == 1.0 and float(rows[3][1]) > 1.5


@pytest.mark.parametrize("main", [accounting.main, fairness.main, embeddings.main])
def test_what_cannot_be_run_is_said(main: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(main)
    for module in (accounting, fairness, embeddings):
        monkeypatch.setattr(module, "find_pointsman", lambda given: None)
    assert main([]) == 2 and "not installed" in capsys.readouterr().err
