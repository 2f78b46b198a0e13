"""Bundles: a model goes to another machine whole and unchanged, always as the same bytes; archives that are not just so are refused."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant import about, bundle, models, places
from quant.bundle import BundleError
from quant.bundle_read import unpack
from tests.quant import homes
from tests.quant.homes import model

LICENCE = "Apache License\nVersion 2.0, January 2004\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return homes.bare(tmp_path / "home", monkeypatch)


@pytest.fixture
def packed(own: Path, tmp_path: Path) -> Path:
    """The bundle of a model of ours that came from the hub: two parts, a projector, a licence."""
    folder = own / "hf" / "org" / "Tiny-GGUF"
    model(folder / "tiny-Q8_0-00001-of-00002.gguf", split__count=2)
    model(folder / "tiny-Q8_0-00002-of-00002.gguf")
    model(folder / "mmproj-tiny-F16.gguf", general__type="mmproj")
    (folder / about.LICENCE).write_text(LICENCE)
    settings = {"temperature": bundle.msgspec.Raw(b"0.7")}
    about.save(folder, about.About("hf:org/Tiny-GGUF", "abc", "Apache-2.0", "https://licence", settings=settings))
    target = tmp_path / "model.tar"
    bundle.export(models.find("tiny-gguf"), target)
    return target


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "other") -> Path:
    """Another machine's storage."""
    return homes.bare(tmp_path / name, monkeypatch)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()) if folder.exists() else []


def test_there_and_back(packed: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = models.find("tiny-gguf")
    there = elsewhere(tmp_path, monkeypatch)
    told: list[tuple[str, int, int]] = []
    done = unpack(packed, progress=lambda *args: told.append(args))
    assert (done.name, done.licence, done.already) == ("hf:org/Tiny-GGUF:Q8_0", "Apache-2.0", False)
    assert told[-1][1] == told[-1][2] == done.size
    found = models.find(done.name)
    assert found.path == done.path and found.owned and found.fault == ""
    assert (found.origin, found.revision, found.licence, found.licence_link) == ("hf:org/Tiny-GGUF", "abc", "Apache-2.0", "https://licence")
    assert [path.read_bytes() for path in found.files] == [path.read_bytes() for path in here.files]
    assert found.projector is not None and found.projector.name == "mmproj-tiny-F16.gguf"
    folder = done.path.parent
    assert (folder / about.LICENCE).read_text() == LICENCE and (folder / about.TEMPLATE).read_text() == models.template(found)
    assert bytes(about.load(folder).settings["temperature"]) == b"0.7"
    assert not [name for name in files(there) if ".import-" in name]
    again = tmp_path / "again.tar"
    bundle.export(found, again)
    assert again.read_bytes() == packed.read_bytes(), "the same model gives the same bytes, on any machine"
    assert unpack(packed).already


def test_any_tar_reads_it(packed: Path) -> None:
    with tarfile.open(packed) as archive:
        members = archive.getmembers()
        listed = json.load(archive.extractfile("bundle.json") or io.BytesIO())
    assert [member.name for member in members] == ["bundle.json", *(entry["name"] for entry in listed["files"]), "SHA256SUMS"]
    assert [entry["role"] for entry in listed["files"]] == ["weights", "weights", "projector", "licence", "template"]
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}


def test_of_ollama_and_under_another_name(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = model(tmp_path / "x.gguf").read_bytes()
    layers = {
        "model": data,
        "license": LICENCE.encode(),
        "template": b"{{ .Prompt }}",
        "params": b'{"stop":["<|im_end|>"]}',
        "system": b"Be kind.",
    }
    homes.ollama(tmp_path / "home", "library/llama3.2:1b", layers)
    bundle.export(models.find("ollama:llama3.2:1b"), tmp_path / "b.tar")
    elsewhere(tmp_path, monkeypatch)
    first, second = unpack(tmp_path / "b.tar"), unpack(tmp_path / "b.tar", name="mine")
    assert (first.name, second.name) == ("llama3.2-1b", "mine") and first.path.name == "llama3.2-1b-F32.gguf"
    assert first.path.read_bytes() == data and models.find("mine").licence == "Apache-2.0"
    folder = first.path.parent
    assert (folder / about.TEMPLATE).read_text() == "{{ .Prompt }}" and (folder / "system.txt").read_text() == "Be kind."
    assert json.loads(bytes(about.load(folder).settings["stop"])) == ["<|im_end|>"]


def test_a_model_is_never_replaced_by_another(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = elsewhere(tmp_path, monkeypatch)
    other = model(there / "hf" / "org" / "Tiny-GGUF" / "tiny-Q8_0-00001-of-00002.gguf", general__name="another").read_bytes()
    with pytest.raises(BundleError, match=r"is another model of the same name; remove it first, or import this one with --as NAME\.$"):
        unpack(packed)
    assert (there / "hf/org/Tiny-GGUF/tiny-Q8_0-00001-of-00002.gguf").read_bytes() == other
    assert files(there / "hf") == ["org/Tiny-GGUF/.lock", "org/Tiny-GGUF/tiny-Q8_0-00001-of-00002.gguf"]
    assert unpack(packed, name="beside").name == "beside"
    for bad in ("../x", "a/b", ".x", "a b", "x" * 101, "\x1b[2J"):
        with pytest.raises(BundleError, match="cannot be a name"):
            unpack(packed, name=bad)


def test_what_cannot_be_exported_is_said(own: Path, tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match="is there already"):
        bundle.export(models.find("tiny-gguf"), packed)
    bad = own / "local" / "bad" / "bad.gguf"
    model(bad).write_bytes(bad.read_bytes()[:-5])
    with pytest.raises(BundleError, match=r"^bad cannot be exported: .*truncated"):
        bundle.export(models.find("bad"), tmp_path / "bad.tar")
    good = models.find(str(model(tmp_path / "good.gguf")))
    real = bundle._entry

    def changed(source: Any, told: Any) -> Any:
        entry = real(source, told)
        good.path.write_bytes(bytes(good.bytes))
        return entry

    monkeypatch.setattr(bundle, "_entry", changed)
    with pytest.raises(BundleError, match="changed while it was exported; nothing was written"):
        bundle.export(good, tmp_path / "good.tar")
    assert not (tmp_path / "good.tar").exists()


# -- archives that are refused ------------------------------------------------------------------------------------------------------------


def packing(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], end: bytes = bytes(1024)) -> Path:
    with path.open("wb") as out:
        for info, data in members:
            out.write(info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
        out.write(end)
    return path


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as archive:
        return [(info, (archive.extractfile(info) or io.BytesIO()).read()) for info in archive.getmembers()]


def listed(found: list[tuple[tarfile.TarInfo, bytes]], change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the list at the beginning."""
    info, data = found[0]
    contents = json.loads(data)
    change(contents)
    data = json.dumps(contents).encode()
    info.size = len(data)
    found[0] = (info, data)
    rows = [(hashlib.sha256(data).hexdigest(), "bundle.json"), *((entry["sha256"], entry["name"]) for entry in contents["files"])]
    sums = "".join(f"{digest}  {name}\n" for digest, name in rows).encode()
    found[-1][0].size = len(sums)
    found[-1] = (found[-1][0], sums)


def renamed(name: str) -> Callable[[list[Any]], None]:
    """The first part of the weights under another name, in the list and in the archive."""

    def change(found: list[Any]) -> None:
        listed(found, lambda contents: contents["files"][0].update(name=name))
        found[1][0].name = name

    return change


def linked(kind: bytes, to: str) -> Callable[[list[Any]], None]:
    def change(found: list[Any]) -> None:
        info = found[1][0]
        info.type, info.linkname, info.size = kind, to, 0
        found[1] = (info, b"")

    return change


def entry(**values: Any) -> Callable[[list[Any]], None]:
    return lambda found: listed(found, lambda contents: contents["files"][0].update(values))


def head(**values: Any) -> Callable[[list[Any]], None]:
    return lambda found: listed(found, lambda contents: contents.update(values))


def many(found: list[Any]) -> None:
    listed(found, lambda contents: contents.update(files=[{**contents["files"][0], "name": f"{number}.gguf"} for number in range(1001)]))


def wrong_sums(found: list[Any]) -> None:
    info, data = found[-1]
    found[-1] = (info, b"0" + data[1:])


def spoilt(found: list[Any]) -> None:
    info, data = found[1]
    found[1] = (info, data[:-1] + b"\x07")


def huge(found: list[Any]) -> None:
    entry(size=1 << 45)(found)
    found[1][0].size = 1 << 45


HOSTILE: dict[str, tuple[Callable[[list[Any]], None], str]] = {
    "path up": (renamed("../evil.gguf"), "lists a file of the name '../evil.gguf'"),
    "path from the root": (renamed("/etc/evil.gguf"), "lists a file of the name"),
    "path into a folder": (renamed("a/evil.gguf"), "lists a file of the name"),
    "hidden": (renamed(".evil.gguf"), "lists a file of the name"),
    "another kind of file": (renamed("evil.so"), "lists a file of the name"),
    "escape": (renamed("a\x1b[2J.gguf"), "lists a file of the name"),
    "about itself": (renamed("about.json"), "lists a file of the name"),
    "symbolic link": (linked(tarfile.SYMTYPE, "/etc/passwd"), "is no ordinary file"),
    "hard link": (linked(tarfile.LNKTYPE, "bundle.json"), "is no ordinary file"),
    "folder": (linked(tarfile.DIRTYPE, ""), "is no ordinary file"),
    "device": (linked(tarfile.CHRTYPE, ""), "is no ordinary file"),
    "pipe": (linked(tarfile.FIFOTYPE, ""), "is no ordinary file"),
    "long name": (linked(tarfile.GNUTYPE_LONGNAME, ""), "is no ordinary file"),
    "extended header": (linked(tarfile.XHDTYPE, ""), "is no ordinary file"),
    "sparse": (linked(tarfile.GNUTYPE_SPARSE, ""), "is no ordinary file"),
    "other content": (spoilt, "has another hash than its list says"),
    "other hash": (entry(sha256="0" * 64), "has another hash than its list says"),
    "no hash": (entry(sha256="x"), "with a size or hash that cannot be"),
    "negative size": (entry(size=-1), "with a size or hash that cannot be"),
    "size of a world": (entry(size=1 << 60), "with a size or hash that cannot be"),
    "more than the disk": (huge, "GB free; free some"),
    "other size": (entry(size=5), "is not where its list says"),
    "unknown role": (entry(role="program"), "its list is wrong"),
    "weights as licence": (entry(role="licence"), "lists a file of the name"),
    "unknown field": (entry(mode=0o777), "its list is wrong"),
    "twice": (lambda found: listed(found, lambda c: c["files"].append(c["files"][0])), "lists a file twice"),
    "no files": (head(files=[]), "its list|lists no weights"),
    "many files": (many, "more than 1000"),
    "another format": (head(format=2), "has the format 2; this version reads 1"),
    "not JSON": (lambda found: found.__setitem__(0, (found[0][0], b"x" * found[0][0].size)), "its list is wrong"),
    "part missing": (lambda found: (listed(found, lambda c: c["files"].pop(1)), found.pop(2)) and None, "not one whole model"),
    "member too many": (lambda found: found.append(found[-1]), "more in it than its list says"),
    "order": (lambda found: found.insert(1, found.pop(2)), "is not where its list says"),
    "no checksums": (lambda found: found.pop() and None, "no tar header|checksums|cut off"),
    "other checksums": (wrong_sums, "its checksums are not"),
    "list at the end": (lambda found: found.append(found.pop(0)), "does not begin with bundle.json"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_harms_nothing(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    change, says = HOSTILE[kind]
    found = members(packed)
    change(found)
    path = packing(tmp_path / "evil.tar", found)
    there = elsewhere(tmp_path, monkeypatch)
    with pytest.raises(BundleError, match=says) as caught:
        unpack(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
    assert files(tmp_path / "other") == [] and not (tmp_path / "evil.gguf").exists() and not there.with_name("evil.gguf").exists()


def test_damaged_and_foreign_files_are_refused(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packed.read_bytes()
    elsewhere(tmp_path, monkeypatch)
    path = tmp_path / "x.tar"
    for data, says in (
        (b"", "is cut off"), (whole[:100], "is cut off"), (whole[:600], "is cut off"), (whole[:-2000], "is cut off"),
        (whole[:-1], "is cut off"),
        (whole + b"x", "more in it"), (whole[:-1] + b"x", "more in it"), (bytes(4096), "no tar header"),
        (b"PK\3\4" + bytes(2000), "no tar header"),
        (whole[:200] + b"7" + whole[201:], "no tar header"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(BundleError, match=says):
            unpack(path)
    with pytest.raises(BundleError, match="cannot be imported: No such file"):
        unpack(tmp_path / "none.tar")
    assert files(tmp_path / "other") == []


def test_every_flipped_byte_of_a_header_or_the_weights_is_found(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = packed.read_bytes()
    there = elsewhere(tmp_path, monkeypatch)
    start = whole.index(b"GGUF\x03")
    for at in (520, 600, 700, start - 512, start - 400, start - 1, start, start + 5000, len(whole) // 2, len(whole) - 1500):
        path = tmp_path / "flipped.tar"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(BundleError):
            unpack(path)
        assert files(there) == []


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_anywhere_is_found(packed: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(packed.read_bytes())
    near = st.sampled_from([at for at in range(len(whole)) if at < 3000 or at > len(whole) - 8000])
    at = data.draw(near | st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "flipped.tar"
    path.write_bytes(whole)
    there = places.Places(tmp_path / "there")
    with pytest.raises(BundleError):
        unpack(path, there)
    assert files(there.own) == []


def test_weights_that_are_no_model_are_refused(own: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = members(packed)
    bad = model(tmp_path / "bad.gguf", llama__block_count=10**6).read_bytes()
    digest = hashlib.sha256(bad).hexdigest()
    found[1][0].size = len(bad)
    found[1] = (found[1][0], bad)
    entry(size=len(bad), sha256=digest)(found)
    elsewhere(tmp_path, monkeypatch)
    with pytest.raises(BundleError, match="block_count is 1000000"):
        unpack(packing(tmp_path / "evil.tar", found))
    assert files(tmp_path / "other") == []


def test_no_origin_leads_out_of_the_storage(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = elsewhere(tmp_path, monkeypatch)
    for number, (origin, name) in enumerate(
        (("hf:../..", "../../evil"), ("hf:a/..", "..."), ("hf:/etc/x", "/etc/passwd"), ("x" * 500, "é\x1b"))
    ):
        found = members(packed)
        head(origin=origin, name=name)(found)
        done = unpack(packing(tmp_path / f"{number}.tar", found))
        assert done.path.is_relative_to(there / "local") and done.path.parent.parent == there / "local"
        shutil.rmtree(there)
