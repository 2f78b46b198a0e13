"""`pointsman ps`: its table; and what is said where there is no gateway to ask."""

from __future__ import annotations

import pytest

from gateway import cli
from gateway.cli_residency import table
from gateway.residency_view import ResidencyView, ResidentView


def engine(name: str, state: str, **more: object) -> ResidentView:
    known: dict[str, object] = {
        "models": [name], "bytes": 3 << 30, "held": 0, "idle": None, "unload_in": None, "load_seconds": None, "pinned": False,
        "always": False, "busy": 0, "waiting": 0, "loads": 0,
    }  # fmt: skip
    return ResidentView(name=name, state=state, **{**known, **more})  # type: ignore[arg-type]


def test_one_line_an_engine_and_what_memory_there_is() -> None:
    rows = [
        engine("a", "loaded", held=1 << 30, idle=12.4, unload_in=888.0), engine("b", "loaded", pinned=True, busy=2, waiting=3),
        engine("c", "failed", reason="no \x1b[31mfile\x1b[0m"), engine("d", "loaded", always=True, bytes=0, idle=7200.0),
    ]  # fmt: skip
    lines = table(ResidencyView(8 << 30, 4 << 30, rows)).splitlines()
    assert [line.split() for line in lines] == [
        ["MODEL", "STATE", "MEMORY", "IDLE", "UNLOADED", "IN", "CALLS"],
        ["a", "loaded", "1.0", "GiB", "12", "s", "15", "min", "0"],
        ["b", "loaded", "3.0", "GiB", "-", "never", "(pinned)", "2", "+3", "waiting"],
        ["c", "failed", "3.0", "GiB", "-", "-", "0", "no", "[31mfile[0m"],
        ["d", "loaded", "-", "2.0", "h", "never", "0"],
        ["4.0", "GiB", "set", "aside,", "a", "budget", "of", "8.0", "GiB"],
    ]
    assert table(ResidencyView()) == "the gateway runs no engine\n"
    assert table(ResidencyView(None, 0, rows[:1])).endswith("0 B set aside, no limit\n")


@pytest.mark.parametrize("words", [["ps"], ["load", "m"], ["unload", "m"]])
def test_nobody_to_ask_is_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--admin-url", "http://127.0.0.1:1"]) == 1
    assert capsys.readouterr().err.startswith("pointsman: no gateway answers at http://127.0.0.1:1")
