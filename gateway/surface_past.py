"""The earlier turns that a Responses request names, found in the store and put where they belong.

Two forms are made of a document: `chat`, with all of the conversation in it, and `raw`, for OpenAI itself, which holds a
conversation that was led there under its own ids, but knows none of ours.
"""

from __future__ import annotations

import msgspec

from backends import wire
from backends.dialects import responses
from backends.dialects.responses_history import named
from backends.dialects.responses_request import given
from backends.dialects.responses_state import PACKED, PLAIN
from backends.types import Fault
from backends.wire import Doc
from gateway.responses_store import Kept, ResponsesStore

OURS = "resp_req-"  # how the ids of responses begin that were made here; see `Core.ids`
_MARK = "_req-"
_STATES = (PLAIN, PACKED)


class Past(msgspec.Struct):
    """What was found for one document. `missing`: why some of it was not. `private`: some of it was said in private."""

    chain: list[Kept] = []
    items: dict[str, msgspec.Raw] = {}
    missing: Fault | None = None
    previous: str | None = None
    private: bool = False

    def whole(self, asked: Doc) -> Doc:
        """`asked` with its references replaced by what they name."""
        return responses.resolve(asked, self.items) if self.items else asked

    def chat(self, asked: Doc) -> Doc:
        """`asked` with all of the conversation in its input. Raises the Fault of what is missing."""
        if self.missing is not None:
            raise self.missing
        doc = self.whole(asked)
        return responses.join(doc, responses.history((k.items, k.response) for k in self.chain)) if self.chain else doc

    def raw(self, asked: Doc) -> Doc:
        """`asked` for a provider that keeps responses: a conversation of its own stays a reference, one of ours is written out."""
        if self.previous is not None and self.previous.startswith(OURS) and self.missing is None:
            asked = self.chat(asked)
        elif self.items:
            asked = self.whole(asked)
        return _without_ours(asked) if _MARK.encode() in bytes(asked.get("input", b"")) else asked


def _without_ours(doc: Doc) -> Doc:
    """A copy of `doc` without reasoning that only we can read, and without ids that only we know."""
    kept = []
    for item in given(doc):
        if isinstance(item, dict) and _MARK in str(item.get("id") or ""):
            item = {key: value for key, value in item.items() if key != "id"}
            if item.get("type") == "reasoning":
                continue
        elif isinstance(item, dict) and str(item.get("encrypted_content") or "").startswith(_STATES):
            continue
        kept.append(item)
    return {**doc, "input": wire.raw(kept)}


async def find(store: ResponsesStore, tenant: str, doc: Doc) -> Past:
    """What `doc` refers to, as far as this tenant has it. Raises `Fault` (bad_request, client) for what is malformed, (overloaded,
    unavailable) when the store cannot be asked."""
    past = Past(previous=wire.text(doc, "previous_response_id"))
    try:
        if past.previous is not None:
            past.chain = await store.chain(tenant, past.previous)
            past.private = any(kept.private for kept in past.chain)
        past.items = await _referred(store, tenant, doc, past)
    except Fault as fault:
        if fault.kind != "bad_request":
            raise
        past.missing = fault
    return past


async def _referred(store: ResponsesStore, tenant: str, doc: Doc, past: Past) -> dict[str, msgspec.Raw]:
    found: dict[str, msgspec.Raw] = {}
    asked: set[str] = set()
    for id in responses.references(doc):
        owner = responses.response_of(id)
        if id not in found and owner is not None and owner not in asked:
            asked.add(owner)
            kept = await store.get(tenant, owner)
            if kept is not None:
                past.private = past.private or kept.private
                found |= named(responses.history([(kept.items, kept.response)]))
        if id not in found:
            raise wire.bad(f"Item with id '{id[:200]}' not found.", param="input", code="item_not_found")
    return found
