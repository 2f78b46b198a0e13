"""The namespace: models of every program are found in place, meant by name, told what they are, and only ours removed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import msgspec
import pytest

from quant import about, facts, models, places
from quant.label import SUFFIX
from tests.quant import homes
from tests.quant.homes import model

META = "You may not use this. LLAMA 3.2 COMMUNITY LICENSE AGREEMENT\nLlama 3.2 Version Release Date: September 25, 2024"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return homes.bare(tmp_path / "home", monkeypatch)


@pytest.fixture
def home(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a model of every program."""
    home = tmp_path / "home"
    data = [model(tmp_path / f"{number}.gguf", general__name=f"number {number}").read_bytes() for number in range(8)]
    homes.ollama(home, "library/llama3.2:latest", {"model": data[0], "license": META.encode(), "params": b'{"stop":["x"]}'})
    homes.ollama(home, "somebody/llama3.2:1b", {"model": data[1], "projector": b"GGUF eyes"})
    homes.ollama(home, "owner/repo:Q8_0", {"model": data[2]}, host="hf.co")
    model(home / ".lmstudio" / "models" / "publisher" / "Repo-GGUF" / "repo-Q4_K_M.gguf")
    model(home / ".lmstudio" / "models" / "publisher" / "Repo-GGUF" / "repo-Q8_0.gguf")
    model(home / ".lmstudio" / "models" / "publisher" / "Repo-GGUF" / "mmproj-repo-f16.gguf")
    homes.cached(home, "org/Cached-GGUF", {"cached-Q4_0.gguf": data[3], "sub/cached-F16.gguf": data[4], "README.md": b"#"})
    model(home / ".cache" / "llama.cpp" / "ggml-org_gemma_gemma-Q4_K_M.gguf")
    model(home / "mine" / "a" / "some model.gguf")
    model(home / "mine" / "twin-Q8_0.gguf")
    model(home / "mine" / "deep" / "twin-Q8_0.gguf")
    model(own / "hf" / "org" / "Ours-GGUF" / "ours-Q6_K.gguf")
    model(own / "local" / "imported" / "anything.gguf")
    monkeypatch.setenv("POINTSMAN_MODELS", str(home / "mine"))
    return home


def test_every_place_is_looked_into(home: Path, own: Path) -> None:
    found = {one.name: one for one in models.every()}
    assert list(found) == [
        "hf:org/Ours-GGUF:Q6_K", "imported", "hf:org/Cached-GGUF:Q4_0", "hf:org/Cached-GGUF:F16", "ollama:hf.co/owner/repo:Q8_0",
        "ollama:llama3.2", "ollama:somebody/llama3.2:1b", "lmstudio:publisher/Repo-GGUF:Q4_K_M", "lmstudio:publisher/Repo-GGUF:Q8_0",
        "llamacpp:ggml-org_gemma_gemma-Q4_K_M", "some model", "deep/twin-Q8_0", "twin-Q8_0",
    ]  # fmt: skip
    assert all(not one.fault and one.facts.architecture == "llama" and one.bytes == one.path.stat().st_size for one in found.values())
    assert [one.name for one in found.values() if one.owned] == ["hf:org/Ours-GGUF:Q6_K", "imported"]
    llama = found["ollama:llama3.2"]
    assert (llama.licence, llama.origin) == ("Llama 3.2 Community", "registry.ollama.ai/library/llama3.2:latest")
    assert found["ollama:somebody/llama3.2:1b"].projector is not None
    eyes = home / ".lmstudio" / "models" / "publisher" / "Repo-GGUF" / "mmproj-repo-f16.gguf"
    assert found["lmstudio:publisher/Repo-GGUF:Q8_0"].projector == eyes
    assert found["hf:org/Cached-GGUF:F16"].path.is_symlink(), "used where it is"


def test_every_name_of_the_list_means_its_model(home: Path) -> None:
    for one in models.every():
        assert models.find(one.name) == one


def test_a_user_without_a_home_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    where = places.from_environment({})
    assert where.own == Path("~/.local/share/pointsman/models")
    with pytest.raises(models.ModelError, match="does not exist"):
        models.find("~nobody/x.gguf", where)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ollama:llama3.2", "ollama:llama3.2"), ("OLLAMA:Llama3.2", "ollama:llama3.2"),
        ("hf:org/cached-gguf:q4_0", "hf:org/Cached-GGUF:Q4_0"),
        ("llama3.2", "ollama:llama3.2"), ("llama3.2:1b", "ollama:somebody/llama3.2:1b"), ("hf:org/Cached-GGUF", "hf:org/Cached-GGUF:Q4_0"),
        ("lmstudio:publisher/Repo-GGUF", "lmstudio:publisher/Repo-GGUF:Q4_K_M"), ("repo-gguf:Q8_0", "lmstudio:publisher/Repo-GGUF:Q8_0"),
        ("ours-gguf", "hf:org/Ours-GGUF:Q6_K"),
        ("imported", "imported"), ("some model", "some model"), ("deep/twin-Q8_0", "deep/twin-Q8_0"),
    ],
)  # fmt: skip
def test_what_a_name_means(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = models.find(name)
    assert found.name == meant
    if "cached-gguf" not in name:  # the hub's own names are exact
        assert models.resolve(name) == found.path


def test_what_no_name_means(home: Path) -> None:
    for name, says in (
        ("llama3.3", "There is no model 'llama3.3' on this machine; did you mean llama3.2"),
        ("zzz\x1b[2J", r"There is no model 'zzz \[2J' on this machine; `pointsman ls` lists"),
        ("hf:org/none", "hf:org/none is not on this machine; `pointsman pull hf:org/none` fetches it"),
        ("none.gguf", "The model file none.gguf does not exist"),
        (str(home), "is a folder; name the .gguf file in it"),
    ):
        with pytest.raises(models.ModelError, match=says) as caught:
            models.find(name)
        assert str(caught.value).isprintable()


def test_a_name_that_means_two_models_is_refused(home: Path) -> None:
    model(home / ".lmstudio" / "models" / "a" / "Same" / "x.gguf")
    model(home / ".lmstudio" / "models" / "b" / "Same" / "x.gguf")
    with pytest.raises(models.ModelError, match=r"^same can mean lmstudio:a/Same:x\.gguf, lmstudio:b/Same:x\.gguf; write one of these\.$"):
        models.find("same")


def test_a_file_is_a_model_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = models.find(str(home / "mine" / "twin-Q8_0.gguf"))
    assert (one.place, one.quant, one.owned) == ("file", "Q8_0", False)
    monkeypatch.chdir(home / "mine")
    assert models.find("twin-Q8_0.gguf").path == Path("twin-Q8_0.gguf")
    ours = models.find(str(home / ".local/share/pointsman/models/local/imported/anything.gguf"))
    assert (ours.name, ours.owned) == ("imported", True), "a file of ours is known as such"


def test_builtin_resolves() -> None:
    assert models.find("builtin").path == models.resolve("builtin")
    assert models.resolve("builtin").name == "pointsman-toy.gguf"


def test_only_ours_are_removed(home: Path, own: Path) -> None:
    for name, says in (
        ("ollama:llama3.2", "belongs to Ollama; remove it there"), ("some model", "belongs to you; remove it there"),
        ("hf:org/Cached-GGUF:F16", "belongs to the Hugging Face cache"), (str(home / "mine" / "twin-Q8_0.gguf"), "belongs to you"),
    ):  # fmt: skip
        before = models.find(name)
        with pytest.raises(models.ModelError, match=says):
            models.remove(before)
        assert before.path.exists()
    ours = models.find("ours-gguf")
    sidecar = ours.path.with_name(ours.path.name + SUFFIX)
    sidecar.write_text("{}")
    assert models.remove(ours) == [ours.path, sidecar]
    assert not (own / "hf" / "org").exists() and "hf:org/Ours-GGUF:Q6_K" not in [one.name for one in models.every()]


def test_removing_one_of_two_leaves_the_other_whole(own: Path) -> None:
    folder = own / "hf" / "o" / "Two"
    for name in ("x-Q8_0.gguf", "deep/x-F16.gguf", "mmproj-x-F16.gguf"):
        model(folder / name)
    (folder / about.LICENCE).write_text("free")
    every = {name: about.FileFact(1, "0" * 64) for name in ("x-Q8_0.gguf", "deep/x-F16.gguf", "mmproj-x-F16.gguf")}
    about.save(folder, about.About("hf:o/Two", licence="MIT", files=every))
    models.remove(models.find("hf:o/Two:F16"))
    assert not (folder / "deep").exists() and sorted(about.load(folder).files) == ["mmproj-x-F16.gguf", "x-Q8_0.gguf"]
    assert models.find("hf:o/Two").projector == folder / "mmproj-x-F16.gguf" and models.find("hf:o/Two").licence == "MIT"
    models.remove(models.find("hf:o/Two"))
    assert not folder.exists()


def test_a_link_in_our_folder_leads_no_removal_astray(own: Path, tmp_path: Path) -> None:
    outside = model(tmp_path / "precious.gguf")
    (own / "local" / "x").mkdir(parents=True)
    (own / "local" / "x" / "x.gguf").symlink_to(outside)
    models.remove(models.find("x"))
    assert outside.exists() and not (own / "local" / "x").exists()
    (own / "local" / "away").symlink_to(tmp_path) if (own / "local").exists() else None
    assert [one.name for one in models.every() if one.owned] == []


def test_a_file_in_two_places_is_told_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_MODELS", f"{home / '.lmstudio'}{os.pathsep}{home / '.lmstudio' / 'models'}{os.pathsep}{home / 'none'}")
    names = [one.name for one in models.every() if "repo-" in one.path.name]
    assert names == ["lmstudio:publisher/Repo-GGUF:Q4_K_M", "lmstudio:publisher/Repo-GGUF:Q8_0"]


def test_names_that_the_quantisation_does_not_tell_apart(own: Path) -> None:
    for name in ("a-Q8_0.gguf", "b-Q8_0.gguf", "c.gguf"):
        model(own / "hf" / "o" / "R" / name)
    assert [one.name for one in models.every()] == ["hf:o/R:a-Q8_0.gguf", "hf:o/R:b-Q8_0.gguf", "hf:o/R:c.gguf"]
    assert models.resolve("hf:o/R:b-Q8_0.gguf").name == "b-Q8_0.gguf"


def test_lm_studio_may_have_moved(own: Path, tmp_path: Path) -> None:
    home, moved = tmp_path / "home", tmp_path / "disk"
    (home / ".lmstudio").mkdir()
    (home / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(moved)}))
    model(moved / "p" / "R" / "r-Q8_0.gguf")
    assert [one.name for one in models.every()] == ["lmstudio:p/R:Q8_0"]
    (home / ".lmstudio" / "settings.json").write_text('{"downloadsFolder": [1]')
    assert models.every() == []


# -- parts, indexes, broken things --------------------------------------------------------------------------------------------------------


def test_missing_parts_are_said(own: Path) -> None:
    model(own / "local" / "big" / "big-Q8_0-00001-of-00003.gguf", split__count=3)
    model(own / "local" / "two" / "two.gguf", split__count=2)
    faults = {one.name: one.fault for one in models.every()}
    assert faults["big"].startswith("only 1 of its parts are there") and faults["two"].startswith("only 1 of its 2 parts are there")
    for name in faults:
        with pytest.raises(models.ModelError, match=f"{name} cannot be used: only 1 of its .*parts are there"):
            models.resolve(name)


def test_the_index_spares_reading_and_can_be_lost(home: Path, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = models.every()
    index = own / models.INDEX
    assert index.is_file()
    reads: list[str] = []
    real = facts.read
    monkeypatch.setattr(facts, "read", lambda files: reads.append(files[0].name) or real(files))
    assert models.every() == first and reads == []
    changed = home / "mine" / "a" / "some model.gguf"
    model(changed, general__name="another", llama__context_length=1024)
    os.utime(changed, ns=(1, 1))
    again = {one.name: one for one in models.every()}
    assert reads == ["some model.gguf"] and again["some model"].facts.context == 1024
    for spoilt in (b"", b"{", b'{"\xff":1}', b"[" * 100_000, b'{"version":1,"models":{"x":7}}', b'{"version":99,"models":{}}', bytes(100)):
        index.write_bytes(spoilt)
        assert {one.name: one for one in models.every()} == again
        assert msgspec.json.decode(index.read_bytes())["version"] == 1
    index.unlink()
    assert {one.name: one for one in models.every()} == again
    changed.unlink()
    models.every()
    assert str(changed) not in index.read_text(), "what is gone is forgotten"


def test_without_a_place_for_the_index_all_is_read_each_time(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_MODELS", str(tmp_path / "mine"))
    model(tmp_path / "mine" / "x.gguf")
    own.parent.mkdir(parents=True)
    own.write_text("a file where the folder should be")
    assert [one.name for one in models.every()] == ["x"] and own.read_text().startswith("a file")


@pytest.mark.parametrize(
    ("manifest", "fault"),
    [
        (b"", "manifest cannot be read"), (b'{"layers":"\xff"}', "manifest cannot be read"),
        (b"{", "manifest cannot be read"), (b'{"layers":7}', "manifest cannot be read"),
        (b'{"layers":[{"mediaType":"%smodel","digest":"sha256:../../../../etc/passwd"}]}', "names no proper blob"),
        (b'{"layers":[{"mediaType":"%smodel","digest":"md5:00"}]}', "names no proper blob"),
        (b'{"layers":[{"mediaType":"%smodel","digest":"sha256:' + b"0" * 64 + b'","size":5}]}', "is not there or not readable"),
        (b'{"layers":[]}', None), (b'{"layers":[{"mediaType":"application/vnd.ollama.image.tensor","digest":"sha256:00"}]}', None),
    ],
)  # fmt: skip
def test_ollamas_manifests_are_believed_in_nothing(own: Path, tmp_path: Path, manifest: bytes, fault: str | None) -> None:
    path = homes.ollama(tmp_path / "home", "library/m:latest", {"model": b"x"})
    path.write_bytes(manifest.replace(b"%s", homes.MEDIA.encode()))
    found = models.every()
    if fault is None:
        assert found == []  # nothing that we could serve, and nothing wrong
    else:
        assert found[0].name == "ollama:m" and fault in found[0].fault
        with pytest.raises(models.ModelError, match="ollama:m cannot be used"):
            models.resolve("ollama:m")


def test_a_blob_of_another_size_is_not_served(own: Path, tmp_path: Path) -> None:
    homes.ollama(tmp_path / "home", "library/m:latest", {"model": b"GGUF" + bytes(60)}, size=999)
    assert "has 64 of 999 bytes" in models.find("ollama:m").fault


def test_folders_without_end_are_bounded(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    model(mine / "/".join("abcdefgh") / "deep.gguf")
    (mine / "loop").symlink_to(mine)
    model(mine / ".hidden" / "x.gguf")
    model(mine / "bad\nname.gguf")
    (mine / "folder.gguf").mkdir()
    os.mkfifo(mine / "pipe.gguf")
    monkeypatch.setenv("POINTSMAN_MODELS", str(mine))
    assert models.every() == []
    monkeypatch.setattr(places, "MAX_ENTRIES", 10)
    for number in range(40):
        (mine / f"{number}.gguf").write_bytes(b"")
    assert len(places.walk(mine)) <= 10
    with pytest.raises(models.ModelError, match="is no ordinary file"):
        models._usable(models.find(str(mine / "pipe.gguf")))


# -- words --------------------------------------------------------------------------------------------------------------------------------


def test_licences_as_people_write_them() -> None:
    assert [facts.licence(text) for text in ("apache-2.0", "MIT", "llama3.1", "openmdw-1.1", "cc-by-nc-4.0", "", "own-1")] == [
        "Apache-2.0", "MIT", "Llama 3.1 Community", "OpenMDW-1.1", "CC-BY-NC-4.0", "", "own-1",
    ]  # fmt: skip
    assert facts.licence("other", "openmdw") == "OpenMDW" and facts.licence("other", "qwen") == "qwen" and facts.licence("other") == "other"
    texts = {
        "OpenMDW License Agreement, version 1.1 (OpenMDW-1.1)": "OpenMDW-1.1",
        "Apache License\n  Version 2.0": "Apache-2.0", META: "Llama 3.2 Community",
        "MIT License\n\nCopyright": "MIT", "Gemma Terms of Use": "Gemma terms", "whatever": "", "": "",
    }  # fmt: skip
    for text, name in texts.items():
        assert facts.licence_of_text(text) == name


def test_texts_of_files_steer_no_terminal(own: Path) -> None:
    model(
        own / "local" / "x" / "x.gguf",
        general__name="a\x1b]0;b\x07\nc" + "d" * 5000,
        general__license="m\x1b[2Jit",
        general__author="\u202eevil",
    )
    said = models.find("x").facts
    assert said.title.startswith("a ]0;b c") and said.title.isprintable() and len(said.title) < facts.MAX_TEXT
    assert said.licence.isprintable() and said.author.isprintable()


def test_details_add_up(own: Path) -> None:
    one = models.find(str(model(own / "local" / "x" / "x.gguf")))
    detail = models.detail(one)
    assert [(kind.kind, kind.number) for kind in detail.kinds] == [("F32", 20)] and detail.bits == 32.0
    assert detail.tensor_bytes == 4 * one.facts.parameters and models.template(one).startswith("{% for m in messages %}")
    assert one.quality == ""
    assert hashlib.sha256(one.path.read_bytes()).hexdigest() == about.sha256(one.path)
