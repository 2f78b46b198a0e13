"""What providers want back and plain OpenAI clients do not know: signed thinking, signatures of tool calls. Kept beside the
conversation, found again by the ids of tool calls or by what was said, and put back before the next turn. Pure, but for its own memory.

1. An answer's state is kept under each of its tool-call ids. An answer without calls is kept under its place in the conversation: a digest
   of the messages before it, and its text.
2. `restore` puts it into the assistant messages that lack it. A state found by an id counts only where the calls say the same.
3. Signatures are bound to who made them. Each is remembered with its family; a block of another family is taken out.
4. The least recently used go first, by count and by bytes. A tenant finds only its own.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Any

import msgspec

from backends import wire
from backends.dialects.sidecar_wire import MARK, Obj, State, call_digest, calls_of, decoded, encoded, state_of, without_state
from backends.wire import Doc

# Dialects whose state can stand for one another's: Claude's signatures hold on Anthropic's API, on Vertex AI and on Bedrock alike.
FAMILIES = {"anthropic": "anthropic", "bedrock": "anthropic", "gemini": "gemini"}
MOST, MOST_BYTES = 100_000, 64 << 20  # entries, bytes of their keys and states
OVERHEAD = 200  # bytes that an entry costs beside its key and state
_MARK = MARK.encode()
Key = tuple[str, str, str]  # tenant, what kind of key, the key
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, Any])
_UNREADABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class Sidecar:
    """See the module. `mode`: where state waits: `sidecar` (here), `id` (in tool-call ids), or `both`. One event loop owns it."""

    __slots__ = ("_entries", "_size", "count", "mode", "size")

    def __init__(self, count: int = MOST, size: int = MOST_BYTES, mode: str = "sidecar") -> None:
        self.count, self.size, self.mode = count, size, mode
        self._entries: OrderedDict[Key, bytes] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<Sidecar {len(self._entries)} entries, {self._size} bytes>"

    # --- after an answer
    def keep(self, tenant: str, family: str, place: str, message: Obj) -> None:
        """Keeps the state of one assistant message. `place`: what `restore` gave for the request that it answers."""
        state = state_of(message, family)
        if state is None:
            return
        data = encoded(state)
        for signature in _signatures(state):
            self._put((tenant, "s", signature), family.encode())
        if self.mode == "id" and state.c:
            return
        calls = calls_of(message)
        for call in calls:
            if isinstance(call.get("id"), str):
                self._put((tenant, "c", call["id"]), data)
        if not calls:
            self._put((tenant, "t", _said(place, message)), data)

    def _put(self, key: Key, data: bytes) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._size -= _cost(key, old)
        self._entries[key] = data
        self._size += _cost(key, data)
        while self._entries and (len(self._entries) > self.count or self._size > self.size):
            gone, what = self._entries.popitem(last=False)
            self._size -= _cost(gone, what)

    def _get(self, key: Key) -> bytes | None:
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    # --- before a request
    def restore(self, tenant: str, family: str, doc: Doc) -> tuple[Doc, str]:
        """`doc` with what providers of `family` want back, and the place of its answer in the conversation. A document that cannot be
        read is left as it is."""
        try:
            messages = _raws.decode(doc.get("messages", b"[]"))
            seen = blake2b(digest_size=16)
            out: list[msgspec.Raw] = []
            for raw in messages:
                out.append(self._message(tenant, family, raw, seen.hexdigest()))
                seen.update(raw)
        except _UNREADABLE:
            return doc, ""
        changed = any(new is not old for new, old in zip(out, messages, strict=True))
        return ({**doc, "messages": wire.raw(out)} if changed else doc), seen.hexdigest()

    def _message(self, tenant: str, family: str, raw: msgspec.Raw, place: str) -> msgspec.Raw:
        data = bytes(raw)
        if data.find(b'"assistant"') < 0 and data.find(_MARK) < 0:
            return raw
        message = _object.decode(data)
        if message.get("role") == "assistant":
            changed = self._assistant(tenant, family, message, place)
        else:
            changed = _plain_id(message, "tool_call_id")[0]
        return wire.raw(message) if changed else raw

    def _assistant(self, tenant: str, family: str, message: Obj, place: str) -> bool:
        """Makes an assistant message what `family` wants. Mutates it; False when nothing was to do."""
        changed, calls = False, calls_of(message)
        for call in calls:
            had, state = _plain_id(call, "id")
            changed = changed or had
            if state is not None and state.f == family:
                _filled(message, [call], state)
        changed = self._without_foreign(tenant, family, message) or changed
        state = self._found(tenant, message, calls, place)
        if state is None or state.f != family or state.c != call_digest(calls):
            return changed
        return _filled(message, calls, state) or changed

    def _found(self, tenant: str, message: Obj, calls: list[Obj], place: str) -> State | None:
        if not calls:
            data = self._get((tenant, "t", _said(place, message)))
            return decoded(data) if data is not None else None
        for call in calls:
            data = self._get((tenant, "c", str(call.get("id"))))
            if data is not None:
                return decoded(data)
        return None

    def _without_foreign(self, tenant: str, family: str, message: Obj) -> bool:
        """Takes thinking out that another family's provider signed. Mutates `message`."""
        blocks = message.get("thinking_blocks")
        if not isinstance(blocks, list):
            return False
        own = [b for b in blocks if self._family(tenant, b) in (None, family.encode())]
        if len(own) == len(blocks):
            return False
        message["thinking_blocks"] = own
        if not own:
            del message["thinking_blocks"]
        return True

    def _family(self, tenant: str, block: object) -> bytes | None:
        for signature in _signed(block):
            return self._get((tenant, "s", signature))
        return None


def _cost(key: Key, data: bytes) -> int:
    return OVERHEAD + len(key[0]) + len(key[2]) + len(data)


def _said(place: str, message: Obj) -> str:
    """Where an answer without calls stands and what it says."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    text = content if isinstance(content, str) else ""
    return blake2b(f"{place}\n{text}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _signed(block: object) -> list[str]:
    """The digest of a thinking block's signature or hidden data; none for a block without."""
    secret = block.get("signature") or block.get("data") if isinstance(block, dict) else None
    return [blake2b(secret.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()] if isinstance(secret, str) else []


def _signatures(state: State) -> list[str]:
    return [digest for block in state.b for digest in _signed(block)]


def _plain_id(holder: Obj, key: str) -> tuple[bool, State | None]:
    """Takes the state out of an id. Mutates `holder`; (whether there was a mark, the state)."""
    id = holder.get(key)
    if not isinstance(id, str) or MARK not in id:
        return False, None
    holder[key], state = without_state(id)
    return True, state


def _filled(message: Obj, calls: list[Obj], state: State) -> bool:
    """Puts a state where the message has nothing of its own. Mutates; False when there was nothing to put."""
    changed = False
    if state.b and not message.get("thinking_blocks"):
        message["thinking_blocks"] = state.b
        changed = True
    if state.x and not message.get("extra_content"):
        message["extra_content"] = state.x
        changed = True
    for i, extra in state.t.items():
        if i < len(calls) and not calls[i].get("extra_content"):
            calls[i]["extra_content"] = extra
            changed = True
    return changed
