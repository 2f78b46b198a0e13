"""Carrier, dialect, signer and link together, against the scripted providers that refuse wrong paths, keys, tokens and signatures."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from backends import wire
from backends.carriers import Settings, carry, dialect, signer
from backends.facts import facts
from backends.http import Clients
from backends.translate import TranslatedLink
from backends.types import Call, Fault, Target
from tests.backends.auth.served import served
from tests.backends.seen import Seen
from tests.fakes.providers import anthropic, bedrock, gemini
from tests.fakes.providers.common import Provider

LONG = 20.0  # seconds that nothing here takes
SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


def ask(kind: str, settings: Settings, model: str, stream: bool, environ: dict[str, str]) -> Seen:
    """One call as the gateway makes it. Credentials are waited for, as at the gateway's start."""
    carried = carry(kind, settings)
    spoken = dialect(carried)
    assert spoken is not None
    signs = signer("cloud", carried, settings, environ=environ)

    async def run() -> Seen:
        clients = Clients(asyncio.get_running_loop())
        link = TranslatedLink(clients.pool(carried.url, "cloud"), spoken, signs, lambda name: facts(kind, name))
        doc = {"model": "m", "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 100, "stream": stream}
        seen = Seen()
        call = Call(b"req-1", "chat", "m", stream, wire.parse(json.dumps(doc).encode()), "", {}, 0.0)
        try:
            link.send(call, Target("cloud", model), None, seen)
            return await seen.whole()
        finally:
            clients.close()
            await asyncio.sleep(0)  # closing a transport takes a turn of the loop

    with contextlib.closing(signs):
        for held in (getattr(signs, "token", None), getattr(getattr(signs, "_keys", None), "__self__", None)):
            if held is not None:
                with pytest.raises(Fault, match="are being obtained"):
                    asyncio.run(run())
                assert held.wait(LONG), held.problem
        return asyncio.run(run())


def said(seen: Seen, stream: bool) -> str:
    assert (seen.outcome, seen.status) == ("ok", 200), seen.body
    if not stream:
        return str(json.loads(seen.body)["choices"][0]["message"]["content"])
    assert seen.body.endswith(b"data: [DONE]\n\n")
    chunks: list[Any] = [json.loads(event[6:]) for event in seen.body.split(b"\n\n")[:-2]]
    return "".join(choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"])


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[str]:
    """The file of a service account, and a token server that gives what the scripted Vertex takes."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    answer = json.dumps({"access_token": gemini.TOKEN, "expires_in": 3600, "token_type": "Bearer"}).encode()
    with served(lambda asked: (200, answer)) as server:
        info = {"type": "service_account", "private_key": pem, "client_email": "x@p.example", "token_uri": f"{server.url}/token"}
        path = tmp_path / "account.json"
        path.write_text(json.dumps(info))
        yield str(path)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_anthropic_and_ai_studio_by_key(stream: bool) -> None:
    cases: list[tuple[str, Provider, str, str, str]] = [
        ("anthropic", anthropic.Anthropic(), "/v1", anthropic.KEY, "claude-sonnet-4-5-20250929"),
        ("gemini", gemini.Gemini(), "/v1beta", gemini.KEY, "gemini-2.5-flash"),
    ]
    for kind, provider, base, key, model in cases:
        with provider.serving() as url:
            assert said(ask(kind, Settings(url=url + base, key=key), model, stream, {}), stream)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_vertex_by_a_service_account(stream: bool, accounts: str) -> None:
    provider = gemini.Gemini()
    with provider.serving() as url:
        base = f"{url}/v1/projects/{gemini.PROJECT}/locations/{gemini.LOCATION}/publishers/google"
        assert said(ask("vertex", Settings(url=base, credentials=accounts), "gemini-2.5-flash", stream, {}), stream)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_bedrock_by_signature_and_by_key(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bedrock.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bedrock.SECRET)
    for environ in ({}, {"AWS_BEARER_TOKEN_BEDROCK": bedrock.BEARER}):
        provider = bedrock.Bedrock()
        with provider.serving() as url:
            assert said(ask("bedrock", Settings(url=url, region=bedrock.REGION), SONNET, stream, environ), stream)
        assert provider.rejected == []


def test_a_wrong_region_is_refused_by_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bedrock.KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bedrock.SECRET)
    with bedrock.Bedrock().serving() as url:
        seen = ask("bedrock", Settings(url=url, region="eu-west-1"), SONNET, False, {})
    assert seen.status == 403
    assert bedrock.SECRET.encode() not in seen.body
