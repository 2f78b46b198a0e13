"""All gateways at once before one mock, measured by `pointsman bench overhead`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.overhead import cli, together
from benchmarks.overhead.peers import Site
from tests.benchmarks.programs import free_port, needs_cc, needs_load

POINTSMAN = f"{sys.executable} -m gateway"


def test_each_has_a_folder_and_ports_of_its_own(tmp_path: Path) -> None:
    site = Site(tmp_path, tmp_path, 1100, 1000, ("pointsman",))
    placed = together.sites(site, ["a", "b"])
    assert {name: (one.run.name, one.port, one.upstream) for name, one in placed.items()} == {
        "a": ("a", 1100, "http://127.0.0.1:1000"), "b": ("b", 1101, "http://127.0.0.1:1000"),
    }  # fmt: skip
    words = together.command(site, placed, 5, 2.5, tmp_path / "out.md")
    assert words[:6] == ["pointsman", "bench", "overhead", "a=http://127.0.0.1:1100", "b=http://127.0.0.1:1101", "http://127.0.0.1:1000"]
    assert words[words.index("--repeats") + 1] == "5" and words[words.index("--seconds") + 1] == "2.5"


@needs_cc
@needs_load
@pytest.mark.timeout(240)
def test_it_measures(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, port = tmp_path / "together.md", free_port(100, 101)
    flags = ["--together", str(out), "--peers", "pointsman,pointsman-asgi", "--rounds", "1", "--secs", "1", "--port", str(port)]
    status = cli.main([*flags, "--cache", str(tmp_path), "--pointsman", POINTSMAN])
    said = capfd.readouterr()
    assert status in (0, 1), said.err  # 1: this machine was too busy for the client's stamps
    text = out.read_text()
    for name in ("pointsman", "pointsman-asgi"):
        assert f"| {name} | streams | 16 | TTFT | p50 |" in text and f"| {name} | whole answers | 16 |" in text
    assert "| null server |" in text and "does not list" not in said.err


@needs_cc
@needs_load
def test_what_cannot_be_measured_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["--together", str(tmp_path / "o.md"), "--cache", str(tmp_path), "--port", str(free_port(100))]
    assert cli.main([*common, "--pointsman", "/bin/false", "--peers", "vllm-router"]) == 2 and "not installed" in capsys.readouterr().err
    assert cli.main([*common, "--pointsman", "/bin/false", "--peers", "pointsman"]) == 2 and "ended with 1" in capsys.readouterr().err
