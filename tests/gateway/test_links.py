"""One line of configuration for every row of the catalogue: the link that comes of it, and where its calls go."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from backends import catalog
from backends.costed import PricedLink
from backends.http import Clients
from backends.native import ProviderLink
from backends.openai import OpenAILink
from backends.types import Call, Flight, Receiver, Target, Timeouts
from backends.wire import parse as document
from gateway import links
from gateway.config import parse
from tests.backends.seen import Seen
from tests.gateway.provided import DATED

KEY = "canary-key-0123456789"
SET = {
    "AZURE_OPENAI_ENDPOINT": "https://example.openai.azure.com", "GOOGLE_CLOUD_PROJECT": "p", "ANTHROPIC_VERTEX_PROJECT_ID": "p",
    "AWS_REGION": "us-east-1",
}  # fmt: skip
ROWS = [row for row in catalog.rows() if row.name != "compatible"]


class Wire:
    """A carrier that keeps what is sent."""

    def __init__(self, pool: Any) -> None:
        self.name, self.origin = pool.name, pool.origin
        self.sent: list[bytes] = []

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> Flight:
        self.sent.append(b"".join(payload))
        return None  # type: ignore[return-value]

    def drop(self) -> None: ...


def sent(kind: str, env: dict[str, str], **more: Any) -> tuple[Any, str, str]:
    """The link of `far: {kind: …}`, the URL that a chat call goes to, and its whole request."""
    config = parse(json.dumps({"backends": {"far": {"kind": kind, **more}}}), env).backends["far"]

    async def run() -> tuple[Any, str, str]:
        clients = Clients(asyncio.get_running_loop())
        (url,) = config.all_urls
        link: Any
        link, signs = links.made("far", url, config, clients, environ=env, on_change=lambda: None)
        assert KEY not in repr((link, signs, config))
        link.pool = carrier = Wire(link.pool)
        doc = document(b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":5}')
        link.send(Call(b"r", "chat", "m", False, doc, "", {}, 0.0), Target("far", "some-model"), None, Seen())
        clients.close()
        request = carrier.sent[0].decode()
        scheme = "https" if carrier.origin.tls else "http"
        return link, f"{scheme}://{carrier.origin.authority}{request.split(' ')[1]}", request

    return asyncio.run(run())


def keyed(row: catalog.Row) -> dict[str, Any]:
    return {"key": KEY} if row.auth in ("google", "aws") else {}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_is_one_line(row: catalog.Row) -> None:
    env = {**SET, **dict.fromkeys(row.key, KEY)}
    more = {"deployment": "1234", "location": "global"} if row.name == "vertex-endpoint" else {}
    link, url, request = sent(row.name, env, **keyed(row), **more)
    assert (KEY in request) == (row.auth != "none")
    if row.carrier in ("openai", "azure"):
        assert isinstance(link, OpenAILink) and isinstance(link, PricedLink) >= bool(row.prices)
        base = "https://example.openai.azure.com/openai/v1" if row.name == "azure" else row.url
        assert url == f"{base}/chat/completions"
    else:
        assert isinstance(link, ProviderLink)
        root = row.base({"project": "p", "location": "global", "region": "us-east-1", "deployment": "1234"}).removesuffix("/v1")
        assert url.startswith(root.removesuffix("/publishers/anthropic")) and "some-model" in request


def test_azure_in_all_its_forms() -> None:
    root = "https://example.openai.azure.com"
    for url in (root, root + "/", root + "/openai", root + "/openai/v1", root + "/openai/v1/"):
        _, where, request = sent("azure", {}, url=url, key=KEY)
        assert where == f"{root}/openai/v1/chat/completions" and f"\r\napi-key: {KEY}\r\n" in request and "authorization" not in request
        _, where, _ = sent("azure", {}, url=url, key=KEY, api_version=DATED)
        assert where == f"{root}/openai/deployments/some-model/chat/completions?api-version={DATED}"
    _, where, _ = sent("azure", {}, url=root, key=KEY, api_version=DATED, deployment="mine")
    assert "/deployments/mine/" in where
    _, _, request = sent("azure", {}, url=root, headers={"authorization": "Bearer token-of-entra"})
    assert "\r\nauthorization: Bearer token-of-entra\r\n" in request and "api-key" not in request
