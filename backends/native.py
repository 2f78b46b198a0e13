"""Targets that speak a client's own dialect: the document goes to them as it came, but for the model's name, and the answer comes back
as it is.

A `SurfaceCall` carries both forms, so that the link decides: one that speaks the surface sends `raw`, any other knows only the
chat document. Which it is can be asked before (`speaks`): the receiver must know what it will be given.

Messages goes to every provider that has it. Responses goes to those that keep responses as OpenAI does (`previous_response_id`).
Servers on one's own machine always get chat: what they have of other dialects depends on their version, and our guards read chat.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec

from backends import catalog, wire
from backends.dialects.anthropic import VERSION, VERTEX_VERSION, Anthropic
from backends.dialects.sidecar import FAMILIES, Sidecar
from backends.dialects.types import Dialect, Facts, Request
from backends.fetch import Carrier, fetch
from backends.openai import OpenAILink, target_raw
from backends.remember import Remembering
from backends.translate import Signer, TranslatedLink
from backends.types import Call, Flight, Receiver, Target, Timeouts
from backends.wire import Doc

KEEPERS = frozenset({"openai", "azure"})  # they keep responses, so that a later one can follow them
PATHS = {"messages": "/messages", "responses": "/responses"}
COUNTS = {"messages": "/messages/count_tokens", "responses": "/responses/input_tokens"}
_BETA, _VERSION = b"anthropic-beta", b"anthropic-version"


class SurfaceCall(Call, frozen=True):
    """A call whose client speaks `surface`. `doc` is the chat document, `raw` the client's own."""

    surface: str = ""
    raw: Doc = {}


@functools.cache
def natives(kind: str) -> frozenset[str]:
    """The surfaces whose documents a backend of this kind takes as they are."""
    row = catalog.find(kind)
    if row is None or row.local:
        return frozenset()
    return frozenset(api for api in row.speaks if api == "messages" or (api == "responses" and kind in KEEPERS))


def speaks(link: object, surface: str) -> bool:
    """Whether calls of this surface go over `link` as they came."""
    return isinstance(link, (NativeMixin, ProviderLink)) and surface in link.natives


def _versions(call: Call) -> tuple[tuple[str, str], ...]:
    """The headers of Messages: the client's own version and betas."""
    told = [("anthropic-version", call.headers.get(_VERSION, VERSION.encode()).decode("latin-1"))]
    if _BETA in call.headers:
        told.append(("anthropic-beta", call.headers[_BETA].decode("latin-1")))
    return tuple(told)


class NativeMixin(OpenAILink):
    """An `OpenAILink` that also takes the surfaces which its kind of server speaks."""

    __slots__ = ()

    @property
    def natives(self) -> frozenset[str]:
        """The surfaces taken as they are."""
        return natives(self.kind)

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        """As `OpenAILink.send`; a call of a surface that is spoken here goes out as its client wrote it."""
        if type(call) is SurfaceCall and call.surface in self.natives:
            return self.pool.send(self._written(call, target, PATHS[call.surface]), receiver, timeouts or self.timeouts)
        return super().send(call, target, timeouts, receiver)

    def _written(self, call: SurfaceCall, target: Target, path: str) -> tuple[bytes, bytes]:
        body = wire.encode({**call.raw, "model": target_raw(target.model)})
        head = self._traced(self.head("POST", self.base + path), call.headers)
        lines = _versions(call) if call.surface == "messages" else ()
        told = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in lines)
        return b"%b%bx-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (head, told, call.id, len(body)), body

    async def count(self, call: SurfaceCall, target: Target) -> tuple[int, bytes]:
        """Status and body of the server's own count of a prompt. Raises `Fault`."""
        status, _, body = await fetch(self.pool, self._written(call, target, COUNTS[call.surface]), self.timeouts)
        return status, body


class ProviderLink(TranslatedLink):
    """A `TranslatedLink` that also takes Messages where the provider's dialect is Anthropic's, and that keeps what its provider wants
    back in `sidecar`, where there is one."""

    __slots__ = ("family", "sidecar")

    def __init__(
        self,
        pool: Carrier,
        dialect: Dialect,
        auth: Signer,
        facts: Callable[[str], Facts],
        *,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        super().__init__(pool, dialect, auth, facts, headers=headers, timeouts=timeouts)
        self.family = FAMILIES.get(dialect.name)
        self.sidecar: Sidecar | None = None  # given by who owns it, before the first call

    @property
    def natives(self) -> frozenset[str]:
        """The surfaces taken as they are."""
        return frozenset({"messages"}) if isinstance(self.dialect, Anthropic) else frozenset()

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Any:
        """As `TranslatedLink.send`; a call of a surface that is spoken here goes out as its client wrote it."""
        if type(call) is SurfaceCall and call.surface in self.natives:
            request = self._native(call, target, "")
            return self.pool.send(self.written(request, call), receiver, timeouts or self.timeouts)
        if self.sidecar is not None and self.family is not None and call.api == "chat":
            doc, place = self.sidecar.restore(call.tenant, self.family, call.doc)
            call = msgspec.structs.replace(call, doc=doc)
            keep = partial(Remembering, sidecar=self.sidecar, tenant=call.tenant, family=self.family, place=place)
            return self.translated(call, target, timeouts, receiver, keep)
        return super().send(call, target, timeouts, receiver)

    def _native(self, call: SurfaceCall, target: Target, under: str) -> Request:
        """The client's document as this form of the API takes it. `under`: what stands behind `/v1/messages`."""
        doc = {**call.raw, "model": target_raw(target.model)}
        assert isinstance(self.dialect, Anthropic)
        if self.dialect.form == "api":
            return Request(f"/v1/messages{under}", wire.encode(doc), _versions(call))
        if under:  # Vertex counts with a model of its own, which reads the target's name in the body
            path = "/publishers/anthropic/models/count-tokens:rawPredict"
        else:
            del doc["model"]
            path = f"/publishers/anthropic/models/{target.model}:{'streamRawPredict' if call.stream else 'rawPredict'}"
        doc["anthropic_version"] = wire.raw(VERTEX_VERSION)
        return Request(path, wire.encode(doc), _versions(call)[1:])

    async def count(self, call: SurfaceCall, target: Target) -> tuple[int, bytes]:
        """Status and body of the provider's own count of a prompt. Raises `Fault`."""
        request = self._native(call, target, "/count_tokens")
        status, _, body = await fetch(self.pool, self.written(request, call), self.timeouts)
        return status, body
