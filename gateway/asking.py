"""What a policy is told of a call: about how many tokens, what it needs, whose session it is. Estimates; nothing here can fail a call."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from hashlib import blake2b

import msgspec

from backends import wire
from backends.native import SurfaceCall
from backends.types import Call
from gateway.auth import Tenant
from routing.policies import Asked

BYTES = 4  # of JSON for one token, about: English; for most other languages it is more tokens than there are
IMAGE = 1000  # tokens of a picture or a sound, about
# What a prompt is made of, in every dialect of ours.
_PARTS = ("messages", "prompt", "input", "system", "instructions", "tools", "functions", "query", "documents")
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_SESSIONS = ("prompt_cache_key", "safety_identifier", "user")
# How parts of a message that are no text begin, in every dialect of ours.
_MARKS = (
    (b'"image', "images"), (b'"input_image"', "images"), (b'"input_audio"', "audio"),
    (b'"file', "documents"), (b'"input_file"', "documents"), (b'"document"', "documents"),
)  # fmt: skip
_EMPTY = frozenset({b"null", b"[]", b"{}", b'""'})
_DATA = re.compile(rb';base64,[^"\\]*')
_FREE = frozenset({"embeddings", "rerank"})  # whose answers have no tokens
_whole = msgspec.json.Decoder(int)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)


class _Turn(msgspec.Struct):
    role: str = ""


_turn = msgspec.json.Decoder(_Turn)


def asked(
    call: Call, tenant: Tenant, *, output: float, minute: int, headers: Collection[str] = (), session: str = "", prompt: int | None = None
) -> Asked:
    """The call as policies see it. `output`: tokens of an answer on the mean; `minute` of the day; `headers` that conditions ask for;
    `session`: the header that names one, "" where sessions do not matter; `prompt`: its tokens where somebody has counted them."""
    doc = call.raw if isinstance(call, SurfaceCall) and call.raw else call.doc
    parts = [bytes(doc[name]) for name in _PARTS if name in doc]
    return Asked(
        estimate(parts) if prompt is None else prompt, 0 if call.api in _FREE else _longest(doc, output), needs(doc, parts), tenant.private,
        session_of(call, doc, session) if session else "", tenant.name,
        {name: call.headers[key].decode("latin-1") for name in headers if (key := name.encode()) in call.headers}, minute,
    )  # fmt: skip


def estimate(parts: Collection[bytes]) -> int:
    """About how many tokens these slices of JSON are."""
    size = sum(map(len, parts))
    media = 0
    for part in parts:
        if b";base64," in part:
            found = [len(data) for data in _DATA.findall(part)]
            size, media = size - sum(found), media + len(found)
    return size // BYTES + media * IMAGE


def needs(doc: Mapping[str, msgspec.Raw], parts: Collection[bytes]) -> frozenset[str]:
    """What a target must be able to do. Pictures are looked for as text: a prompt that only speaks of `"image_url"` counts as one that has
    a picture, and goes where pictures can be read, too."""
    found = set()
    if any(name in doc and bytes(doc[name]) not in _EMPTY for name in ("tools", "functions")):
        found.add("tools")
    if b"json_schema" in bytes(doc.get("response_format", b"")):
        found.add("json_schema")
    found |= {need for mark, need in _MARKS if any(mark in part for part in parts)}
    return frozenset(found)


def session_of(call: Call, doc: Mapping[str, msgspec.Raw], header: str) -> str:
    """Whose session a call is: as `header` says, else `prompt_cache_key` and the like, else how its conversation begins (all up to the
    first message of the user). Of one tenant; empty where nothing tells."""
    found = call.headers.get(header.lower().encode(), b"")
    if not found:
        found = next((bytes(doc[name]) for name in _SESSIONS if name in doc and bytes(doc[name]) not in _EMPTY), b"")
    if not found:
        found = _beginning(doc)
    if not found:
        return ""
    return blake2b(call.tenant.encode() + b"\0" + found, digest_size=16).hexdigest()


def _beginning(doc: Mapping[str, msgspec.Raw]) -> bytes:
    turns = doc.get("messages", doc.get("input"))
    if turns is None:
        return b""
    raw = bytes(turns)
    if not raw.startswith(b"["):
        return raw
    try:
        begun = []
        for turn in _raws.decode(raw):
            begun.append(bytes(turn))
            if _turn.decode(turn).role == "user":
                break
    except (msgspec.MsgspecError, RecursionError):
        return b""  # whoever gets it will say what is wrong
    return b"\0".join(begun)


def _longest(doc: Mapping[str, msgspec.Raw], mean: float) -> int:
    """Tokens that the answer will have: as many as others have on the mean, unless fewer are asked for."""
    given = [mean]
    for name in _LIMITS:
        try:
            given.append(_whole.decode(doc.get(name, wire.NULL)))
        except msgspec.MsgspecError:
            continue
    return max(1, round(min(given)))
