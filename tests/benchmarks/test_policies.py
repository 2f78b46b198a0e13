"""The benchmark of policies: its chats, its table, and a run against a real gateway."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overhead import chats, cli, policies
from benchmarks.overhead.peers import Site
from benchmarks.overhead.target import body
from tests.benchmarks.programs import free_port, needs_cc, needs_load

POINTSMAN = f"{sys.executable} -m gateway"


def test_chats_grow_turn_by_turn_among_each_other() -> None:
    lines = list(chats.bodies("m", 40))
    assert len(lines) == 40 * chats.TURNS == len(set(lines)) and lines == list(chats.bodies("m", 40))
    assert all(line.count(chats.PLACE) == 1 and "\n" not in line for line in lines)
    assert 1.8 * 1024 < min(map(len, lines)) and max(map(len, lines)) < 8.2 * 1024
    seen: dict[str, list[Any]] = {}
    jumps = 0
    last = ""
    for line in lines:
        messages = json.loads(line)["messages"]
        key = messages[1]["content"]
        before = seen.get(key)
        assert before is None or messages[: len(before)] == before
        seen[key] = messages
        jumps += key != last
        last = key
    assert len(seen) == 40 and jumps > 200 and len({m[0]["content"] for m in seen.values()}) == chats.APPS


def test_the_same_request_for_all() -> None:
    asked = body("m", False)
    for named in (False, True):
        lines = list(chats.same(asked, named=named))
        assert all(line.count(chats.PLACE) == 1 and "\n" not in line for line in lines)
        docs = [json.loads(line) for line in lines]
        assert len({doc.pop("user", None) for doc in docs}) == (64 if named else 1)
        assert all(doc == json.loads(asked) | {"metadata": {"pass": chats.PLACE}} for doc in docs)


def test_the_configurations(tmp_path: Path) -> None:
    site = Site(tmp_path, tmp_path, 1000, 2000, ("pointsman",))
    config = json.loads(policies.config(site, "kv_aware"))
    assert config["backends"]["gpu"]["urls"] == [f"http://127.0.0.1:{2000 + at}/v1" for at in range(8)]
    assert config["routes"]["mock-sized"] == {"targets": [{"backend": "gpu", "model": "mock-sized"}], "policy": "kv_aware"}
    assert isinstance(policies.make("vllm-cache-aware", site), str)  # it is not installed there


def phase(rps: float) -> dict[str, float]:
    return {"rps": rps, "cpu_us_per_req": 50.0, "p50": 1000.0, "bad_status": 0.0, "sock_err": 1.0, "foreign0": 0.0, "foreign1": 0.0}


def test_the_table() -> None:
    rounds = {
        name: [{"c16": phase(rps), "c64": phase(2 * rps), "rss": {"mib": 60.0}} for rps in rates]
        for name, rates in {"weighted": (1000, 1200, 900), "kv_aware": (700, 720, 900), "vllm-cache-aware": (200, 200, 200)}.items()
    }
    result = {
        "when": "now", "secs": 3.0, "machine": {"cores": "2"}, "notes": {"weighted": {"version": "1", "about": "so"}},
        "failed": {"other": "no"}, "rounds": {**rounds, "other": []},
    }  # fmt: skip
    text = policies.markdown(result)
    assert "| weighted | 1,000 | 50 | 1.00 | 3 | 2,000 | 50 | 1.00 | 3 | 60 | 0/6 |" in text and "- other: FAILED: no" in text
    assert "kv_aware / weighted at c16: 0.70 (quartiles 0.65 to 0.85); the bar of 0.65 is held." in text
    assert "kv_aware / vllm-cache-aware at c64: 3.60 (quartiles 3.55 to 4.05); the bar of 4 is missed." in text
    assert "in its file" not in text
    for count, said in ((99_950, "99,950 of 100,000 answered requests are in its file, all of them."), (9_000, "NOT ALL")):
        assert said in policies.markdown({**result, "written": {"answered": 100_000, "in_file": count}})


@needs_cc
@needs_load
@pytest.mark.timeout(180)
@pytest.mark.parametrize("more", [(), ("--same",)])
def test_it_measures(more: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "CONVERSATIONS", 20)
    port = free_port(*range(1, 8), 100, 101, 102)
    flags = ["--policies", "--peers", "weighted,kv_aware,experiment", "--rounds", "1", "--secs", "1", "--port", str(port)]
    flags += ["--cache", str(tmp_path), *more]
    assert cli.main([*flags, "--pointsman", POINTSMAN]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in out.splitlines() if row.startswith("| ")]
    assert [row[0] for row in rows[2:]] == ["weighted", "kv_aware", "experiment"]
    assert all(float(row[1].replace(",", "")) > 0 for row in rows[2:])
    assert out.count("kv_aware / weighted at ") == 2 and "raw results: " in err
    assert "answered requests are in its file, all of them." in out


@needs_cc
@needs_load
def test_what_cannot_be_measured_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["--policies", "--cache", str(tmp_path), "--pointsman", "/bin/false", "--port", str(free_port(*range(1, 8), 100))]
    assert cli.main([*common, "--peers", "unheard"]) == 2 and "unknown: unheard" in capsys.readouterr().err
    assert cli.main([*common, "--peers", "vllm-cache-aware"]) == 2 and "not installed" in capsys.readouterr().err
    assert cli.main([*common, "--peers", "weighted", "--rounds", "2", "--secs", "1"]) == 1
    out, err = capsys.readouterr()
    assert "weighted: FAILED" in out and err.count("FAILED") == 1
