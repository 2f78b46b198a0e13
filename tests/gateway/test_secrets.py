"""No secret ever shows. Canaries stand wherever a secret may stand: keys and headers of backends, a proxy's URL, an engine's environment,
clients' keys, good and wrong. Good and failing calls of every surface are made, every page is read, and all that anybody was shown,
was logged or can be read of the gateway's own objects is searched for them.
"""

from __future__ import annotations

import io
import json
import logging
import socket
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from gateway import logs
from gateway.cli import main
from gateway.config import ConfigError, parse
from tests.fakes.answers import openai_error, reply
from tests.fakes.engine import Engine
from tests.fakes.openai import respond as usual
from tests.fakes.providers.anthropic import Anthropic
from tests.fakes.providers.common import Fault
from tests.fakes.request import Request
from tests.fakes.script import Script
from tests.harness import Client, Running, both_ways, chat, running

Doc = dict[str, Any]
# As unlike any known form of a key as can be: nothing but knowing them helps.
CANARY = {
    name: f"{word}-{at}7q{at}vW9zL"
    for at, (name, word) in enumerate((
        ("backend", "Heron"), ("header", "Bittern"), ("plain header", "Osprey"), ("proxy", "Kestrel"), ("engine", "Plover"),
        ("client", "Avocet"), ("admin", "Godwit"), ("wrong", "Curlew"), ("cookie", "Lapwing"), ("provider", "Dunlin"),
        ("bystander", "Whimbrel"), ("custom", "Turnstone"),
    ))
}  # fmt: skip
ENGINE = """
import http.server, os, sys
print("starting with token=" + os.environ["SERVICE_TOKEN"], os.environ["SERVICE_TOKEN"], flush=True)
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""


def told(request: Request) -> str:
    """Everything secret that a server was sent, as a careless one would quote it in an error."""
    return " ".join(
        value for name, value in request.headers if name in ("authorization", "x-api-key", "x-team-secret", "x-team", "api-key")
    )


def careless(request: Request) -> Script:
    """The scripted engine, which quotes what it was sent wherever it fails."""
    said = json.dumps(request.doc) if request.doc else ""
    for word, status in (("refuse", 400), ("deny", 401), ("break", 500), ("crowd", 429), ("spent", 402)):
        if word in said:
            return openai_error(status, f"You sent {told(request)}; Incorrect API key provided: {told(request).split()[-1]}")
    if "page" in said:
        return reply({}, status=502).but(ending="fin") if not request.doc else openai_error(502, f"<html>{told(request)}</html>")
    script = usual(request)
    return script.but(cut=len(script.raw) - 60, ending="rst") if "cut" in said else script


def config(engine: str, provider: str, closed: int) -> Any:
    return parse(json.dumps({
        "server": {"port": 0, "admin": {"port": 0}, "drain_seconds": 1, "log": {"level": "debug"}},
        "backends": {
            "good": {
                "url": engine, "key": CANARY["backend"], "headers": {"x-team-secret": CANARY["header"], "x-team": CANARY["plain header"]},
            },
            "own": {"url": engine, "headers": {"authorization": f"Custom {CANARY['custom']}"}},
            "behind": {"url": engine, "key": CANARY["backend"], "proxy": f"http://me:{CANARY['proxy']}@127.0.0.1:{closed}"},
            "claude": {"kind": "anthropic", "url": provider, "key": CANARY["provider"]},
            "engine": {
                "engine": "command", "command": [sys.executable, "-c", ENGINE, "{port}"], "env": {"SERVICE_TOKEN": CANARY["engine"]},
                "health_path": "/health",
            },
        },
        "routes": {
            "m": {"targets": [{"backend": "good", "model": "fake"}], "retries": 0},
            "own": {"targets": [{"backend": "own", "model": "fake"}], "retries": 0},
            "behind": {"targets": [{"backend": "behind", "model": "fake"}]},
            "claude": {"targets": [{"backend": "claude", "model": "claude-sonnet-4-5"}]},
        },
        "keys": [{"name": "one", "key": CANARY["client"]}, {"name": "boss", "key": CANARY["admin"], "admin": True}],
    }), {})  # fmt: skip


class Seen:
    """All that was shown, by where; `search` looks for every canary in it, plain and in base64."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, *shown: object) -> None:
        self.texts += [(where, one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one)) for one in shown]

    def answer(self, where: str, answer: Any) -> Any:
        self.add(where, answer.body, dict(answer.headers))
        return answer

    def search(self) -> list[tuple[str, str]]:
        """(canary, where it was shown, a little of it)."""
        forms = {name: (secret, b64encode(secret.encode()).decode().rstrip("=")[:-1]) for name, secret in CANARY.items()}
        return [
            (name, f"{where}: {text[max(0, text.find(form) - 60) : text.find(form) + 60]}")
            for where, text in self.texts for name, pair in forms.items() for form in pair if form in text
        ]  # fmt: skip


@contextmanager
def place(asgi: bool, patch: pytest.MonkeyPatch) -> Iterator[tuple[Running, Anthropic, Seen]]:
    patch.setenv("BYSTANDER_SECRET", CANARY["bystander"])
    seen, log = Seen(), io.StringIO()
    writer = logs.setup("debug", "json", stream=log)
    fake = Anthropic(key=CANARY["provider"])
    with ExitStack() as stack:
        stack.callback(writer.close)
        stack.callback(logging.getLogger().removeHandler, writer)
        closed = stack.enter_context(socket.socket())
        closed.bind(("127.0.0.1", 0))  # a port that refuses, since nobody listens
        engine = stack.enter_context(Engine(responder=careless))
        gateway = stack.enter_context(running(config(engine.url, stack.enter_context(fake.serving()), closed.getsockname()[1]), asgi))
        gateway.until(lambda: gateway.gateway.fleet.replicas["engine"][0].health == "ready", "the engine")
        yield gateway, fake, seen
        for handler in logging.getLogger().handlers:
            handler.flush()
        seen.add("log", log.getvalue())


def key(name: str, scheme: str = "Bearer ") -> dict[str, str]:
    return {"authorization": scheme + CANARY[name], "cookie": f"session={CANARY['cookie']}", "x-forwarded-user": "me"}


def calls(gateway: Running, fake: Anthropic, seen: Seen) -> None:
    """Good and bad calls of every surface, each with its explanation."""
    for model in ("m", "own", "behind", "claude"):
        for word in ("hello", "refuse", "deny", "break", "crowd", "spent", "page", "cut"):
            for stream in (False, True):
                asked = chat(word, model=model, stream=stream, max_tokens=50)
                if model == "claude" and word != "hello":
                    status = {"refuse": 400, "deny": 401, "crowd": 429, "spent": 402}.get(word, 529)
                    fake.fail(
                        *[Fault(status=status, message=f"Your key {CANARY['provider']} will not do; x-api-key: {CANARY['provider']}")] * 2
                    )
                for path, body in (
                    ("/v1/chat/completions", asked),
                    ("/v1/messages", asked),
                    ("/v1/responses", {"model": model, "input": word, "stream": stream}),
                ):
                    seen.answer(f"{model} {word} {path}", gateway.ask(body, path, key("client")))
                    seen.answer(f"explain {path}", gateway.ask({"path": path, "body": body}, "/v1/explain", key("client")))
                fake._faults.clear()
    for path in ("/v1/completions", "/v1/embeddings", "/v1/rerank", "/tokenize", "/v1/messages/count_tokens", "/v1/audio/speech"):
        seen.answer(path, gateway.ask({"model": "m", "prompt": "refuse", "input": "refuse"}, path, key("client")))


def wrong(gateway: Running, seen: Seen) -> None:
    """Calls that do not come in."""
    for headers in (key("wrong"), {"x-api-key": CANARY["wrong"]}, key("wrong", "Basic "), {"authorization": CANARY["wrong"]}):
        for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/explain", "/v1/files"):
            assert seen.answer(f"wrong key {path}", gateway.ask(chat(), path, headers)).status == 401
        seen.answer("models", gateway.get("/v1/models", headers))
    for body in (b"{", b'{"model": "none"}', b"[]"):
        seen.answer("bad body", gateway.ask(body, headers=key("client")))
    seen.answer("no such path", gateway.ask(chat(), "/v1/nothing", key("client")))
    seen.answer("a key in the path", gateway.get("/v1/models?model=m", key("client")))
    with gateway.dial() as client:
        client.send(f"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer {CANARY['client']}\r\nbad header\r\n\r\n".encode())
        seen.answer("a bad head", client.reader.read())
    with gateway.dial() as client:  # one that leaves in the middle of its body
        lines = ("POST /v1/chat/completions HTTP/1.1", "host: x", f"authorization: Bearer {CANARY['client']}", "content-length: 99", "", "")
        client.send("\r\n".join(lines).encode())


def pages(gateway: Running, seen: Seen) -> None:
    """Everything that can be read of the gateway."""
    for path in ("/v1/models", "/v1/models/m", "/health", "/ready", "/metrics", "/version", "/openapi.json", "/"):
        assert seen.answer(path, gateway.get(path, key("client"))).status == 200
    port = gateway.gateway.admin_port
    assert port is not None
    with Client(port) as client:
        for path in (
            "/",
            "/api/status",
            "/api/requests?limit=1000",
            "/api/config",
            "/metrics",
            "/openapi.json",
            "/api/engines/engine%230/log",
        ):
            answer = seen.answer(f"admin {path}", client.get(path, key("admin")))
            assert answer.status == 200, (path, answer.body)
        for path in ("/api/status", "/api/config", "/api/requests"):
            assert seen.answer(f"admin {path}", client.get(path, key("wrong"))).status in (401, 403)
        seen.answer("admin chat", client.ask(chat("deny", model="m"), "/api/chat", {"x-pointsman-key": CANARY["client"], **key("admin")}))
        seen.answer("admin reload", client.ask({}, "/api/reload", key("admin")))


def objects(gateway: Running, seen: Seen) -> None:
    """What a debugger or a traceback would print."""
    made = gateway.gateway

    def look() -> list[object]:
        links = [replica.link for replica in made.fleet.every()]
        return [
            made.configuration, *made.fleet.every(), *links, *(getattr(link, "auth", "") for link in links), *(link.pool for link in links),  # type: ignore[attr-defined]
            made.core, made.core.door, *made.core.door.tenants.values(), made.snapshot(), *made.recorder.recent(999), made.fleet.states,
            *made.core.clients.pools.values(), made.fleet.supervisor, *made.fleet.supervisor.instances, made.metrics(),
        ]  # fmt: skip

    seen.add("repr", *map(repr, gateway.call(look)))
    seen.add("specs", *(repr(instance.spec) for instance in made.fleet.supervisor.instances))


@both_ways
def test_no_canary_shows_anywhere(asgi: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with place(asgi, monkeypatch) as (gateway, fake, seen):
        calls(gateway, fake, seen)
        wrong(gateway, seen)
        gateway.settled()
        pages(gateway, seen)
        objects(gateway, seen)
    wheres = {where for where, _ in seen.texts}
    assert {"log", "repr", "admin /api/config", "explain /v1/responses"} <= wheres and len(seen.texts) > 300
    assert any("Your key" in text or "You sent" in text for _, text in seen.texts)  # the quoting errors did come through
    assert seen.search() == []


BAD = {
    "proxy": {"url": "http://h/v1", "proxy": f"ftp://me:{CANARY['proxy']}@h"},
    "url": {"url": f"http://me:{CANARY['backend']}@h/v1"},
    "key": {"url": "http://h/v1", "key": f"{CANARY['backend']}\nx"},
    "headers": {"url": "http://h/v1", "headers": {"authorization": f"{CANARY['header']}\nx"}},
    "unknown field": {"url": "http://h/v1", "kye": CANARY["backend"]},
    "a list": {"url": "http://h/v1", "key": [CANARY["backend"]]},
    "a header": {"url": "http://h/v1", "headers": CANARY["header"]},
}


@pytest.mark.parametrize("name", BAD)
def test_a_configuration_that_is_refused_shows_none(name: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tree = {"backends": {"b": BAD[name]}, "keys": [{"name": "k", "key": f"{CANARY['client']} "}]}
    with pytest.raises(ConfigError) as refused:
        parse(json.dumps(tree), {})
    file = tmp_path / "c.yaml"
    file.write_text(json.dumps(tree))
    assert main(["check", "--config", str(file)]) == 2 and main(["probe", "b", "--config", str(file)]) == 2
    seen = Seen()
    seen.add("check", refused.value, repr(refused.value), *capsys.readouterr())
    assert seen.search() == []


def test_a_reload_that_is_refused_shows_none() -> None:
    with Engine() as engine, running(config(engine.url, "http://127.0.0.1:9", 9)) as gateway:

        def broken() -> Any:
            return parse(json.dumps({"backends": {"b": BAD["proxy"]}}), {})

        gateway.gateway.read = broken
        port = gateway.gateway.admin_port
        assert port is not None
        seen = Seen()
        with Client(port) as client:
            assert seen.answer("reload", client.ask({}, "/api/reload", key("admin"))).status == 422
            seen.answer("status", client.get("/api/status", key("admin")))
        assert seen.search() == [] and any("proxy" in text for _, text in seen.texts)


def test_the_search_finds_what_there_is() -> None:
    seen = Seen()
    seen.add("a", f"x{CANARY['backend']}y")
    seen.add("b", b"Basic " + b64encode(CANARY["proxy"].encode()))
    assert [name for name, _ in seen.search()] == ["backend", "proxy"]
