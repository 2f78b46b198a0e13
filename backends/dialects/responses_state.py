"""Names of Responses items, and the provider state that travels inside reasoning items as `encrypted_content`.

Ids are made of the request's id alone, so they are the same in every event and need no memory: response `resp_<base>`, its items
`<prefix>_<base>_<n>`, the items of its input `<prefix>_<base>_i<n>`. An item's id therefore also names its response.

`encrypted_content` of ours is `pm0.` and URL-safe base64 (without padding) of one JSON object, or `pm1.` and the same of a zlib stream of
it where it is long. The object has any of:
`r` reasoning text, `b` Anthropic's thinking blocks in order, `c` `extra_content` of tool calls by call id, `x` `extra_content` of the
message. It is not a secret and not trusted: what comes back is bounded and read by types; anything else counts as not ours.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from hashlib import blake2b

import msgspec

PLAIN, PACKED = "pm0.", "pm1."
LONG = 1024  # bytes of a state's JSON from which it is compressed
MOST = 4 << 20  # bytes of a state's JSON
MOST_ENCODED = 2 << 20  # characters of its encoded form


def base(request_id: str) -> str:
    """The part that all ids of one request share: its own id where that is a plain token, else a digest of it."""
    plain = request_id.isascii() and request_id.replace("-", "").replace("_", "").isalnum() and len(request_id) <= 64
    return request_id if plain else blake2b(request_id.encode("utf-8", "replace"), digest_size=16).hexdigest()


def response_id(request_id: str) -> str:
    """The id of the response to a request."""
    return f"resp_{base(request_id)}"


def response_of(item_id: str) -> str | None:
    """The id of the response that an item of ours belongs to, as input or output; None when it cannot be one of ours."""
    _, found, rest = item_id.partition("_")
    middle, last, _ = rest.rpartition("_")
    return f"resp_{middle}" if found and last and middle else None


class Thinking(msgspec.Struct, tag="thinking", omit_defaults=True):
    """Anthropic's thinking block; the signature may be missing where a provider gives none."""

    thinking: str
    signature: str | None = None


class Redacted(msgspec.Struct, tag="redacted_thinking"):
    """Anthropic's block of thinking that only it can read."""

    data: str


Block = Thinking | Redacted
Extra = dict[str, msgspec.Raw]


class State(msgspec.Struct, omit_defaults=True):
    """What one reasoning item carries for the provider that made it."""

    r: str | None = None
    b: list[Block] = []
    c: dict[str, Extra] = {}
    x: Extra | None = None


_state = msgspec.json.Decoder(State)
_block = msgspec.json.Decoder(Block)
_extra = msgspec.json.Decoder(Extra)
_encoder = msgspec.json.Encoder()


def block(raw: msgspec.Raw) -> Block | None:
    """A thinking block of the hub, or None when it is none that we know."""
    try:
        found: Block = _block.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return found


def extra(raw: msgspec.Raw) -> Extra | None:
    """`extra_content` of the hub, or None when it is no object or empty."""
    try:
        return _extra.decode(raw) or None
    except (msgspec.MsgspecError, RecursionError):
        return None


def encode(state: State) -> str | None:
    """The `encrypted_content` of a state; None when there is nothing to keep or too much. What is too much is first tried without text,
    which the item shows anyway."""
    if state == State():
        return None
    data = _encoder.encode(state)
    if len(data) <= MOST:
        mark, data = (PLAIN, data) if len(data) < LONG else (PACKED, zlib.compress(data, 1))
        packed = mark + base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        if len(packed) <= MOST_ENCODED:
            return packed
    return encode(State(b=state.b, c=state.c, x=state.x)) if state.r is not None else None


def decode(content: str) -> State | None:
    """The state in an `encrypted_content`; None when it is not ours, was altered, or is too large."""
    mark, packed = content[: len(PLAIN)], content[len(PLAIN) :]
    if mark not in (PLAIN, PACKED) or len(content) > MOST_ENCODED:
        return None
    try:
        data = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True)
        if mark == PACKED:
            unpack = zlib.decompressobj()
            data = unpack.decompress(data, MOST)
            if not unpack.eof:
                return None
        return _state.decode(data)
    except (binascii.Error, ValueError, zlib.error, msgspec.MsgspecError, RecursionError):
        return None
