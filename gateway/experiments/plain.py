"""The most common requests of experiments, whole good answers to the first attempt: read some hundred at a time, while they are still in
the processor's caches, into blocks of bytes that the store's thread only has to write.

On the loop, with the recorder, which hands them on as it counts them: less than a microsecond a request. A thread that reads them one by
one would cost more than that in switches alone, and what waits for it would push all else out of the caches.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, time
from typing import Any, Final, NamedTuple, cast

import msgspec

from backends import wire
from backends.types import Target
from gateway.experiments.ended import HEAD, Ended, cost_of, id_of, refused, short
from gateway.record import Columns, Plain
from routing.experiments.words import Block

UNREADABLE: Final = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, msgspec.MsgspecError)
_packed = msgspec.msgpack.Encoder()
_BEGIN, _CHOICES, _SPOKEN, _BACKSLASH = b'{"id":"', b',"choices":[', b'"role":"assistant","content":"', 0x5C
QUOTE: Final = 0x22  # ends what is kept of an answer that is cut; all others end in a brace
_DIGIT: Final = re.compile(rb"[0-9]")
log = logging.getLogger("pointsman.experiments")


class Shape(msgspec.Struct, frozen=True, eq=False):
    """An answer of one text that is no refusal and begins with its id, without what differs from one to the next: its id, its text, its
    usage. `id`: where its id is, with the quotation mark behind it. `sign`: its bytes from that mark (`mark`) to the first digit or to its
    choices, so that what else a server writes first, or an id of another length, is not taken for one. `before`: those from its choices to
    the beginning of the text (`lead`, `text`); `after`: those from the text's end to the usage. Servers say in their choices whether they
    refuse; nobody looks for that before them, or behind the usage. Slices are made once, since making them costs as much as what they
    get."""

    id: slice = slice(0)
    mark: slice = slice(0)
    lead: slice = slice(0)
    text: int = 0
    sign: bytes = b"\0"  # as in none
    before: bytes = b""
    after: bytes = b""

    def cut(self, answer: bytes, at: int) -> bytes | None:
        """The id of an answer like this, and the quotation mark behind it. None: it is another. `at`: where its usage begins. The text
        is passed over in one step, however long it is."""
        # The first unescaped quotation mark ends the text. One behind a backslash ends this search too; what follows is then not `after`.
        if answer[self.mark] == self.sign and answer[self.lead] == self.before:
            if answer[answer.find(b'"', self.text) : at] == self.after:
                return answer[self.id]
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
    """A block as bytes: how many requests (once for each experiment), when the last of them ended."""

    requests: int
    unix: float
    body: bytes


def kept(kind: Kind, answer: bytes, at: int) -> bytes:
    """What is kept of an answer: as much as its id and whether it is a refusal ask for. Of one like those before it: its id and a
    quotation mark. Learns the shape of those that come. `at`: where the usage begins, as the last that it tells; less than 1: nowhere."""
    if at > 0:
        cut = kind.shape.cut(answer, at)
        if cut is not None:
            return cut
        found = shape_of(answer, at)
        if found is not ANY:
            kind.shape = found
    return short(answer)


def shape_of(answer: bytes, at: int) -> Shape:
    """The shape of an answer, ANY where it has none, or one of more than some hundred bytes. `at`: where its usage begins. Pure."""
    quote, begin, spoken = answer.find(b'"', 7), answer.find(_CHOICES, 0, HEAD), answer.find(_SPOKEN, 0, HEAD)
    if not 0 < quote < begin < spoken or not answer.startswith(_BEGIN) or answer.find(b"\\", 0, quote) > 0:
        return ANY
    text = spoken + len(_SPOKEN)
    end = answer.find(b'"', text)
    if not 0 < end < at or answer[end - 1] == _BACKSLASH or at - end > HEAD:  # no end of the text, or there are more choices behind it
        return ANY
    before, after = answer[begin:text], answer[end:at]
    if refused(before + after):
        return ANY
    digit = _DIGIT.search(answer, quote, begin)
    mark = slice(quote, begin if digit is None else digit.start())
    return Shape(slice(len(_BEGIN), quote + 1), mark, slice(begin, text), text, answer[mark], before, after)


def ended_plain(
    mark: tuple[Kind, int], request: bytes, unix: float, seconds: float, target: Target, tail: bytes | None, answer: bytes
) -> Ended:
    """What a plain request leaves that goes its own way. `tail`: the document with its usage; `answer`: what is kept of it."""
    kind, unit = mark
    return (
        (kind.experiment, kind.epoch, kind.arm), unit, kind.tenant, request, unix, seconds, None, False, 200, "", target, False, tail,
        answer, None,
    )  # fmt: skip


def ended_of(plain: Sequence[Any], epoch: float = 0.0) -> list[Ended]:
    """What a request (a `Plain`) leaves in the experiments that it is in. `epoch`: what to add to monotonic seconds to get unix
    seconds."""
    decision, _, _, _, request, received, seconds, _, tail, kind, unit, answer = plain
    if answer:
        answer = _whole(answer)
    return [ended_plain(mark, request, received + epoch, seconds, decision.target, tail, answer) for mark in marks_of(kind, unit)]


def marks_of(kind: Kind | None, unit: int | Marks) -> Marks:
    """Where a request counts, by these fields of a `Plain`."""
    if kind is None:
        return cast("Marks", unit)
    return ((kind, cast("int", unit)),)


def block_of(columns: Columns, told: Sequence[wire.Told | None], *, priced: bool, epoch: float = 0.0) -> Block | None:
    """What requests to one target were; None: none of them is in an experiment. `told`: the token counts of each; None: it has none that
    can be read. `priced`: it may be known what some of them cost. `epoch`: as for `ended_of`. Pure."""
    kinds = {one: at for at, one in enumerate(dict.fromkeys(columns[9]))}
    if None in kinds:  # not each is in one, as usual
        rows = [
            ((*row[:9], *mark, row[11]), one)
            for row, one in zip(zip(*columns, strict=True), told, strict=True) for mark in marks_of(row[9], row[10])
        ]  # fmt: skip
        if not rows:
            return None
        columns, told = tuple(zip(*[row for row, _ in rows], strict=True)), [one for _, one in rows]
        kinds = {one: at for at, one in enumerate(dict.fromkeys(columns[9]))}
    decisions, _, _, _, request, received, seconds, _, tails, kind, unit, answers = columns
    asked, said = _counts(told)
    heads, step = _heads(answers)
    return Block(
        [(one.experiment, one.epoch, one.arm, one.tenant) for one in kinds], [*map(kinds.__getitem__, kind)], unit, request,
        [] if heads else _ids(answers), received, seconds, [] if heads else _refusals(answers), asked, said,
        _costs(tails, decisions[0].target) if priced else [], epoch, heads, step,
    )  # fmt: skip


# All of a batch at once: a few calls for all in place of some steps for each, which would cost more than what they do here.


def _counts(told: Sequence[wire.Told | None]) -> tuple[Sequence[int | None], Sequence[int | None]]:
    """Tokens in, tokens out."""
    with contextlib.suppress(TypeError):  # as where one is None; looking for it first would cost more than the rest
        asked, _, said = zip(*cast("Sequence[wire.Told]", told), strict=True)
        return asked, said
    return [None if one is None else one[0] for one in told], [None if one is None else one[2] for one in told]


def _costs(tails: Sequence[bytes | None], target: Target) -> list[float | None]:
    """Dollars."""
    return [None if tail is None else cost_of(wire.usage(tail), tail, target) for tail in tails]


def _heads(answers: Sequence[bytes]) -> tuple[bytes, int]:
    """What was kept of answers in one, and of how many bytes each, if all were cut and are equally long: one server's ids are. Else
    nothing."""
    heads, many, step = b"".join(answers), len(answers), len(answers[0])
    # Each has a quotation mark as its end and nowhere else.
    if len(heads) == many * step and heads.count(b'"') == many and heads[step - 1 :: step] == b'"' * many:
        if heads.find(b"\\") < 0 and heads.isascii():
            return heads, step
    return b"", 0


def _ids(answers: Sequence[bytes]) -> list[bytes]:
    """The answers' own ids."""
    return [id_of(_whole(answer)).encode() for answer in answers]


def _whole(answer: bytes) -> bytes:
    """What is kept of an answer, a document again where it was cut."""
    return b"%b%b}" % (_BEGIN, answer) if answer and answer[-1] == QUOTE else answer


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
    def add(self, columns: Columns, told: Sequence[wire.Told | None], *, priced: bool) -> bool:
        """Makes a block of those that are in experiments: less than a microsecond for each. Never raises."""
        if len(self) + len(told) > self._most:
            self._lost(columns)
            return True
        try:
            epoch = self._epoch()
            block = block_of(columns, told, priced=priced, epoch=epoch)
            if block is None:
                return False
            packed = Packed(len(block.kind), block.unix[-1] + block.seconds[-1] + epoch, _packed.encode(block))
        except UNREADABLE:
            for plain in zip(*columns, strict=True):
                for ended in ended_of(plain, epoch):
                    self._other(ended)
            return True
        except Exception:  # who calls us has other work to do
            log.exception("a bug: requests of experiments")
            self._lost(columns)
            return True
        self._added += packed.requests
        self._packed.append(packed)
        return not block.heads

    def missed(self, plain: Plain) -> None:
        self.dropped += len(marks_of(plain[9], plain[10]))

    def lasting(self, batch: list[Plain]) -> list[Plain]:
        """Without the text of answers: of one that was cut there is only its id."""
        return [plain if not (left := plain[11]) or left[-1] == QUOTE else (*plain[:11], None) for plain in batch]

    def _lost(self, columns: Columns) -> None:
        self.dropped += sum(map(len, map(marks_of, columns[9], columns[10])))

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
