"""A shadow's answer beside the user's own: both are read and compared. Pure; takes up to some milliseconds, so it is done off the loop."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from backends import wire
from backends.types import Usage
from gateway.experiments.compare import alike, same_tools
from gateway.experiments.heard import Answer, read
from gateway.experiments.mirror import Sent
from gateway.experiments.valid import fits, schema_of
from gateway.experiments.words import Pair

Price = Callable[[Usage], float | None]


class Own(msgspec.Struct, frozen=True):
    """The user's answer: its dialect, whether it is a stream, its bytes, seconds to its end, and what its usage is read from where that is
    not in it."""

    api: str
    stream: bool
    body: bytes
    seconds: float
    tail: bytes | None = None


class Beside(msgspec.Struct, frozen=True):
    """What was found, and the two answers."""

    pair: Pair
    own: Answer
    shadow: Answer


def beside(about: Pair, own: Own, sent: Sent, response_format: bytes | None, price: Price | None) -> Beside:
    """`about`, filled in: what the comparison of the user's own answer with what was sent back says. `response_format`: as it was asked
    for. A shadow that failed has no answer, so nothing but that and its latency is told of it."""
    mine = read(own.api, own.stream, own.body)
    told = wire.usage(own.tail) if own.tail is not None else None
    about = msgspec.structs.replace(
        about, latency=sent.seconds, own_latency=own.seconds, own_output=told.output + told.reasoning if told is not None else mine.output
    )
    if sent.fault is not None:
        return Beside(msgspec.structs.replace(about, failed=True), mine, Answer())
    other = read("chat", sent.stream, sent.body)
    usage = wire.usage(other.usage) if other.usage is not None else None
    schema = schema_of(response_format) if response_format is not None else None
    pair = msgspec.structs.replace(
        about, output=other.output,
        cost=price(usage) if price is not None and usage is not None else None,
        similarity=alike(mine.text, other.text) if mine.text is not None and other.text is not None else None,
        same_tools=same_tools(mine.tools, other.tools) if mine.text is not None else None,
        valid=fits(schema, other.text or "") if schema is not None and not other.tools else None,
    )  # fmt: skip
    return Beside(pair, mine, other)
