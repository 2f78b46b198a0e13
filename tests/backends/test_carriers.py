"""Carriers: URL, dialect and signer of each kind, and what is told when a setting is missing."""

from __future__ import annotations

import pytest

from backends.auth.google import GoogleADC
from backends.auth.keys import ApiKey, Bearer, Nothing
from backends.auth.sigv4 import SigV4
from backends.carriers import Carried, Settings, carry, dialect, signer
from backends.dialects.anthropic import Anthropic
from backends.dialects.bedrock import Bedrock
from backends.dialects.gemini import Gemini
from backends.dialects.relayed import Relayed
from backends.dialects.types import Context
from backends.wire import parse

CHAT = parse(b'{"model":"route","messages":[{"role":"user","content":"Hi"}],"max_tokens":10}')
PLACE = Settings(project="p-1", location="europe-west4")
KEY = "canary-key-0123456789"


def address(kind: str, settings: Settings, model: str, stream: bool = False) -> str:
    """The whole URL that a chat call goes to."""
    carried = carry(kind, settings)
    spoken = dialect(carried)
    assert spoken is not None
    return carried.url + spoken.request(CHAT, Context("r", 0, model, stream)).path


@pytest.mark.parametrize(
    ("kind", "settings", "model", "whole", "streamed"),
    [
        ("anthropic", Settings(), "claude-x", "https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1/messages"),
        (
            "gemini", Settings(), "gemini-x",
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:generateContent",
            "https://generativelanguage.googleapis.com/v1beta/models/gemini-x:streamGenerateContent?alt=sse",
        ),
        (
            "vertex", PLACE, "gemini-x",
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/p-1/locations/europe-west4/publishers/google/models/gemini-x:generateContent",
            "https://europe-west4-aiplatform.googleapis.com/v1/projects/p-1/locations/europe-west4/publishers/google/models/gemini-x:streamGenerateContent?alt=sse",
        ),
        (
            "vertex-anthropic", Settings(project="p-1"), "claude-x",
            "https://aiplatform.googleapis.com/v1/projects/p-1/locations/global/publishers/anthropic/models/claude-x:rawPredict",
            "https://aiplatform.googleapis.com/v1/projects/p-1/locations/global/publishers/anthropic/models/claude-x:streamRawPredict",
        ),
        (
            "vertex-endpoint", Settings(project="p-1", location="us-central1", deployment="42"), "m",
            "https://us-central1-aiplatform.googleapis.com/v1/projects/p-1/locations/us-central1/endpoints/42/chat/completions",
            "https://us-central1-aiplatform.googleapis.com/v1/projects/p-1/locations/us-central1/endpoints/42/chat/completions",
        ),
        (
            "bedrock", Settings(region="us-east-1"), "anthropic.claude-x:0",
            "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-x%3A0/converse",
            "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-x%3A0/converse-stream",
        ),
        (
            "azure", Settings(url="https://n.openai.azure.com", api_version="2024-10-21"), "gpt x",
            "https://n.openai.azure.com/openai/deployments/gpt%20x/chat/completions?api-version=2024-10-21",
            "https://n.openai.azure.com/openai/deployments/gpt%20x/chat/completions?api-version=2024-10-21",
        ),
        (
            "azure", Settings(url="https://n.openai.azure.com/", api_version="2024-10-21", deployment="d"), "gpt",
            "https://n.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
            "https://n.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21",
        ),
    ],
)  # fmt: skip
def test_where_a_call_goes(kind: str, settings: Settings, model: str, whole: str, streamed: str) -> None:
    assert address(kind, settings, model) == whole
    assert address(kind, settings, model, stream=True) == streamed


@pytest.mark.parametrize(
    ("kind", "settings", "url", "auth"),
    [
        ("openai", Settings(), "https://api.openai.com/v1", "bearer"),
        ("groq", Settings(url="https://proxy.example/groq/v1/"), "https://proxy.example/groq/v1", "bearer"),
        ("azure", Settings(url="https://n.openai.azure.com"), "https://n.openai.azure.com/openai/v1", "api-key"),
        ("azure", Settings(url="https://n.example/openai/v1/", api_version="v1"), "https://n.example/openai/v1", "api-key"),
    ],
)
def test_plain_relays(kind: str, settings: Settings, url: str, auth: str) -> None:
    carried = carry(kind, settings)
    assert (carried.url, carried.auth, dialect(carried)) == (url, auth, None)


def test_a_url_of_ones_own_wins() -> None:
    assert carry("bedrock", Settings(url="https://vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com")).url.startswith("https://vpce-1.")
    assert carry("anthropic", Settings(url="http://127.0.0.1:9/v1")).url == "http://127.0.0.1:9"
    assert carry("vertex-anthropic", Settings(url="http://127.0.0.1:9/v1/projects/p/locations/l/publishers/anthropic")).url.endswith("/l")


def test_the_classes_are_those_of_the_dialects() -> None:
    made = [type(dialect(carry(kind, Settings(project="p", region="r", deployment="d", location="l"))))
            for kind in ("anthropic", "gemini", "vertex", "vertex-anthropic", "vertex-endpoint", "bedrock")]  # fmt: skip
    assert made == [Anthropic, Gemini, Gemini, Anthropic, Relayed, Bedrock]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("vertex", "a backend of kind 'vertex' needs `project:`"),
        ("vertex-endpoint", "a backend of kind 'vertex-endpoint' needs `project:` and `location:` and `deployment:`"),
        ("bedrock", "a backend of kind 'bedrock' needs `region:`"),
        ("azure", "a backend of kind 'azure' needs `url:`"),
        ("compatible", "a backend of kind 'compatible' needs `url:`"),
        ("nobody", "there is no kind 'nobody'; `pointsman providers` lists those that there are"),
    ],
)
def test_what_is_missing_is_said(kind: str, told: str) -> None:
    with pytest.raises(ValueError) as e:
        carry(kind, Settings())
    assert str(e.value) == told


def lines(kind: str, settings: Settings, environ: dict[str, str] | None = None) -> bytes:
    return signer("b", carry(kind, settings), settings, environ=environ or {}).lines("POST", "/x", b"{}")


def test_who_signs_with_a_key() -> None:
    bearer = f"authorization: Bearer {KEY}\r\n".encode()
    assert lines("openai", Settings(key=KEY)) == bearer
    assert lines("anthropic", Settings(key=KEY)) == f"x-api-key: {KEY}\r\n".encode()
    assert lines("gemini", Settings(key=KEY)) == f"x-goog-api-key: {KEY}\r\n".encode()
    assert lines("azure", Settings(key=KEY, url="https://n.openai.azure.com")) == f"api-key: {KEY}\r\n".encode()
    assert lines("vertex", Settings(key=KEY, project="p")) == bearer  # an access token that somebody else renews
    assert lines("bedrock", Settings(key=KEY, region="us-east-1")) == bearer
    assert lines("bedrock", Settings(region="us-east-1"), {"AWS_BEARER_TOKEN_BEDROCK": KEY}) == bearer
    assert lines("llamacpp", Settings(url="http://127.0.0.1:1/v1")) == b""


def test_who_signs_without_one() -> None:
    made = [
        signer("b", carry(kind, settings), settings, environ={})
        for kind, settings in (("vertex", Settings(project="p")), ("bedrock", Settings(region="us-east-1")), ("openai", Settings()))
    ]
    assert [type(one) for one in made] == [GoogleADC, SigV4, Nothing]


def test_the_region_is_told_by_the_host() -> None:
    vpc = Settings(url="https://vpce-1.bedrock-runtime.eu-west-1.vpce.amazonaws.com")
    fips = Settings(url="https://bedrock-runtime-fips.us-gov-west-1.amazonaws.com")
    assert [repr(signer("b", carry("bedrock", one), one, environ={})) for one in (vpc, fips)] == [
        "<SigV4 bedrock eu-west-1>", "<SigV4 bedrock us-gov-west-1>",
    ]  # fmt: skip
    own = Settings(url="http://127.0.0.1:9")
    with pytest.raises(ValueError, match="backend 'b': the AWS region cannot be told from the URL; write `region:`"):
        signer("b", carry("bedrock", own), own, environ={})


def test_a_key_that_no_header_may_hold_is_refused_without_telling_it() -> None:
    for kind in ("openai", "anthropic"):
        with pytest.raises(ValueError, match="backend 'b': the value of") as e:
            lines(kind, Settings(key=f"{KEY}\n"))
        assert KEY not in str(e.value)


def test_no_repr_shows_a_key() -> None:
    settings = Settings(key=KEY, region="us-east-1")
    shown = repr(settings) + repr(carry("bedrock", settings)) + repr(signer("b", carry("bedrock", settings), settings, environ={}))
    assert KEY not in shown and "us-east-1" in shown


def test_types_are_what_they_say() -> None:
    assert isinstance(signer("b", Carried("https://x"), Settings(key=KEY), environ={}), Bearer)
    assert isinstance(signer("b", Carried("https://x", auth="api-key"), Settings(key=KEY), environ={}), ApiKey)
