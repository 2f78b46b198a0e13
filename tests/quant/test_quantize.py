"""Whole models quantised: the same files as llama.cpp's own (`bytes_golden.py`), read by another reader, loaded by a real engine."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from quant import builtin, ggml, imatrix
from quant.mixes import MIXES
from quant.quantize import QuantizeError, Report, preview, quantize
from tests.quant import made
from tests.quant.bytes_golden import FILE, SOURCES, digest, source

ROOT = Path(__file__).resolve().parents[2]
GOLDEN: dict[str, dict[str, str]] = json.loads(FILE.read_text(encoding="utf-8"))
# Elsewhere a compiler may join a product and a sum into one operation, which moves the last bit of a scale.
EXACT = tuple(MIXES) if platform.machine() == "x86_64" else ("Q8_0", "Q4_0")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The built-in model in every kind, by name."""
    folder = tmp_path_factory.mktemp("toy")
    for kind in MIXES:
        quantize(builtin.path(), folder / f"{kind}.gguf", kind, threads=2)
    yield folder


@pytest.mark.parametrize("name", SOURCES)
def test_the_files_are_llama_cpps_byte_for_byte(tmp_path: Path, toy: Path, name: str) -> None:
    if name == "builtin":
        assert {kind: digest(toy / f"{kind}.gguf") for kind in EXACT} == {kind: GOLDEN[name][kind] for kind in EXACT}
        return
    path, importance = source(name, tmp_path)
    for kind in SOURCES[name]:
        if kind in EXACT:
            report = quantize(path, tmp_path / "made.gguf", kind, importance=importance, threads=2, overwrite=True)
            assert digest(Path(report.target)) == GOLDEN[name][kind], (name, kind)


def test_another_reader_finds_what_the_report_says(toy: Path) -> None:
    for kind in MIXES:
        path = toy / f"{kind}.gguf"
        reader, report = gguf.GGUFReader(path), preview(builtin.path(), kind)
        counts: dict[str, int] = {}
        for tensor in reader.tensors:
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
        assert counts == dict(report.kinds)
        assert path.stat().st_size == report.target_bytes
        bits = sum(int(tensor.n_bytes) for tensor in reader.tensors) * 8 / sum(int(tensor.n_elements) for tensor in reader.tensors)
        assert math.isclose(bits, report.bits)
        assert reader.fields["general.file_type"].contents() == MIXES[kind].file_type
        assert reader.fields["general.quantization_version"].contents() == 2


def test_metadata_stay_as_they_are(toy: Path) -> None:
    before, after = gguf.GGUFReader(builtin.path()), gguf.GGUFReader(toy / "Q4_K_M.gguf")
    changed = {"general.file_type", "general.quantization_version"}
    for key, field in before.fields.items():
        if not key.startswith("GGUF.") and key not in changed:
            assert after.fields[key].contents() == field.contents(), key


_LIMITS = {"Q8_0": 0.008, "Q6_K": 0.025, "Q5_K_M": 0.05, "Q4_K_M": 0.095, "IQ4_XS": 0.105, "Q4_0": 0.12, "Q3_K_M": 0.2, "Q2_K": 0.36}


def test_every_tensor_is_within_what_its_format_allows(tmp_path: Path) -> None:
    path = made.llama(tmp_path / "m.gguf", kind="F32")
    before = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors}
    for kind, limit in _LIMITS.items():
        target = tmp_path / f"{kind}.gguf"
        quantize(path, target, kind, threads=2)
        for tensor in gguf.GGUFReader(target).tensors:
            plain = np.asarray(before[tensor.name], np.float32)
            now = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(plain.shape)
            error = math.sqrt(float(np.mean((now - plain) ** 2) / np.mean(plain**2)))
            assert error <= limit, (kind, tensor.name)


def answers(folder: Path, kinds: list[str], prompt: str) -> dict[str, str]:
    """What a real llama.cpp says with each file, in a process of its own."""
    code = (
        "import sys, json, pathlib\nfrom quant.builtin.evaluate import Engine, given\nsaid = {}\n"
        "for path in sys.argv[2:]:\n"
        "    engine = Engine(pathlib.Path(path), context=512)\n"
        "    said[pathlib.Path(path).stem] = engine.chat([{'role': 'user', 'content': sys.argv[1]}], max_tokens=16)\n"
        "print('SAID ' + json.dumps(said))"
    )
    files = [str(folder / f"{kind}.gguf") for kind in kinds]
    done = subprocess.run([sys.executable, "-c", code, prompt, *files], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert lines, done.stderr[-2000:]
    said: dict[str, Any] = json.loads(lines[0][5:])
    return {kind: answer["content"] for kind, answer in said.items()}


@pytest.mark.timeout(300)
def test_the_real_engine_answers_with_every_kind(toy: Path) -> None:
    said = answers(toy, list(MIXES), "What is the capital of France?")
    assert set(said) == set(MIXES)
    right = {kind for kind, text in said.items() if "Paris" in text}
    assert right >= set(MIXES) - {"Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L"}, said  # three bits are few for two and a half million weights


@pytest.mark.timeout(300)
def test_the_real_engine_loads_random_models_of_every_source(tmp_path: Path) -> None:
    names = []
    for name, more in (("F16", {}), ("BF16", {}), ("mixtral", {"experts": 4}), ("narrow", {"width": 160, "inner": 288})):
        path = made.llama(tmp_path / f"{name}-source.gguf", kind=name if name in made.KINDS else "F16", **more)
        quantize(path, tmp_path / f"{name}.gguf", "Q4_K_M")
        names.append(name)
    said = answers(tmp_path, names, "hello")
    assert all(isinstance(said[name], str) for name in names)


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "least"), [("Q6_K", 0.92), ("Q5_K_M", 0.9), ("Q4_K_M", 0.85), ("IQ4_XS", 0.85), ("Q4_0", 0.8)])
def test_the_tasks_survive(toy: Path, kind: str, least: float) -> None:
    command = [sys.executable, "-m", "quant.builtin.evaluate", "--per-task", "6", "--json", "--gguf", str(toy / f"{kind}.gguf")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert json.loads(done.stdout.strip().splitlines()[-1])["all"] >= least, done.stdout


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    path = made.llama(tmp_path / "m.gguf", width=160, inner=512)
    report = quantize(path, tmp_path / "out.gguf", "Q4_K_M")
    told = {choice.name: (choice.kind, choice.wanted) for choice in report.fallbacks}
    assert told["token_embd.weight"] == ("Q8_0", "Q6_K")
    assert told["blk.0.attn_q.weight"] == ("Q5_0", "Q4_K")
    assert "blk.0.ffn_down.weight" not in told and "blk.0.attn_norm.weight" not in told


def test_a_rough_source_is_told_only_where_it_matters() -> None:
    assert preview(builtin.path(), "Q8_0").notes == ()
    assert preview(builtin.path(), "Q6_K").notes == (
        "The source is Q8_0: its own small error comes on top; a source of 16 bits is better.",
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_goes_to_the_end_and_only_forward(tmp_path: Path, threads: int) -> None:
    seen: list[tuple[str, int, int]] = []
    path = made.llama(tmp_path / "m.gguf")
    quantize(path, tmp_path / "out.gguf", "q4_0", threads=threads, progress=lambda *step: seen.append(step))
    done = [step[1] for step in seen]
    assert done == sorted(done) and done[-1] == seen[-1][2] == sum(int(t.n_bytes) for t in gguf.GGUFReader(path).tensors)
    assert {step[0] for step in seen} == {tensor.name for tensor in gguf.GGUFReader(path).tensors}


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    path = made.llama(tmp_path / "m.gguf")
    with pytest.raises(KeyboardInterrupt):
        quantize(path, tmp_path / "out.gguf", "Q8_0", progress=stop)
    assert os.listdir(tmp_path) == ["m.gguf"]


def refused(said: str, path: Path, target: Path, kind: str = "Q4_K_M", **more: Any) -> None:
    with pytest.raises(QuantizeError, match=said) as caught:
        quantize(path, target, kind, **more)
    assert "\n" not in str(caught.value)


def test_what_is_refused(tmp_path: Path) -> None:
    path, target = made.llama(tmp_path / "m.gguf"), tmp_path / "out.gguf"
    coarse = made.llama(tmp_path / "q4.gguf", kind="Q4_0")
    link = tmp_path / "link.gguf"
    link.symlink_to(path)
    refused("is quantised already .* is Q4_0.* second error", coarse, target)
    refused("not a kind that can be made; choose one of", path, target, "Q4_K_XL")
    refused("is the model itself; write to another file", path, link, overwrite=True)
    refused("is there already", path, coarse)
    refused("does not exist", tmp_path / "none.gguf", target)
    refused("0 threads cannot work; ask for 1 to 256", path, target, threads=0)
    refused("'magic' does not quantise; choose one of auto, own", path, target, maker="magic")
    (tmp_path / "text.gguf").write_text("not a model at all, but long enough for its first bytes to be read")
    refused("does not start with GGUF", tmp_path / "text.gguf", target)
    broken = bytearray(path.read_bytes())
    (tmp_path / "short.gguf").write_bytes(broken[: len(broken) // 2])
    refused("truncated", tmp_path / "short.gguf", target)
    assert not target.exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = made.llama(tmp_path / "m.gguf")
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.1.ffn_up.weight")
    with path.open("r+b") as file:
        file.seek(int(tensor.data_offset))
        file.write(b"\x00\x7e")  # half precision's NaN
    refused(r"'blk\.1\.ffn_up\.weight', which cannot be quantised: .*no numbers", path, tmp_path / "out.gguf", "Q8_0")
    assert os.listdir(tmp_path) == ["m.gguf"]


def test_one_part_of_a_split_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00002.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_uint16("split.count", 2)
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.zeros((4, 256), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused("is one of 2 files of a model; join them first", path, tmp_path / "out.gguf")


def old_form(path: Path, values: dict[str, list[float]], calls: int = 4) -> Path:
    """`imatrix.dat`, as llama.cpp wrote it before GGUF."""
    raw = len(values).to_bytes(4, "little")
    for name, numbers in values.items():
        raw += len(name).to_bytes(4, "little") + name.encode() + calls.to_bytes(4, "little") + len(numbers).to_bytes(4, "little")
        raw += (np.array(numbers, np.float32) * calls).tobytes()
    path.write_bytes(raw + (3).to_bytes(4, "little") + (4).to_bytes(4, "little") + b"text")
    return path


def test_both_forms_of_importance_matrix_say_the_same(tmp_path: Path) -> None:
    sizes = {"blk.0.attn_q.weight": (1, 256), "blk.0.ffn_down_exps.weight": (4, 512)}
    modern = imatrix.read(made.importance(tmp_path / "m.gguf", sizes))
    assert {name: len(values) for name, values in modern.items()} == {"blk.0.attn_q.weight": 256, "blk.0.ffn_down_exps.weight": 2048}
    assert list(modern["blk.0.ffn_down_exps.weight"][-512:]) == [1.0] * 512  # the expert that was never asked
    old = imatrix.read(old_form(tmp_path / "old.dat", {name: list(values) for name, values in modern.items()}))
    assert {name: list(values) for name, values in old.items()} == {name: list(values) for name, values in modern.items()}


def test_an_importance_matrix_is_used_and_what_it_lacks_is_told(tmp_path: Path) -> None:
    path = made.llama(tmp_path / "m.gguf")
    importance = old_form(tmp_path / "i.dat", {"blk.0.ffn_up.weight": [float(i % 9 + 1) for i in range(256)]})
    plain = quantize(path, tmp_path / "plain.gguf", "Q4_K_S")
    weighed = quantize(path, tmp_path / "weighed.gguf", "Q4_K_S", importance=importance)
    assert weighed.notes == ("The importance matrix says nothing about 13 of 15 tensors (blk.0.attn_k.weight, ...).",)
    before, after = (gguf.GGUFReader(report.target).tensors for report in (plain, weighed))
    differing = {a.name for a, b in zip(before, after, strict=True) if not np.array_equal(a.data, b.data)}
    assert differing == {"blk.0.ffn_up.weight"}


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "cut off"), (b"\x01\x00\x00\x00\xff\xff\xff\x7f", "cut off"), (b"\x00\x00\x00\x00", "holds no importance matrix"),
        (b"\x01\x00\x00\x00\x01\x00\x00\x00a\x01\x00\x00\x00\xff\xff\xff\xff", "cut off"),
        (b"\x01\x00\x00\x00\x01\x00\x00\x00a\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\xc0\x7f", "no numbers"),
        (b"GGUF" + bytes(20), "cannot be read"),
    ],
)  # fmt: skip
def test_a_broken_importance_matrix_is_refused(tmp_path: Path, raw: bytes, said: str) -> None:
    (tmp_path / "i.dat").write_bytes(raw)
    refused(said, builtin.path(), tmp_path / "out.gguf", importance=tmp_path / "i.dat")


def test_an_importance_matrix_of_something_else_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "out.gguf"
    refused("does not exist", builtin.path(), target, importance=tmp_path / "none.dat")
    refused("is a folder", builtin.path(), target, importance=tmp_path)
    refused("is a GGUF file but no importance matrix", builtin.path(), target, importance=builtin.path())
    other = old_form(tmp_path / "other.dat", {"blk.0.ffn_up.weight": [1.0] * 96})
    refused("is of another model: it has 96 values for 'blk.0.ffn_up.weight', which takes 256", builtin.path(), target, importance=other)


def test_without_the_library_another_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> ggml.Library:
        raise ggml.GgmlError("The package xllamacpp is not installed.")

    monkeypatch.setattr(ggml, "library", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("xllamacpp is not installed", builtin.path(), tmp_path / "out.gguf")


def tool(folder: Path, body: str) -> None:
    """A `llama-quantize` that is a Python script; its arguments are `argv`."""
    script = folder / "llama-quantize"
    script.write_text(f"#!{sys.executable}\nimport sys, shutil, os, signal\nargv = sys.argv[1:]\n{body}\n")
    script.chmod(0o755)


def with_tool(folder: Path, target: Path, **more: Any) -> Report:
    return quantize(builtin.path(), target, "Q4_K_M", maker="llama-quantize", threads=2, **more)


def test_an_installed_llama_quantize_does_it_where_asked(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool(tmp_path, f"print('[   1/  38] output.weight - x', flush=True)\nprint(argv)\nshutil.copy({str(toy / 'Q4_K_M.gguf')!r}, argv[-3])")
    monkeypatch.setenv("PATH", str(tmp_path))
    seen: list[tuple[str, int, int]] = []
    report = with_tool(tmp_path, tmp_path / "out.gguf", progress=lambda *step: seen.append(step))
    assert (report.maker, report.kinds["Q4_K"]) == ("llama-quantize", 24)
    assert seen == [("output.weight", 1, 38)]
    assert (tmp_path / "out.gguf").read_bytes() == (toy / "Q4_K_M.gguf").read_bytes()


def test_it_is_taken_by_itself_where_our_own_code_cannot_run(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> ggml.Library:
        raise ggml.GgmlError("The installed xllamacpp does not export ggml_quantize_chunk.")

    tool(tmp_path, f"shutil.copy({str(toy / 'Q4_K_M.gguf')!r}, argv[-3])")
    monkeypatch.setattr(ggml, "library", missing)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert quantize(builtin.path(), tmp_path / "out.gguf", "Q4_K_M").maker == "llama-quantize"
    assert sorted(os.listdir(tmp_path)) == ["llama-quantize", "out.gguf"]


def test_a_preview_refuses_what_quantising_refuses(tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match="not a kind that can be made"):
        preview(builtin.path(), "Q9_K")
    with pytest.raises(QuantizeError, match="does not exist"):
        preview(tmp_path / "none.gguf", "Q8_0")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "print('llama_model_quantize: failed to quantize: bad magic\\nbye')\nsys.exit(1)",
            "exit status 1.*: .*failed to quantize: bad magic",
        ),
        ("os.kill(os.getpid(), signal.SIGABRT)", "signal 6.*it said nothing"),
        ("open(argv[-3], 'w').write('half')", "not a usable GGUF model|does not start with GGUF|cut off"),
    ],
)
def test_a_tool_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str) -> None:
    tool(tmp_path, body)
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(said, builtin.path(), tmp_path / "out.gguf", maker="llama-quantize")
    assert os.listdir(tmp_path) == ["llama-quantize"]


def test_tools_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused("llama-quantize is not installed", builtin.path(), tmp_path / "out.gguf", maker="llama-quantize")


_PACKAGE = """
import ctypes, shutil
class llama_model_imatrix_data(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t)]
class Params(ctypes.Structure):
    _fields_ = [("nthread", ctypes.c_int), ("ftype", ctypes.c_int), ("allow_requantize", ctypes.c_bool),
                ("imatrix", ctypes.POINTER(llama_model_imatrix_data))]
def llama_model_quantize_default_params(): return Params()
def llama_log_set(callback, data):
    global say
    say = callback
def llama_model_quantize(source, target, params):
    made = params._obj
    say(2, b"[   2/  38] x - y\\n", None)
    if made.imatrix:
        first = made.imatrix[0]
        say(4, b"error: %s %d %d %d %d\\n" % (first.name, first.size, first.data[1], made.ftype, made.imatrix[1].name is None), None)
        return 1
    shutil.copy("COPY", target.decode())
    return 0
"""


def test_llama_cpp_python_does_it_where_asked(tmp_path: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package here is a stand-in that records what it is called with; `bytes_golden.py` asks the real one through the same code."""
    (tmp_path / "llama_cpp.py").write_text(_PACKAGE.replace("COPY", str(toy / "Q4_K_M.gguf")))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    target = tmp_path / "out.gguf"
    assert quantize(builtin.path(), target, "Q4_K_M", maker="llama-cpp-python").bits == preview(builtin.path(), "Q4_K_M").bits
    importance = old_form(tmp_path / "i.dat", {"blk.0.ffn_up.weight": [5.0] * 256})
    said = r"exit status 1\): error: blk\.0\.ffn_up\.weight 256 5 15 1"
    refused(said, builtin.path(), target, maker="llama-cpp-python", importance=importance, overwrite=True)
