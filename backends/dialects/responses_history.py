"""Earlier turns: what of a response is kept, how it comes back, and the answers of the endpoints around it. Pure.

A response is kept as its own new input items and its Response object. A conversation is a chain of them by `previous_response_id`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from backends import wire
from backends.dialects import responses_state as state
from backends.dialects.responses_request import given
from backends.wire import Doc

Raws = list[msgspec.Raw]


class _Output(msgspec.Struct):
    output: Raws = []


class _Named(msgspec.Struct):
    id: Any = None
    type: Any = None


_raws = msgspec.json.Decoder(Raws)
_output = msgspec.json.Decoder(_Output)
_named = msgspec.json.Decoder(_Named)


def history(kept: Iterable[tuple[bytes, bytes]]) -> Raws:
    """The items of a conversation, from (input items, Response object) of its responses, the oldest first. What is no
    such thing raises `msgspec.MsgspecError`: it was not written here."""
    out: Raws = []
    for items, response in kept:
        out += _raws.decode(items)
        out += _output.decode(response).output
    return out


def join(doc: Doc, earlier: Raws) -> Doc:
    """A copy of `doc` with earlier items before its input, and without `previous_response_id`."""
    own = [wire.raw(item) for item in given(doc)]
    return wire.drop(doc, ("previous_response_id",)) | {"input": wire.raw([*earlier, *own])}


def references(doc: Doc) -> list[str]:
    """The ids of stored items that the input refers to. `response_of` tells which response each belongs to."""
    raw = doc.get("input", wire.NULL)
    if b'"item_reference"' not in bytes(raw):
        return []
    return [item["id"] for item in given(doc) if _refers(item)]


def _refers(item: Any) -> bool:
    return isinstance(item, dict) and item.get("type") == "item_reference" and isinstance(item.get("id"), str)


def resolve(doc: Doc, items: Mapping[str, msgspec.Raw]) -> Doc:
    """A copy of `doc` with references replaced by the items they name; those that `items` lacks stay, to be refused."""
    found: list[Any] = [items.get(item["id"], item) if _refers(item) else item for item in given(doc)]
    return doc | {"input": wire.raw(found)}


def named(items: Iterable[msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """Items by their id, for `resolve`."""
    out = {}
    for item in items:
        id_ = _named.decode(item).id
        if isinstance(id_, str):
            out[id_] = item
    return out


def input_items(doc: Doc, request_id: str) -> Raws:
    """The items of a request's own input as they are kept and listed: each with an id, content as a list of parts."""
    base = state.base(request_id)
    return [wire.raw(_listed(item, f"{base}_i{i}")) for i, item in enumerate(given(doc)) if isinstance(item, dict)]


_PREFIX = {
    "message": "msg", "function_call": "fc", "function_call_output": "fco", "custom_tool_call": "ctc", "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}  # fmt: skip


def _listed(item: dict[str, Any], tail: str) -> dict[str, Any]:
    kind = item.get("type") or "message"
    prefix = _PREFIX.get(kind, "item") if isinstance(kind, str) else "item"
    told = {**item, "type": kind, "id": item.get("id") or f"{prefix}_{tail}"}
    if kind == "reasoning":
        told.setdefault("summary", [])
    elif not item.get("status"):
        told["status"] = "completed"
    if kind == "message":
        told["content"] = _parts(item.get("content"), item.get("role") == "assistant")
    return told


def _parts(content: Any, assistant: bool) -> Any:
    plain: dict[str, Any] = {"type": "output_text", "annotations": []} if assistant else {"type": "input_text"}
    if isinstance(content, str):
        return [{**plain, "text": content}]
    if assistant and isinstance(content, list):
        return [{**plain, **part} if isinstance(part, dict) and part.get("type") == "output_text" else part for part in content]
    return content


def listing(items: Raws, *, order: Literal["asc", "desc"] = "desc", after: str | None = None, limit: int = 20) -> bytes:
    """The answer of `GET /v1/responses/{id}/input_items`. `items` in the order of the input; `limit` from 1 to 100; `after` is
    the id of the last item that the client has. Raises `Fault` (bad_request, client)."""
    if not 1 <= limit <= 100:
        raise wire.bad("'limit' must be from 1 to 100.", param="limit")
    ids = [str(_named.decode(item).id) for item in items]
    pairs = list(zip(ids, items, strict=True))
    if order == "desc":
        pairs.reverse()
    if after is not None:
        at = next((i for i, (id_, _) in enumerate(pairs) if id_ == after), None)
        if at is None:
            raise wire.bad(f"'after': no item has the id '{after}'.", param="after")
        pairs = pairs[at + 1 :]
    page = pairs[:limit]
    return wire.encode({
        "object": "list",
        "data": [item for _, item in page],
        "first_id": page[0][0] if page else "",
        "last_id": page[-1][0] if page else "",
        "has_more": len(pairs) > limit,
    })


def deleted(response: str) -> bytes:
    """The answer of `DELETE /v1/responses/{id}`."""
    return wire.encode({"id": response, "object": "response", "deleted": True})


def counted(tokens: int) -> bytes:
    """The answer of `POST /v1/responses/input_tokens`."""
    return wire.encode({"object": "response.input_tokens", "input_tokens": tokens})
