"""Forms as clients write them, for the tests of relayed surfaces."""

from __future__ import annotations

from gateway import multipart
from tests.harness import request

AUDIO = bytes(range(256)) * 4096  # 1 MiB
MARK = b"5d8f"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--%b--\r\n" % MARK


def model(name: bytes = b"m") -> bytes:
    return multipart.field(MARK, b"model", name)


def file(data: bytes = b"RIFF") -> bytes:
    head = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n' % MARK
    return head + data + b"\r\n"


TYPE = {"content-type": f"multipart/form-data; boundary={MARK.decode()}"}
PATH = "/v1/audio/transcriptions"


def posted(body: bytes, headers: dict[str, str] | None = None, path: str = PATH) -> bytes:
    return request("POST", path, body, TYPE | (headers or {}))
