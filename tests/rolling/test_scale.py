"""The programs behind the figures of docs/scale.md run, and read what they say they read."""

from __future__ import annotations

import sys

import pytest

from benchmarks.scale import cli
from benchmarks.scale.cli import Level, table
from tests.gateway.together import speed

POINTSMAN = f"{sys.executable} -m gateway"


def test_silent_streams_and_idle_connections_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--streams", "60", "--pointsman", POINTSMAN]) == 0
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["0 at rest", "60 idle connections", "60 silent streams"]
    descriptors = [int(row[2]) for row in rows]
    assert descriptors[1] - descriptors[0] >= 60 and descriptors[2] - descriptors[0] >= 2 * 60 - 1 and float(rows[0][1]) > 10


def test_what_each_takes_is_what_is_beyond_rest() -> None:
    text = table([Level("at rest", 0, 50.0, 14), Level("silent streams", 1024, 60.0, 2062)])
    assert "| 0 at rest | 50.0 | 14 | – | – |" in text and "| 1,024 silent streams | 60.0 | 2,062 | 10.0 | 2.00 |" in text


def test_a_gateway_that_is_none_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["--streams", "1", "--pointsman", "false"]) == 1 and "gateway a did not come" in capsys.readouterr().err
    monkeypatch.setattr(cli, "find_pointsman", lambda given: None)
    assert cli.main([]) == 2


def test_what_gateways_and_engines_say_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["--seconds", "0.01"]) == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "tokens" in line]
    assert len(rows) == 5 and all(float(cell.replace(",", "")) > 0 for row in rows for cell in row[2:-1])
