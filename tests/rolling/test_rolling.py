"""Two gateways behind a real balancer with the project's own file: restarted under load, and with Redis killed; nothing may be lost."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overhead.tools import find
from benchmarks.rolling import cli
from benchmarks.rolling.load import Plan, Seen, percentile, split
from benchmarks.rolling.site import BALANCERS, FILES, WRITTEN, Site, replaced, until

POINTSMAN = f"{sys.executable} -m gateway"
needs_redis = pytest.mark.skipif(find("redis-server") is None or find_spec("redis") is None, reason="needs redis-server and redis-py")


def balancer(kind: str) -> str:
    if find(kind) is None:
        pytest.skip(f"{kind} is not installed: apt-get install {'nginx-light' if kind == 'nginx' else kind}")
    return kind


def run(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], str]:
    """The raw figures and the table of a run in which nothing was lost."""
    out = folder / "out.json"
    code = cli.main(["--pointsman", POINTSMAN, "--json", str(out), *words])
    said = capsys.readouterr()
    assert code == 0, said.out + said.err
    return json.loads(out.read_text()), said.out


@pytest.mark.full
@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
def test_a_rolling_restart_loses_nothing(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"--requests 2000 --streams 50 --rate 180 --tokens 100 --notice 1.5 --pause 0 --restarts 2 --balancer {balancer(kind)}"
    found, table = run(tmp_path, capsys, *words.split())
    seen, told = found["seen"], found["told"]
    assert len(seen["calls"]) >= 2000 and len(seen["streams"]) >= 50 and not seen["failed"] and not seen["broken"]
    assert len(told["ends"]) >= 2, "each gateway was restarted under load"
    stops = [(first, first + took) for (first, _), took in zip(told["windows"], told["ends"], strict=True)]
    assert any(begun < first < ended for begun, ended in seen["streams"] for first, _ in stops), (
        "a stream ran when its gateway was told to stop"
    )
    assert f"| requests, failed | {len(seen['calls']):,}, 0 |" in table and "| streams of 2.0 s, broken | " in table


def test_a_restart_under_a_few_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = balancer("haproxy" if find("haproxy") else "nginx")
    words = f"--requests 60 --streams 3 --rate 60 --tokens 20 --notice 0.8 --pause 0 --restarts 1 --balancer {kind}"
    found, table = run(tmp_path, capsys, *words.split())
    seen, told = found["seen"], found["told"]
    assert len(seen["calls"]) >= 60 and len(told["ends"]) >= 1 and not seen["failed"] and not seen["broken"]
    assert f"| restarts | {len(told['ends'])} |" in table


def test_all_that_seem_to_be_gone_are_asked_all_the_same(tmp_path: Path) -> None:
    balancer("haproxy")
    with Site(POINTSMAN.split(), tmp_path, "haproxy", notice=60.0, redis=False) as site:
        for gateway in site.gateways:
            os.kill(gateway.pid, signal.SIGTERM)  # both in their notice: each check fails, each call is served
        until(lambda: ",a,DOWN" in (said := site.balancer.states()) and ",b,DOWN" in said, "both gateways down in HAProxy's eyes")
        request = urllib.request.Request(
            f"http://127.0.0.1:{site.balancer.port}/v1/chat/completions",
            b'{"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}', {"Content-Type": "application/json"},
        )  # fmt: skip
        for _ in range(4):
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert answer.status == 200 and json.load(answer)["choices"][0]["finish_reason"]


@pytest.mark.full
@pytest.mark.timeout(240)
@needs_redis
def test_redis_is_killed_and_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = balancer("haproxy" if find("haproxy") else "nginx")
    found, table = run(tmp_path, capsys, *f"--requests 1000 --streams 20 --rate 100 --tokens 50 --redis --balancer {kind}".split())
    seen, told = found["seen"], found["told"]
    assert len(seen["calls"]) >= 1000 and len(seen["streams"]) >= 20 and not seen["failed"] and not seen["broken"]
    steps = ["joined", "Redis killed", "each decides alone", "Redis back", "connected again", "joined again"]
    assert [step for said, step in zip(told["redis"], steps, strict=True) if said.startswith(step)] == steps
    assert "Redis away" in table


@pytest.mark.parametrize("kind", FILES)
def test_the_balancers_files_are_valid(kind: str, tmp_path: Path) -> None:
    program = find(balancer(kind))
    assert program is not None
    file = tmp_path / FILES[kind]
    text = replaced((BALANCERS / FILES[kind]).read_text(), 18080, [18484, 18494], tmp_path)
    assert not any(place in text for place in WRITTEN) and "127.0.0.1:18494" in text and "/run/" not in text
    file.write_text(text)
    words = ["-c", "-f", str(file)] if kind == "haproxy" else ["-t", "-q", "-e", "stderr", "-c", str(file)]
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr.lower(), done.stderr


def test_a_file_that_says_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must say 127\.0\.0\.1:8484"):
        replaced("bind 127.0.0.1:8080", 1, [2, 3], tmp_path)


def test_figures() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0 and percentile([1.0, 2.0], 1.0) == 2.0 and math.isnan(percentile([], 0.5))
    inside, outside = split([(0.0, 1.0), (1.5, 2.5), (2.0, 5.0), (7.0, 8.0)], [(2.0, 3.0), (4.0, 6.0)])
    assert inside == [1.0, 3.0] and outside == [1.0, 1.0]


def test_calls_and_streams_are_spread_evenly() -> None:
    plan = Plan(4, 2, 2.0, 1)
    assert [*islice(plan.dues(), 7)] == [(0.0, True), (0.0, False), (0.5, False), (1.0, True), (1.0, False), (1.5, False), (2.0, True)]
    assert [*islice(Plan(4, 0, 2.0, 1).dues(), 2)] == [(0.0, False), (0.5, False)]


def test_what_is_lost_is_told_and_fails() -> None:
    seen = Seen(calls=[(0.0, 0.5)], streams=[(0.0, 3.0)])
    seen.failed["status 502: bad"] += 1
    text = cli.table("nginx", Plan(1, 1, 1.0, 150), seen, cli.Told(ends=[2.0], windows=[(0.0, 2.0)]))
    assert (
        "| requests, failed | 1, 1 |" in text
        and "| failed: status 502: bad | 1 |" in text
        and "| streams of 3.0 s, broken | 1, 0 |" in text
    )


def test_a_run_that_lost_something_leaves_its_figures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = Seen(calls=[(0.0, 0.5)])
    seen.failed["status 502: bad"] += 2
    monkeypatch.setattr(cli, "Site", lambda *_: nullcontext())
    monkeypatch.setattr(cli, "measure", lambda *_: (seen, cli.Told()))
    out = tmp_path / "out.json"
    assert cli.main(["--pointsman", POINTSMAN, "--json", str(out)]) == 1
    assert json.loads(out.read_text())["seen"]["failed"] == {"status 502: bad": 2}


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.rolling.site.find", lambda name: None)
    assert cli.main(["--pointsman", POINTSMAN]) == 2 and "apt-get install haproxy" in capsys.readouterr().err
    monkeypatch.setattr(cli, "find_pointsman", lambda given: None)
    assert cli.main([]) == 2 and "--pointsman" in capsys.readouterr().err


def test_a_gateway_that_does_not_start_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    kind = "haproxy" if find("haproxy") else "nginx"
    assert cli.main(["--pointsman", shutil.which("false") or "false", "--balancer", balancer(kind)]) == 1
    assert "gateway a did not come" in capsys.readouterr().err
