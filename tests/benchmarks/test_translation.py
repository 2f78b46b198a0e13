"""The translation benchmark against a real gateway: it measures, translates all that the mock sends, and says what it cannot."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks.overhead.peers import Site
from benchmarks.translation import cli
from tests.benchmarks.programs import free_port, needs_cc
from tests.benchmarks.test_mock import Wire, request

POINTSMAN = f"{sys.executable} -m gateway"
needs_taskset = pytest.mark.skipif(shutil.which("taskset") is None, reason="needs taskset: the gateway is held to a core")


@needs_cc
@needs_taskset
@pytest.mark.timeout(180)
def test_it_measures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    flags = ["--rounds", "1", "--secs", "2", "--streams", "4", "--paced", "100", "--port", str(free_port(100)), "--cache", str(tmp_path)]
    assert cli.main([*flags, "--pointsman", POINTSMAN]) == 0, capsys.readouterr().err
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in out.splitlines() if row.startswith("| ")]
    assert [row[0] for row in rows] == ["wire", *cli.WIRES] * 2
    for row in rows[1:4] + rows[5:]:
        assert float(row[1].replace(",", "")) > 0 and row[-1] == "0"
    assert rows[1][3] == rows[5][3] == "1.00" and out.count("The bar, 3 times the relay, is ") == 2
    assert "4 streams without pause" in err and "a chunk every 20 ms" in err


def test_what_cannot_be_measured_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "find_pointsman", lambda given: None)
    assert cli.main([]) == 2 and "not installed" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "")
    assert cli.main(["--pointsman", "/bin/false", "--cache", str(tmp_path)]) == 2 and "cc" in capsys.readouterr().err


@needs_cc
@needs_taskset
def test_a_gateway_that_ends(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["--pointsman", "/bin/false", "--port", str(free_port(100)), "--cache", str(tmp_path)]) == 1
    assert "ended with 1" in capsys.readouterr().err


def test_the_table() -> None:
    def phase(us: float) -> dict[str, float]:
        return {"cpu_us": us, "relay_n": 1000.0, "window_s": 0.5, "gw_util": 0.25, "lost": 1.0}

    found = {"slow": {"relay": [phase(10), phase(20)], "gemini": [phase(40), phase(50)]}}
    lines = cli.table(found).splitlines()
    assert lines[0] == "**slow.**" and lines[4] == "| relay | 2,000 | 15.00 | 1.00 | 1.00 | 1.00 | 0.25 | 2 |"
    assert lines[5] == "| gemini | 2,000 | 45.00 | 3.25 | 2.50 | 4.00 | 0.25 | 2 |" and lines[7].endswith("is missed.")


def test_every_wire_has_its_routes(tmp_path: Path) -> None:
    found = json.loads(cli.config(Site(tmp_path, tmp_path, 2, 1)))
    assert {f"{wire}-{ms}" for wire in cli.WIRES for ms in (0, cli.CADENCE_MS)} | {"mock", "mock-64x0ms"} == found["routes"].keys()
    assert {b.get("kind") for b in found["backends"].values()} == {None, "anthropic", "gemini"}


@needs_cc
def test_the_mock_speaks_them(mock_port: int) -> None:
    with Wire(mock_port) as wire:
        wire.socket.sendall(request({"model": "mock-3x0ms", "stream": True}, "/v1/messages"))
        found = b"".join(wire.stream()).decode()
        events = [json.loads(block.split("data: ")[1]) for block in found.split("\n\n") if block]
        assert [block.split("\n")[0].removeprefix("event: ") for block in found.split("\n\n") if block] == [e["type"] for e in events]
        assert [e["type"] for e in events] == [
            "message_start", "content_block_start", "ping", *["content_block_delta"] * 3, "content_block_stop", "message_delta",
            "message_stop",
        ]  # fmt: skip
    with Wire(mock_port) as wire:
        wire.socket.sendall(request({"contents": []}, "/v1beta/models/mock-3x0ms:streamGenerateContent?alt=sse"))
        blocks = [json.loads(block[6:]) for block in b"".join(wire.stream()).decode().split("\r\n\r\n") if block]
        texts = [b["candidates"][0]["content"]["parts"][0]["text"] for b in blocks]
        assert [text[:2] for text in texts] == ["t=", "t=", "t=", ""] and blocks[-1]["candidates"][0]["finishReason"] == "STOP"
