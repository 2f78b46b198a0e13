"""What a link would send, without sending it: the link's own code writes the request, onto a carrier that only keeps it.

A copy of the link is used, so nothing of the real one changes. Where credentials are needed they are asked for as for a real call, and
then left out: a header's value never gets out of here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import msgspec

from backends.batched import BatchedLink
from backends.dialects.types import Note
from backends.fetch import Carrier
from backends.openai import OpenAILink
from backends.origin import Origin
from backends.translate import TranslatedLink
from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts

AnyLink = TypeVar("AnyLink", OpenAILink, TranslatedLink)


class Written(msgspec.Struct, frozen=True):
    """One request. `path` is below the backend's own base URL, `headers` are names in the order written, `body` is JSON."""

    method: str
    path: str
    headers: tuple[str, ...]
    body: bytes


class Prepared(msgspec.Struct, frozen=True):
    """Everything that one call makes a link send (n choices may take n requests), and what a translator notes of its parameters.
    `translated`: it went through a dialect."""

    requests: tuple[Written, ...]
    notes: tuple[Note, ...]
    translated: bool


class _Nothing:
    """The flight of a request that is not sent."""

    def pause(self) -> None:
        return None

    def resume(self) -> None:
        return None

    def cancel(self) -> None:
        return None


class _Deaf:
    """A `Receiver` that is never called."""

    def on_whole(self, status: int, headers: Mapping[bytes, bytes], body: bytes) -> None: ...

    def on_head(self, status: int, headers: Mapping[bytes, bytes]) -> None: ...

    def on_data(self, data: bytes) -> None: ...

    def on_end(self) -> None: ...

    def on_fault(self, fault: Fault) -> None: ...


class _Keeper:
    """A `Carrier` that keeps what it is given to send."""

    def __init__(self, name: str, origin: Origin) -> None:
        self.name, self.origin = name, origin
        self.kept: list[Written] = []

    def send(self, payload: tuple[bytes, bytes], receiver: Receiver, timeouts: Timeouts) -> Flight:
        head, _, rest = payload[0].partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        method, path, _ = first.decode("latin-1").split(" ", 2)
        names = tuple(line.partition(b":")[0].decode("latin-1") for line in lines)
        self.kept.append(Written(method, path.removeprefix(self.origin.path), names, rest + payload[1]))
        return _Nothing()

    def drop(self) -> None:
        return None


def prepare(link: object, call: Call, target: Target) -> Prepared:
    """What `link` would send for `call`. Does not block and sends nothing. Raises `Fault` as its `send` would."""
    if isinstance(link, OpenAILink):
        return _prepared(link, call, target)
    if isinstance(link, TranslatedLink):
        return _prepared(link, call, target)
    raise Fault("unavailable", f"Backend '{target.backend}' cannot be asked now.", origin="backend", code="no_replica")


def _prepared(link: AnyLink, call: Call, target: Target) -> Prepared:
    dry, keeper = copy.copy(link), _Keeper(link.pool.name, link.pool.origin)
    dry.pool = cast(Carrier, keeper)
    if isinstance(dry, BatchedLink):
        dry.gather = None  # what it gathers it would send later
    send = cast(Callable[..., Any], dry.send)
    flight = send(call, target, None, _Deaf())
    return Prepared(tuple(keeper.kept), tuple(getattr(flight, "notes", ())), isinstance(link, TranslatedLink))
