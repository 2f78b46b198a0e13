"""A small strict stand-in for the hub and the storage behind it: real sockets, redirects, ranges, hashes; and it can misbehave.

Like the hub it answers the request for a large file with a redirect to a server of another address, which must not see the token.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "owner/tiny-GGUF"


def git_name(data: bytes) -> str:
    """What git calls this content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Site(ThreadingHTTPServer):
    """`files`: what the repository holds. `cut_at`: the next body ends after so many bytes. `deaf`: ranges are ignored. `lies`: a file
    whose
    bytes are others than its hash says. `longer`: what comes after a body. `gate`: bodies wait for it after their first half."""

    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may go whenever it likes
            super().handle_error(request, client_address)

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.large = {name for name in files if name.endswith(".gguf")}
        self.listing: dict[str, Any] = {}  # replaces entries of what the API says
        self.seen: list[tuple[str, str, str | None, str | None]] = []  # method, path, range, authorization
        self.cut_at: int | None = None
        self.deaf = False
        self.lies: set[str] = set()
        self.longer = b""
        self.gate: threading.Event | None = None
        self.reached = threading.Event()
        self.storage: Site | None = None  # where large files are

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def bodies(self, name: str) -> list[str | None]:
        """The ranges of all requests for the body of a file."""
        return [wanted for method, path, wanted, _ in self.seen if method == "GET" and path.endswith(f"/{name}")]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Site

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.seen.append((self.command, path, self.headers.get("Range"), self.headers.get("Authorization")))
        start = f"/{REPO}/resolve/{COMMIT}/"
        if path == f"/api/models/{REPO}":
            assert "blobs=True" in self.path or "blobs=true" in self.path, "sizes and hashes must be asked for"
            self.plain(200, json.dumps(self.listing()).encode(), {"Content-Type": "application/json"})
        elif path.startswith(start) and path.removeprefix(start) in self.server.files:
            self.resolve(path.removeprefix(start))
        elif path.startswith("/storage/") and path.removeprefix("/storage/") in self.server.files:
            self.body(path.removeprefix("/storage/"))
        else:
            self.plain(404, b"{}", {"X-Error-Code": "EntryNotFound" if path.startswith(f"/{REPO}") else "RepoNotFound"})

    def plain(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def listing(self) -> dict[str, Any]:
        siblings = []
        for name, data in self.server.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_name(data)}
            if name in self.server.large:
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {
            "id": REPO, "modelId": REPO, "author": "owner", "sha": COMMIT, "siblings": siblings, "private": False,
            "tags": ["gguf", "license:apache-2.0"],
            "cardData": {"license": "apache-2.0", "base_model": ["owner/tiny"]}, **self.server.listing,
        }  # fmt: skip

    def resolve(self, name: str) -> None:
        data, storage = self.server.files[name], self.server.storage
        if name not in self.server.large or storage is None:
            self.body(name)
            return
        self.plain(302, b"", {
            "Location": f"{storage.url}/storage/{name}", "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Linked-Size": str(len(data)), "X-Repo-Commit": COMMIT, "ETag": '"of-the-redirect"',
        })  # fmt: skip

    def body(self, name: str) -> None:
        whole = self.server.files[name]
        data, start = whole, 0
        if name in self.server.lies:
            data = bytes(len(whole) - 1) + b"x"
        if (wanted := self.headers.get("Range")) and not self.server.deaf:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            assert 0 < start < len(whole), "a range that holds nothing was asked for"
        data = data[start:] + self.server.longer
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        etag = hashlib.sha256(whole).hexdigest() if name in self.server.large else git_name(whole)
        for key, value in (
            ("Content-Length", str(len(data))),
            ("ETag", f'"{etag}"'),
            ("X-Repo-Commit", COMMIT),
            ("Accept-Ranges", "bytes"),
        ):
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.send(data)

    def send(self, data: bytes) -> None:
        cut, gate = self.server.cut_at, self.server.gate
        if cut is not None and len(data) > cut:
            self.server.cut_at = None
            self.wfile.write(data[:cut])
            self.close_connection = True
            return
        self.wfile.write(data[: len(data) // 2])
        if gate is not None:
            self.wfile.flush()
            self.server.reached.set()
            assert gate.wait(60)
        self.wfile.write(data[len(data) // 2 :])


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[tuple[Site, Site]]:
    """The hub with these files in `REPO`, and the storage behind it."""
    site, storage = Site(files), Site(files)
    site.storage = storage
    threads = [threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True) for one in (site, storage)]
    for thread in threads:
        thread.start()
    try:
        yield site, storage
    finally:
        for one, thread in zip((site, storage), threads, strict=True):
            if one.gate is not None:
                one.gate.set()
            one.shutdown()
            one.server_close()
            thread.join()
