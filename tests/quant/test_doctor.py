"""What is wrong with machines: every finding by what was seen, and this machine looked at for real."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import msgspec
import pytest

from quant import doctor, hardware
from quant.doctor import Finding, Seen, report, usual
from quant.fit_factors import Factors
from quant.hardware import Gpu, Limit, Machine

GIB = 1 << 30
GOOD = Machine("Linux x86_64", "test", "avx2", 8, 3e9, 32 * GIB, 24 * GIB, 0, Limit(), bandwidth=40e9)
SEEN = Seen((3, 12), "2026.10", "", 8484, "", (("models", "/data", "", 90 * GIB),), 65_536, 0.5, 1_790_000_000.0, 1_780_000_000.0)


def only(machine: Machine = GOOD, changes: dict[str, object] | None = None) -> list[Finding]:
    """Everything that is not good."""
    return [each for each in report(machine, msgspec.structs.replace(SEEN, **(changes or {}))).findings if each.state != "good"]


def test_a_good_machine_has_nothing_to_say() -> None:
    found = report(GOOD, SEEN)
    assert not found.broken and {each.state for each in found.findings} == {"good"}
    assert all(not each.do for each in found.findings)


@pytest.mark.parametrize(("changes", "name"), [
    ({"python": (3, 10)}, "python"), ({"engine": "", "engine_fault": "no such module"}, "engine"),
    ({"folders": (("models", "/data", "Permission denied", 0),)}, "models"), ({"folders": (("state", "/data", "", 5),)}, "state"),
    ({"clock": 1_700_000_000.0}, "clock"),
])  # fmt: skip
def test_what_breaks(changes: dict[str, object], name: str) -> None:
    found = only(GOOD, changes)
    assert [(each.name, each.state) for each in found] == [(name, "bad")] and found[0].do
    assert report(GOOD, msgspec.structs.replace(SEEN, **changes)).broken


def test_speeds_are_corrected_by_what_was_measured() -> None:
    plain, slower = report(GOOD, SEEN).runs, report(GOOD, SEEN, lambda kind: Factors(decode=3.0, prefill=2.0)).runs
    alike = [(a, b) for a, b in zip(plain, slower, strict=True) if a.needs == b.needs]  # else another cache is the better one now
    assert len(alike) > 3
    assert all(b.decode == pytest.approx(a.decode / 3) and b.first > 1.9 * a.first for a, b in alike)


def test_a_slim_image_is_told_what_it_lacks() -> None:
    (found,) = only(GOOD, {"engine": "", "engine_fault": "libgomp.so.1: cannot open shared object file"})
    assert found.do.startswith("Install libgomp1")


@pytest.mark.parametrize(("changes", "name"), [
    ({"port_fault": "Address already in use"}, "port"), ({"files": 256}, "files"), ({"load": 20.0}, "cores"),
    ({"folders": (("hub cache", "/data", "", GIB),)}, "hub cache"),
])  # fmt: skip
def test_what_is_only_noted(changes: dict[str, object], name: str) -> None:
    found = only(GOOD, changes)
    assert [(each.name, each.state) for each in found] == [(name, "note")] and found[0].do


@pytest.mark.parametrize(("machine", "names"), [
    ({"features": ""}, ["processor"]), ({"cores": 1}, ["cores"]), ({"available": GIB}, ["memory"]),
    ({"gpus": (Gpu("NVIDIA L4", 24 * GIB, 20 * GIB),)}, ["graphics"]), ({"limit": Limit(2, 24 * GIB, GIB)}, ["limit"]),
    ({"limit": Limit(1, 24 * GIB, GIB)}, ["limit", "limit"]),
])  # fmt: skip
def test_what_is_noted_of_the_machine(machine: dict[str, object], names: list[str]) -> None:
    assert [each.name for each in only(msgspec.structs.replace(GOOD, **machine))] == names


def test_no_memory_is_broken_and_comes_first() -> None:
    found = report(msgspec.structs.replace(GOOD, available=100 << 20), SEEN)
    assert found.broken and found.findings[0].name == "memory"
    assert not any(each.fits for each in found.runs)


def test_what_usual_models_would_do() -> None:
    runs = {each.billions: each for each in report(GOOD, SEEN).runs}
    assert runs[8].fits and not runs[32].fits
    assert runs[0.6].decode > runs[4].decode > runs[14].decode and runs[0.6].needs < runs[4].needs
    card = usual(8, 36, 4096, 12288, 32, 8)
    assert 7.4e9 < card.parameters < 8.4e9 and 4.6e9 < card.weights_bytes < 5.1e9  # 4.89 bits a weight, as llama.cpp has it


def test_an_engine_that_cannot_be_loaded(tmp_path: Path) -> None:
    version, fault = doctor.engine()
    assert version and not fault
    assert doctor.engine((str(tmp_path / "none"),)) == ("", f"{tmp_path / 'none'} cannot be started (No such file or directory)")
    assert "No module named" in doctor.engine((sys.executable, "-S", "-I"))[1]
    killed = tmp_path / "killed"
    killed.write_text("#!/bin/sh\nkill -4 $$\n")
    killed.chmod(0o755)
    assert "signal 4" in doctor.engine((str(killed),))[1]


def test_ports_and_folders_as_they_are(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert doctor.port_fault(taken.getsockname()[1])
    assert doctor.port_fault(0) == "" and doctor.port_fault(70_000)
    fault, free = doctor.folder(tmp_path / "not" / "there" / "yet")
    assert fault == "" and free > 0 and not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert doctor.folder(tmp_path / "file" / "below")[0]
    if os.getuid():  # root may write everywhere
        locked = tmp_path / "locked"
        locked.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
        assert doctor.folder(locked)[0] == "Permission denied"


def test_this_machine(tmp_path: Path) -> None:
    seen = doctor.examine(0, {"models": tmp_path}, Path(doctor.__file__).parent)
    found = report(hardware.look(), seen)
    bad = {each.name for each in found.findings if each.state == "bad"}
    assert seen.engine and seen.newest > 0 and not bad & {"engine", "python", "models", "clock"}
