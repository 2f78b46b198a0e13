"""What a request of an experiment leaves at its end (`Ended`), and what that says (`seen`). Made on the request's way in less than a
microsecond, read later in the store's thread; the most common ones are read by `plain`. Pure."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

from backends import prices, wire
from backends.types import Fault, Target, Usage
from gateway.experiments import heard
from gateway.experiments.valid import fits, schema_of
from routing.experiments.words import Seen

HEAD, TAIL = 256, 1024  # bytes kept of the beginning and the end of an answer, where it is longer than both
SHORT = HEAD + TAIL
MOST_TOKENS = (1 << 63) - 1
Mark = tuple[str, int, str]  # experiment, epoch, arm
End = Literal["", "gone", "refused", "error"]  # good, the client left or was wrong, refused by the provider, anything else


class _Told(msgspec.Struct):
    id: str | None = None


_told = msgspec.json.Decoder(_Told)


class Whole:
    """All of an answer, for the check against its schema. `api`: how its client reads it; `format`: the chat request's
    `response_format`."""

    __slots__ = ("__weakref__", "api", "format", "parts")

    def __init__(self, api: str, format: bytes) -> None:
        self.api, self.format = api, format
        self.parts: list[bytes] = []


# mark, unit, tenant, our id, arrival (unix seconds), seconds to the end, seconds to the first content, whether it was a stream, the status
# that the client was told, its end, who answered, whether that was another than meant, the document with its usage, what is kept of the
# answer, all of it where it must fit a schema.
Ended = tuple[
    Mark, int, str, bytes, float, float, float | None, bool, int, End, Target, bool, bytes | None, bytes, Whole | None
]  # fmt: skip

# Keys of JSON; within a string their quotation marks would have backslashes before them.
_ID: Final = re.compile(rb'"id"\s*:\s*"(?!call_|toolu_|fc_|rs_)([^"\\]{1,256})"')  # not a tool call's
_REFUSED: Final = re.compile(
    rb'"refusal"\s*:\s*"[^"]|"finish_reason"\s*:\s*"content_filter"|"stop_reason"\s*:\s*"refusal"|"type"\s*:\s*"refusal"'
    rb'|"incomplete_details"\s*:\s*\{\s*"reason"\s*:\s*"content_filter"'
)
_NOT_JSON: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def short(answer: bytes) -> bytes:
    """What is kept of an answer: all of a short one, else its beginning and its end."""
    return answer if len(answer) <= HEAD + TAIL else b"%b\n%b" % (answer[:HEAD], answer[-TAIL:])


def end_of(fault: Fault | None) -> End:
    """How a request ended, by its fault."""
    if fault is None:
        return ""
    if fault.origin == "client":
        return "gone"
    return "refused" if fault.code == "content_filter" else "error"


def seen(ended: Ended) -> Seen:
    """What a request was. Pure but for a cache of schemas; takes some microseconds, with a schema up to milliseconds."""
    mark, unit, tenant, request, unix, seconds, ttft, stream, status, end, target, fallback, tail, answer, whole = ended
    usage = wire.usage(tail) if tail is not None else None
    good = not end
    return Seen(
        unix, mark[0], mark[1], mark[2], unit, tenant, request.decode("latin-1"), id_of(answer),
        seconds, ttft if stream else None, stream, status, end == "error", end == "gone",
        (end == "refused" or refused(answer)) if good or end == "refused" else None,
        _valid(whole, stream) if good and whole is not None else None,
        fallback,
        None if usage is None else usage.input + usage.cached + usage.cache_write,
        None if usage is None else usage.output + usage.reasoning,
        cost_of(usage, tail, target),
    )  # fmt: skip


def fitting(seen: Seen | None) -> Seen | None:
    """The same. Raises ValueError where it tells more tokens than the file can hold."""
    if seen is not None and max(seen.input or 0, seen.output or 0) > MOST_TOKENS:
        raise ValueError("it tells more tokens than there can be")
    return seen


def refused(answer: bytes) -> bool:
    """Whether the model refused. Nearly all answers hold neither word, or `"refusal":null` alone, and need not be searched for more."""
    if answer.find(b"content_filter") < 0:
        at = answer.find(b"refusal")
        if at < 0 or (answer.startswith(b'refusal":null', at) and answer.find(b"refusal", at + 7) < 0):
            return False
    return _REFUSED.search(answer) is not None


def id_of(answer: bytes) -> str:
    """The answer's own id; empty where it has none. Some servers write it behind the rest."""
    if answer.startswith(b'{"id":"'):  # as nearly all do
        end = answer.find(b'"', 7)
        own = answer[7:end]
        if end > 0 and own.isascii() and b"\\" not in own:
            return own.decode()
    try:
        return _told.decode(answer).id or ""
    except _NOT_JSON:  # a part of an answer, or events
        found = _ID.search(answer)
        return found[1].decode("utf-8", "replace") if found else ""


def cost_of(usage: Usage | None, tail: bytes | None, target: Target) -> float | None:
    """Dollars, by our prices where there are any, else as the provider says."""
    if usage is not None and target.price is not None and (cost := target.price(usage)) is not None:
        return cost
    return prices.reported(tail) if tail is not None else None


def _valid(whole: Whole, stream: bool) -> bool | None:
    schema = schema_of(whole.format)
    text = heard.read(whole.api, stream, b"".join(whole.parts)).text if schema is not None and whole.parts else None
    return None if schema is None or text is None else fits(schema, text)
