"""The recovery benchmark against a real gateway with a real engine: it measures, and says what it cannot."""

from __future__ import annotations

import sys

import pytest

from benchmarks.recovery import cli
from benchmarks.recovery.client import Reader, ask, status
from benchmarks.recovery.endless import Endless

POINTSMAN = f"{sys.executable} -m gateway"


@pytest.mark.timeout(180)
def test_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--rounds", "1", "--streams", "3", "--leavers", "5", "--pointsman", POINTSMAN]) == 0
    out, err = capsys.readouterr()
    rows = {row.split("|")[1].strip(): row.split("|")[2].strip() for row in out.splitlines() if row.startswith("| ")}
    assert out.startswith("5 clients left in the middle of a stream")
    assert (rows["streams"], rows["ended before the kill"], rows["well-formed errors"]) == ("3", "0", "3")
    assert float(rows["serving again after s"]) > 0 and "kill 1 of 1" in err


def test_what_cannot_be_measured_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(["--pointsman", "false"]) == 1
    assert "the gateway does not answer" in capsys.readouterr().err
    monkeypatch.setattr(cli, "find_pointsman", lambda given: None)
    assert cli.main([]) == 2
    assert "not installed" in capsys.readouterr().err


def test_the_upstream_tells_when_a_connection_is_lost() -> None:
    with Endless() as upstream:
        reader = Reader(ask(upstream.port, "m", "x", True))
        reader.start()
        assert reader.begun.wait(30) and not reader.well_formed
        reader.sock.shutdown(2)
        assert upstream.changed.acquire(timeout=30) and len(upstream.lost) == 1
        reader.join(30)
    assert status(upstream.port, "m", "x")[0] == 0
