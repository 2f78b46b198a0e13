"""`pointsman pull · ls · show · rm · export · import`: what they do, say and refuse."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import cli_library
from gateway.cli import main
from gateway.cli_library_text import count, count_tokens, duration, progress, size
from gateway.config import Flags, from_flags
from gateway.config_flags import route_name
from quant import builtin, pull
from tests.gateway.serving import eventually, serving
from tests.quant import homes, hubfake
from tests.quant.homes import model
from tests.quant.hubfake import REPO, Site

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = homes.bare(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("POINTSMAN_ADMIN_URL", "")
    return root


@pytest.fixture
def hub(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Site]]:
    files = {"tiny-Q8_0.gguf": model(tmp_path / "x.gguf").read_bytes(), "README.md": b"# tiny"}
    with hubfake.serving(files) as (site, storage):
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site, storage


@pytest.fixture(autouse=True)
def nobody_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """No gateway of this machine answers."""
    monkeypatch.setattr(cli_library, "DEFAULT_ADMIN_URL", "http://127.0.0.1:9")


def said(capsys: Capture, code: int, *words: str) -> str:
    """Runs a command; what it says on standard output (code 0), else the one sentence of its refusal."""
    assert main(list(words)) == code
    told = capsys.readouterr()
    if code == 0:
        return told.out
    assert told.out == "" and told.err.startswith("pointsman: ") and told.err.count("\n") == 1, told
    return told.err


def test_pull_then_everything_else(hub: tuple[Site, Site], own: Path, tmp_path: Path, capsys: Capture) -> None:
    name = f"hf:{REPO}:Q8_0"
    told = said(capsys, 0, "pull", name)
    path = own / "hf" / REPO / "tiny-Q8_0.gguf"
    assert told == f"{name}: 369.2 kB, licence Apache-2.0; 369.2 kB fetched\n  {path}\n  pointsman serve --model {name}\n"
    assert "it was here already" in said(capsys, 0, "pull", name)
    listed = said(capsys, 0, "ls").splitlines()
    assert listed[0].split() == ["NAME", "SIZE", "QUANT", "CONTEXT", "LICENCE", "QUALITY", "WHERE", "SERVED"]
    assert listed[1].split() == [name, "369.2", "kB", "Q8_0", "512", "Apache-2.0", "-", "pointsman", "-"]
    row = json.loads(said(capsys, 0, "ls", "--json"))[0]
    assert (row["name"], row["owned"], row["served"], row["files"]) == (name, True, None, [str(path)])
    shown = said(capsys, 0, "show", "tiny-gguf")
    for line in ("  architecture  llama", "  licence       Apache-2.0", "  chat template yes",
                 f"  origin        hf:{REPO} at {hubfake.COMMIT[:12]}",
                 "  made from     owner/tiny", "  tensors       20 in 363.3 kB, 32.00 bits per weight", "     20 F32 "):  # fmt: skip
        assert line in shown, line
    detail = json.loads(said(capsys, 0, "show", name, "--json"))
    assert detail["detail"]["kinds"][0]["kind"] == "F32" and detail["facts"]["architecture"] == "llama"
    assert said(capsys, 0, "show", name, "--template").startswith("{% for m in messages %}")
    bundle = tmp_path / "b.tar"
    assert f"on the other machine: pointsman import {bundle.name}" in said(capsys, 0, "export", name, "--out", str(bundle))
    assert "is there already" in said(capsys, 1, "export", name, "--out", str(bundle))
    assert said(capsys, 0, "rm", name, "--yes") == f"removed {path}\nremoved {path.parent / 'about.json'}\n"
    assert "no models here yet" in said(capsys, 0, "ls")
    taken = said(capsys, 0, "import", str(bundle))
    assert taken.startswith(f"{name}: ") and "licence Apache-2.0; verified and placed" in taken and path.exists()
    assert said(capsys, 0, "import", str(bundle), "--as", "second").startswith("second: ")


def test_mistakes_are_one_sentence(hub: tuple[Site, Site], own: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = model(tmp_path / "mine.gguf")
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"nothing")
    for code, words, says in (
        (1, ["pull", "tiny"], "write hf:OWNER/NAME[:QUANT]"), (1, ["pull", "hf:no/body"], "was not found on http"),
        (1, ["pull", f"hf:{REPO}:Q2_K"], "has no Q2_K; it has Q8_0"), (1, ["pull", f"hf:{REPO}", "--offline"], "is not on this machine"),
        (1, ["show", "nothing"], "There is no model 'nothing' on this machine"),
        (1, ["show", "hf:a/b"], "`pointsman pull hf:a/b` fetches it"),
        (1, ["rm", str(mine), "--yes"], "belongs to you; remove it there"), (2, ["rm"], "name one model, or write --unfinished"),
        (2, ["rm", "x", "--unfinished"], "name one model, or write --unfinished"), (1, ["import", str(bad)], "is cut off"),
        (1, ["import", str(tmp_path / "none")], "cannot be imported: No such file"),
        (1, ["export", "x", "--out", "y"], "There is no model 'x'"),
        (1, ["ls", "--admin-url", "http://127.0.0.1:9"], "no gateway answers"),
        (1, ["ls", "--admin-url", "x"], "is not the URL of a gateway"),
    ):  # fmt: skip
        assert says in said(capsys, code, *words), words
    with pytest.raises(SystemExit):
        main(["export", "x"])
    assert mine.exists()


def test_removing_asks(own: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    path = model(own / "local" / "mine" / "mine.gguf")
    assert "there is no terminal to ask on; add --yes" in said(capsys, 2, "rm", "mine")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for answer, gone in (("\n", False), ("no\n", False), ("", False), ("Y\n", True)):
        monkeypatch.setattr("sys.stdin", Terminal(answer))
        assert main(["rm", "mine"]) == (0 if gone else 1)
        told = capsys.readouterr()
        assert f"remove mine (369.2 kB, {path.parent})? [y/N] " in told.err and path.exists() != gone
        assert gone or "nothing was removed" in told.err


def test_unfinished_downloads_are_told_and_end(own: Path, capsys: Capture) -> None:
    part = own / "hf" / "o" / "R" / f".x{pull.PART}"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(2_000_000))
    assert said(capsys, 0, "ls").endswith(
        "1 unfinished downloads (2.00 MB): the same `pull` goes on, `pointsman rm --unfinished` ends them\n"
    )
    assert "add --yes" in said(capsys, 2, "rm", "--unfinished") and part.exists()
    said(capsys, 0, "rm", "--unfinished", "--yes")
    assert not part.exists()


def test_ls_tells_what_is_served(own: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real gateway serves one of two by its name."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(builtin.path(), folder / "served.gguf")
    model(folder / "idle.gguf")
    monkeypatch.setenv("POINTSMAN_MODELS", str(folder))
    config = {
        "server": {"port": 0, "admin": {"port": 0}, "log": {"level": "error"}},
        "backends": {"m": {"engine": "llamacpp", "model": "served", "context": 512, "slots": 1, "threads": 1}},
        "routes": {"m": {"targets": [{"backend": "m", "model": "m"}]}},
    }
    with serving(tmp_path, config) as process:
        eventually(lambda: process.chat().status_code == 200 or None, "an answer")
        rows = {row["name"]: row["served"] for row in json.loads(said(capsys, 0, "ls", "--json", "--admin-url", process.admin))}
        assert rows == {"served": "ready", "idle": False}
        lines = said(capsys, 0, "ls", "--admin-url", process.admin).splitlines()
        assert lines[1].endswith("  no") and lines[2].endswith("  ready")


# -- the line of progress -----------------------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_tells_speed_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out, clock = Terminal(), Clock()
    monkeypatch.setattr("sys.stderr", out)
    with cli_library.Progress(clock) as told:
        for second in range(31):
            clock.now = float(second)
            told("x.gguf", 1_000_000_000 + second * 10_000_000, 2_000_000_000)  # what was there before counts for no speed
            told("x.gguf", 1_000_000_000 + second * 10_000_000, 2_000_000_000)  # too soon to be drawn
    lines = out.getvalue().split("\r")
    assert lines[1].startswith("[##########..........]  50% 1.00 GB of 2.00 GB  x.gguf") and len(lines) == 33
    assert lines[31].startswith("[#############.......]  65% 1.30 GB of 2.00 GB  10.0 MB/s  1 min 10 s left  x.gguf")
    assert lines[32] == "\x1b[K", "the line is cleared"


def test_progress_elsewhere_is_a_line_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    out, clock = io.StringIO(), Clock()
    monkeypatch.setattr("sys.stderr", out)
    with cli_library.Progress(clock) as told:
        for part in range(101):
            clock.now += 1
            told("x.gguf", part, 100)
        told("x.gguf", 0, 100)  # begun anew
    assert [line.split()[1] for line in out.getvalue().splitlines()] == [f"{10 * n}%" for n in range(1, 11)]


def test_words() -> None:
    assert [size(n) for n in (0, 999, 1000, 9_990_000, 12_345_678, 4_580_000_000)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "9.99 MB",
        "12.3 MB",
        "4.58 GB",
    ]
    assert [count(n) for n in (7, 1000, 8_030_000_000, 26 * 10**9)] == ["7", "1 K", "8 B", "26 B"]
    assert [count_tokens(n) for n in (0, 512, 4096, 131072, 5000)] == ["-", "512", "4K", "128K", "5000"]
    assert [duration(s) for s in (0.2, 59.4, 61, 3700, 1e12)] == ["0 s", "59 s", "1 min 01 s", "1 h 01 min", "99 h 59 min"]
    assert progress("x", 5, 0, 0.0).startswith("[####################] 100% 5 B of 0 B")


# -- names in flags and configurations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("ollama:llama3.2", "llama3.2"), ("ollama:llama3.2:1b", "llama3.2-1b"), ("ollama:me/My_Model:latest", "my_model"),
        ("ollama:hf.co/o/Qwen3-4B-GGUF:Q8_0", "qwen3-4b"), ("lmstudio:pub/Qwen3-4B-GGUF:Q4_K_M", "qwen3-4b"), ("llamacpp:x-Q4_0", "x"),
        ("some model", "some-model"),
    ],
)  # fmt: skip
def test_names_make_routes(name: str, route: str) -> None:
    assert route_name(name) == route
    config = from_flags(Flags(models=(name,)), {})
    assert config.backends[route].model == name, "kept as it is, and looked for when it is served"


def test_a_file_in_this_folder_stays_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_bytes(b"")
    for text in ("plain", "./none", "none.gguf", "~/x"):
        config = from_flags(Flags(models=(text,)), {})
        assert all(Path(str(backend.model)).is_absolute() for backend in config.backends.values()), text
