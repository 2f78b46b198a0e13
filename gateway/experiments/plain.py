"""The most common requests of experiments, whole good answers to the first attempt: read a hundred at a time, while they are still in the
processor's caches, into blocks of bytes that the store's thread only has to write.

On the loop, after the recorder has read the same answers' usage (`Recorder.after`): about a microsecond a request. A thread that reads them
one by one would cost more than that in switches alone, and what waits for it would push all else out of the caches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic, time
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from backends import wire
from backends.types import Target
from gateway.experiments.ended import HEAD, Ended, cost_of, id_of, refused, short
from routing.experiments.words import Block

UNREADABLE: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, msgspec.MsgspecError)
_NOTHING: Final[Mapping[bytes, wire.Told]] = MappingProxyType({})
_packed = msgspec.msgpack.Encoder()
_FIRST, _SPOKEN, _USAGE, _BACKSLASH = b'{"id":"', b'"role":"assistant","content":"', b',"usage":', 0x5C
log = logging.getLogger("pointsman.experiments")


class Shape(msgspec.Struct, frozen=True, eq=False):
    """An answer of one text that is no refusal and begins with its id, without what differs from one to the next: its id, its text, its
    usage. `before`: its bytes from its choices (`begin`) to the beginning of the text; `after`: those from the text's end to the usage.
    Servers say in their choices whether they refuse; nobody looks for that before them, or behind the usage."""

    begin: int = 0
    text: int = 0
    before: bytes = b"\0"  # as in none
    after: bytes = b"\0"

    def cut(self, answer: bytes, tail: bytes) -> bytes | None:
        """What there is of an answer like this before its choices, which has its id. None: it is another. `tail`: the document with its
        usage. The text is passed over in one step, however long it is."""
        text = self.text
        # The first unescaped quotation mark ends the text. One behind a backslash ends this search too; what follows is then not `after`.
        if answer[self.begin : text] == self.before and answer[answer.find(b'"', text) : 9 - len(tail)] == self.after:
            return answer[: self.begin]
        return None


ANY: Final = Shape()


class Kind(msgspec.Struct, eq=False):
    """What plain requests have in common, and their unit apart. Known by identity: whoever makes equal ones twice writes them twice.
    `shape`: of answers that came lately."""

    experiment: str
    epoch: int
    arm: str
    tenant: str
    shape: Shape = ANY


# its kind, its unit, our id, arrival (monotonic seconds), seconds to the end, who answered, the document with its usage, the answer as
# `kept`, and whether it was cut: what an `Ended` has more is as in any other plain one. Once for each experiment that it is in.
Plain = tuple[Kind, int, bytes, float, float, Target, bytes | None, bytes, bool]


class Packed(NamedTuple):
    """A block as bytes: how many requests (once for each experiment), when the last of them arrived."""

    requests: int
    unix: float
    body: bytes


def kept(kind: Kind, answer: bytes, tail: bytes | None) -> tuple[bytes, bool]:
    """What is kept of an answer, as much as its id and whether it is a refusal ask for; and whether that was `cut`. Learns the shape of
    those that come."""
    if tail is not None:
        cut = kind.shape.cut(answer, tail)
        if cut is not None:
            return cut, True
        found = shape_of(answer, tail)
        if found is not ANY:
            kind.shape = found
    return short(answer), False


def shape_of(answer: bytes, tail: bytes) -> Shape:
    """The shape of an answer, ANY where it has none, or one of more than some hundred bytes. `tail`: the document with its usage. Pure."""
    begin, spoken = answer.find(b',"choices":[', 0, HEAD), answer.find(_SPOKEN, 0, HEAD)
    if not 0 < begin < spoken or not answer.startswith(_FIRST):
        return ANY
    text, usage = spoken + len(_SPOKEN), len(answer) + len(_USAGE) - len(tail)
    end = answer.find(b'"', text)
    if answer[end - 1] == _BACKSLASH or usage - end > HEAD:  # no end of the text, or there are more choices behind it
        return ANY
    before, after = answer[begin:text], answer[end:usage]
    return Shape(begin, text, before, after) if after.endswith(_USAGE) and not refused(before + after) else ANY


def ended_of(plain: Plain, epoch: float = 0.0) -> Ended:
    """The same as any other request leaves it. `epoch`: what to add to monotonic seconds to get unix seconds."""
    kind, unit, request, received, seconds, target, tail, answer, cut = plain
    if cut:
        answer += b"}"  # a document again
    return (
        (kind.experiment, kind.epoch, kind.arm), unit, kind.tenant, request, received + epoch, seconds, None, False, 200, "", target, False,
        tail, answer, None,
    )  # fmt: skip


def block_of(batch: Sequence[Plain], told: Mapping[bytes, wire.Told] = _NOTHING, epoch: float = 0.0) -> Block:
    """What requests were, at least one. `told`: token counts of answers by the document with their usage; what is not in it is read here.
    `epoch`: as for `ended_of`. Pure."""
    kind, unit, request, received, seconds, targets, tails, answers, cut = zip(*batch, strict=True)
    kinds = {one: at for at, one in enumerate(dict.fromkeys(kind))}
    asked, said, cost = _counts(tails, targets, told)
    refusals = _refusals(answers) if False in cut else []
    return Block(
        [(one.experiment, one.epoch, one.arm, one.tenant) for one in kinds], [*map(kinds.__getitem__, kind)], [*unit], [*request],
        _ids(answers, cut), [at + epoch for at in received], [*seconds], refusals, asked, said, cost,
    )  # fmt: skip


# All of a batch at once: a few calls for all in place of some steps for each, which would cost more than what they do here.


def _counts(
    tails: Sequence[bytes | None], targets: Sequence[Target], told: Mapping[bytes, wire.Told]
) -> tuple[list[int | None], list[int | None], list[float | None]]:
    """Tokens in, tokens out, dollars."""
    free = not any([target.price is not None for target in dict(zip(map(id, targets), targets, strict=True)).values()])
    free = free and b"\n".join(told).rfind(b"cost") < 0
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


def _ids(answers: Sequence[bytes], cut: Sequence[bool]) -> list[bytes]:
    """The answers' own ids. Nearly all write them first, in plain characters, and one server's are equally long."""
    many, step = len(answers), answers[0].find(b'"', 7) + 1
    heads = b"".join([answer[:step] for answer in answers]) if step else b""
    quotes = b'"' * many
    if (
        step
        and len(heads) == many * step
        # Exactly four quotation marks each, of which three are those of `_FIRST`: it begins each of them.
        and heads[step - 1 :: step] == quotes
        and heads[1::step] == quotes
        and heads[6::step] == quotes
        and heads.count(_FIRST) == many
        and heads.count(b'"') == 4 * many
        and heads.find(b"\\") < 0
        and heads.isascii()
    ):
        return [heads[at : at + step - 8] for at in range(7, len(heads), step)]
    return [id_of(answer + b"}" if part else answer).encode() for answer, part in zip(answers, cut, strict=True)]


def _refusals(answers: Sequence[bytes]) -> list[bool]:
    """Whether the model refused, see `refused`; empty: none did."""
    joined = b"\n".join(answers)
    if joined.rfind(b'"content_filter"') < 0:  # from the end: much the faster way in CPython
        if joined.rfind(b'"refusal"') < 0 or joined.count(b'"refusal"') == joined.count(b'"refusal":null'):
            return []
    return [refused(answer) for answer in answers]


class Blocks:
    """Plain requests on their way to the file. The loop puts and gathers, the store's thread takes. `most`: requests that may wait;
    `other`: takes what cannot be read here, one by one; `epoch`: what to add to monotonic seconds to get unix seconds."""

    __slots__ = ("_done", "_epoch", "_gathered", "_most", "_other", "_packed", "_waiting", "dropped", "put")

    def __init__(self, most: int, other: Callable[[Any], None], epoch: Callable[[], float] = lambda: time() - monotonic()) -> None:
        self.dropped = 0
        self._most, self._other, self._epoch = most, other, epoch
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
        epoch = self._epoch()
        try:
            block = block_of(batch, told, epoch)
            packed = Packed(len(block.kind), max(block.unix), _packed.encode(block))
        except UNREADABLE:
            for plain in batch:
                self._other(ended_of(plain, epoch))
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
