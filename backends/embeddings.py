"""Calls for embeddings as one document: which may be asked together, how they are joined, and whose part of the answer is whose. Pure.

A vector is never read: it stays the slice that the engine wrote, floats or base64 alike. What changes of an answer is the `index` of an
item, the counts of `usage`, and an `id` that the engine made from the request's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from backends import wire
from backends.types import Call, Fault, Target, Timeouts
from backends.wire import Doc

KIB = 1024
Tokens = list[Annotated[int, msgspec.Meta(ge=0)]]
Key = tuple[str, str, Timeouts | None, tuple[tuple[str, bytes], ...]]

_raws = msgspec.json.Decoder(list[msgspec.Raw])
_texts = msgspec.json.Decoder(list[str])
_text = msgspec.json.Decoder(str)
_tokens = msgspec.json.Decoder(Tokens)
_arrays = msgspec.json.Decoder(list[Tokens])
_docs = msgspec.json.Decoder(list[Doc])
_any = msgspec.json.Decoder(dict[str, Any])
_number = msgspec.json.Decoder(int)
_APART = frozenset({"model", "input"})  # the target names the model; the inputs are what is joined


class BatchLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How calls for embeddings are joined: one waits at most `window` seconds for others while an engine call is under way, and one
    engine call has at most so many inputs and so many bytes of them. Bytes are few on purpose: all get their answer with the last."""

    window: Annotated[float, msgspec.Meta(gt=0, le=10)] = 0.002
    items: Annotated[int, msgspec.Meta(ge=2, le=2048)] = 256
    bytes: Annotated[int, msgspec.Meta(ge=1, extra={"size": True}, extra_json_schema={"size": True})] = 32 * KIB


class Asked(msgspec.Struct, frozen=True):
    """One call's inputs as they came, and how much each weighs in a usage that is told for all: tokens where it sent tokens, else bytes."""

    form: Literal["text", "tokens"]
    inputs: tuple[msgspec.Raw, ...]
    weight: int
    size: int  # bytes


def asked(call: Call, limit: int) -> Asked | None:
    """What `call` asks for. None when it must go by itself: its inputs are of no plain form, empty, or of more than `limit` bytes."""
    raw = call.doc.get("input")
    if raw is None or call.stream or len(raw_bytes := bytes(raw)) > limit:
        return None
    try:
        return _read(raw, raw_bytes)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _read(raw: msgspec.Raw, text: bytes) -> Asked | None:
    if text[:1] == b'"':
        return _of_text((raw,)) if _text.decode(raw) else None
    first = text[1:].lstrip()[:1]
    if text[:1] == b"[" and first == b'"':
        return _of_text(tuple(_raws.decode(raw))) if all(_texts.decode(raw)) else None
    arrays = _arrays.decode(raw) if first == b"[" else [_tokens.decode(raw)]  # a list of tokens is one input
    if not arrays or not all(arrays):
        return None
    inputs = tuple(_raws.decode(raw)) if first == b"[" else (raw,)
    return Asked("tokens", inputs, sum(map(len, arrays)), len(text))


def _of_text(inputs: tuple[msgspec.Raw, ...]) -> Asked:
    size = sum(len(bytes(one)) for one in inputs)
    return Asked("text", inputs, size - 2 * len(inputs), size)  # without the quotes


def key(call: Call, target: Target, timeouts: Timeouts | None, form: str) -> Key:
    """What calls must have in common to be asked together: all but their inputs, as it was written."""
    rest = tuple(sorted((name, bytes(value)) for name, value in call.doc.items() if name not in _APART))
    return target.model, form, timeouts, rest


def joined(call: Call, parts: Sequence[Asked]) -> Doc:
    """The document that asks for all of `parts` at once. `call`: any of the calls."""
    inputs = [one for part in parts for one in part.inputs]
    return {**call.doc, "input": wire.raw(inputs)}


def divided(body: bytes, parts: Sequence[Asked]) -> list[Doc] | None:
    """Each call's part of an answer to `joined`, in order: its items counted from 0, its share of the usage. None when it is not an
    answer with one item for each input."""
    try:
        doc = wire.parse(body)
        items = _docs.decode(doc.get("data", b"[]"))
        places = _places(items)
        if places is None or len(items) != sum(len(part.inputs) for part in parts):
            return None
        usages = _usages(doc, [part.weight for part in parts])
    except (Fault, msgspec.MsgspecError, RecursionError):
        return None
    owners = [(which, index) for which, part in enumerate(parts) for index in range(len(part.inputs))]
    own: list[list[Doc]] = [[] for _ in parts]
    for place, item in zip(places, items, strict=True):
        which, index = owners[place]
        own[which].append({**item, "index": msgspec.Raw(b"%d" % index)} if "index" in item else item)
    return [{**doc, "data": wire.raw(mine), **usage} for mine, usage in zip(own, usages, strict=True)]


def _places(items: Sequence[Doc]) -> Sequence[int] | None:
    """Which input each item answers: by its index, or by where it stands where no item has one. None when that is not said plainly."""
    told = [_number.decode(item["index"]) for item in items if "index" in item]
    if not told:
        return range(len(items))
    return told if sorted(told) == [*range(len(items))] else None


def _usages(doc: Doc, weights: Sequence[int]) -> list[Doc]:
    """The usage of each, as a document to lay over the answer's; empty ones where there is none."""
    raw = doc.get("usage")
    if raw is None or raw == wire.NULL:
        return [{} for _ in weights]
    told = shares(_any.decode(raw), weights)
    return [{"usage": wire.raw(one)} for one in told]


def shares(value: Any, weights: Sequence[int]) -> list[Any]:
    """`value` for each of some calls, so that what they get adds up to it: whole numbers are apportioned, fractions divided, in objects
    each value by itself; what is no count is everybody's."""
    if isinstance(value, dict):
        divided_values = {name: shares(one, weights) for name, one in value.items()}
        return [{name: each[at] for name, each in divided_values.items()} for at in range(len(weights))]
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        return [value] * len(weights)
    if isinstance(value, float):
        return [value * weight / sum(weights) for weight in weights]
    return [*apportioned(value, weights)]


def apportioned(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts as near to the proportion of `weights` (positive) as they can be: by largest remainder. Where there is
    enough nobody gets nothing, since no input is free. The parts add up to `total`."""
    whole = sum(weights)
    out = [total * weight // whole for weight in weights]
    last = sorted(range(len(weights)), key=lambda at: -(total * weights[at] % whole))
    for at in last[: total - sum(out)]:
        out[at] += 1
    if total >= len(out):
        for at in range(len(out)):
            if not out[at]:
                out[out.index(max(out))] -= 1
                out[at] = 1
    return out
