"""The catalogue's rows: that each is whole, that none contradicts another, and that what they name exists."""

from __future__ import annotations

import re
import typing
from urllib.parse import urlsplit

import pytest

from backends import catalog
from backends.catalog import Row, find, row, rows, vertex_host
from backends.quirks import NAMED

WANTED = (
    "openai nim lambda deepseek together fireworks openrouter groq mistral cerebras sambanova parasail xai huggingface ollama lmstudio "
    "llama-server vllm sglang tgi azure anthropic gemini vertex vertex-anthropic vertex-endpoint bedrock perplexity cohere moonshot zai "
    "nebius hyperbolic deepinfra github"
).split()  # fmt: skip
SETTINGS = {"url": "https://a.example", "project": "p", "location": "l", "region": "r", "deployment": "d", "api_version": "v"}


def test_every_provider_is_there_once() -> None:
    names = [entry.name for entry in rows()]
    assert set(WANTED) <= set(names) and len(names) == len(set(names))
    titles = [entry.title for entry in rows()]
    assert len(titles) == len(set(titles))
    assert row("groq").title == "Groq" and find("groq") is row("groq") and find("nobody") is None
    with pytest.raises(KeyError):
        row("nobody")


@pytest.mark.parametrize("entry", rows(), ids=lambda entry: entry.name)
def test_a_row_is_whole(entry: Row) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", entry.name)
    assert entry.docs.startswith("https://")
    if url := entry.base(SETTINGS):
        parts = urlsplit(url)
        assert parts.scheme == "https" or (entry.local and parts.hostname == "127.0.0.1")
        assert not url.endswith("/") and "{" not in url
    assert entry.speaks and len(set(entry.speaks)) == len(entry.speaks)
    assert entry.key or entry.auth != "key"
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", name) for name in entry.key)
    for difference in entry.differences:
        assert difference.quirk in NAMED and difference.source
    assert all(entry.source and entry.params for entry in entry.unsupported)
    for setting in entry.settings:
        assert setting.example or setting.default or not setting.required


def test_no_two_providers_share_an_address_or_a_key() -> None:
    remote = [entry for entry in rows() if entry.carrier == "openai" and not entry.local and entry.url]
    assert len({entry.url for entry in remote}) == len(remote)
    keys = [name for entry in rows() for name in entry.key]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("global", "aiplatform.googleapis.com"),
        ("eu", "aiplatform.eu.rep.googleapis.com"),
        ("us-east5", "us-east5-aiplatform.googleapis.com"),
    ],
)
def test_hosts_of_vertex(location: str, host: str) -> None:
    assert vertex_host(location) == host
    assert row("vertex").base({"project": "p", "location": location}).startswith(f"https://{host}/v1/projects/p/locations/{location}/")


def test_a_url_without_its_setting_is_an_error() -> None:
    with pytest.raises(KeyError):
        row("bedrock").base({})


def test_google_s_own_sdk_has_the_same_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    genai = pytest.importorskip("google.genai", reason="google-genai is the oracle")
    credentials = pytest.importorskip("google.auth.credentials")
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    for location in ("global", "us", "us-central1"):
        client = genai.Client(vertexai=True, project="p", location=location, credentials=credentials.AnonymousCredentials())
        assert client._api_client._http_options.base_url == f"https://{vertex_host(location)}/"


def test_words_of_the_rows_are_those_of_the_types() -> None:
    assert set(typing.get_args(catalog.Carrier)) == {entry.carrier for entry in rows()}
    assert set(typing.get_args(catalog.Auth)) == {entry.auth for entry in rows()}
