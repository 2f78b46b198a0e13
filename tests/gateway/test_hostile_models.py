"""Model files that are broken or meant ill, through every door: listed, shown, served. Each is told in one sentence; nothing is harmed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import main
from gateway.config import parse
from quant import builtin, facts, models
from tests.backends.engines import tiny
from tests.harness import Client, running
from tests.quant import homes

Raw = tiny.Raw


def _number(at: int, value: int) -> Callable[[bytes], bytes]:
    """Eight bytes of the header replaced: 8 is where the number of tensors stands, 16 that of keys."""
    return lambda whole: whole[:at] + struct.pack("<Q", value) + whole[at + 8 :]


def _tensor(at: int, form: str, *values: int) -> Callable[[bytes], bytes]:
    """Part of the first tensor's description replaced: `at` bytes behind its name."""

    def change(whole: bytes) -> bytes:
        start = whole.index(b"token_embd.weight") + len("token_embd.weight") + at
        return whole[:start] + struct.pack(form, *values) + whole[start + struct.calcsize(form) :]

    return change


CONTENTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "cut off at byte 0"),
    "two-bytes": (lambda whole: whole[:2], "cut off"),
    "zip": (lambda whole: b"PK\3\4" + whole, "does not start with GGUF"),
    "html": (lambda whole: b"<!DOCTYPE html><html>Not found</html>", "does not start with GGUF"),
    "lfs-pointer": (lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "does not start with GGUF"),
    "zeros": (lambda whole: bytes(4096), "does not start with GGUF"),
    "version-1": (lambda whole: whole[:4] + struct.pack("<I", 1) + whole[8:], "version is 1"),
    "other-endian": (lambda whole: whole[:4] + struct.pack(">I", 3) + whole[8:], "version is 50331648"),
    "half-header": (lambda whole: whole[:500], "cut off at byte 500"),
    "half-weights": (lambda whole: whole[: len(whole) // 2], "truncated"),
    "one-byte-short": (lambda whole: whole[:-1], "truncated"),
    "many-tensors": (_number(8, 1 << 60), "tensors"),
    "tensors-without-end": (_number(8, 99_999), "is not a usable GGUF model"),
    "many-keys": (_number(16, 1 << 60), "metadata keys"),
    "keys-without-end": (_number(16, 4096), "is not a usable GGUF model"),
    "long-key": (lambda whole: whole[:24] + struct.pack("<Q", 1 << 40) + whole[32:], "bytes of text"),
    "no-dimensions": (_tensor(0, "<I", 0), "has 0 dimensions"),
    "many-dimensions": (_tensor(0, "<I", 1 << 30), "dimensions"),
    "absurd-tensor": (_tensor(4, "<QQ", 1 << 40, 1 << 40), "absurd size"),
    "offset-beyond": (_tensor(24, "<Q", 1 << 50), "truncated"),
}  # fmt: skip
METADATA: dict[str, tuple[dict[str, object], str]] = {
    "blocks-many": ({"llama.block_count": 1_000_000}, "block_count is 1000000"),
    "blocks-none": ({"llama.block_count": 0}, "block_count is 0"),
    "epsilon-nan": ({"llama.attention.layer_norm_rms_epsilon": math.nan}, "epsilon is nan"),
    "rope-infinite": ({"llama.rope.freq_base": math.inf}, "freq_base is inf"),
    "heads-many": ({"llama.attention.head_count": 1 << 31}, "head_count is 2147483648"),
    "kv-heads": ({"llama.attention.head_count_kv": 8}, "8 key/value heads but only 4"),
    "context-huge": ({"llama.context_length": 1 << 31}, "context_length is 2147483648"),
    "width-none": ({"llama.embedding_length": 0}, "embedding_length is 0"),
    "width-text": ({"llama.embedding_length": "wide"}, "embedding_length is nan"),
    "eos-beyond": ({"tokenizer.ggml.eos_token_id": 999_999}, "eos_token_id is 999999"),
    "no-architecture": ({"general.architecture": None}, "general.architecture is missing"),
    "architecture-path": ({"general.architecture": "../x"}, "not a plain name"),
    "architecture-escape": ({"general.architecture": "\x1b]0;x\x07"}, "not a plain name"),
    "adapter": ({"general.type": "adapter"}, "it holds a 'adapter', not a model"),
    "type-escape": ({"general.type": "\x1b[2J"}, "not a model"),
    "alignment-none": ({"general.alignment": 0}, "general.alignment is 0"),
    "value-type": ({"x": Raw(struct.pack("<I", 99))}, "unknown type 99"),
    "array-of-arrays": ({"x": Raw(struct.pack("<IIQ", 9, 9, 1))}, "an array of the type 9"),
    "array-huge": ({"x": Raw(struct.pack("<IIQ", 9, 8, 1 << 62))}, "array elements"),
    "array-cut-off": ({"x": Raw(struct.pack("<IIQ", 9, 4, 7_000_000))}, "cut off"),
    "text-huge": ({"x": Raw(struct.pack("<IQ", 8, 1 << 62))}, "bytes of text"),
    "parts-missing": ({"split.count": 7}, "only 1 of its 7 parts"),
}  # fmt: skip
KINDS = {**{name: says for name, (_, says) in CONTENTS.items()}, **{name: says for name, (_, says) in METADATA.items()}}


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of every kind, and other things that are no files."""
    folder = tmp_path_factory.mktemp("bad")
    whole = homes.model(folder / "whole").read_bytes()
    (folder / "whole").unlink()
    for name, (change, _) in CONTENTS.items():
        (folder / f"{name}.gguf").write_bytes(change(whole))
    start = whole.index(b"general.architecture")
    for name, (changes, _) in METADATA.items():
        tiny.write(folder / f"{name}.gguf", changes)
    assert start and len(KINDS) >= 40
    os.mkfifo(folder / "pipe.gguf")
    (folder / "nowhere.gguf").symlink_to(folder / "none")
    (folder / "itself.gguf").symlink_to(folder / "itself.gguf")
    (folder / "folder.gguf").mkdir()
    shutil.copy(builtin.path(), folder / "good.gguf")
    return folder


@pytest.fixture
def found(bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    homes.bare(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("POINTSMAN_MODELS", str(bad))
    monkeypatch.setenv("POINTSMAN_ADMIN_URL", "http://127.0.0.1:9")  # nobody listens on the discard port
    return bad


def test_ls(found: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() for line in lines)
    for kind, says in KINDS.items():
        told = [line for line in lines if line.startswith(f"{kind} cannot be used: ")]
        assert len(told) == 1 and says in told[0] and len(told[0]) < 400, kind
    rows = {line.split()[0]: line for line in lines[1 : 2 + len(KINDS)]}
    assert set(rows) == {*KINDS, "good"} and all(("unusable" in row) == (name != "good") for name, row in rows.items())


@pytest.mark.parametrize("kind", KINDS)
def test_show(found: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    name = kind if len(kind) % 2 else str(found / f"{kind}.gguf")  # by name or by path
    assert main(["show", name]) == 1
    said = capsys.readouterr()
    assert said.err == "" and KINDS[kind] in said.out and all(line.isprintable() for line in said.out.splitlines())


def test_nothing_is_allocated_on_a_files_word(found: Path) -> None:
    tracemalloc.start()
    for kind in (
        "long-key",
        "many-keys",
        "many-tensors",
        "absurd-tensor",
        "array-huge",
        "text-huge",
        "array-cut-off",
        "tensors-without-end",
    ):
        assert facts.read([found / f"{kind}.gguf"]).fault
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("kind", ["zip", "kv-heads"])
def test_show_template(found: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert main(["show", kind, "--template"]) == 1
    assert capsys.readouterr().err.startswith(f"pointsman: {kind} cannot be used: ")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pipe", "is no ordinary file"),
        ("nowhere", "does not exist"),
        ("itself", "cannot be read|does not exist"),
        ("folder", "is a folder"),
    ],
)
def test_what_is_no_file_at_all(found: Path, name: str, says: str) -> None:
    path = found / f"{name}.gguf"
    said = facts.read([path]).fault
    assert re.search(says, said), said
    with pytest.raises(models.ModelError):
        models.find(name)


def _serving(backends: dict[str, str]) -> Any:
    engines = {name: {"engine": "llamacpp", "model": model, "context": 512, "slots": 1, "threads": 1} for name, model in backends.items()}
    routes = {name: {"targets": [{"backend": name, "model": name}]} for name in backends}
    server = {"port": 0, "admin": {"port": None}, "log": {"level": "error"}}
    return parse(json.dumps({"server": server, "backends": engines, "routes": routes}), {})


def test_served_beside_a_good_one(found: Path) -> None:
    """By name every one of them, by path some that only an engine's own process would meet; the good one is not bothered."""
    named = {kind: kind for kind in KINDS}
    paths = {f"path-{kind}": str(found / f"{kind}.gguf") for kind in ("zip", "half-weights", "epsilon-nan", "pipe", "nowhere", "folder")}
    with running(_serving({**named, **paths, "good": "good"})) as gateway, Client(gateway.port) as client:
        gateway.until(lambda: all(r.health == "down" for r in _replicas(gateway, {*named, *paths})), "every bad model is told down")
        reasons = {r.backend: r.reason for r in _replicas(gateway, {*named, *paths})}
        for kind, says in KINDS.items():
            assert says in reasons[kind], kind
        assert all(reasons[name] and "\n" not in reasons[name] for name in paths)
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 8}
        for kind in ("zip", "blocks-many", "path-epsilon-nan"):
            answer = client.ask({**body, "model": kind})
            assert answer.status == 503 and "error" in json.loads(answer.body)
        gateway.until(lambda: all(r.health == "ready" for r in _replicas(gateway, {"good"})), "the good model is served")
        answer = client.ask({**body, "model": "good"})
        assert answer.status == 200 and json.loads(answer.body)["choices"][0]["message"]["content"]


def _replicas(gateway: Any, names: set[str]) -> list[Any]:
    return [replica for replica in gateway.gateway.fleet.every() if replica.backend in names]
