"""A file is there whole or not at all, whatever interrupts its writing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from quant.output import Output, OutputError

ROOT = Path(__file__).resolve().parents[2]


def test_it_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    with Output(target, 6) as out:
        out.write(b"abc")
        assert not target.exists()
        out.write(memoryview(b"def"))
    assert target.read_bytes() == b"abcdef"
    assert out.written == 6
    assert os.listdir(tmp_path) == ["model.gguf"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_writing_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), Output(tmp_path / "model.gguf") as out:
        out.write(b"half")
        raise error
    assert os.listdir(tmp_path) == []


def test_an_interrupted_overwriting_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"old")
    with pytest.raises(ValueError, match="stop"), Output(target, overwrite=True) as out:
        out.write(b"new")
        raise ValueError("stop")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.gguf"]
    with Output(target, overwrite=True) as out:
        out.write(b"new")
    assert target.read_bytes() == b"new" and os.listdir(tmp_path) == ["model.gguf"]


def test_an_existing_file_is_not_replaced_unless_told(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"old")
    with pytest.raises(OutputError, match="is there already; remove it"), Output(target):
        pass
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["model.gguf"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_into_being_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    target = tmp_path / "model.gguf"
    if not links:
        monkeypatch.setattr(os, "link", _no_links)
    with pytest.raises(OutputError, match=r"came into being|cannot be written"), Output(target) as out:
        target.write_bytes(b"theirs")
    assert out.written == 0
    assert target.read_bytes() == b"theirs" and os.listdir(tmp_path) == ["model.gguf"]


def _no_links(source: object, target: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def test_a_file_system_without_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _no_links)
    with Output(tmp_path / "model.gguf") as out:
        out.write(b"all")
    assert (tmp_path / "model.gguf").read_bytes() == b"all" and os.listdir(tmp_path) == ["model.gguf"]


def test_a_full_disk_is_said_beforehand(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(OutputError, match=r"would take [\d,.]+ MiB and its disk has [\d,.]+ MiB free; make room"):
        Output(tmp_path / "model.gguf", 2 * free + (1 << 30)).__enter__()
    assert os.listdir(tmp_path) == []


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        pytest.raises(OutputError, match=r"model\.gguf cannot be written: No space left on device\."),
        Output(tmp_path / "model.gguf") as out,
    ):
        monkeypatch.setattr(os, "write", full)
        out.write(b"abc")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []


def test_two_cannot_write_the_same_file(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    with Output(target) as out:
        with pytest.raises(OutputError, match="is being written by another process; wait for it"), Output(target):
            pass
        out.write(b"mine")
    assert target.read_bytes() == b"mine"


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    code = (
        "import os, signal, sys\nfrom quant.output import Output\n"
        "with Output(sys.argv[1]) as out:\n    out.write(b'x' * 100)\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".model.gguf.part"]
    with Output(target) as out:
        out.write(b"whole")
    assert target.read_bytes() == b"whole" and os.listdir(tmp_path) == ["model.gguf"]


def test_where_it_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / ".link.gguf.part").symlink_to(tmp_path / "elsewhere")
    for target, said in (
        (tmp_path / "none" / "x.gguf", r"The folder .*none does not exist; make it first\."),
        (tmp_path / "folder", "is a folder; name the file"),
        (tmp_path / ("x" * 250), "cannot be written: File name too long"),
        (tmp_path / "link.gguf", "cannot be written: "),
    ):
        with pytest.raises(OutputError, match=said), Output(target, overwrite=True):
            pass
    assert not (tmp_path / "elsewhere").exists()
