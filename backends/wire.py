"""The OpenAI JSON body, held shallowly: top-level keys are split, values stay raw slices and are copied as they came.

Pure functions. A body that is not an acceptable JSON object raises `Fault` (bad_request, client).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec

from backends.types import Fault, Usage

Doc = dict[str, msgspec.Raw]

_doc = msgspec.json.Decoder(Doc)
split = _doc.decode  # `parse` for a body that is ASCII, without its words for what is wrong
_docs = msgspec.json.Decoder(list[Doc])
_str = msgspec.json.Decoder(str)
_encoder = msgspec.json.Encoder()
encode = _encoder.encode

TRUE, NULL = msgspec.Raw(b"true"), msgspec.Raw(b"null")
_FLAGS = {b"true": True, b"false": False, b"null": False}


def bad(message: str, *, param: str | None = None, code: str | None = None) -> Fault:
    """A 400 that is the client's to mend."""
    return Fault("bad_request", message, origin="client", param=param, code=code)


def parse(body: bytes) -> Doc:
    """Splits a JSON object into its top-level keys. Of a duplicate key the last one counts, here and, since the
    document is encoded again, for the engine. Refuses invalid UTF-8 and nesting beyond the interpreter's bound."""
    if not body:
        raise bad("The request has no body; send a JSON object.")
    try:
        if not body.isascii():
            body.decode()  # msgspec copies raw slices without looking inside strings
        return _doc.decode(body)
    except UnicodeDecodeError as e:
        raise bad(f"The body is not valid UTF-8 (byte {e.start}).") from None
    except msgspec.ValidationError:
        raise bad("The body must be a JSON object with string keys.") from None
    except msgspec.DecodeError as e:
        raise bad(f"The body is not valid JSON: {e}.") from None
    except RecursionError:
        raise bad("The body is nested too deeply.") from None


def text(doc: Doc, key: str) -> str | None:
    """The string under `key`, or None when it is absent or null."""
    raw = doc.get(key)
    if raw is None or raw == NULL:
        return None
    try:
        return _str.decode(raw)
    except msgspec.MsgspecError:
        raise bad(f"'{key}' must be a string.", param=key) from None


def flag(doc: Doc, key: str) -> bool:
    """The boolean under `key`; absent and null count as false."""
    raw = doc.get(key)
    if raw is None:
        return False
    value = _FLAGS.get(bytes(raw))
    if value is None:
        raise bad(f"'{key}' must be true or false.", param=key)
    return value


def sub(doc: Doc, key: str) -> Doc:
    """The object under `key`, split shallowly; empty when absent or null."""
    raw = doc.get(key)
    if raw is None or raw == NULL:
        return {}
    try:
        return _doc.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        raise bad(f"'{key}' must be a JSON object.", param=key) from None


def items(doc: Doc, key: str) -> list[Doc]:
    """The list of objects under `key`, each split shallowly; empty when absent or null."""
    raw = doc.get(key)
    if raw is None or raw == NULL:
        return []
    try:
        return _docs.decode(raw)
    except (msgspec.MsgspecError, RecursionError):
        raise bad(f"'{key}' must be a list of JSON objects.", param=key) from None


def raw(value: object) -> msgspec.Raw:
    """`value` as a raw JSON slice, to put into a `Doc`."""
    return msgspec.Raw(_encoder.encode(value))


def drop(doc: Doc, keys: Iterable[str]) -> Doc:
    """A copy of `doc` without `keys`."""
    gone = frozenset(keys)
    return {k: v for k, v in doc.items() if k not in gone}


_Tokens = Annotated[int, msgspec.Meta(ge=0)]


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: _Tokens | None = None
    cache_write_tokens: _Tokens | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Tokens | None = None


class _WireUsage(msgspec.Struct, gc=False):
    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    total_tokens: Any = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _WithUsage(msgspec.Struct, gc=False):
    usage: _WireUsage | None = None


_with_usage = msgspec.json.Decoder(_WithUsage)
_with_usages = msgspec.json.Decoder(list[_WithUsage])


def usage(body: bytes) -> Usage | None:
    """Token counts of an OpenAI answer or chunk, made disjoint; None when it tells none or is malformed.

    OpenAI's `prompt_tokens` includes cached ones and `completion_tokens` includes reasoning.
    """
    try:
        u = _with_usage.decode(body).usage
    except (msgspec.MsgspecError, RecursionError):
        return None
    return None if u is None else _disjoint(u)


def _disjoint(u: _WireUsage) -> Usage:
    p, c = u.prompt_tokens_details, u.completion_tokens_details
    total, out = u.prompt_tokens or 0, u.completion_tokens or 0
    cached = min(total, (p and p.cached_tokens) or 0)
    written = min(total - cached, (p and p.cache_write_tokens) or 0)
    reasoning = min(out, (c and c.reasoning_tokens) or 0)
    return Usage(total - cached - written, cached, written, out - reasoning, reasoning)


Told = tuple[int, int, int]  # tokens in, those of them that were cached, tokens out


def told(body: bytes) -> Told | None:
    """What `usage` says, added up: tokens in, those of them that were cached, tokens out."""
    try:
        u = _with_usage.decode(body).usage
    except (msgspec.MsgspecError, RecursionError):
        return None
    if u is None:
        return None
    p, total = u.prompt_tokens_details, u.prompt_tokens or 0
    return total, 0 if p is None else min(total, p.cached_tokens or 0), u.completion_tokens or 0


def usage_sum(bodies: Sequence[bytes], odd: list[bytes] | None = None, told: list[Told | None] | None = None) -> tuple[Usage, int]:
    """The token counts of several answers together, and how many of them told none or were malformed: `usage` of each, added up.
    Those that are not plainly consistent (a total that is no sum, parts of counts) are appended to `odd`, to be looked at. The counts
    of each are appended to `told`."""
    fresh = out = bad = 0
    rarer = Usage()
    for body, one in zip(bodies, _read_usages(bodies), strict=True):
        u = None if one is None else one.usage
        if u is None:
            bad += 1
            if told is not None:
                told.append(None)
            continue
        p, c = u.prompt_tokens_details, u.completion_tokens_details
        if (p is not None and (p.cached_tokens or p.cache_write_tokens)) or (c is not None and c.reasoning_tokens):
            found = _disjoint(u)
            rarer += found
            plain = False
            if told is not None:
                told.append((found.input + found.cached + found.cache_write, found.cached, found.output + found.reasoning))
        else:
            asked, said = u.prompt_tokens or 0, u.completion_tokens or 0
            fresh += asked
            out += said
            plain = u.total_tokens == asked + said
            if told is not None:
                told.append((asked, 0, said))
        if not plain and odd is not None:
            odd.append(body)
    return Usage(fresh + rarer.input, rarer.cached, rarer.cache_write, out + rarer.output, rarer.reasoning), bad


def _read_usages(bodies: Sequence[bytes]) -> Sequence[_WithUsage | None]:
    """Each document, None where it cannot be read. All at once, as one list, where that goes well; they are of one backend, so that one
    who writes two documents in one could only confuse its own counts."""
    try:
        found = _with_usages.decode(b"[%b]" % b",".join(bodies))
        if len(found) == len(bodies):
            return found
    except (msgspec.MsgspecError, RecursionError):
        pass
    return [*map(_read_usage, bodies)]


def _read_usage(body: bytes) -> _WithUsage | None:
    try:
        return _with_usage.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None


_COLON, _COMMA, _BRACE = b":,{"


def usage_tail(body: bytes) -> bytes | None:
    """The part of a whole answer that `usage` needs, so that the answer itself need not be kept: the object after the last
    key `"usage"`, made a document again. None when there is none, or it is unlike any usage."""
    at = body.rfind(b'"usage"')
    if len(body) - at <= 1024 and at > 0 and body[at + 7] == _COLON and body[at - 1] == _COMMA and body[at + 8] == _BRACE:
        return b"{" + body[at:]  # the usual case: what follows a top-level key, to the end, is an object again with a brace before it
    while body[at + 7 : at + 8] != b":" and at >= 0:  # a string value, or a key with space after it
        if body[at + 7 : at + 64].lstrip()[:1] == b":":
            break
        at = body.rfind(b'"usage"', 0, at)
    if at < 0:
        return None
    depth, i, end = 0, at, min(len(body), at + 4096)
    while i < end:
        close = body.find(b"}", i, end)
        if close < 0:
            return None
        depth += body.count(b"{", i, close) - 1
        if depth <= 0:
            return b"{%b}" % body[at : close + 1] if depth == 0 else None  # below zero: there was no object
        i = close + 1
    return None


_TYPES = {
    "bad_request": "invalid_request_error", "auth": "authentication_error", "forbidden": "permission_error",
    "not_found": "not_found_error", "too_large": "invalid_request_error", "rate_limited": "rate_limit_error",
    "overloaded": "overloaded_error", "unavailable": "service_unavailable_error", "timeout": "timeout_error",
    "cancelled": "cancelled", "upstream": "upstream_error",
}  # fmt: skip


def envelope(fault: Fault) -> bytes:
    """The OpenAI error object of a fault, with one key more: `origin`, who failed (client, gateway, backend)."""
    return _encoder.encode(
        {
            "error": {
                "message": fault.message,
                "type": fault.type or _TYPES[fault.kind],
                "param": fault.param,
                "code": fault.code or fault.kind,
                "origin": fault.origin,
            }
        }
    )
