"""Forms of a model on the hub: a strict stand-in that knows ranges, real sockets, and no byte of weights fetched."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from quant import fit_card, fit_find, fit_hub
from quant.hub import HubError
from quant.quantize import quantize
from tests.quant.fit_made import Made

REPO = "owner/made-GGUF"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = 24 << 20  # bytes that stand at the end of each file: weights that nobody may ask for


class Site(ThreadingHTTPServer):
    """`files`: the first bytes of each, and how long it is. `deaf`: ranges are ignored."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, files: dict[str, tuple[bytes, int]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.deaf = files, False
        self.ranges: list[tuple[str, int, int]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave in the middle of a body."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path == f"/api/models/{REPO}":
            siblings = [{"rfilename": name, "size": size} for name, (_, size) in self.server.files.items()]
            self.plain(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}).encode())
        elif path.startswith(f"/{REPO}/resolve/") and name in self.server.files:
            self.part(name)
        else:
            self.plain(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def part(self, name: str) -> None:
        data, size = self.server.files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None or self.server.deaf:
            self.plain(200, data.ljust(size, b"\0"), headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        assert 0 <= int(first) <= int(last) < size
        self.server.ranges.append((name, int(first), int(last)))
        body = data[int(first) : int(last) + 1].ljust(int(last) + 1 - int(first), b"\0")
        self.plain(206, body, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"})

    def plain(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    source = Made(layers=2, vocab=9000, qt="F16").write(folder / "made-F16.gguf")
    for kind in ("Q4_K_M", "Q8_0"):
        quantize(source, folder / f"made-{kind}.gguf", kind, threads=1)
    return folder


@pytest.fixture
def site(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    files = {path.name: (path.read_bytes(), path.stat().st_size) for path in sorted(made.iterdir())}
    files["README.md"] = (b"# made", 6)
    files["mmproj-made.gguf"] = (b"eyes", 4)
    files["made-IQ2_M.gguf"] = (b"", 1_500_000)
    server = Site(files)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("XDG_DATA_HOME", "HF_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_form_by_one_header(site: Site, made: Path) -> None:
    found = {each.card.quant: each for each in fit_hub.candidates(f"hf:{REPO}")}
    assert set(found) == {"F16", "Q4_K_M", "Q8_0", "IQ2_M"} and {each.how for each in found.values()} == {"fetch"}
    assert {name for name, _, _ in site.ranges} == {"made-Q4_K_M.gguf"}  # one header, of the quantisation that is preferred
    for kind in ("F16", "Q4_K_M", "Q8_0"):
        real = fit_card.load(made / f"made-{kind}.gguf")
        card = found[kind].card
        assert card.file_bytes == real.file_bytes and card.layers == real.layers and card.parameters == real.parameters
        assert card.weights_bytes == pytest.approx(real.weights_bytes, rel=0.02), kind
    assert found["IQ2_M"].card.weights_bytes < 1_500_000


def test_one_form_alone_where_it_is_named(site: Site) -> None:
    found = fit_find.candidates(f"hf:{REPO}:Q8_0")
    assert [each.name for each in found] == ["made-Q8_0.gguf"]


def test_no_more_than_the_header_is_fetched(site: Site) -> None:
    data, size = site.files["made-Q8_0.gguf"]
    site.files["made-Q8_0.gguf"] = (data, size + WEIGHTS)
    fit_hub.candidates(f"hf:{REPO}:Q8_0")
    asked = sum(last + 1 - first for _, first, last in site.ranges)
    assert 0 < asked <= 2 << 20
    ends = [(first, last) for _, first, last in site.ranges]
    assert all(one[1] < other[0] for one, other in pairwise(ends)), "nothing is asked for twice"


def test_a_server_without_ranges_is_told_apart(site: Site) -> None:
    site.deaf = True
    assert fit_hub.candidates(f"hf:{REPO}:Q8_0")  # the first piece is the start of the whole body


@pytest.mark.parametrize(
    ("name", "said"), [(f"hf:{REPO}:Q3_K_M", "has no Q3_K_M"), ("hf:owner/other", "not found"), (f"hf:{REPO}:IQ2_M", "GGUF")]
)
def test_what_is_not_there_is_said(site: Site, name: str, said: str) -> None:
    with pytest.raises(HubError, match=said):
        fit_hub.candidates(name)
    with pytest.raises(fit_find.FindError, match=said):
        fit_find.candidates(name)


def test_offline_nobody_is_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="offline"):
        fit_hub.candidates(f"hf:{REPO}")
    assert not site.ranges


def test_a_remote_file_is_bounded_and_kept() -> None:
    asked: list[tuple[int, int]] = []

    def fetch(first: int, count: int) -> bytes:
        asked.append((first, count))
        return bytes(min(count, 1 << 19))  # less than was asked for

    file = fit_hub.RemoteFile(fetch, 1 << 40)
    assert len(file.read(100)) == 100 and file.seek(0) == 0 and len(file.read(3 << 20)) == 3 << 20
    fetched = len(asked)
    file.seek(0)
    assert len(file.read(3 << 20)) == 3 << 20 and len(asked) == fetched
    with pytest.raises(HubError, match="longer"):
        file.read(1 << 39)
    with pytest.raises(HubError, match="nothing"):
        fit_hub.RemoteFile(lambda first, count: b"", 100).read(10)
