"""Audio, images, moderations, files and batches through a whole gateway, over real sockets, both ways."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from gateway import links, passthrough
from gateway.config import Config, parse
from tests.fakes.answers import openai_error, reply, respond, sse
from tests.fakes.engine import Engine
from tests.fakes.reader import Cut
from tests.fakes.script import Gate
from tests.gateway.forms import AUDIO, MARK, PATH, TYPE, file, form, model, posted
from tests.harness import Running, both_ways, config_for, request, running

FILE = {"id": "file-1", "object": "file", "bytes": 3, "created_at": 1, "filename": "a", "purpose": "batch", "status": "processed"}
CLIENT = "sk-client-0123456789"
CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture(params=[False, True], ids=["own", "asgi"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Engine, Running, openai.OpenAI]]:
    """A gateway with a key, before an engine whose key is a canary."""
    with Engine() as engine:
        config = config_for([engine], backend={"key": CANARY}, more={"keys": [{"name": "me", "key": CLIENT}]})
        with running(config, request.param) as gateway:
            with openai.OpenAI(base_url=gateway.url, api_key=CLIENT, max_retries=0, timeout=30) as client:
                yield engine, gateway, client


def test_every_surface_by_the_sdk(served: tuple[Engine, Running, openai.OpenAI]) -> None:
    engine, _, sdk = served
    engine.queue(reply({"text": "hello"}))
    assert sdk.audio.transcriptions.create(model="m", file=("a.wav", AUDIO), language="de").text == "hello"
    for sent in engine.requests:
        assert sent.header("authorization") == f"Bearer {CANARY}" and b"sk-client" not in sent.raw
        assert AUDIO in sent.body and b'name="model"\r\n\r\nfake\r\n' in sent.body
    image = {"created": 1, "data": [{"b64_json": "AAAA"}]}
    engine.queue(reply(image), reply(image))
    assert sdk.images.generate(model="m", prompt="a cat").data
    assert sdk.images.edit(model="m", image=("a.png", AUDIO), prompt="a dog").data
    engine.queue(reply({"id": "modr-1", "model": "fake", "results": []}))
    assert sdk.moderations.create(model="m", input="hi").id == "modr-1"
    assert engine.requests[-1].doc == {"model": "fake", "input": "hi"}
    assert [r.path for r in engine.requests] == [
        "/v1/audio/transcriptions", "/v1/images/generations", "/v1/images/edits", "/v1/moderations",
    ]  # fmt: skip


@pytest.mark.parametrize("framing", ["length", "chunked", "eof"])
def test_speech_is_byte_exact(served: tuple[Engine, Running, openai.OpenAI], framing: Any) -> None:
    engine, _, sdk = served
    engine.queue(respond([AUDIO[at : at + 10_000] for at in range(0, len(AUDIO), 10_000)], content_type="audio/mpeg", framing=framing))
    with sdk.audio.speech.with_streaming_response.create(model="m", input="hi", voice="alloy") as answer:
        assert b"".join(answer.iter_bytes()) == AUDIO
        assert answer.headers["content-type"] == "audio/mpeg" and answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers.get("content-length") == (str(len(AUDIO)) if framing == "length" else None)
    assert engine.requests[-1].doc == {"model": "fake", "input": "hi", "voice": "alloy"}


def test_files_and_batches(served: tuple[Engine, Running, openai.OpenAI]) -> None:
    engine, _, sdk = served
    batch = {"id": "batch_1", "object": "batch", "completion_window": "24h", "created_at": 1, "endpoint": "/v1/chat/completions",
             "input_file_id": "file-1", "status": "validating"}  # fmt: skip
    scripts = {
        ("POST", "/v1/files"): reply(FILE), ("GET", "/v1/files"): reply({"object": "list", "data": [FILE], "has_more": False}),
        ("GET", "/v1/files/file-1"): reply(FILE),
        ("DELETE", "/v1/files/file-1"): reply({"id": "file-1", "object": "file", "deleted": True}),
        ("GET", "/v1/files/file-1/content"): respond([AUDIO], content_type="application/octet-stream"),
        ("POST", "/v1/batches"): reply(batch), ("GET", "/v1/batches/batch_1"): reply(batch),
        ("GET", "/v1/batches"): reply({"object": "list", "data": [batch], "has_more": False}),
        ("POST", "/v1/batches/batch_1/cancel"): reply(batch),
    }  # fmt: skip
    engine.responder = lambda asked: scripts[asked.method, asked.path]
    made = sdk.files.create(file=("a.jsonl", AUDIO), purpose="batch")
    assert (made.id, AUDIO in engine.requests[-1].body) == ("file-1", True)
    assert [f.id for f in sdk.files.list(purpose="batch", limit=5)] == ["file-1"]
    assert (
        engine.requests[-1].target == "/v1/files?limit=5&purpose=batch" or engine.requests[-1].target == "/v1/files?purpose=batch&limit=5"
    )
    assert sdk.files.retrieve("file-1").id == "file-1" and sdk.files.delete("file-1").deleted
    assert sdk.files.content("file-1").read() == AUDIO
    assert sdk.batches.create(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h").id == "batch_1"
    assert [b.id for b in sdk.batches.list()] == ["batch_1"]
    assert sdk.batches.retrieve("batch_1").id == sdk.batches.cancel("batch_1").id == "batch_1"


def test_errors_come_in_our_envelope(served: tuple[Engine, Running, openai.OpenAI]) -> None:
    engine, gateway, sdk = served
    engine.queue(openai_error(400, "The audio is too short."))
    with pytest.raises(openai.BadRequestError, match="too short") as caught:
        sdk.audio.transcriptions.create(model="m", file=("a.wav", AUDIO))
    assert caught.value.body["origin"] == "backend"  # type: ignore[index]
    engine.queue(openai_error(401, f"Incorrect API key provided: {CANARY}"))
    with pytest.raises(openai.InternalServerError) as refused:
        sdk.audio.speech.create(model="m", input="x", voice="alloy")
    assert refused.value.status_code == 502 and CANARY not in str(refused.value.body)
    engine.queue(respond([b"<html>Broken " + b"x" * 200_000], status=500, content_type="text/html"))  # an endless error is not read on
    with pytest.raises(openai.InternalServerError, match="Broken x"):
        sdk.moderations.create(model="m", input="x")
    with pytest.raises(openai.NotFoundError):
        sdk.audio.transcriptions.create(model="nope", file=("a.wav", b"x"))
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=gateway.url, api_key="wrong", max_retries=0).moderations.create(model="m", input="x")
    records = gateway.records()[:10]
    assert {r.api for r in records} >= {"audio/transcriptions", "audio/speech", "moderations"}
    assert [(r.status, r.fault) for r in records if r.api == "audio/speech"] == [(502, "upstream")]
    assert CANARY not in repr(records)


@both_ways
def test_forms_in_every_order(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.on_model("", reply({}))
        engine.responder = lambda asked: reply({"text": "ok"})
        for path in ("/v1/images/variations", "/v1/audio/translations", "/audio/transcriptions"):  # what the SDK has given up, too
            with gateway.dial() as client:
                client.send(posted(form(model(), file()), path=path))
                assert client.reader.read().status == 200 and engine.requests[-1].body == form(model(b"fake"), file())
        for body, sent in (
            (form(model(), file()), form(model(b"fake"), file())),
            (form(file(AUDIO), model()), form(file(AUDIO), model(b"fake"))),
            (form(file()), form(model(b"fake"), file())),  # there is one route, so it needs no name
        ):
            with gateway.dial() as client:
                client.send(posted(body))
                assert client.reader.read().status == 200
                assert engine.requests[-1].body == sent and engine.requests[-1].header("content-length") == str(len(sent))
        with gateway.dial() as client:  # in chunks, the first piece without a model
            client.send(request("POST", PATH, b"", TYPE | {"content-length": "", "transfer-encoding": "chunked"}))
            for piece in (file(AUDIO)[:1000], file(AUDIO)[1000:], model(), b"--%b--\r\n" % MARK):
                client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.send(b"0\r\n\r\n")
            assert client.reader.read().status == 200
            assert engine.requests[-1].body == form(file(AUDIO), model(b"fake"))
            assert engine.requests[-1].header("transfer-encoding") == "chunked"


@both_ways
@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        (form(model(), model(b"other"), file()), "bad_request", 400),
        (form(model(), file()) + b"more", "invalid_form", 400),
        (model() + file(), "invalid_form", 400),
        (b"no form", "invalid_form", 400),
        (form(model(b"other"), file()), "model_not_found", 404),
        (form(file(b"x" * 150_000), model()), "late_model", 400),
        (form(model(), file(b"x" * 300_000)), "body_too_large", 413),
    ],
)
def test_forms_that_are_refused(body: bytes, code: str, status: int, asgi: bool) -> None:
    limits = {"limits": {"body_bytes": 50_000, "upload_bytes": 200_000}}
    with Engine(strict=False) as engine, running(config_for([engine], server=limits), asgi) as gateway:
        with gateway.dial() as client:
            client.send(posted(body))
            answer = client.reader.read()
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, code)
        assert not engine.posts()  # none came whole


@both_ways
def test_a_second_model_that_comes_late_is_not_sent(asgi: bool) -> None:
    """By then the first part has gone out; the backend must not get to see a whole form."""
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        head, tail = model() + file(AUDIO), model(b"dear") + b"--%b--\r\n" % MARK
        with gateway.dial() as client:
            client.send(request("POST", PATH, b"", TYPE | {"content-length": str(len(head + tail))}) + head)
            engine.wait(lambda e: e.open_connections == 1, "the upload")
            client.send(tail)
            assert client.reader.read().status == 400
        engine.wait(lambda e: e.open_connections == 0, "its end")
        assert not engine.posts()


@both_ways
def test_a_client_that_leaves(asgi: bool) -> None:
    gate = Gate()
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        with gateway.dial() as client:  # in the middle of its upload
            client.send(posted(form(model(), file(AUDIO)))[:-500_000])
            engine.wait(lambda e: e.open_connections == 1, "the upload")
        engine.wait(lambda e: e.open_connections == 0, "its end")
        gateway.settled()
        engine.queue(respond([AUDIO, gate, AUDIO], content_type="audio/mpeg", framing="chunked"))
        with gateway.dial() as client:  # in the middle of its answer
            client.post({"model": "m", "input": "x"}, "/v1/audio/speech")
            assert client.sock.recv(1 << 16)
        engine.wait(lambda e: len(e.left) == 1, "that its client has left")
        gateway.settled()
        records = gateway.records()[:10]
        assert [r.status for r in records] == [499, 499]


@both_ways
def test_a_slow_client_slows_the_backend(asgi: bool) -> None:
    parts = [AUDIO] * 24
    with Engine(sndbuf=1 << 16) as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(respond(parts, content_type="audio/mpeg", framing="chunked"))
        with gateway.dial(rcvbuf=1 << 14) as client:
            client.post({"model": "m", "input": "x"}, "/v1/audio/speech")
            engine.wait(lambda e: e.blocks > 0, "back-pressure")
            assert engine.turns[0].written < sum(map(len, parts))
            assert client.reader.read().body == b"".join(parts)


@both_ways
def test_a_backend_that_breaks_off(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine]), asgi) as gateway:
        engine.queue(respond([AUDIO], content_type="audio/mpeg").but(cut=1000))
        with gateway.dial() as client:
            client.post({"model": "m", "input": "x"}, "/v1/audio/speech")
            with pytest.raises(Cut):
                client.reader.read()
        event = b'data: {"type": "speech.audio.delta"}\n\n'
        whole = sse([event, event])
        for cut, told in ((whole.raw.rindex(b"data:") + 10, False), (whole.raw.rindex(b"data:") - 4, True)):
            engine.queue(whole.but(cut=cut))
            with gateway.dial() as client:
                client.post({"model": "m", "input": "x", "stream_format": "sse"}, "/v1/audio/speech")
                if told:  # between two events it can be said
                    events = client.reader.read().events
                    assert len(events) == 2 and b'"connection_lost"' in events[1]
                else:
                    with pytest.raises(Cut):
                        client.reader.read()


@both_ways
def test_elsewhere_when_one_cannot_be_reached(asgi: bool) -> None:
    with socket.socket() as nobody, Engine() as engine:
        nobody.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        engine.responder = lambda asked: reply({"text": "ok"})
        for _ in range(2):
            with running(config_for([gone, engine]), asgi) as gateway, gateway.dial() as client:
                for body in (posted(form(model(), file(AUDIO))), request("POST", "/v1/moderations", b'{"model":"m","input":"x"}')):
                    client.send(body)
                    assert client.reader.read().status == 200
        assert all(AUDIO in r.body for r in engine.posts(PATH))


@both_ways
def test_what_has_no_such_surface(asgi: bool) -> None:
    with Engine() as engine, running(config_for([engine], backend={"kind": "llama-server"}), asgi) as gateway:
        answer = gateway.ask({"model": "m", "prompt": "x"}, "/v1/images/generations")
        assert answer.status == 400 and b"has no images" in answer.body
        assert b"No model of yours" in gateway.get("/v1/files").body
        for path, status in (("/v1/files/..", 404), ("/v1/files/a%2Fb", 404), ("/v1/files/" + "a" * 129, 404), ("/v1/images/edits", 405)):
            assert gateway.get(path).status == status, path


def several(engine: Engine) -> Config:
    """Two backends with files, and a key for one of the routes only."""
    config = {
        "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}},
        "backends": {name: {"url": engine.url} for name in ("one", "two")},
        "routes": {
            "m": {"targets": [{"backend": "one", "model": "first"}]},
            "n": {"targets": [{"backend": "two", "model": "second"}]},
            "both": {"targets": [{"backend": "one", "model": "first"}, {"backend": "two", "model": "second"}]},
        },
        "keys": [{"name": "all", "key": "sk-all-0123456789abcdef"}, {"name": "few", "key": "sk-few-0123456789abcdef", "routes": ["n"]}],
    }
    return parse(json.dumps(config), {})


@both_ways
def test_which_backend_has_the_files(asgi: bool) -> None:
    with Engine() as engine, running(several(engine), asgi) as gateway:
        engine.responder = lambda asked: reply({"object": "list", "data": []})
        every, few = ({"authorization": f"Bearer sk-{who}-0123456789abcdef"} for who in ("all", "few"))

        def code(path: str, headers: dict[str, str]) -> tuple[int, str]:
            answer = gateway.get(path, headers)
            return answer.status, json.loads(answer.body).get("error", {}).get("code", answer.headers.get("x-pointsman-backend"))

        assert code("/v1/files", every) == (400, "missing_route")
        assert code("/v1/files?x-pointsman-route=m&limit=3", every) == (200, "one") and engine.requests[-1].target == "/v1/files?limit=3"
        assert code("/v1/files/file-1", every | {"x-pointsman-route": "n"}) == (200, "two")
        assert engine.requests[-1].header("x-pointsman-route") is None
        assert code("/v1/files?x-pointsman-route=both", every) == (400, "ambiguous_route")
        assert code("/v1/files", few) == (200, "two")
        assert code("/v1/files?x-pointsman-route=m", few) == (404, "model_not_found")
        assert code("/v1/files?" + "a" * 3000, few)[0] == 400
        assert gateway.ask({"input": "x"}, "/v1/moderations", few).status == 200 and engine.requests[-1].doc["model"] == "second"
        assert gateway.ask({"input": "x"}, "/v1/moderations", every).status == 400
        assert gateway.ask({"input": "x"}, "/v1/moderations", every | {"x-pointsman-route": "m"}).status == 200


def test_over_httpx_a_form_is_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes over a proxy or HTTP/2; here the link is made as for those, without either."""
    monkeypatch.setattr(links, "_twin", lambda backend: True)
    limits = {"limits": {"body_bytes": 200_000}}
    with Engine() as engine, running(config_for([engine], server=limits), True) as gateway, gateway.dial() as client:
        engine.responder = lambda asked: reply({"text": "ok"})
        for path, body, sent in (
            (PATH, form(model(), file(b"x" * 150_000)), form(model(b"fake"), file(b"x" * 150_000))),
            ("/v1/files", form(file(b"x" * 150_000)), form(file(b"x" * 150_000))),
        ):
            client.send(posted(body, path=path))
            assert client.reader.read().status == 200 and engine.requests[-1].body == sent
        client.send(posted(form(model(), file(b"x" * 250_000))))
        assert client.reader.read().status == 413


def test_where_they_are() -> None:
    find: Callable[[str, str], Any] = passthrough.find
    assert find("GET", "/v1/chat/completions") is None and find("POST", "/v1/batches/b/cancel").pattern == "/batches/{id}/cancel"
    assert find("GET", "/v1/files/file-1/content").path == "/files/file-1/content"
