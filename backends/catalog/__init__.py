"""The catalogue: one row of data for each provider and kind of server, so that one line of configuration adds it.

`row(name)` and `rows()` read `providers.json` once, when first asked (blocks for that one small file). A row says where the provider
is, which environment variable holds its key, what it speaks, how it is carried, and in what it differs from OpenAI, each
difference with its source. Nothing here knows a network or the environment.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

Api = Literal["chat", "completions", "embeddings", "responses", "messages", "rerank", "audio", "images", "moderations", "files"]
Carrier = Literal["openai", "azure", "anthropic", "gemini", "vertex", "vertex-anthropic", "vertex-endpoint", "bedrock"]
Auth = Literal["key", "none", "aws", "google"]
Name = Literal["url", "project", "location", "region", "api_version", "deployment"]

DEFAULT = "compatible"  # the kind of a backend that names none


class Setting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A field of the configuration that a row's URL is made of: the variables that stand in for it, the first that is set wins."""

    name: Name
    variables: tuple[str, ...] = ()
    default: str = ""
    required: bool = True
    example: str = ""


class Difference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named quirk (`backends.quirks.NAMED`) that calls to this provider need, and where it is documented or was seen."""

    quirk: str
    source: str


class Unsupported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Top-level parameters that a provider refuses or misreads, and where that is documented or was seen."""

    params: tuple[str, ...]
    source: str


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One provider. `url` is the base below which the paths of its APIs lie; `{name}` in it stands for a setting, and empty means
    that the configuration has to name it. `key`: environment variables, the first that is set wins. `prices`: how genai-prices calls it.

    `speaks`: what it takes in that API's own wire format, so that a client of it can be relayed; but `chat` (and `embeddings`) through a
    translation where the carrier is not OpenAI's. Of servers on one's own machines it is what current versions have.
    """

    name: str
    title: str
    docs: str
    url: str = ""
    key: tuple[str, ...] = ()
    auth: Auth = "key"
    carrier: Carrier = "openai"
    speaks: tuple[Api, ...] = ("chat",)
    settings: tuple[Setting, ...] = ()
    differences: tuple[Difference, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    hosts: tuple[str, ...] = ()  # domains below which a URL that the configuration names is this provider's too
    lists: bool = True  # GET /models below the base gives OpenAI's list of models
    local: bool = False  # runs on the user's own machines
    prices: str = ""

    @property
    def refuses(self) -> frozenset[str]:
        """All parameters of `unsupported`."""
        return frozenset(param for entry in self.unsupported for param in entry.params)

    def owns(self, url: str) -> bool:
        """Whether a base URL is this provider's, so that its key may be sent there: over TLS, and to a host of its own."""
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            return False
        if "{" not in self.url and parts.hostname == urlsplit(self.url).hostname:
            return True
        return any(parts.hostname.endswith(f".{domain}") for domain in self.hosts)

    def base(self, settings: Mapping[str, str]) -> str:
        """The base URL with `settings` in their places. KeyError: one is missing. An empty text: the row has no URL of its own."""
        if "{host}" not in self.url:
            return self.url.format(**settings)
        return self.url.format(**settings, host=vertex_host(settings["location"]))


def vertex_host(location: str) -> str:
    """The host of Vertex AI for a location: the global one, a multi-region's, a region's.

    Source: google-genai `_api_client.py` (`global`; `us` and `eu` are multi-regions with hosts of their own).
    """
    if location == "global":
        return "aiplatform.googleapis.com"
    if location in ("us", "eu"):
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"


@functools.cache
def _table() -> dict[str, Row]:
    text = Path(__file__).with_name("providers.json").read_bytes()
    return {entry.name: entry for entry in msgspec.json.decode(text, type=tuple[Row, ...])}


def rows() -> tuple[Row, ...]:
    """Every row, in the file's order."""
    return tuple(_table().values())


def row(name: str) -> Row:
    """The row of one provider or kind. KeyError: there is none."""
    return _table()[name]


def find(name: str) -> Row | None:
    """The row of one provider or kind, or None."""
    return _table().get(name)
