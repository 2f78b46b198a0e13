"""Labels belong to one content, wherever they lie."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest

from quant import label
from quant.evaluate_figures import Estimate
from quant.label import Label


def made(path: Path, **given: object) -> Label:
    base = Label(
        version=label.VERSION, of=label.identity(path, whole=True), name=path.name, kind="Q4_K_M", date="2026-11-22T10:00:00+00:00",
        texts="abc", tokens=5000, perplexity=Estimate(6.4, 6.0, 6.8), source="f16.gguf", kld=Estimate(0.0281, 0.02, 0.03),
        same=Estimate(0.921),
    )  # fmt: skip
    return msgspec.structs.replace(base, **given)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(bytes(range(256)) * 20_000)
    return path


def test_a_label_is_found_again(model: Path) -> None:
    assert label.label(model) is None
    wanted = made(model)
    assert label.write(model, wanted) == model.with_name("m.gguf.quality.json")
    assert label.label(model) == wanted and label.label(str(model)) == wanted
    assert str(wanted) == "KLD 0.028, 92 % same top token"
    assert str(made(model, kld=None)) == "perplexity 6.4"
    assert wanted.of.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    label.remove(model)
    label.remove(model)
    assert label.label(model) is None


def test_other_bytes_have_no_label(model: Path) -> None:
    label.write(model, made(model))
    raw = model.read_bytes()
    for changed in (raw[:-1], raw + b"x", b"\xff" + raw[1:], raw[:-1] + b"x"):
        model.write_bytes(changed)
        assert label.label(model) is None
    model.write_bytes(raw)
    os.utime(model, (0, 0))
    assert label.label(model) is not None  # when it was written is no matter


def test_through_a_link(model: Path, tmp_path: Path) -> None:
    label.write(model, made(model))
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "other.gguf"
    link.symlink_to(model)
    assert label.label(link) is not None


def test_where_the_folder_cannot_be_written(model: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf.quality.json").mkdir()  # root may write everywhere; nobody can replace a folder by a file
    environment = {"XDG_DATA_HOME": str(tmp_path / "data")}
    where = label.write(model, made(model), environment)
    assert where.parent == tmp_path / "data" / "pointsman" / "labels"
    assert label.label(model, environment) == made(model)
    assert label.label(model, {"XDG_DATA_HOME": str(tmp_path / "nothing")}) is None
    (tmp_path / "full").write_bytes(b"")
    with pytest.raises(label.LabelError, match="The label cannot be kept: "):
        label.write(model, made(model), {"XDG_DATA_HOME": str(tmp_path / "full")})


def test_what_is_no_label_counts_as_none(model: Path) -> None:
    good = msgspec.json.encode(made(model))
    for raw in (
        b"",
        b"{}",
        b"\xff\xfe",
        b"[" * 10_000,
        good[:-1],
        good.replace(b'"version":1', b'"version":9'),
        good + b" " * label.MAX_BYTES,
    ):
        label.place(model).write_bytes(raw)
        assert label.label(model) is None, raw[:20]
    label.place(model).write_bytes(good)
    assert label.label(model) is not None
    model.unlink()
    assert label.label(model) is None


def test_small_files_and_progress(tmp_path: Path) -> None:
    for size in (0, 1, 1000, 3 << 20):
        path = tmp_path / str(size)
        path.write_bytes(b"a" * size)
        steps: list[tuple[int, int]] = []
        found = label.identity(path, whole=True, progress=lambda done, total, steps=steps: steps.append((done, total)))  # type: ignore[misc]
        assert found.bytes == size and found.sha256 == hashlib.sha256(b"a" * size).hexdigest()
        assert not size or steps[-1] == (size, size)


def test_figures_for_people() -> None:
    klds = {0.0: "0", 1e-6: "0", 0.00042: "0.00042", 0.00131: "0.0013", 0.0281: "0.028", 0.4451: "0.445", 1.3931: "1.39"}
    assert {value: label.kld_text(value) for value in klds} == klds
    shares = {1.0: "100 %", 0.99999: "99.9 %", 0.9934: "99.3 %", 0.921: "92 %", 0.016: "1.6 %", 0.00001: "0.1 %", 0.0: "0 %"}
    assert {value: label.share_text(value) for value in shares} == shares


def test_where_labels_lie() -> None:
    assert label.folder({"XDG_DATA_HOME": "/data"}) == Path("/data/pointsman/labels")
    assert label.folder({"XDG_DATA_HOME": "relative"}) == Path.home() / ".local/share/pointsman/labels"
