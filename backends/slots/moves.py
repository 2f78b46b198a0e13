"""What an engine is asked about a slot: to save it, to restore into it, to compute a prompt into it. Nothing raises a fault: what fails
is counted, and its request goes on without."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from backends.fetch import Answer, Whole
from backends.openai import OpenAILink
from backends.slots import table
from backends.slots.ride import Ride, Truth, truth
from backends.slots.shared import Shared
from backends.slots.store import Kept
from backends.slots.table import Slot
from backends.types import Fault

log = logging.getLogger("pointsman.slots")
MEASURABLE = 64  # computed tokens, for their speed to mean anything
_NOT_PRIMED = frozenset({"stream", "stream_options", "max_completion_tokens", "n_predict", "logprobs", "top_logprobs", "n", "stop"})
_ZERO = msgspec.Raw(b"0")
_object = msgspec.json.Decoder(dict[str, Any])


def within(call_doc: Mapping[str, msgspec.Raw], slot: Slot, text: bytes) -> dict[str, msgspec.Raw]:
    """A request's document with the slot that it is to take. What another salt has left there is computed again: how long a prompt takes
    must not say whether somebody else has said it."""
    doc = {**call_doc, "id_slot": msgspec.Raw(b"%d" % slot.id)}
    if slot.alien(text):
        doc["cache_prompt"] = msgspec.Raw(b"false")
    return doc


class Moves:
    """The questions, asked over `link`; what their answers say of speed is learned."""

    def __init__(self, link: OpenAILink, shared: Shared) -> None:
        self.link, self.shared = link, shared

    async def save(self, slot: Slot, text: bytes) -> Kept | None:
        """Saves `slot`, which holds `text` or its beginning; waits until the engine is through with it. None when that failed."""
        shared = self.shared
        speed, store = shared.speed, shared.store
        private, kept = slot.private, None
        if slot.mixed:
            return None  # it may hold what its text's salt must not see
        size = speed.bytes(len(text), store.budget[True])
        if await store.room(size):
            part = store.part()
            told = await self._ask(slot, "save", part)
            tokens, size = _number(told, "n_saved"), _number(told, "n_written")
            if tokens > 0 and size > 0:
                kept = await store.adopt(part, text, tokens, size, private=private)
                speed.learn("density", size / tokens)
                speed.moved("save", _seconds(told, "save_ms"), size)
                if kept is not None:
                    store.keep(kept, speed)
            else:
                await store.discard(part)
        shared.counts.saves += kept is not None
        shared.counts.failed += kept is None
        return kept

    async def rescue(self, slot: Slot, text: bytes) -> None:
        """Saves what `slot` is about to lose to `text`, if that is worth it."""
        if self.shared.losing(slot, table.common(slot.text, text)):
            await self.save(slot, slot.text)

    async def restore(self, slot: Slot, entry: Kept) -> bool:
        """Restores `entry` into `slot`. False when that failed; the slot is then empty."""
        told = await self._ask(slot, "restore", entry.name)
        good = _number(told, "n_restored") == entry.tokens and _number(told, "n_read") == entry.size
        if good:
            slot.settle(entry.text, entry.private)
        else:
            slot.text = b""
        if good:
            self.shared.speed.moved("load", _seconds(told, "restore_ms"), entry.size)
        self.shared.counts.restores += good
        self.shared.counts.failed += not good
        return good

    async def prime(self, ride: Ride, slot: Slot) -> Truth | None:
        """Computes the prompt of `ride` into `slot` and nothing more. What the engine says of it; None when that failed."""
        doc = {key: value for key, value in ride.call.doc.items() if key not in _NOT_PRIMED}
        call = msgspec.structs.replace(ride.call, doc=within(doc, slot, ride.text) | {"max_tokens": _ZERO}, stream=False)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        whole, why = Whole(future, 1 << 20), ""
        try:
            whole.flight = self.link.send(call, ride.target, ride.timeouts, whole)
            status, _, body = await future
        except Fault as fault:
            status, why = 0, fault.message
        finally:
            if whole.flight is not None:
                whole.flight.cancel()
        if status != 200:
            self.shared.counts.failed += 1
            log.info("engine %s: slot %d: no prime: %s", self.link.pool.name, slot.id, why or f"status {status}")
            return None
        slot.settle(ride.text, ride.call.private)
        told = truth(body)
        self.learn(ride.text, told, quiet=False)
        return told

    async def parameters(self) -> int:
        """How many the engine's model has; 0 when it does not say."""
        try:
            status, _, body = await self.link.ask(self.link.get(self.link.base + "/models"))
            found = _object.decode(body)["data"][0]["meta"]["n_params"] if status == 200 else 0
        except (Fault, msgspec.MsgspecError, LookupError, TypeError):
            return 0
        return found if isinstance(found, int) else 0

    def learn(self, text: bytes, told: Truth | None, *, quiet: bool) -> None:
        """What the engine said of a prompt of `text`. `quiet`: it computed nothing else meanwhile."""
        speed = self.shared.speed
        if told is None:
            return
        if len(text) >= table.SMALL:
            speed.learn("ratio", (told.cached + told.computed) / len(text))
        if told.computed >= MEASURABLE and (quiet or not speed.knows("prefill")):
            speed.learn("prefill", told.seconds / told.computed)

    async def _ask(self, slot: Slot, action: str, filename: str) -> Mapping[str, Any]:
        """One question about a slot; asked once more when it got no answer, as saving and restoring twice does what once does."""
        link, why = self.link, ""
        payload = link.post(f"{link.root}/slots/{slot.id}?action={action}", msgspec.json.encode({"filename": filename}))
        for _ in range(2):
            try:
                status, _, body = await link.ask(payload)
                if status == 200:
                    return _object.decode(body)
                why = f"status {status}"
                break
            except Fault as fault:
                why = fault.message
            except msgspec.MsgspecError:
                why = "the answer is no JSON object"
                break
        log.info("engine %s: slot %d: no %s: %s", link.pool.name, slot.id, action, why)
        return {}


def _number(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    return value if isinstance(value, int) else 0


def _seconds(told: Mapping[str, Any], name: str) -> float:
    timings = told.get("timings")
    value = timings.get(name) if isinstance(timings, dict) else None
    return value / 1e3 if isinstance(value, int | float) else 0.0
