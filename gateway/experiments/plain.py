"""The most common requests of experiments, whole good answers to the first attempt: read some dozens at a time, while they are still in the
processor's caches, into blocks of bytes that the store's thread only has to write.

On the loop, after the recorder has read the same answers' usage (`Recorder.after`): about a microsecond a request. A thread that reads them
one by one would cost more than that in switches alone, and what waits for it would push all else out of the caches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from backends import wire
from backends.types import Target
from gateway.experiments.ended import Ended, Mark, cost_of, id_of, refused
from routing.experiments.words import Block, PlainRow

MANY: Final = 64  # requests that wait for the recorder at most
UNREADABLE: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, msgspec.MsgspecError)
_NOTHING: Final[Mapping[bytes, wire.Told]] = MappingProxyType({})
_packed = msgspec.msgpack.Encoder()

# mark, unit, tenant, our id, arrival (unix seconds), seconds to the end, who answered, the document with its usage, what is kept of the
# answer: what an `Ended` has more is as in any other plain one.
Plain = tuple[Mark, int, str, bytes, float, float, Target, bytes | None, bytes]


class Packed(NamedTuple):
    """A block as bytes: how many requests, when the last of them arrived."""

    requests: int
    unix: float
    body: bytes


def ended_of(plain: Plain) -> Ended:
    """The same as any other request leaves it."""
    mark, unit, tenant, request, unix, seconds, target, tail, answer = plain
    return (mark, unit, tenant, request, unix, seconds, None, False, 200, "", target, False, tail, answer, None)


def block_of(batch: Sequence[Plain], told: Mapping[bytes, wire.Told] = _NOTHING) -> Block:
    """What requests were. `told`: token counts of answers by the document with their usage; what is not in it is read here. Pure."""
    kinds: dict[tuple[Mark, str], int] = {}
    rows: list[PlainRow] = []
    add = rows.append
    for mark, unit, tenant, request, unix, seconds, target, tail, answer in batch:
        if tail is None:
            asked = said = cost = None
        elif tail in told and target.price is None and tail.find(b"cost") < 0:
            (asked, _, said), cost = told[tail], None
        else:
            asked, said, cost = _counts(tail, target)
        # `find` throughout: `in` asks first whether bytes are a number, and makes and drops an exception for it. From the end, where it
        # says so: these two are half of the work here.
        no = refused(answer) if answer.rfind(b'"refusal"') >= 0 or answer.rfind(b'"content_filter"') >= 0 else False
        own = answer[7:end] if answer.startswith(b'{"id":"') and (end := answer.find(b'"', 7)) > 0 else b""
        if not own or own.find(b"\\") >= 0 or not own.isascii():
            own = id_of(answer).encode()
        add((kinds.setdefault((mark, tenant), len(kinds)), unit, request, own, unix, seconds, no, asked, said, cost))
    return Block([(*mark, tenant) for mark, tenant in kinds], rows)


def _counts(tail: bytes, target: Target) -> tuple[int | None, int | None, float | None]:
    """Tokens in, tokens out, dollars."""
    usage = wire.usage(tail)
    cost = cost_of(usage, tail, target)
    return (None, None, cost) if usage is None else (usage.input + usage.cached + usage.cache_write, usage.output + usage.reasoning, cost)


class Blocks:
    """Plain requests on their way to the file. The loop puts and gathers, the store's thread takes. `most`: requests that may wait;
    `other`: takes what cannot be read here, one by one."""

    __slots__ = ("_done", "_gathered", "_most", "_other", "_packed", "_waiting", "dropped")

    def __init__(self, most: int, other: Callable[[Any], None]) -> None:
        self.dropped = 0
        self._most, self._other = most, other
        self._waiting: list[Plain] = []
        self._packed: deque[Packed] = deque()
        self._gathered = self._done = 0  # requests: the one counted on the loop, the other in the thread

    def __len__(self) -> int:
        return len(self._waiting) + self.packed

    @property
    def packed(self) -> int:
        """Requests in blocks."""
        return self._gathered - self._done

    def put(self, plain: Plain) -> None:
        """Takes what a request left; never blocks, never raises."""
        self._waiting.append(plain)
        if len(self._waiting) >= MANY:
            self.gather()

    def gather(self, told: Mapping[bytes, wire.Told] = _NOTHING) -> None:
        """Makes a block of the requests that wait: about a microsecond for each. Never raises."""
        batch = self._waiting
        if not batch:
            return
        self._waiting = []
        if self.packed + len(batch) > self._most:
            self.dropped += len(batch)
            return
        try:
            block = Packed(len(batch), batch[-1][4], _packed.encode(block_of(batch, told)))
        except UNREADABLE:
            for plain in batch:
                self._other(ended_of(plain))
            return
        self._gathered += block.requests
        self._packed.append(block)

    def ready(self) -> list[Packed]:
        """The blocks that wait to be written; for the thread."""
        return [*self._packed]

    def written(self, blocks: int) -> None:
        """The first so many of them are in the file; for the thread."""
        for _ in range(blocks):
            self._done += self._packed.popleft().requests


def together(blocks: Sequence[Packed], most: int) -> Iterator[Packed]:
    """Blocks in lists of at most `most` requests, if each has fewer: a row of the file each."""
    part: list[Packed] = []
    count = 0
    for block in blocks:
        if part and count + block.requests > most:
            yield _joined(part, count)
            part, count = [], 0
        part.append(block)
        count += block.requests
    if part:
        yield _joined(part, count)


def _joined(part: Sequence[Packed], count: int) -> Packed:
    return Packed(count, part[-1].unix, _packed.encode([block.body for block in part]))
