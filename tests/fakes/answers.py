"""Raw HTTP/1.1 answers as bytes: framings, good and bad. Pure; what the fake engine writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any, Literal

from tests.fakes.script import Ending, Gate, Script, Step, script

Framing = Literal["length", "chunked", "eof"]
Headers = Sequence[tuple[str, str]]
JSON = "application/json"
SSE = "text/event-stream; charset=utf-8"


def dumps(doc: Any) -> bytes:
    """Compact JSON, as most engines write it."""
    return json.dumps(doc, separators=(",", ":"), ensure_ascii=False).encode()


def reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unassigned"


def head(status: int, headers: Headers, *, version: str = "1.1") -> bytes:
    """A status line and headers, with the empty line."""
    lines = [f"HTTP/{version} {status} {reason(status)}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes, *, extension: str = "") -> bytes:
    """One chunk of a chunked body; `extension` starts with a semicolon."""
    return b"%x%s\r\n%s\r\n" % (len(data), extension.encode(), data)


def last_chunk(trailers: Headers = ()) -> bytes:
    return b"0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in trailers) + b"\r\n"


def body_of(parts: Iterable[Step]) -> bytes:
    return b"".join(part for part in parts if isinstance(part, bytes))


def respond(
    parts: Sequence[Step],
    *,
    status: int = 200,
    content_type: str = JSON,
    framing: Framing = "length",
    headers: Headers = (),
    extension: str = "",
    trailers: Headers = (),
    interim: bytes = b"",
    ending: Ending = "keep",
) -> Script:
    """A whole answer. With chunked framing each part is a chunk and a write of its own; gates stay in their places."""
    own: list[tuple[str, str]] = [("content-type", content_type), *headers]
    if framing == "chunked":
        own.append(("transfer-encoding", "chunked"))
        body: list[Step] = [part if isinstance(part, Gate) else chunk(part, extension=extension) for part in parts]
        return script(interim + head(status, own), body, last_chunk(trailers), ending=ending)
    if framing == "eof":
        own.append(("connection", "close"))
        return script(interim + head(status, own), parts, ending="fin" if ending == "keep" else ending)
    own.append(("content-length", str(len(body_of(parts)))))
    if len(parts) == 1 and isinstance(parts[0], bytes):
        return script(interim + head(status, own) + parts[0], ending=ending)
    return script(interim + head(status, own), parts, ending=ending)


def reply(doc: Any, *, status: int = 200, framing: Framing = "length", headers: Headers = ()) -> Script:
    """A JSON answer."""
    return respond([dumps(doc)], status=status, framing=framing, headers=headers)


def data(doc: Any) -> bytes:
    """One SSE event of a JSON document."""
    return b"data: " + dumps(doc) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def sse(events: Sequence[Step], *, framing: Framing = "chunked", headers: Headers = (), ending: Ending = "keep") -> Script:
    """An SSE answer: one chunk and one write an event."""
    return respond(events, content_type=SSE, framing=framing, headers=[("cache-control", "no-cache"), *headers], ending=ending)


def paced(events: Iterable[bytes], gate: Gate) -> list[Step]:
    """Every event behind the gate: the engine sends one for each permit."""
    steps: list[Step] = []
    for event in events:
        steps += (gate, event)
    return steps


# Error bodies as the engines and providers write them.


def openai_error(status: int, message: str = "scripted failure", code: str | None = None, headers: Headers = ()) -> Script:
    return reply({"error": {"message": message, "type": kind(status), "param": None, "code": code}}, status=status, headers=headers)


def vllm_error(status: int, message: str = "scripted failure", headers: Headers = ()) -> Script:
    doc = {"error": {"message": message, "type": reason(status).replace(" ", ""), "param": None, "code": status}}
    return reply(doc, status=status, headers=headers)


def sglang_error(status: int, message: str = "scripted failure", headers: Headers = ()) -> Script:
    """SGLang's errors are flat: not under "error"."""
    doc = {"object": "error", "message": message, "type": reason(status).replace(" ", ""), "param": None, "code": status}
    return reply(doc, status=status, headers=headers)


def llamacpp_error(status: int, message: str = "scripted failure", headers: Headers = ()) -> Script:
    return reply({"error": {"code": status, "message": message, "type": kind(status)}}, status=status, headers=headers)


def anthropic_error(status: int, message: str = "Overloaded", headers: Headers = ()) -> Script:
    error = {"type": "overloaded_error" if status == 529 else kind(status), "message": message}
    doc = {"type": "error", "error": error, "request_id": "req_011"}
    return reply(doc, status=status, headers=headers)


def google_error(status: int, message: str = "Resource exhausted", headers: Headers = ()) -> Script:
    """Google's compatible endpoint answers with a list."""
    doc = [{"error": {"code": status, "message": message, "status": "RESOURCE_EXHAUSTED", "details": []}}]
    return reply(doc, status=status, headers=headers)


ERRORS: dict[str, Callable[[int, str], Script]] = {
    "openai": openai_error, "vllm": vllm_error, "sglang": sglang_error,
    "llamacpp": llamacpp_error, "anthropic": anthropic_error, "google": google_error,
}  # fmt: skip


def kind(status: int) -> str:
    names = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    return names.get(status, "server_error")


HTML_502 = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)


def html(status: int) -> Script:
    """The page that a reverse proxy puts in front of a dead engine."""
    return respond([HTML_502], status=status, content_type="text/html")


# Errors inside a 200.

ERROR_EVENTS = {
    "openai": data({"error": {"message": "scripted failure", "type": "server_error", "param": None, "code": None}}),
    "vllm": data({"error": {"message": "EngineCore encountered an issue", "type": "InternalServerError", "param": None, "code": 500}}),
    "flat": data({"object": "error", "message": "scripted failure", "type": "InternalServerError", "param": None, "code": 500}),
    "llamacpp": data({"error": {"code": 500, "message": "scripted failure", "type": "server_error"}}),
    "named": b"event: error\n" + data({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
    "spaced": b'data: {"error" : {"message":"scripted failure","code":503}}\n\n',
    "crlf": b'data: {"error":{"message":"scripted failure","code":503}}\r\n\r\n',
}

# Malformed framing: every one of these must end as an error, never as an answer.

BODY = dumps({"id": "x", "object": "chat.completion", "choices": []})
SMALL = [("content-type", JSON)]
MALFORMED = {
    "both lengths": head(200, [*SMALL, ("content-length", str(len(BODY))), ("transfer-encoding", "chunked")]) + chunk(BODY) + last_chunk(),
    "two lengths": head(200, [*SMALL, ("content-length", "5"), ("content-length", str(len(BODY)))]) + BODY,
    "negative length": head(200, [*SMALL, ("content-length", "-5")]) + BODY,
    "length with plus": head(200, [*SMALL, ("content-length", f"+{len(BODY)}")]) + BODY,
    "length not a number": head(200, [*SMALL, ("content-length", "many")]) + BODY,
    "length overflows": head(200, [*SMALL, ("content-length", "9" * 40)]) + BODY,
    "bad chunk size": head(200, [*SMALL, ("transfer-encoding", "chunked")]) + b"zz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size overflows": head(200, [*SMALL, ("transfer-encoding", "chunked")]) + b"f" * 40 + b"\r\n" + BODY,
    "chunk without its end": head(200, [*SMALL, ("transfer-encoding", "chunked")]) + b"%x\r\n" % len(BODY) + BODY + b"XX0\r\n\r\n",
    "obsolete folding": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-a: 1\r\n folded: 2\r\ncontent-length: -1\r\n\r\n" + BODY,
    "no status": b"HTTP/1.1 OK\r\n\r\n" + BODY,
    "bad status": b"HTTP/1.1 2x0 OK\r\ncontent-length: 2\r\n\r\n{}",
    "bad version": b"HTTP/9.7 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    "another protocol": b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
    "null in a header": b"HTTP/1.1 200 OK\r\nx-a: \x00\r\ncontent-length: 2\r\n\r\n{}",
    "space before colon": b"HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\n{}",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
}
