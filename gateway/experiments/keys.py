"""By what a request's unit is known: the bytes of the key that an experiment's configuration names. Cheap, on the request's way; nothing
here can fail a request. An empty key: the request has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from backends import wire
from gateway.config_experiments import HeaderKey, Key

if TYPE_CHECKING:
    from gateway.exchange import Exchange

Reader = Callable[["Exchange"], bytes]
_str = msgspec.json.Decoder(str)
_raws = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder()
_QUOTE = 0x22


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_metadata = msgspec.json.Decoder(_Metadata | None)


def reader(key: Key | HeaderKey, session_header: str) -> Reader:
    """What reads the key of a request. `session_header`: where the route's clients name their session."""
    if isinstance(key, HeaderKey):
        return partial(_header, key.header.lower().encode())
    if key == "session":
        return partial(_session, session_header.lower().encode())
    return {"user": _user, "api_key": _api_key, "conversation": _conversation}[key]


def field_of(reader: Reader) -> str:
    """The field of a document that alone makes a key, where it is there; "": there is none such."""
    return "user" if reader is _user else ""


def _header(name: bytes, exchange: Exchange) -> bytes:
    return exchange.headers.get(name, b"")


def _api_key(exchange: Exchange) -> bytes:
    return exchange.tenant.name.encode()


def _user(exchange: Exchange) -> bytes:
    """`user`, else `safety_identifier`; in Messages `metadata.user_id`."""
    doc = exchange.call.doc
    found = doc.get("user")
    if found is not None:
        return _text(bytes(found))
    if exchange.api == "messages":
        return _metadata_user(doc)
    return _text(bytes(doc.get("safety_identifier", b"")))


def _metadata_user(doc: wire.Doc) -> bytes:
    try:
        told = _metadata.decode(doc.get("metadata", wire.NULL))
        return told.user_id.encode() if told is not None and told.user_id else b""
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
        return b""


def _session(header: bytes, exchange: Exchange) -> bytes:
    """The header, else `prompt_cache_key`."""
    return exchange.headers.get(header) or _text(bytes(exchange.call.doc.get("prompt_cache_key", b"")))


def _text(raw: bytes) -> bytes:
    """The text of a JSON string as it is in UTF-8; empty for anything else."""
    if len(raw) < 2 or raw[0] != _QUOTE:
        return b""
    if raw.find(b"\\") < 0:  # `in` would ask first whether bytes are a number
        return raw[1:-1]
    try:
        return _str.decode(raw).encode()
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return b""


def _conversation(exchange: Exchange) -> bytes:
    """How the conversation begins: all up to the user's first message, as far as every turn of it has that in the same words."""
    doc = exchange.opening()
    turns = doc.get("messages") or doc.get("input") or doc.get("prompt")
    if turns is None:
        return b""
    raw = bytes(turns)
    begun: list[bytes] = []
    try:
        if raw[:1] == b'"':
            return _turn({"role": "user", "content": _any.decode(raw)})
        for item in _raws.decode(raw):
            turn = _any.decode(item)
            if isinstance(turn, dict):
                begun.append(_turn(turn))
                if turn.get("role") == "user":
                    break
    except (msgspec.MsgspecError, RecursionError):
        return b""  # whoever gets it will say what is wrong
    return b"\0".join(begun)


def _turn(turn: Mapping[str, Any]) -> bytes:
    """A turn as its role and its text, whatever form its content has. What is no text counts as it stands."""
    content = turn.get("content")
    if isinstance(content, list):
        content = [part.get("text", part) if isinstance(part, dict) else part for part in content]
        content = content[0] if len(content) == 1 else content
    return wire.encode((turn.get("role"), content))
