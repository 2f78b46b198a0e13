"""Every kind of provider as a case: its scripted server, what a user writes to reach it, and the secrets that must never show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.config import Config, parse
from tests.backends.auth.served import served
from tests.fakes.providers import anthropic, bedrock, gemini, openai_chat
from tests.fakes.providers.common import Provider, Reply
from tests.fakes.request import Request
from tests.harness import merged

Doc = dict[str, Any]
VERTEX = f"/v1/projects/{gemini.PROJECT}/locations/{gemini.LOCATION}"
SONNET = "claude-sonnet-4-5-20250929"
DATED = "2024-10-21"
SMALL, GOOGLE = "text-embedding-3-small", "gemini-embedding-001"
_AZURE = re.compile(rf"/openai/v1/(?P<plain>.+)|/openai/deployments/(?P<model>[^/]+)/(?P<dated>.+)\?api-version={DATED}")
_CLAUDE = re.compile(rf"{VERTEX}/publishers/anthropic/models/(?P<model>[^/:]+):(?P<verb>rawPredict|streamRawPredict)")


def moved(request: Request, target: str, headers: Mapping[str, str], doc: Doc) -> Request:
    """`request` as the service behind a carrier sees it: at another path, with other credentials, its body as it stands there."""
    gone = {"authorization", "api-key", *headers}
    kept = tuple(pair for pair in request.headers if pair[0] not in gone)
    return replace(request, target=target, headers=(*kept, *headers.items()), doc=doc, body=json.dumps(doc).encode())


@dataclass
class Azure(openai_chat.OpenAIChat):
    """OpenAI's service as Azure has it: another path, the deployment in it or not, and a key under Azure's own header."""

    def serve(self, request: Request) -> Reply:
        found = _AZURE.fullmatch(request.target)
        if found is None:
            return self.other(request)
        assert request.header("authorization") is None and found["model"] in (None, request.doc["model"])
        headers = {"authorization": f"Bearer {request.header('api-key')}"}
        return super().serve(moved(request, f"/v1/{found['plain'] or found['dated']}", headers, request.doc))


@dataclass
class Mistral(openai_chat.OpenAIChat):
    """A service that refuses to be asked for the usage of a stream, and tells it anyhow."""

    def serve(self, request: Request) -> Reply:
        assert not {"stream_options", "max_completion_tokens"} & request.doc.keys(), request.doc
        more = {"stream_options": {"include_usage": True}} if request.doc.get("stream") else {}
        return super().serve(replace(request, doc={**request.doc, **more}))


@dataclass
class Endpoint(openai_chat.OpenAIChat):
    """A model deployed on Vertex AI behind a server that speaks OpenAI's format."""

    key: str = gemini.TOKEN

    def serve(self, request: Request) -> Reply:
        if request.target != f"{VERTEX}/endpoints/1234/chat/completions":
            return self.other(request)
        return super().serve(replace(request, target="/v1/chat/completions"))


@dataclass
class VertexClaude(anthropic.Anthropic):
    """Claude on Vertex AI: the model and the method in the path, the version in the body, a token of Google's."""

    def serve(self, request: Request) -> Reply:
        found = _CLAUDE.fullmatch(request.target)
        if found is None:
            raise anthropic.no("path")
        assert request.header("authorization") == f"Bearer {gemini.TOKEN}"
        doc = dict(request.doc)
        assert "model" not in doc and doc.pop("anthropic_version") == "vertex-2023-10-16"
        assert bool(doc.get("stream")) == (found["verb"] == "streamRawPredict")
        headers = {"x-api-key": self.key, "anthropic-version": "2023-06-01"}
        return super().serve(moved(request, "/v1/messages", headers, {**doc, "model": found["model"].replace("@", "-")}))


@dataclass(frozen=True)
class Case:
    """`backend`: what stands in the file but for its address, which is the server's root and `path`. `environ`: of the process."""

    kind: str
    provider: Callable[[], Provider]
    model: str
    path: str = ""
    backend: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    embedder: str = ""  # the model of `/v1/embeddings`, where the provider has one
    sent: bool = True  # the secrets themselves, not something that is made with them
    account: bool = False  # Google's credentials from a file

    def config(self, root: str, account: str, **more: Any) -> Config:
        """One route `m` to this backend; another, `lost`, to a model that it does not have."""
        backend = {"kind": self.kind, "url": root + self.path, **self.backend} | ({"credentials": account} if self.account else {})
        models = {"m": self.model, "lost": "no-such"} | ({"embed": self.embedder} if self.embedder else {})
        base = {
            "server": {"port": 0, "admin": {"port": None}, "drain_seconds": 1, "log": {"level": "error"}},
            "backends": {"far": backend},
            "routes": {name: {"targets": [{"backend": "far", "model": model}]} for name, model in models.items()},
        }
        return parse(json.dumps(merged(base, more)), {})


def _keyed(key: str, **more: str) -> dict[str, Any]:
    return {"backend": {"key": key, **more}, "secrets": (key,)}


CASES: dict[str, Case] = {
    "openai": Case("openai", openai_chat.OpenAIChat, "gpt-4o", "/v1", embedder=SMALL, **_keyed(openai_chat.KEY)),
    "openai, reasoning": Case("openai", openai_chat.OpenAIChat, "o4-mini", "/v1", **_keyed(openai_chat.KEY)),
    "groq": Case("groq", openai_chat.OpenAIChat, "gpt-4o", "/v1", **_keyed(openai_chat.KEY)),
    "mistral": Case("mistral", Mistral, "gpt-4o", "/v1", **_keyed(openai_chat.KEY)),
    "azure": Case("azure", Azure, "gpt-4o", embedder=SMALL, **_keyed(openai_chat.KEY)),
    "azure, dated": Case("azure", Azure, "gpt-4o", embedder=SMALL, **_keyed(openai_chat.KEY, api_version=DATED)),
    "anthropic": Case("anthropic", anthropic.Anthropic, SONNET, "/v1", **_keyed(anthropic.KEY)),
    "gemini": Case("gemini", gemini.Gemini, "gemini-2.5-flash", "/v1beta", embedder=GOOGLE, **_keyed(gemini.KEY)),
    "vertex": Case(
        "vertex", gemini.Gemini, "gemini-2.5-flash", f"{VERTEX}/publishers/google", secrets=(gemini.TOKEN,), account=True, embedder=GOOGLE
    ),
    "vertex-anthropic": Case(
        "vertex-anthropic", VertexClaude, "claude-sonnet-4-5@20250929", f"{VERTEX}/publishers/anthropic", secrets=(gemini.TOKEN,),
        account=True,
    ),
    "vertex-endpoint": Case("vertex-endpoint", Endpoint, "gpt-4o", f"{VERTEX}/endpoints/1234", **_keyed(gemini.TOKEN)),
    "bedrock": Case("bedrock", bedrock.Bedrock, f"us.anthropic.{SONNET}-v1:0", **_keyed(bedrock.BEARER, region=bedrock.REGION)),
    "bedrock, signed": Case(
        "bedrock", bedrock.Bedrock, f"us.anthropic.{SONNET}-v1:0", backend={"region": bedrock.REGION},
        environ={"AWS_ACCESS_KEY_ID": bedrock.KEY_ID, "AWS_SECRET_ACCESS_KEY": bedrock.SECRET}, secrets=(bedrock.SECRET,), sent=False,
    ),
}  # fmt: skip


@contextmanager
def account(folder: Path, tokens: str = "") -> Iterator[str]:
    """The file of a Google service account, with a token server that gives what the scripted Vertex takes, unless another is named."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    answer = json.dumps({"access_token": gemini.TOKEN, "expires_in": 3600, "token_type": "Bearer"}).encode()
    with served(lambda asked: (200, answer)) as server:
        path = folder / "account.json"
        path.write_text(json.dumps({
            "type": "service_account", "private_key": pem, "client_email": "x@p.example", "token_uri": tokens or f"{server.url}/token",
        }))  # fmt: skip
        yield str(path)
