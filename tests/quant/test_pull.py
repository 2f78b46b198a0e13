"""`quant.pull` against a strict stand-in for the hub: what is fetched, checked, gone on with, refused; real sockets and processes."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quant import about, models, places, pull
from quant.hub import HubError
from tests.quant import homes, hubfake
from tests.quant.hubfake import REPO, Site

ROOT = Path(__file__).resolve().parents[2]
BIG = bytes(range(256)) * (24 << 12)  # 24 MiB: huggingface_hub writes pieces of 10 MiB
APACHE = b"                                 Apache License\n                           Version 2.0, January 2004\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return homes.model(tmp_path_factory.mktemp("weights") / "x.gguf", general__license="mit").read_bytes()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return homes.bare(tmp_path / "home", monkeypatch)


@pytest.fixture
def hub(own: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Site, Site]]:
    files = {
        "tiny-Q4_K_M.gguf": weights, "tiny-Q8_0.gguf": BIG, "F16/tiny-F16-00001-of-00002.gguf": weights,
        "F16/tiny-F16-00002-of-00002.gguf": weights, "README.md": b"# tiny", "LICENSE": APACHE,
    }  # fmt: skip
    with hubfake.serving(files) as (site, storage):
        monkeypatch.setenv("HF_ENDPOINT", site.url)
        yield site, storage


def _files(own: Path) -> list[Path]:
    return [path for path in own.rglob("*") if not path.is_dir()]


def test_pull_places_checks_and_remembers(hub: tuple[Site, Site], own: Path, weights: bytes) -> None:
    told: list[tuple[str, int, int]] = []
    done = pull.pull(f"hf:{REPO}", progress=lambda *args: told.append(args))
    assert done.path == own / "hf" / REPO / "tiny-Q4_K_M.gguf" and done.path.read_bytes() == weights
    assert (done.fetched, done.size, done.where, done.licence) == (len(weights), len(weights), "own", "Apache-2.0")
    assert told[-1] == ("tiny-Q4_K_M.gguf", len(weights), len(weights))
    known = about.load(done.path.parent)
    assert known.files == {"tiny-Q4_K_M.gguf": about.FileFact(len(weights), hashlib.sha256(weights).hexdigest())}
    assert (known.origin, known.revision, known.base, known.author) == (f"hf:{REPO}", hubfake.COMMIT, "owner/tiny", "owner")
    assert (done.path.parent / about.LICENCE).read_bytes() == APACHE
    model = models.find(f"hf:{REPO}:Q4_K_M")
    assert (model.owned, model.licence, model.facts.licence, model.fault, model.path) == (True, "Apache-2.0", "MIT", "", done.path)
    assert not pull.unfinished()


def test_the_second_time_nothing_is_fetched(hub: tuple[Site, Site]) -> None:
    first = pull.pull(f"hf:{REPO}")
    hub[1].seen.clear()
    again = pull.pull(f"hf:{REPO}")
    assert (again.path, again.fetched) == (first.path, 0) and hub[1].seen == []


def test_a_file_that_was_spoilt_in_place_is_fetched_again(hub: tuple[Site, Site], weights: bytes) -> None:
    first = pull.pull(f"hf:{REPO}")
    first.path.write_bytes(weights[:-1])
    assert pull.pull(f"hf:{REPO}").fetched == len(weights) and first.path.read_bytes() == weights
    (first.path.parent / about.NAME).write_text("spoilt")
    first.path.write_bytes(bytes(len(weights)))  # the right size; nothing is known of it any more
    assert pull.pull(f"hf:{REPO}").fetched == len(weights) and first.path.read_bytes() == weights


def test_the_token_stays_with_the_hub(hub: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull.pull(f"hf:{REPO}")
    site, storage = hub
    assert {auth for *_, auth in site.seen} == {"Bearer hf_secret"}
    assert storage.seen and {auth for *_, auth in storage.seen} == {None}


def test_parts_come_together(hub: tuple[Site, Site], own: Path) -> None:
    done = pull.pull(f"hf:{REPO}:F16")
    assert done.path == own / "hf" / REPO / "F16" / "tiny-F16-00001-of-00002.gguf"
    model = models.find(f"hf:{REPO}:F16")
    assert len(model.files) == 2 and model.bytes == done.size and not model.fault
    assert model.origin == f"hf:{REPO}" and model.revision == hubfake.COMMIT, "about.json of the folder above is found"


def test_the_projector_comes_along(hub: tuple[Site, Site], weights: bytes) -> None:
    hub[0].files |= {"mmproj-tiny-F16.gguf": b"GGUF eyes", "mmproj-tiny-F32.gguf": b"GGUF more eyes"}
    hub[0].large |= set(hub[0].files)
    done = pull.pull(f"hf:{REPO}")
    assert models.find(f"hf:{REPO}").projector == done.path.parent / "mmproj-tiny-F16.gguf"
    assert done.size == len(weights) + 9
    models.remove(models.find(f"hf:{REPO}"))
    assert pull.pull(f"hf:{REPO}", vision=False).size == len(weights)
    assert models.find(f"hf:{REPO}").projector is None


def test_a_small_file_is_checked_by_its_name_in_git(hub: tuple[Site, Site], weights: bytes) -> None:
    hub[0].large.clear()
    assert pull.pull(f"hf:{REPO}").path.read_bytes() == weights
    hub[0].lies.add("tiny-Q8_0.gguf")
    with pytest.raises(HubError, match="came with other bytes"):
        pull.pull(f"hf:{REPO}:Q8_0")
    assert pull.pull(f"hf:{REPO}").fetched == 0


def test_a_connection_that_is_cut_is_taken_up(hub: tuple[Site, Site]) -> None:
    hub[1].cut_at = 12 << 20
    assert pull.pull(f"hf:{REPO}:Q8_0").path.read_bytes() == BIG
    ranges = hub[1].bodies("tiny-Q8_0.gguf")
    assert ranges[0] is None and len(ranges) == 2 and ranges[1] is not None


def _began(own: Path, data: bytes) -> Path:
    """What an earlier try left of the large file."""
    folder = own / "hf" / REPO
    folder.mkdir(parents=True)
    part = pull._part(folder, pull.Remote("tiny-Q8_0.gguf", len(BIG), hashlib.sha256(BIG).hexdigest(), ""))
    part.write_bytes(data)
    return part


def test_it_goes_on_where_it_stopped(hub: tuple[Site, Site], own: Path) -> None:
    part = _began(own, BIG[: 20 << 20])
    assert pull.unfinished() == [part]
    told: list[int] = []
    assert pull.pull(f"hf:{REPO}:Q8_0", progress=lambda name, done, total: told.append(done)).path.read_bytes() == BIG
    assert hub[1].bodies("tiny-Q8_0.gguf") == [f"bytes={20 << 20}-"]
    assert told[0] == 20 << 20 and told[-1] == len(BIG) and not pull.unfinished()


def test_a_whole_part_is_not_fetched_again(hub: tuple[Site, Site], own: Path) -> None:
    _began(own, BIG)
    assert pull.pull(f"hf:{REPO}:Q8_0").path.read_bytes() == BIG and hub[1].bodies("tiny-Q8_0.gguf") == []


@pytest.mark.parametrize("left", [b"something else", BIG + b"more"], ids=["other bytes", "too long"])
def test_parts_that_do_not_fit_are_fetched_anew(hub: tuple[Site, Site], own: Path, left: bytes) -> None:
    _began(own, left)
    assert pull.pull(f"hf:{REPO}:Q8_0").path.read_bytes() == BIG
    assert hub[1].bodies("tiny-Q8_0.gguf")[-1] is None


def test_a_server_without_ranges_sends_all_again(hub: tuple[Site, Site], own: Path) -> None:
    _began(own, BIG[: 20 << 20])
    hub[1].deaf = True
    told: list[int] = []
    assert pull.pull(f"hf:{REPO}:Q8_0", progress=lambda name, done, total: told.append(done)).path.read_bytes() == BIG
    assert max(told) == len(BIG)


def test_wrong_bytes_are_refused_and_thrown_away(hub: tuple[Site, Site], own: Path) -> None:
    hub[1].lies.add("tiny-Q8_0.gguf")
    with pytest.raises(HubError, match=r"tiny-Q8_0\.gguf from hf:owner/tiny-GGUF:Q8_0 came with other bytes than .* promised"):
        pull.pull(f"hf:{REPO}:Q8_0")
    assert not _files(own), "nothing is left of it"


def test_a_body_without_end_is_cut_off(hub: tuple[Site, Site], own: Path) -> None:
    hub[1].longer = bytes(32 << 20)
    with pytest.raises(HubError, match="came longer than"):
        pull.pull(f"hf:{REPO}:Q8_0")
    assert sum(path.stat().st_size for path in _files(own)) == 0


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"rfilename": "../../evil-Q8_0.gguf"}, "cannot be stored under its name"),
        ({"rfilename": "/evil-Q8_0.gguf"}, "cannot be stored under its name"),
        ({"rfilename": "a/../../evil-Q8_0.gguf"}, "cannot be stored under its name"),
        ({"rfilename": "a\\evil-Q8_0.gguf"}, "cannot be stored under its name"),
        ({"rfilename": ".evil-Q8_0.gguf"}, "cannot be stored under its name"),
        ({"rfilename": "evil\x1b[2J-Q8_0.gguf"}, "cannot be stored under its name"),
        ({"size": 0}, "tells no size or no hash"),
        ({"blobId": None}, "tells no size or no hash"),
        ({"blobId": "../../../x"}, "tells no size or no hash"),
        ({"lfs": {"sha256": "../../../../x", "size": 9, "pointerSize": 130}}, "tells no size or no hash"),
    ],
)
def test_a_hostile_listing_is_refused(hub: tuple[Site, Site], own: Path, entry: dict[str, Any], says: str) -> None:
    hub[0].listing = {"siblings": [{"rfilename": "tiny-Q8_0.gguf", "size": 9, "blobId": "0" * 40, **entry}]}
    with pytest.raises(HubError, match=says) as caught:
        pull.pull(f"hf:{REPO}:Q8_0")
    assert "\x1b" not in str(caught.value)
    assert not _files(own)


def test_a_card_of_any_kind_is_read(hub: tuple[Site, Site]) -> None:
    hub[0].listing = {"cardData": {"license": "other", "license_name": "openmdw-1.0", "base_model": "a/b", "license_link": 7}, "tags": None}
    assert pull.pull(f"hf:{REPO}").licence == "OpenMDW-1.0"
    hub[0].listing = {"cardData": {"license": ["mit", 3], "base_model": {"x": 1}}, "tags": ["license:llama3.2"]}
    assert pull.pull(f"hf:{REPO}").licence == "Llama 3.2 Community"
    hub[0].listing = {"cardData": None, "tags": []}
    assert pull.pull(f"hf:{REPO}").licence == ""
    assert models.find(f"hf:{REPO}").licence == "MIT", "then the file's own word counts"


def test_offline(hub: tuple[Site, Site], own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HubError, match="is not on this machine and the hub may not be asked"):
        pull.pull(f"hf:{REPO}", offline=True)
    done = pull.pull(f"hf:{REPO}:Q4_K_M")
    hub[0].seen.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pull.pull(f"hf:{REPO}").path == done.path
    assert models.resolve(f"hf:{REPO}") == done.path and hub[0].seen == []
    with pytest.raises(HubError, match=f"{REPO} has no Q8_0; it has Q4_K_M"):
        pull.pull(f"hf:{REPO}:Q8_0")


def test_what_the_cache_holds_is_used_there(hub: tuple[Site, Site], own: Path, tmp_path: Path, weights: bytes) -> None:
    snapshot = homes.cached(tmp_path / "home", REPO, {"tiny-Q4_K_M.gguf": weights})
    done = pull.pull(f"hf:{REPO}")
    assert (done.path, done.where, done.fetched) == (snapshot / "tiny-Q4_K_M.gguf", "huggingface", 0)
    assert hub[1].seen == [] and not _files(own)
    hub[0].files["tiny-Q4_K_M.gguf"] = weights + bytes(32)  # the hub has a newer one
    hub[1].files["tiny-Q4_K_M.gguf"] = weights + bytes(32)
    newer = pull.pull(f"hf:{REPO}")
    assert newer.where == "own" and models.find(f"hf:{REPO}").path == newer.path, "ours comes first"


def test_no_room_is_said_before_anything_is_fetched(hub: tuple[Site, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(HubError, match=r"needs 0\.0 GB more but .* set XDG_DATA_HOME to a folder on a larger disk"):
        pull.pull(f"hf:{REPO}:Q8_0")
    assert hub[1].seen == []


def test_a_storage_that_cannot_be_written_is_said(hub: tuple[Site, Site], own: Path) -> None:
    own.parent.mkdir(parents=True)
    own.write_text("a file where the folder should be")
    with pytest.raises(HubError, match="cannot be written to"):
        pull.pull(f"hf:{REPO}")


def test_nobody_at_the_other_end(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    with pytest.raises(HubError, match="cannot be reached"):
        pull.pull(f"hf:{REPO}")
    assert not _files(own)


def test_two_pulls_wait_for_each_other(hub: tuple[Site, Site], own: Path) -> None:
    storage = hub[1]
    storage.gate = threading.Event()
    done: list[pull.Pulled] = []
    waited = threading.Event()
    first = threading.Thread(target=lambda: done.append(pull.pull(f"hf:{REPO}:Q8_0")))
    first.start()
    assert storage.reached.wait(60)
    second = threading.Thread(target=lambda: done.append(pull.pull(f"hf:{REPO}:Q8_0", waiting=waited.set)))
    second.start()
    assert waited.wait(60), "the second one is told that it waits"
    assert not list(own.rglob("*.gguf")), "nobody sees half a file under its name"
    storage.gate.set()
    first.join(60)
    second.join(60)
    assert sorted(one.fetched for one in done) == [0, len(BIG)] and storage.bodies("tiny-Q8_0.gguf") == [None]


def test_a_pull_that_was_killed_leaves_what_the_next_one_takes_up(hub: tuple[Site, Site], own: Path) -> None:
    storage = hub[1]
    storage.gate = threading.Event()
    child = subprocess.Popen(
        [sys.executable, "-c", f"from quant import pull; pull.pull('hf:{REPO}:Q8_0')"],
        cwd=ROOT,
        env=dict(os.environ),
        stderr=subprocess.DEVNULL,
    )
    try:
        assert storage.reached.wait(60)
        pause = threading.Event()
        while not any(part.stat().st_size for part in pull.unfinished()):  # until what was sent has reached the disk
            assert not pause.wait(0.01)
    finally:
        child.kill()
        child.wait()
    storage.gate.set()
    storage.gate = None
    storage.seen.clear()
    assert pull.pull(f"hf:{REPO}:Q8_0").path.read_bytes() == BIG
    assert [wanted is not None for wanted in storage.bodies("tiny-Q8_0.gguf")] == [True]


def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    where = places.from_environment(
        {"HOME": "/h", "XDG_DATA_HOME": "/d", "HF_HOME": "/f", "LLAMA_CACHE": "/l", "POINTSMAN_MODELS": "/a:/b"}
    )
    assert (where.own, where.huggingface, where.llamacpp) == (Path("/d/pointsman/models"), (Path("/f/hub"),), (Path("/l"),))
    assert where.folders == (Path("/a"), Path("/b")) and where.ollama[0] == Path("/h/.ollama/models")
