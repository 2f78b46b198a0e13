"""The most common requests of experiments, whole good answers to the first attempt: read a hundred at a time, while they are still in the
processor's caches, into blocks of bytes that the store's thread only has to write.

On the loop, with the recorder, which hands them on as it counts them: less than a microsecond a request. A thread that reads them one by
one would cost more than that in switches alone, and what waits for it would push all else out of the caches.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from backends import wire
from backends.types import Target
from gateway.experiments.ended import HEAD, Ended, cost_of, id_of, refused, short
from gateway.record import Plain
from routing.experiments.words import Block

if TYPE_CHECKING:
    from gateway.experiments.entry import Part

UNREADABLE: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, msgspec.MsgspecError)
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


Marks = tuple[tuple[Kind, int], ...]  # where a request counts: of each experiment its kind and its unit


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


def ended_plain(
    mark: tuple[Kind, int], request: bytes, unix: float, seconds: float, target: Target, tail: bytes | None, answer: bytes
) -> Ended:
    """What a plain request leaves that goes its own way. `tail`: the document with its usage; `answer`: what is kept of it."""
    kind, unit = mark
    return (
        (kind.experiment, kind.epoch, kind.arm), unit, kind.tenant, request, unix, seconds, None, False, 200, "", target, False, tail,
        answer, None,
    )  # fmt: skip


def ended_of(plain: Plain, epoch: float = 0.0) -> list[Ended]:
    """What a request leaves in the experiments that it is in. `epoch`: what to add to monotonic seconds to get unix seconds."""
    decision, _, _, _, request, received, seconds, _, tail, part, answer, cut = plain
    if cut:
        answer += b"}"  # a document again
    marks = () if part is None else part.marks
    return [ended_plain(mark, request, received + epoch, seconds, decision.target, tail, answer) for mark in marks]


def block_of(group: Sequence[Plain], told: Sequence[wire.Told | None], epoch: float = 0.0) -> Block | None:
    """What requests to one target were; None: none of them is in an experiment. `told`: the token counts of each; None: it has none that
    can be read. `epoch`: as for `ended_of`. Pure."""
    columns = [*zip(*group, strict=True)]
    kind, unit, rows, counts = _marked(group, columns[9], told)
    if not kind:
        return None
    kinds = {one: at for at, one in enumerate(dict.fromkeys(kind))}
    _, _, _, _, request, received, seconds, _, tails, _, answers, cut = columns if rows is group else zip(*rows, strict=True)
    asked, said, cost = _counts(tails, rows[0][0].target, counts)
    refusals = _refusals(answers) if False in cut else []
    return Block(
        [(one.experiment, one.epoch, one.arm, one.tenant) for one in kinds], [*map(kinds.__getitem__, kind)], unit, [*request],
        _ids(answers, cut), [at + epoch for at in received], [*seconds], refusals, asked, said, cost,
    )  # fmt: skip


# All of a batch at once: a few calls for all in place of some steps for each, which would cost more than what they do here.


def _marked(
    group: Sequence[Plain], parts: Sequence[Part | None], told: Sequence[wire.Told | None]
) -> tuple[list[Kind], list[int], Sequence[Plain], Sequence[wire.Told | None]]:
    """Each request, and its token counts, once for each experiment that it is in."""
    if None not in parts:
        every = cast("Sequence[Part]", parts)
        kinds = [part.kind for part in every]
        if None not in kinds:  # the usual case: each is in one
            return cast("list[Kind]", kinds), [part.unit for part in every], group, told
    wide = [(*mark, plain, one) for plain, part, one in zip(group, parts, told, strict=True) if part is not None for mark in part.marks]
    kind, unit, rows, counts = zip(*wide, strict=True) if wide else ((), (), (), ())
    return [*kind], [*unit], rows, counts


def _counts(
    tails: Sequence[bytes | None], target: Target, told: Sequence[wire.Told | None]
) -> tuple[list[int | None], list[int | None], list[float | None]]:
    """Tokens in, tokens out, dollars."""
    asked, said = [None if one is None else one[0] for one in told], [None if one is None else one[2] for one in told]
    if target.price is None and b"\n".join(filter(None, tails)).rfind(b"cost") < 0:
        return asked, said, []
    usages = [None if tail is None else wire.usage(tail) for tail in tails]
    return asked, said, [None if tail is None else cost_of(usage, tail, target) for usage, tail in zip(usages, tails, strict=True)]


def _ids(answers: Sequence[bytes], cut: Sequence[bool]) -> list[bytes]:
    """The answers' own ids. Nearly all write them first, in plain characters, and one server's are equally long."""
    many, step, end = len(answers), len(answers[0]), answers[0].find(b'"', 7)
    if len(set(map(len, answers))) == 1:
        heads = b"".join(answers)
    else:  # without what follows their ids
        step = end + 1
        heads = b"".join([answer[:step] for answer in answers])
    if end > 0 and len(heads) == many * step and heads[end::step] == b'"' * many:
        if all(heads[at::step] == _FIRST[at : at + 1] * many for at in range(7)):  # each begins with `_FIRST`
            ids = [heads[at : at + end - 7] for at in range(7, len(heads), step)]
            joined = b"".join(ids)
            if joined.find(b'"') < 0 and joined.find(b"\\") < 0 and joined.isascii():
                return ids
    return [id_of(answer + b"}" if part else answer).encode() for answer, part in zip(answers, cut, strict=True)]


def _refusals(answers: Sequence[bytes]) -> list[bool]:
    """Whether the model refused, see `refused`; empty: none did."""
    joined = b"\n".join(answers)
    if joined.rfind(b'"content_filter"') < 0:  # from the end: much the faster way in CPython
        if joined.rfind(b'"refusal"') < 0 or joined.count(b'"refusal"') == joined.count(b'"refusal":null'):
            return []
    return [refused(answer) for answer in answers]


class Blocks:
    """Plain requests on their way to the file. The loop adds, the store's thread takes. `most`: requests that may wait; `other`: takes
    what cannot be read here, one by one; `epoch`: what to add to monotonic seconds to get unix seconds."""

    __slots__ = ("_added", "_done", "_epoch", "_most", "_other", "_packed", "dropped")

    def __init__(self, most: int, other: Callable[[Any], None], epoch: Callable[[], float] = lambda: time() - monotonic()) -> None:
        self.dropped = 0
        self._most, self._other, self._epoch = most, other, epoch
        self._packed: deque[Packed] = deque()
        self._added = self._done = 0  # requests: the one counted on the loop, the other in the thread

    def __len__(self) -> int:
        """Requests that wait."""
        return self._added - self._done

    # --- gateway.recorder.Hears
    def add(self, group: Sequence[Plain], told: Sequence[wire.Told | None]) -> None:
        """Makes a block of those that are in experiments: less than a microsecond for each. Never raises."""
        if len(self) + len(group) > self._most:
            self.missed(group)
            return
        epoch = self._epoch()
        try:
            block = block_of(group, told, epoch)
            if block is None:
                return
            packed = Packed(len(block.kind), max(block.unix), _packed.encode(block))
        except UNREADABLE:
            for plain in group:
                for ended in ended_of(plain, epoch):
                    self._other(ended)
            return
        except Exception:  # who calls us has other work to do
            log.exception("a bug: requests of experiments")
            self.missed(group)
            return
        self._added += packed.requests
        self._packed.append(packed)

    def missed(self, group: Sequence[Plain]) -> None:
        self.dropped += sum(len(plain[9].marks) for plain in group if plain[9] is not None)

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
