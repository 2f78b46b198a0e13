"""The most common requests of experiments, whole good answers to the first attempt: read some dozens at a time, while they are still in the
processor's caches, into blocks of bytes that the store's thread only has to write.

On the loop, after the recorder has read the same answers' usage (`Recorder.after`): about a microsecond a request. A thread that reads them
one by one would cost more than that in switches alone, and what waits for it would push all else out of the caches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from backends import wire
from backends.types import Target
from gateway.experiments.ended import Ended, Mark, cost_of, id_of, refused
from routing.experiments.words import Block

UNREADABLE: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, msgspec.MsgspecError)
_NOTHING: Final[Mapping[bytes, wire.Told]] = MappingProxyType({})
_packed = msgspec.msgpack.Encoder()
_FIRST = b'{"id":"'
log = logging.getLogger("pointsman.experiments")
_MARKS: Final = itemgetter(0)

Marks = tuple[tuple[Mark, int], ...]  # and the units
# its experiments with its units, tenant, our id, arrival (unix seconds), seconds to the end, who answered, the document with its usage,
# what is kept of the answer: what an `Ended` has more is as in any other plain one.
Plain = tuple[Marks, str, bytes, float, float, Target, bytes | None, bytes]


class Packed(NamedTuple):
    """A block as bytes: how many requests (once for each experiment), when the last of them arrived."""

    requests: int
    unix: float
    body: bytes


def ended_of(plain: Plain) -> list[Ended]:
    """The same as any other request leaves it, once for each experiment."""
    marks, tenant, request, unix, seconds, target, tail, answer = plain
    return [(mark, unit, tenant, request, unix, seconds, None, False, 200, "", target, False, tail, answer, None) for mark, unit in marks]


def block_of(batch: Sequence[Plain], told: Mapping[bytes, wire.Told] = _NOTHING) -> Block:
    """What requests were, at least one, once for each experiment. `told`: token counts of answers by the document with their usage; what
    is not in it is read here. Pure."""
    if {*map(len, map(_MARKS, batch))} != {1}:  # nearly none is in two experiments
        batch = [((mark,), *plain[1:]) for plain in batch for mark in plain[0]]
    marks, tenants, request, unix, seconds, targets, tails, answers = zip(*batch, strict=True)
    mark, unit = zip(*chain.from_iterable(marks), strict=True)
    whose = [*zip(mark, tenants, strict=True)]
    kinds = {key: at for at, key in enumerate(dict.fromkeys(whose))}
    asked, said, cost = _counts(tails, targets, told)
    return Block(
        [(*mark, tenant) for mark, tenant in kinds], [*map(kinds.__getitem__, whose)], [*unit], [*request], _ids(answers), [*unix],
        [*seconds], _refusals(answers), asked, said, cost,
    )  # fmt: skip


# All of a batch at once: a few calls for all in place of some steps for each, which would cost more than what they do here.


def _counts(
    tails: Sequence[bytes | None], targets: Sequence[Target], told: Mapping[bytes, wire.Told]
) -> tuple[list[int | None], list[int | None], list[float | None]]:
    """Tokens in, tokens out, dollars."""
    free = not any([target.price is not None for target in dict(zip(map(id, targets), targets, strict=True)).values()])
    free = free and b"\n".join(told).find(b"cost") < 0
    known: Mapping[Any, wire.Told] = told if free else _NOTHING
    try:
        prompts, _, answers = zip(*map(known.__getitem__, tails), strict=True)
        return [*prompts], [*answers], []
    except KeyError:  # some were not read yet, or have none
        pass
    asked, said, cost = list[int | None](), list[int | None](), list[float | None]()
    for tail, target in zip(tails, targets, strict=True):
        if tail in known:
            one = known[tail]
            asked.append(one[0])
            said.append(one[2])
            cost.append(None)
            continue
        usage = None if tail is None else wire.usage(tail)
        cost.append(None if tail is None else cost_of(usage, tail, target))
        asked.append(None if usage is None else usage.input + usage.cached + usage.cache_write)
        said.append(None if usage is None else usage.output + usage.reasoning)
    return asked, said, cost


def _ids(answers: Sequence[bytes]) -> list[bytes]:
    """The answers' own ids. Nearly all write them first, in plain characters, and one server's are equally long."""
    many, step = len(answers), answers[0].find(b'"', 7) + 1
    joined = b"".join([answer[:step] for answer in answers]) if step else b""
    if (
        step
        and len(joined) == many * step
        and joined[step - 1 :: step] == b'"' * many
        and all([joined[at::step] == _FIRST[at : at + 1] * many for at in range(7)])
        and joined.count(b'"') == 4 * many  # those of the beginning and that of the end
        and joined.find(b"\\") < 0
        and joined.isascii()
    ):
        return [joined[at + 7 : at + step - 1] for at in range(0, len(joined), step)]
    return [id_of(answer).encode() for answer in answers]


def _refusals(answers: Sequence[bytes]) -> list[bool]:
    """Whether the model refused, see `refused`; empty: no answer says that at all."""
    joined = b"\n".join(answers)
    if joined.rfind(b'"content_filter"') < 0:
        if joined.rfind(b'"refusal"') < 0 or joined.count(b'"refusal"') == joined.count(b'"refusal":null'):
            return []
    return [refused(answer) for answer in answers]


class Blocks:
    """Plain requests on their way to the file. The loop puts and gathers, the store's thread takes. `most`: requests that may wait;
    `other`: takes what cannot be read here, one by one."""

    __slots__ = ("_done", "_gathered", "_most", "_other", "_packed", "_waiting", "dropped", "put")

    def __init__(self, most: int, other: Callable[[Any], None]) -> None:
        self.dropped = 0
        self._most, self._other = most, other
        self._waiting: list[Plain] = []
        self.put = self._waiting.append  # takes what a request left; whoever puts sees to it that `gather` is called soon
        self._packed: deque[Packed] = deque()
        self._gathered = self._done = 0  # requests: the one counted on the loop, the other in the thread

    def __len__(self) -> int:
        return len(self._waiting) + self.packed

    @property
    def waiting(self) -> bool:
        """Whether there is anything to gather."""
        return bool(self._waiting)

    @property
    def packed(self) -> int:
        """Requests in blocks."""
        return self._gathered - self._done

    def gather(self, told: Mapping[bytes, wire.Told] = _NOTHING) -> None:
        """Makes a block of the requests that wait: about a microsecond for each. Never raises."""
        batch = self._waiting[:]
        if not batch:
            return
        self._waiting.clear()
        if self.packed + len(batch) > self._most:
            self.dropped += len(batch)
            return
        try:
            block = block_of(batch, told)
            packed = Packed(len(block.kind), max(block.unix), _packed.encode(block))
        except UNREADABLE:
            for plain in batch:
                for ended in ended_of(plain):
                    self._other(ended)
            return
        except Exception:  # who calls us has other work to do
            log.exception("a bug: requests of experiments")
            self.dropped += len(batch)
            return
        self._gathered += packed.requests
        self._packed.append(packed)

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
