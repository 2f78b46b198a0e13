"""How a call is written for a server of the OpenAI dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import wire
from backends.openai import MODELS, OpenAILink, api_base
from backends.origin import Origin
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts
from tests.backends.seen import Seen


class Kept:
    """A carrier that keeps what it is given."""

    def __init__(self, url: str = "http://h:1") -> None:
        self.name, self.origin = "gpu", Origin(url)
        self.sent: list[tuple[bytes, bytes, Timeouts]] = []
        self.dropped = 0

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> Flight:
        head, _, body = b"".join(payload).partition(b"\r\n\r\n")
        self.sent.append((head + b"\r\n\r\n", body, timeouts))
        return Nothing()

    def drop(self) -> None:
        self.dropped += 1


class Nothing:
    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def cancel(self) -> None: ...


def call(doc: dict[str, Any], headers: dict[bytes, bytes] | None = None, api: str = "chat") -> Call:
    body = {"model": "public", **doc}
    return Call(b"req-1", api, "public", bool(body.get("stream")), wire.parse(json.dumps(body).encode()), "", headers or {}, 0.0)


def written(doc: dict[str, Any], *, kind: str = "openai") -> dict[str, Any]:
    kept = Kept()
    OpenAILink(kept, kind=kind).send(call(doc), Target("gpu", "own/name"), None, Seen())
    found: dict[str, Any] = json.loads(kept.sent[0][1])
    return found


def test_the_head() -> None:
    kept = Kept("https://h:1/api/v1/")
    link = OpenAILink(kept, key="sk", headers={"X-Team": "red"}, timeouts=Timeouts(idle=3.0))
    traced = {b"traceparent": b"00-a-b-01", b"tracestate": b"v=1", b"authorization": b"Bearer theirs"}
    link.send(call({}), Target("gpu", "m"), None, Seen())
    link.send(call({}, traced, "embeddings"), Target("gpu", "m"), Timeouts(idle=4.0), Seen())
    (head, body, first), (traced_head, _, second) = kept.sent
    assert head == (
        b"POST /api/v1/chat/completions HTTP/1.1\r\nhost: h:1\r\nuser-agent: pointsman\r\ncontent-type: application/json\r\n"
        b"accept-encoding: identity\r\nauthorization: Bearer sk\r\nX-Team: red\r\nx-request-id: req-1\r\n"
        b"content-length: %d\r\n\r\n" % len(body)
    )
    assert traced_head.startswith(b"POST /api/v1/embeddings HTTP/1.1\r\n") and b"theirs" not in traced_head
    assert b"traceparent: 00-a-b-01\r\ntracestate: v=1\r\n" in traced_head
    assert (first.idle, second.idle) == (3.0, 4.0)
    link.close()
    assert kept.dropped == 1


def test_the_clients_document_is_as_it_was() -> None:
    kept = Kept()
    link, asked = OpenAILink(kept), call({"n": 1})
    before = {name: bytes(value) for name, value in asked.doc.items()}
    for name in [f"model-{n}" for n in range(MODELS + 2)] + ["model-0"]:
        link.send(asked, Target("gpu", name), None, Seen())
        assert json.loads(kept.sent[-1][1]) == {"model": name, "n": 1}
    assert {name: bytes(value) for name, value in asked.doc.items()} == before
    del asked.doc["model"]
    link.send(asked, Target("gpu", "model-0"), None, Seen())
    assert json.loads(kept.sent[-1][1]) == {"model": "model-0", "n": 1} and "model" not in asked.doc


def test_the_model_is_renamed_and_the_rest_stays() -> None:
    assert written({"n": 1, "unknown": {"a": [1]}}) == {"model": "own/name", "n": 1, "unknown": {"a": [1]}}


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": True}, {"include_usage": True}),
        ({"include_usage": False, "x": 1}, {"include_usage": True, "x": 1}),
        ({}, {"include_usage": True}),
    ],
)
def test_usage_is_asked_for(options: Any, asked: Any) -> None:
    assert written({"stream": True, "stream_options": options})["stream_options"] == asked
    assert written({"stream": True})["stream_options"] == {"include_usage": True}
    assert "stream_options" not in written({})


def test_compact_options_are_left_alone() -> None:
    kept = Kept()
    doc = wire.parse(b'{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1}}')
    OpenAILink(kept).send(Call(b"r", "chat", "m", True, doc, "", {}, 0.0), Target("gpu", "m"), None, Seen())
    assert b'"stream_options":{"include_usage":true,"x":1}' in kept.sent[0][1]
    with pytest.raises(Fault, match="'stream_options' must be a JSON object"):
        OpenAILink(kept).send(call({"stream": True, "stream_options": 7}), Target("gpu", "m"), None, Seen())


def test_quirks_and_guard() -> None:
    messages = [{"role": "developer", "content": "x"}]
    assert written({"messages": messages}, kind="vllm")["messages"][0]["role"] == "system"
    assert written({"messages": messages})["messages"][0]["role"] == "developer"
    kept = Kept()
    no = Fault("bad_request", "too deep", origin="client")
    guarded = OpenAILink(kept, guard=lambda doc: no if "grammar" in doc else None)
    guarded.send(call({}), Target("gpu", "m"), None, Seen())
    with pytest.raises(Fault, match="too deep"):
        guarded.send(call({"grammar": "("}), Target("gpu", "m"), None, Seen())
    assert len(kept.sent) == 1


@pytest.mark.parametrize(("key", "headers"), [("a\r\nb: c", None), ("a\nb", None), ("k", {"x": "y\r\nz"}), ("k", {"x\r\ny": "z"})])
def test_a_line_break_in_a_header_is_refused_and_not_quoted(key: str, headers: dict[str, str] | None) -> None:
    with pytest.raises(ValueError, match=r"^backend 'gpu': a header or key has a line break in it$"):
        OpenAILink(Kept(), key=key, headers=headers)


def test_base_and_root() -> None:
    assert (api_base(""), api_base("/x")) == ("/v1", "/x")
    for url, base, root in (("http://h", "/v1", ""), ("http://h/a/v1", "/a/v1", "/a"), ("http://h/openai", "/openai", "/openai")):
        link = OpenAILink(Kept(url))
        assert (link.base, link.root) == (base, root)
    head, body = link.get("/x")
    assert head.startswith(b"GET /x HTTP/1.1\r\nhost: h\r\n") and head.endswith(b"\r\n\r\n") and body == b""
    head, body = link.post("/x", b"{}")
    assert head.endswith(b"content-length: 2\r\n\r\n") and body == b"{}"
