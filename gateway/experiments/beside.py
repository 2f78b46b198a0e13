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

Own = tuple[str, bool, bytes, float]  # the user's answer: its dialect, whether it is a stream, its bytes, seconds to its end
Price = Callable[[Usage], float | None]


class Beside(msgspec.Struct, frozen=True):
    """What was found, and the two answers."""

    pair: Pair
    own: Answer
    shadow: Answer


def beside(about: Pair, own: Own, sent: Sent, response_format: bytes | None, price: Price | None) -> Beside:
    """`about`, filled in: what the comparison of the user's own answer with what was sent back says. `response_format`: as it was asked
    for. A shadow that failed has no answer, so nothing but that and its latency is told of it."""
    api, stream, body, seconds = own
    mine = read(api, stream, body)
    times = {"latency": sent.seconds, "own_latency": seconds}
    if sent.fault is not None:
        return Beside(msgspec.structs.replace(about, failed=True, own_output=mine.output, **times), mine, Answer())
    other = read("chat", sent.stream, sent.body)
    usage = wire.usage(other.usage) if other.usage is not None else None
    schema = schema_of(response_format) if response_format is not None else None
    pair = msgspec.structs.replace(
        about, **times, output=other.output, own_output=mine.output,
        cost=price(usage) if price is not None and usage is not None else None,
        similarity=alike(mine.text, other.text) if mine.text is not None and other.text is not None else None,
        same_tools=same_tools(mine.tools, other.tools) if mine.text is not None else None,
        valid=fits(schema, other.text or "") if schema is not None and not other.tools else None,
    )  # fmt: skip
    return Beside(pair, mine, other)
