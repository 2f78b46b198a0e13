"""`POST /v1/responses` as an exchange: OpenAI's Responses clients on every backend, with the conversation kept here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from backends import sse, wire
from backends.dialects.responses import Responses, ResponsesStream, input_items
from backends.dialects.types import Surface
from backends.types import Fault
from backends.wire import Doc
from gateway.relay_events import EventRelay
from gateway.relay_responses import ResponsesRelay, usage_of
from gateway.responses_store import Kept, ResponsesStore, private_of
from gateway.sink import Sink
from gateway.surface import SurfaceExchange, last_event
from gateway.surface_past import Past, find

if TYPE_CHECKING:
    from gateway.serve import Core

log = logging.getLogger("pointsman.responses")
_GOOD = frozenset({"completed", "incomplete"})
_waiting: set[asyncio.Task[None]] = set()  # ends of answers that wait for the file; the loop holds tasks only weakly


class _Told(msgspec.Struct):
    id: str
    status: Any = None


class _Ended(msgspec.Struct):
    response: msgspec.Raw


_told = msgspec.json.Decoder(_Told)
_ended = msgspec.json.Decoder(_Ended)


class ResponsesExchange(SurfaceExchange):
    """A `SurfaceExchange` of OpenAI Responses. What it answers is put into `store`, unless the client says `store: false`."""

    __slots__ = ("past", "store")

    def __init__(self, core: Core, sink: Sink, api: str, headers: Mapping[bytes, bytes], store: ResponsesStore) -> None:
        super().__init__(core, sink, api, headers)
        self.store, self.past = store, Past()

    async def prepare(self, body: bytes) -> None:
        """Finds the earlier turns; after a private one this one is private too. Raises `Fault`."""
        door = self.core.door
        self.past = await find(self.store, door.identify(self.headers).name, wire.parse(body))
        if self.past.private:
            self.headers = door.private_headers(self.headers)
            self.tenant = door.identify(self.headers)

    def _read(self, body: bytes) -> None:
        if self.past.missing is not None and self.core.door.locked:
            raise self.past.missing  # a provider's account is everybody's: what is not this key's own is not asked for there
        super()._read(body)

    def opening(self) -> Doc:
        return {"input": msgspec.Raw(self.past.chain[0].items)} if self.past.chain else super().opening()

    # --- the dialect
    def _surface(self, strict: bool) -> Surface:
        return Responses(strict)

    def _native_relay(self, where: str, limit: int) -> EventRelay:
        return ResponsesRelay(where, limit)

    def _usage_of(self, body: bytes) -> bytes | None:
        return usage_of(body)

    def _event(self, fault: Fault, last: bytes) -> bytes:
        if self.relay is not None and self.relay.done:
            return self.relay.done  # the provider's own `response.failed`, which says more
        told = {"type": "error", "code": fault.code, "message": fault.message, "param": fault.param}
        number = last_event(last).get("sequence_number", -1) + 1
        return b"event: error\ndata: %b,%b\n\n" % (wire.encode({**told, "sequence_number": number})[:-1], wire.envelope(fault)[1:])

    def _chat(self, raw: Doc) -> Doc:
        return self.past.chat(raw)

    def _raw(self, raw: Doc) -> Doc:
        if wire.flag(raw, "background"):
            raise wire.bad("'background' is not supported: responses are answered while the client waits.", param="background")
        if self.core.door.locked and raw.get("conversation", wire.NULL) != wire.NULL:
            why = "'conversation' is not supported, since a provider's conversations belong to no key; use 'previous_response_id'."
            raise wire.bad(why, param="conversation")
        return self.past.raw(raw)

    # --- the store
    def _streamed(self) -> None:
        if not self.out.native:
            if isinstance(self.out.stream, ResponsesStream) and self.out.stream.final is not None:
                self._keep(self.out.stream.final)
        elif self.relay is not None:
            self._keep(bytes(_ended.decode(sse.payload(self.relay.done)[1]).response))

    def _kept(self, answer: bytes) -> None:
        self._keep(answer)

    def _keep(self, response: bytes) -> None:
        if bytes(self.asked.get("store", b"")) == b"false":
            return
        try:
            told = _told.decode(response)
        except msgspec.MsgspecError:
            return  # a provider's answer that is unlike any response
        if told.status not in _GOOD:
            return
        owner = private_of(self.tenant.name) if self.tenant.private else self.tenant.name
        items = wire.encode(input_items(self.past.whole(self.asked), self.context.id))
        if not self.store.put(Kept(owner, told.id, items, response, time.time(), self.past.previous)):
            log.warning("response %s was not stored: too much waits to be written", told.id)
        elif self.store.shared:  # the next request may come to another process: it must find this one
            self.out.later = self._flushed

    def _flushed(self, act: Callable[[], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._flush(act))
        _waiting.add(task)
        task.add_done_callback(_waiting.discard)

    async def _flush(self, act: Callable[[], None]) -> None:
        try:
            await self.store.flush()
        except Fault as fault:
            log.warning("response %s may be unknown to other workers: %s", self.context.id, fault.message)
        act()
