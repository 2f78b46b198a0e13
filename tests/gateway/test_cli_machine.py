"""`pointsman fit` and `pointsman doctor` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from gateway import cli_fit
from gateway.cli import main
from quant import calibrate, hardware
from quant.fit import Candidate, Wish, answer
from quant.hardware import Gpu, Limit, Machine
from tests.quant.fit_made import Made

GIB = 1 << 30
HERE = Machine("Linux x86_64", "Test CPU", "avx2", 4, 3e9, 16 * GIB, 8 * GIB, 0, Limit(2, 12 * GIB, GIB))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Another machine than this one, and a place of its own for what is measured."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(hardware, "look", lambda: HERE)
    monkeypatch.setattr(hardware, "bandwidth", lambda threads: 20e9)
    return tmp_path / "pointsman" / "machine.json"


def test_fit_for_people(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "builtin", "--context", "2048", "--slots", "2"]) == 0
    said = capsys.readouterr().out
    assert "Best: Q8_0, 2048 tokens x 2 slots, KV F16/F16" in said and "Runner-up" in said and "KV cache 8 MiB" in said
    assert "limit 12.00 GiB (cgroup v2)" in said and "add --measure" in said
    assert json.loads(machine.read_text())["bandwidth"] == 20e9


def test_fit_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "builtin", "--cache", "q8_0/q4_0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"]["setup"]["key"] == "Q8_0" and found["best"]["setup"]["value"] == "Q4_0"
    assert found["machine"]["cores"] == 4 and found["best"]["parts"]["weights"] == 2_724_864
    assert len(found["options"]) == 4  # 512, 1024, 2048 and all 4096 tokens


def test_what_does_not_fit_is_refused_and_what_would_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(hardware, "look", lambda: msgspec.structs.replace(HERE, available=300 << 20, limit=Limit()))
    assert main(["fit", "builtin", "--context", "4096", "--slots", "64"]) == 1
    said = capsys.readouterr().out
    assert "Nothing that was asked for fits." in said and "This would fit:" in said


@pytest.mark.parametrize(("words", "said"), [
    (["no-such-model"], "no-such-model"), (["builtin", "--context", "0"], "--context is 0"), (["builtin", "--slots", "1000"], "1 to 256"),
    (["builtin", "--cache", "q9_9"], "q9_9"), (["./none.gguf"], "none.gguf"),
])  # fmt: skip
def test_mistakes_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *words]) in (1, 2)
    found = capsys.readouterr()
    assert said in found.err and found.err.count("\n") == 1 and not found.out


@pytest.mark.usefixtures("uncovered")
def test_measured_is_kept_and_used(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "builtin", "--context", "512", "--slots", "1", "--prompt", "512", "--measure"]) == 0
    assert "corrected by what was measured here" in capsys.readouterr().out
    book = calibrate.load(machine, HERE.fingerprint)
    assert set(book.kinds) == {"small"} and book.kinds["small"].runs.keys() >= {"decode", "prefill", "base"}
    assert 0.7 < book.factors("small").base < 1.4


def test_what_cannot_be_kept_is_said_once(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine.parent.write_text("in the way")
    assert main(["fit", "builtin"]) == 0
    assert "XDG_STATE_HOME" in capsys.readouterr().err


def test_the_table_has_one_row_a_quantisation() -> None:
    cards = [
        Candidate(Made(layers=30, width=4096, inner=11008, heads=32, kv=8, qt=kind).card(), name="m") for kind in ("F16", "Q8_0", "Q4_0")
    ]
    here = msgspec.structs.replace(HERE, gpus=(Gpu("card", 24 * GIB, 22 * GIB),))
    found = answer(cards, Wish(4096, 1), here)
    lines = list(cli_fit.text(found, cards[0], here, Wish(4096, 1)))
    table = lines[next(place for place, line in enumerate(lines) if line.startswith("quant ")) + 1 :]
    assert [line.split()[0] for line in table[:3]] == ["F16", "Q8_0", "Q4_0"]
    assert " no " in table[0] and any("graphics card" in line for line in lines)
    unknown = msgspec.structs.replace(cards[2].card, architecture="else", context=2048)
    said = " ".join(cli_fit.text(answer([Candidate(unknown)], Wish(4096, 1), here), Candidate(unknown), here, Wish(4096, 1)))
    assert "not held against" in said and "was trained for 2048 tokens" in said


def test_doctor_for_people_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--port", "0"])
    said = capsys.readouterr().out
    assert "Test CPU" in said and "llama.cpp by xllamacpp" in said and "8 B  needs" in said
    assert (code == 1) == ("BROKEN" in said)
    assert main(["doctor", "--port", "0", "--json"]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["broken"] == bool(code) and {"name", "state", "said", "do"} == set(found["findings"][0])
