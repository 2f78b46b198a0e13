"""What of a chat answer is a provider's own state, and the form of it that travels inside a tool-call id. Pure.

`STATE` in an id is the original id, `_pms1_`, and URL-safe base64 (without padding) of a zlib stream of a `State` in JSON. It is neither
secret nor trusted: what comes back is bounded and read by types, and the provider itself checks its signatures.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

import msgspec

from backends import sse

MARK = "_pms1_"
MOST_ID = 16 << 10  # characters of an id with state in it
MOST_STATE = 256 << 10  # bytes of a state in JSON
SIGNS = (b'"thinking_blocks"', b'"extra_content"')  # keys by which a chat answer with state is known
_REPLACED = frozenset({"index", "id", "type", "role"})
Obj = dict[str, Any]


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one assistant message carries for the provider that made it. `f`: the family of providers that can read it; `c`: a digest of
    the message's tool calls; `b`: thinking blocks; `x`: `extra_content` of the message; `t`: that of its calls, by position."""

    f: str
    c: str = ""
    b: list[Obj] = []
    x: Obj = {}
    t: dict[int, Obj] = {}


_state = msgspec.json.Decoder(State)
_object = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


def encoded(state: State) -> bytes:
    """A state as JSON."""
    return _encode(state)


def decoded(data: bytes) -> State | None:
    """The state in JSON; None when it is none."""
    try:
        return _state.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def carries(data: bytes) -> bool:
    """Whether chat bytes may hold a provider's state. Two substring searches."""
    return data.find(SIGNS[0]) >= 0 or data.find(SIGNS[1]) >= 0


def calls_of(message: Obj) -> list[Obj]:
    """The tool calls of a message, those that are objects."""
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def call_digest(calls: Iterable[Obj]) -> str:
    """What the calls of a message say, whatever their ids and however their arguments are written; empty when there are none."""
    told = []
    for call in calls:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        told.append([function.get("name"), _arguments(function.get("arguments"))])
    return blake2b(_encode(told), digest_size=12).hexdigest() if told else ""


def _arguments(given: object) -> object:
    """Arguments with their keys in order; what is no JSON as it is. Nothing at all is the same as an empty object."""
    if not isinstance(given, str):
        return given
    try:
        return msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(given or "{}"), order="sorted"))
    except (msgspec.MsgspecError, RecursionError):
        return given


def state_of(message: Obj, family: str) -> State | None:
    """The state in a chat message that a provider of `family` made; None when there is none."""
    blocks, extra = message.get("thinking_blocks"), message.get("extra_content")
    calls = calls_of(message)
    of_calls = {i: call["extra_content"] for i, call in enumerate(calls) if isinstance(call.get("extra_content"), dict)}
    state = State(
        family, call_digest(calls), [b for b in blocks if isinstance(b, dict)] if isinstance(blocks, list) else [],
        extra if isinstance(extra, dict) else {}, of_calls,
    )  # fmt: skip
    return state if state.b or state.x or state.t else None


def id_state(message: Obj, call: Obj, family: str) -> State | None:
    """What goes into the id of one call: the call's own state, and what of the message has not gone anywhere yet. It is bound to the id, so
    it has no digest: in a stream the id goes out before the arguments are known."""
    state = state_of({**message, "tool_calls": [call]}, family)
    return msgspec.structs.replace(state, c="") if state is not None else None


# --- answers
def whole(body: bytes) -> list[Obj]:
    """The messages of a `chat.completion`; none when it is none."""
    return [choice["message"] for choice in _choices(_read(body)) if isinstance(choice.get("message"), dict)]


def streamed(data: bytes) -> list[Obj]:
    """The messages that chat events add up to, one for each choice."""
    found: dict[object, Obj] = {}
    for event in sse.events(sse.split(data)[0]):
        for choice in _choices(_read(sse.payload(event)[1])):
            if isinstance(choice.get("delta"), dict):
                merge(found.setdefault(choice.get("index"), {}), choice["delta"])
    return list(found.values())


def _read(data: bytes) -> Obj:
    try:
        return _object.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}


def _choices(doc: Obj) -> list[Obj]:
    choices = doc.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def merge(into: Obj, delta: Obj) -> None:
    """Adds a delta to a message, as OpenAI's SDK does: texts are joined, entries of lists found by their `index`. Mutates `into`."""
    for key, value in delta.items():
        old = into.get(key)
        if old is None or key in _REPLACED:
            into[key] = value
        elif isinstance(old, str) and isinstance(value, str):
            into[key] = old + value
        elif isinstance(old, dict) and isinstance(value, dict):
            merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            _extend(old, value)


def _extend(old: list[Any], more: list[Any]) -> None:
    for entry in more:
        index = entry.get("index") if isinstance(entry, dict) else None
        same = next((o for o in old if index is not None and isinstance(o, dict) and o.get("index") == index), None)
        if same is None:
            old.append(entry)
        else:
            merge(same, entry)


# --- ids
def with_state(id: str, state: State) -> str:
    """The id with the state in it; the id alone when that would be too long."""
    data = encoded(state)
    packed = base64.urlsafe_b64encode(zlib.compress(data, 6)).rstrip(b"=").decode() if len(data) <= MOST_STATE else ""
    made = f"{id}{MARK}{packed}"
    return made if packed and len(made) <= MOST_ID else id


def without_state(id: str) -> tuple[str, State | None]:
    """The original id, and the state that was in it; None when there is none, or it was altered."""
    own, mark, packed = id.partition(MARK)
    if not mark or not own:
        return id, None
    if len(id) > MOST_ID:
        return own, None
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        unpack = zlib.decompressobj()
        found = unpack.decompress(data, MOST_STATE)
        return own, decoded(found) if unpack.eof else None
    except (binascii.Error, ValueError, zlib.error):
        return own, None
