"""Carriers: where a provider's dialect is spoken and how it is authenticated. Data and small functions; imports what a carrier needs
only when it is asked for.

A backend's `kind` names a row of the catalogue, the row a carrier, and the carrier a base URL below which the dialect's paths lie, the
dialect, and the signer. Sources: the official SDKs (`anthropic.lib.vertex`, `google.genai._api_client`, `openai.lib.azure`, botocore's
service model of bedrock-runtime) and the catalogue's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from itertools import pairwise
from typing import Literal, Protocol
from urllib.parse import quote, urlsplit

import msgspec

from backends import catalog
from backends.dialects.types import Dialect
from backends.origin import Origin

CHAT = "/chat/completions"
RELAYED, EMBEDDINGS = "relayed:Relayed", "gemini_embed:GeminiEmbeddings"
_PLAIN: tuple[tuple[catalog.Api, str], ...] = (("completions", "/completions"), ("embeddings", "/embeddings"))


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration may say of a backend, as far as carriers care. `url` wins over what is made of the others. `profile`: of AWS;
    `credentials`: a file of Google's. `key` is a secret and appears in no `repr`."""

    url: str | None = None
    key: str | None = None
    project: str | None = None
    location: str | None = None
    region: str | None = None
    api_version: str | None = None
    deployment: str | None = None
    profile: str | None = None
    credentials: str | None = None

    def __repr__(self) -> str:
        shown = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None and name != "key"}
        return f"Settings({shown})"


class Carried(msgspec.Struct, frozen=True):
    """A carrier with its settings in place. `dialect`: `module:Class` below `backends.dialects`, and `form` what it is made with; empty for
    a plain relay of OpenAI's wire format. `auth`: who signs. `others`: the dialects of other APIs than chat, likewise."""

    url: str
    dialect: str = ""
    form: str = ""
    auth: Literal["bearer", "x-api-key", "api-key", "x-goog-api-key", "aws", "google"] = "bearer"
    others: tuple[tuple[catalog.Api, str, str], ...] = ()


class Signs(Protocol):
    """A signer with its life: see `backends.auth`."""

    def lines(self, method: str, path: str, body: bytes) -> bytes: ...

    def start(self) -> None: ...

    def close(self) -> None: ...


def carry(kind: str, settings: Settings) -> Carried:
    """The carrier of a backend of this kind. Raises ValueError, in one sentence, when a setting is missing or the kind is unknown."""
    row = catalog.find(kind)
    if row is None:
        raise ValueError(f"there is no kind '{kind}'; `pointsman providers` lists those that there are")
    return _CARRIERS[row.carrier](_base(row, settings), settings)


def dialect(carried: Carried) -> Dialect | None:
    """A new dialect for it; None for a plain relay."""
    return _dialect(carried.dialect, carried.form) if carried.dialect else None


def others(carried: Carried) -> dict[str, Dialect]:
    """New dialects of the other APIs that it takes besides chat, by name."""
    return {api: _dialect(where, form) for api, where, form in carried.others}


def _dialect(where: str, form: str) -> Dialect:
    module, _, name = where.partition(":")
    made = getattr(import_module(f"backends.dialects.{module}"), name)
    found: Dialect = made(form) if form else made()
    return found


def signer(
    name: str, carried: Carried, settings: Settings, *, environ: Mapping[str, str], on_change: Callable[[], None] | None = None
) -> Signs:
    """Who signs the requests of the backend `name`. `on_change` is called, in another thread, when credentials came or failed to.
    Raises ValueError, in one sentence and without the key, when it cannot be: a key that no header may hold, a package that is missing."""
    keys = import_module("backends.auth.keys")
    try:
        if carried.auth == "aws":
            return _aws(name, carried, settings, environ, on_change)
        if carried.auth == "google" and not settings.key:
            made: Signs = import_module("backends.auth.google").GoogleADC(name, file=settings.credentials, on_change=on_change)
        elif not settings.key:
            made = keys.Nothing()
        elif carried.auth in ("bearer", "google"):
            made = keys.Bearer(settings.key)
        else:
            made = keys.ApiKey(carried.auth, settings.key)
    except ValueError as e:
        raise ValueError(str(e) if f"'{name}'" in str(e) else f"backend '{name}': {e}") from None
    return made


def _aws(name: str, carried: Carried, settings: Settings, environ: Mapping[str, str], on_change: Callable[[], None] | None) -> Signs:
    host = Origin(carried.url).authority
    made: Signs = import_module("backends.auth.aws").bedrock(
        name, _region(settings, carried.url), host, key=settings.key, profile=settings.profile, environ=environ, on_change=on_change
    )
    return made


def _region(settings: Settings, url: str) -> str:
    """The region that is signed for: as set, else as the host tells (`bedrock-runtime.REGION.amazonaws.com`, FIPS and VPC names too)."""
    if settings.region:
        return settings.region
    labels = (urlsplit(url).hostname or "").split(".")
    for before, label in pairwise(labels):
        if before in ("bedrock-runtime", "bedrock-runtime-fips"):
            return label
    raise ValueError("the AWS region cannot be told from the URL; write `region:`")


def _base(row: catalog.Row, settings: Settings) -> str:
    """The base URL: as configured, or the row's with its settings in their places."""
    if settings.url and row.carrier != "azure":
        return settings.url.rstrip("/")
    told: dict[str, str] = {entry.name: entry.default for entry in row.settings if entry.default}
    told |= {key: value for key, value in msgspec.structs.asdict(settings).items() if isinstance(value, str) and key != "key"}
    missing = [entry.name for entry in row.settings if entry.required and not told.get(entry.name)]
    if missing or not row.url:
        wanted = " and ".join(f"`{one}:`" for one in missing or ["url"])
        raise ValueError(f"a backend of kind '{row.name}' needs {wanted}")
    return row.base(told).rstrip("/")


def _relayed(before: str, after: str) -> tuple[tuple[catalog.Api, str, str], ...]:
    return tuple((api, RELAYED, path.join((before, after))) for api, path in _PLAIN)


def _openai(url: str, settings: Settings) -> Carried:
    return Carried(url)


def _azure(url: str, settings: Settings) -> Carried:
    """Azure's v1 API, a plain relay; with a dated `api_version` the older form, which has the deployment in the path."""
    root = url.removesuffix("/v1").removesuffix("/openai")
    if settings.api_version in (None, "", "v1", "latest"):
        return Carried(f"{root}/openai/v1", auth="api-key")
    deployment = quote(settings.deployment, safe="") if settings.deployment else "{model}"
    paths = f"/openai/deployments/{deployment}", f"?api-version={quote(settings.api_version or '', safe='')}"
    return Carried(root, RELAYED, CHAT.join(paths), "api-key", _relayed(*paths))


def _anthropic(url: str, settings: Settings) -> Carried:
    return Carried(url.removesuffix("/v1"), "anthropic:Anthropic", auth="x-api-key")  # the dialect's path begins with /v1


def _gemini(url: str, settings: Settings) -> Carried:
    return Carried(url, "gemini:Gemini", auth="x-goog-api-key", others=(("embeddings", EMBEDDINGS, "studio"),))


def _vertex(url: str, settings: Settings) -> Carried:
    return Carried(url, "gemini:Gemini", auth="google", others=(("embeddings", EMBEDDINGS, "vertex"),))


def _vertex_anthropic(url: str, settings: Settings) -> Carried:
    return Carried(url.removesuffix("/publishers/anthropic"), "anthropic:Anthropic", "vertex", "google")


def _vertex_endpoint(url: str, settings: Settings) -> Carried:
    return Carried(url, RELAYED, CHAT, "google", _relayed("", ""))


def _bedrock(url: str, settings: Settings) -> Carried:
    return Carried(url, "bedrock:Bedrock", auth="aws")


_CARRIERS: Mapping[catalog.Carrier, Callable[[str, Settings], Carried]] = {
    "openai": _openai, "azure": _azure, "anthropic": _anthropic, "gemini": _gemini, "vertex": _vertex,
    "vertex-anthropic": _vertex_anthropic, "vertex-endpoint": _vertex_endpoint, "bedrock": _bedrock,
}  # fmt: skip
