"""llama.cpp's own converter: where it is found, how it is run and fetched, with a script and a pip that only act as if."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from quant import builtin, convert_fetch, convert_llamacpp, hub
from quant.convert import convert
from quant.convert_llamacpp import SCRIPT, Tool
from quant.convert_source import ConvertError
from tests.quant import convert_made

WORKS = f"""
import json, os, shutil, sys
sys.stderr.write("INFO: hello\\nWriting:  10%|#\\rWriting:  70%|###\\rWriting: 100%|####\\n")
shutil.copy({str(builtin.path())!r}, sys.argv[3])
json.dump([sys.argv[1:], sorted(os.environ), os.environ.get("HF_HUB_OFFLINE")], open({{said!r}}, "w"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return convert_made.folder(tmp_path / "m", "qwen2")


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own is found, and no package is missing."""
    monkeypatch.setattr(convert_llamacpp, "NEEDED", ("json",))
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(convert_llamacpp.HOME, raising=False)


def checkout(place: Path, said: Path, code: str = WORKS) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    (place / SCRIPT).write_text(code.format(said=str(said)))
    return place


def test_it_runs_with_progress_and_without_secrets(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    seen: list[tuple[str, int, int]] = []
    tool = Tool(home=str(checkout(tmp_path / "llama", tmp_path / "said")))
    report = convert(folder, tmp_path / "x.gguf", "q8_0", maker="llama.cpp", tool=tool, progress=lambda *step: seen.append(step))
    assert (tmp_path / "x.gguf").read_bytes() == builtin.path().read_bytes()
    assert (report.maker, report.kind, report.name) == ("llama.cpp", "Q8_0", "pointsman-toy")
    assert [step[1] for step in seen] == [10, 70, 100]
    arguments, environment, offline = json.loads((tmp_path / "said").read_text())
    assert arguments[0] == str(folder) and arguments[-2:] == ["--outtype", "q8_0"] and offline == "1"
    assert not {"HF_TOKEN", "OPENAI_API_KEY"} & set(environment)


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert convert_llamacpp.script(Tool()) is None
    home = checkout(tmp_path / "nobody" / "llama.cpp", tmp_path / "said")
    assert convert_llamacpp.script(Tool()) == home / SCRIPT
    built = checkout(tmp_path / "built", tmp_path / "said")
    (built / "build" / "bin").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    program = built / "build" / "bin" / "llama-quantize"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "bin" / "llama-quantize").symlink_to(program)
    assert convert_llamacpp.script(Tool()) == built / SCRIPT
    installed = checkout(tmp_path / "bin", tmp_path / "said") / SCRIPT
    installed.chmod(0o755)
    assert convert_llamacpp.script(Tool()) == installed
    other = checkout(tmp_path / "other", tmp_path / "said")
    monkeypatch.setenv(convert_llamacpp.HOME, str(other))
    assert convert_llamacpp.script(Tool()) == other / SCRIPT
    assert convert_llamacpp.script(Tool(home=str(home / SCRIPT))) == home / SCRIPT
    with pytest.raises(ConvertError, match="does not exist; name a checkout"):
        convert_llamacpp.script(Tool(home=str(tmp_path)))


def test_what_is_missing_is_said(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(said: str, tool: Tool) -> None:
        with pytest.raises(ConvertError, match=said) as caught:
            convert(folder, tmp_path / "x.gguf", maker="llama.cpp", tool=tool)
        assert "\n" not in str(caught.value) and not (tmp_path / "x.gguf").exists()

    refused("is not on this machine: set POINTSMAN_LLAMA_CPP .* or allow fetching it", Tool())
    home = str(checkout(tmp_path / "llama", tmp_path / "said"))
    refused("does not run as a Python; name one that does", Tool(home=home, python="/nowhere/python"))
    monkeypatch.setattr(convert_llamacpp, "NEEDED", ("json", "nothing_of_this_name", "nothing.at.all", "yaml"))
    assert convert_llamacpp.missing(Tool()) == ["nothing_of_this_name", "nothing.at.all"]
    assert not convert_llamacpp.ready(Tool(home=home))
    refused("needs nothing_of_this_name, nothing.at.all, which .* does not have; run: pip install", Tool(home=home))
    refused("needs nothing_of_this_name", Tool(fetch=True))  # said before anything is fetched


def test_how_it_fails_is_said(tmp_path: Path, folder: Path) -> None:
    for code, said in (
        ("import sys; print('ERROR: Model X is not supported'); print('bye'); sys.exit(1)", r"failed \(exit status 1\): ERROR: Model X"),
        ("import os; os.kill(os.getpid(), 9)", r"failed \(signal 9\): it said nothing"),
        ("print('wrote nothing')", "cut off|does not start|truncated"),
    ):
        home = checkout(tmp_path / "llama", tmp_path / "said", code.replace("{", "{{").replace("}", "}}"))
        with pytest.raises(ConvertError, match=said):
            convert(folder, tmp_path / "x.gguf", maker="llama.cpp", tool=Tool(home=str(home)))
        assert sorted(os.listdir(tmp_path)) == ["llama", "m"]


def test_an_interruption_ends_the_child(tmp_path: Path, folder: Path) -> None:
    code = "import sys, time\nsys.stdout.write('Writing:  10%|\\n'); sys.stdout.flush()\ntime.sleep(600)"
    home = checkout(tmp_path / "llama", tmp_path / "said", code)

    def stop(name: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, tmp_path / "x.gguf", maker="llama.cpp", tool=Tool(home=str(home)), progress=stop)
    assert sorted(os.listdir(tmp_path)) == ["llama", "m"]


def test_auto_turns_to_it_where_ours_does_not_know_the_model(tmp_path: Path, folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text()) | {"architectures": ["OtherForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(settings))
    tool = Tool(home=str(checkout(tmp_path / "llama", tmp_path / "said")))
    report = convert(folder, tmp_path / "x.gguf", tool=tool)
    assert report.maker == "llama.cpp" and "'OtherForCausalLM'" in report.notes[0]
    assert json.loads((tmp_path / "said").read_text())[0][-1] == "auto"


def archive(path: Path, said: Path, *, extra: tuple[str, ...] = ()) -> str:
    """Writes a distribution with the converter in it; its hash."""
    base = f"llama_cpp_python-{convert_fetch.VERSION}/vendor/llama.cpp/"
    with tarfile.open(path, "w:gz") as tar:
        for name in (base + SCRIPT, base + "conversion/base.py", base + "src/other.cpp", *extra):
            data = WORKS.format(said=str(said)).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo(base + "conversion/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_archive_is_fetched_by_pip_verified_and_used_again(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = f"llama_cpp_python-{convert_fetch.VERSION}/vendor/llama.cpp/"
    source = tmp_path / "source.tar.gz"
    found = archive(source, tmp_path / "said", extra=(base + "conversion/../../../../out.py", base + "gguf-py/gguf/x.py"))
    monkeypatch.setattr(convert_fetch, "SHA256", found)
    asked: list[list[str]] = []
    code = (
        "import shutil, sys; where = sys.argv[sys.argv.index('-d') + 1]; text = open(sys.argv[sys.argv.index('-r') + 1]).read(); "
        f"assert text == 'llama-cpp-python=={convert_fetch.VERSION} --hash=sha256:{found}\\n', text; "
        f"shutil.copy({str(source)!r}, where + '/{convert_fetch.FILE}')"
    )
    real = subprocess.run

    def pip(command: list[str], **options: Any) -> Any:
        if command[1:4] != ["-m", "pip", "download"]:
            return real(command, **options)
        asked.append(command)
        return real([sys.executable, "-c", code, *command[4:]], **options)

    monkeypatch.setattr(subprocess, "run", pip)
    for name in ("one", "two"):
        assert convert(folder, tmp_path / f"{name}.gguf", maker="llama.cpp", tool=Tool(fetch=True)).maker == "llama.cpp"
    assert len(asked) == 1 and "--require-hashes" in asked[0] and "--no-deps" in asked[0]
    with convert_fetch.unpacked(convert_fetch.cached() or Path()) as home:
        files = sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())
        assert files == ["conversion/base.py", SCRIPT, "gguf-py/gguf/x.py"]
    assert not home.exists()


def test_an_archive_that_is_another_is_not_run(tmp_path: Path, folder: Path) -> None:
    place = tmp_path / "cache" / "pointsman" / convert_fetch.FILE
    place.parent.mkdir(parents=True)
    archive(place, tmp_path / "said")
    with pytest.raises(ConvertError, match=r"is not llama-cpp-python .* as it was published; remove it"):
        convert(folder, tmp_path / "x.gguf", maker="llama.cpp", tool=Tool())
    assert not (tmp_path / "said").exists()


def test_a_pip_that_fails_is_said(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_fetch, "VERSION", "0.0.0.nothing")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ConvertError, match=r"pip could not fetch llama-cpp-python 0\.0\.0\.nothing: "):
        convert(folder, tmp_path / "x.gguf", maker="llama.cpp", tool=Tool(fetch=True))


def test_a_model_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def fetched(repo: str, **options: Any) -> str:
        asked.append({"repo": repo, **options})
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert convert_fetch.model("hf:Me/Model", offline=True) == tmp_path
    assert asked[0]["repo"] == "Me/Model" and asked[0]["local_files_only"] and not any("py" in name for name in asked[0]["allow_patterns"])
    with pytest.raises(hub.HubError, match="names a quantisation"):
        convert_fetch.model("hf:Me/Model:Q8_0")
