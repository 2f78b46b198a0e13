"""Models from the hub, against a small strict stand-in for it: real HTTP, real files, a real interrupted process."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from quant import hub

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
BIG = bytes(range(256)) * (24 << 12)  # 24 MiB: huggingface_hub writes pieces of 10 MiB
FILES = {
    "tiny-Q4_K_M.gguf": b"GGUF four", "tiny-Q8_0.gguf": BIG, "tiny-F16-00001-of-00002.gguf": b"GGUF one",
    "tiny-F16-00002-of-00002.gguf": b"GGUF two", "mmproj-tiny-F16.gguf": b"eyes", "README.md": b"# tiny",
}  # fmt: skip


class Hub(ThreadingHTTPServer):
    """Serves `FILES` as the repository owner/tiny. `stall_at`: after so many bytes of a body it sends nothing more."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, str | None]] = []  # method, path, range
        self.stall_at: int | None = None
        self.cut_at: int | None = None
        self.stalled, self.released = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def plain(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.seen.append((self.command, path, self.headers.get("Range")))
        if path.startswith(("/api/models/owner/broken", "/owner/broken")):
            self.plain(500, b"{}", {})
        elif path.startswith(("/api/models/owner/tiny", "/owner/tiny/resolve/")):
            self.api() if path.startswith("/api/") else self.file(path.rpartition("/")[2])
        else:
            self.plain(404, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound", "Content-Type": "application/json"})

    def api(self) -> None:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
        reply = {"id": "owner/tiny", "modelId": "owner/tiny", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        self.plain(200, json.dumps(reply).encode(), {"Content-Type": "application/json"})

    def file(self, name: str) -> None:
        data = FILES.get(name)
        if data is None:
            self.plain(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        start = 0
        if wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in (
            ("Content-Length", str(len(data) - start)), ("ETag", f'"{hashlib.sha256(data).hexdigest()}"'), ("X-Repo-Commit", COMMIT),
            ("Accept-Ranges", "bytes"), ("X-Linked-Size", str(len(data))),
        ):  # fmt: skip
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.body(data[start:])

    def body(self, data: bytes) -> None:
        stall, cut = self.server.stall_at, self.server.cut_at
        if stall is not None and len(data) > stall:
            self.wfile.write(data[:stall])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.released.wait(60)
            self.close_connection = True
        elif cut is not None and len(data) > cut:
            self.server.cut_at = None
            self.wfile.write(data[:cut])
            self.close_connection = True
        else:
            self.wfile.write(data)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def test_parse() -> None:
    assert hub.parse("hf:owner/na.me-GGUF") == hub.Ref("owner/na.me-GGUF")
    assert hub.parse("hf:owner/name:Q8_0") == hub.Ref("owner/name", "Q8_0")
    assert str(hub.parse("hf:owner/name:Q8_0")) == "hf:owner/name:Q8_0"


@pytest.mark.parametrize(
    "text", ["owner/name", "hf:name", "hf:", "hf:a/b/c", "hf:a/..", "hf:../b:Q8_0", "hf:a/b:", "hf:a/b:../x.gguf", "hf:a b/c"]
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(hub.HubError, match="write hf:OWNER/NAME"):
        hub.parse(text)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("m-Q4_K_M.gguf", "Q4_K_M"), ("m.q8_0.gguf", "Q8_0"), ("a/b-IQ2_XXS.gguf", "IQ2_XXS"), ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m-fp16.gguf", "F16"), ("m-BF16-00001-of-00003.gguf", "BF16"), ("model.gguf", ""), ("Qwen3-4B.gguf", ""),
        ("x-MXFP4.gguf", "MXFP4"),
    ],
)  # fmt: skip
def test_quant_of(name: str, quant: str) -> None:
    assert hub.quant_of(name) == quant


def test_choose() -> None:
    assert hub.choose(list(FILES), hub.Ref("o/t")) == ["tiny-Q4_K_M.gguf"]
    assert hub.choose(list(FILES), hub.Ref("o/t", "q8_0")) == ["tiny-Q8_0.gguf"]
    assert hub.choose(list(FILES), hub.Ref("o/t", "F16")) == ["tiny-F16-00001-of-00002.gguf", "tiny-F16-00002-of-00002.gguf"]
    assert hub.choose(list(FILES), hub.Ref("o/t", "tiny-Q8_0.gguf")) == ["tiny-Q8_0.gguf"]
    assert hub.choose(["only.gguf"], hub.Ref("o/t")) == ["only.gguf"]
    assert hub.choose(["m-UD-Q4_K_M.gguf", "m-Q2_K.gguf"], hub.Ref("o/t", "Q4_K_M")) == ["m-UD-Q4_K_M.gguf"]


def test_choose_says_what_there_is() -> None:
    with pytest.raises(hub.HubError, match=r"^owner/tiny has no Q3_K_M; it has F16, Q4_K_M, Q8_0\.$"):
        hub.choose(list(FILES), hub.Ref("owner/tiny", "Q3_K_M"))
    with pytest.raises(hub.HubError, match="holds no GGUF model"):
        hub.choose(["model.safetensors", "mmproj-x-F16.gguf"], hub.Ref("o/t"))
    with pytest.raises(hub.HubError, match="only 1 parts"):
        hub.choose(["m-Q8_0-00001-of-00002.gguf"], hub.Ref("o/t"))


def test_fetch_then_offline(site: Hub, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    path = hub.resolve("hf:owner/tiny:Q8_0", cache=tmp_path, progress=lambda *args: told.append(args))
    assert path.read_bytes() == BIG
    assert told and told[-1][1:] == (len(BIG), len(BIG)) and "Q8_0" in told[-1][0]
    asked = len(site.seen)
    assert hub.resolve("hf:owner/tiny:Q8_0", cache=tmp_path, offline=True) == path
    assert hub.resolve("hf:owner/tiny", cache=tmp_path, offline=True) == path  # the only one here
    assert len(site.seen) == asked, "offline asks nobody"
    with pytest.raises(hub.HubError, match=r"^Offline, of the cache only: owner/tiny has no F16; it has Q8_0\.$"):
        hub.resolve("hf:owner/tiny:F16", cache=tmp_path, offline=True)


def test_offline_from_the_environment(site: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(hub.HubError, match="not in the cache"):
        hub.resolve("hf:owner/tiny", cache=tmp_path)
    assert site.seen == []


def test_shards_come_together(site: Hub, tmp_path: Path) -> None:
    path = hub.resolve(hub.Ref("owner/tiny", "F16"), cache=tmp_path, progress=lambda *_: None)
    assert path.name == "tiny-F16-00001-of-00002.gguf" and path.read_bytes() == b"GGUF one"
    assert (path.parent / "tiny-F16-00002-of-00002.gguf").read_bytes() == b"GGUF two"


def test_connection_cut_is_resumed(site: Hub, tmp_path: Path) -> None:
    site.cut_at = 12 << 20
    assert hub.resolve("hf:owner/tiny:Q8_0", cache=tmp_path, progress=lambda *_: None).read_bytes() == BIG
    ranges = [wanted for method, path, wanted in site.seen if method == "GET" and path.endswith("Q8_0.gguf")]
    assert ranges[0] is None and len(ranges) == 2 and int(str(ranges[1]).removeprefix("bytes=").rstrip("-")) > 0


def test_killed_download_is_resumed(site: Hub, tmp_path: Path) -> None:
    site.stall_at = 12 << 20
    code = f"from quant import hub; hub.resolve('hf:owner/tiny:Q8_0', cache={str(tmp_path)!r})"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL, env={**os.environ, "HF_ENDPOINT": site.url})
    try:
        assert site.stalled.wait(60)
        blobs = tmp_path / "models--owner--tiny" / "blobs"
        partial = threading.Event()
        while not partial.wait(0.01):  # until what was sent has reached the disk
            if any(file.stat().st_size for file in blobs.glob("*.partial")):
                partial.set()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    site.stall_at = None
    site.released.set()
    site.seen.clear()
    assert hub.resolve("hf:owner/tiny:Q8_0", cache=tmp_path, progress=lambda *_: None).read_bytes() == BIG
    ranges = [wanted for method, path, wanted in site.seen if method == "GET" and path.endswith("Q8_0.gguf")]
    assert len(ranges) == 1 and ranges[0] is not None and int(ranges[0].removeprefix("bytes=").rstrip("-")) > 0
    assert not list(tmp_path.rglob("*.partial")) and not list(tmp_path.rglob("*.incomplete"))


def test_parts_that_do_not_fit_are_thrown_away(site: Hub, tmp_path: Path) -> None:
    blobs = tmp_path / "models--owner--tiny" / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / f"{hashlib.sha256(BIG).hexdigest()}.partial"
    partial.write_bytes(b"something else")
    with pytest.raises(hub.HubError, match="do not fit together"):
        hub.resolve("hf:owner/tiny:Q8_0", cache=tmp_path, progress=lambda *_: None)
    assert hub.resolve("hf:owner/tiny:Q8_0", cache=tmp_path, progress=lambda *_: None).read_bytes() == BIG


def test_not_found(site: Hub, tmp_path: Path) -> None:
    with pytest.raises(hub.HubError, match=r"^owner/none was not found on http://127\.0\.0\.1:\d+; check its name"):
        hub.resolve("hf:owner/none", cache=tmp_path)


def test_server_error_is_clear(site: Hub, tmp_path: Path) -> None:
    with pytest.raises(hub.HubError, match=r"answered 500 for hf:owner/broken"):
        hub.resolve("hf:owner/broken", cache=tmp_path)


def test_unreachable_hub_uses_the_cache(site: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.resolve("hf:owner/tiny", cache=tmp_path, progress=lambda *_: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    assert hub.resolve("hf:owner/tiny", cache=tmp_path) == path
    with pytest.raises(hub.HubError, match="cannot be reached"):
        hub.resolve("hf:owner/other", cache=tmp_path)


def test_no_space(site: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(hub.HubError, match=r"needs 0\.0 GB but .* free some, or set HF_HOME"):
        hub.resolve("hf:owner/tiny:Q8_0", cache=tmp_path)
    assert not any("resolve" in path for _, path, _ in site.seen)
