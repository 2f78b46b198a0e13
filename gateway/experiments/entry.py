"""A request's part in experiments, on its way through the gateway: what its exchange holds, and tells what becomes of the answer.

What a key's requests have in common is made once (`Part`). Nearly all requests need no more than that; one of which something must be
remembered until its end gets an `Entry` of its own instead, a part that is the request's alone.
"""

from __future__ import annotations

from time import monotonic, time
from typing import TYPE_CHECKING, Protocol

import msgspec

from backends.types import Target
from gateway.experiments.ended import End, Ended, Whole, end_of, short
from gateway.experiments.plain import Kind, Marks, ended_plain, kept
from gateway.experiments.tap import Purse, Tap
from gateway.relay import StreamRelay
from gateway.sink import Sink
from routing.types import Route

if TYPE_CHECKING:
    from gateway.answering import Answering
    from gateway.exchange import Exchange
    from gateway.experiments.arms import Changes


class Store(Protocol):
    """Where tuples go (`gateway.experiments.store.TrialStore`)."""

    def put(self, ended: Ended) -> None: ...


Ends = tuple[Kind | None, int | Marks, bytes | None]  # the last of a `Plain`


class Part(msgspec.Struct, eq=False):
    """What experiments make of the requests of a key. `marks`: where they count; `route`: the way they are meant to go; `changes`: what
    is changed in them. Never changed. `kind` and `unit`: of who is in a single experiment; None and the marks: in more, or in none."""

    store: Store
    marks: Marks
    route: Route
    changes: Changes | None
    tap: Tap | None = None  # an entry's
    kind: Kind | None = None
    unit: int | Marks = ()

    def __post_init__(self) -> None:
        self.kind, self.unit = self.marks[0] if len(self.marks) == 1 else (None, self.marks)

    def own(self, exchange: Answering) -> Entry:
        """The exchange's own from now on."""
        entry = exchange.trial = Entry(self.store, self.marks, self.route, self.changes)
        return entry

    # --- what the exchange tells
    def cut(self, body: bytes, at: int) -> bytes | None:
        """What is kept of a whole answer like those before it, which was a good one then (`kept`). None: it is another. `at`: where its
        usage begins."""
        kind = self.kind
        if kind is None:
            return None
        shape = kind.shape  # this is `Shape.cut`, without its frame
        if body[shape.mark] == shape.sign and body[shape.lead] == shape.before:
            if body[body.find(b'"', shape.text) : at] == shape.after:
                return body[shape.id]
        return None

    def whole(self, exchange: Answering, seconds: float, tail: bytes | None, body: bytes, at: int) -> Ends:
        """Of another that is a good one, to the first attempt: the kind and the unit of its `Plain`, and what is kept of it. Its shape is
        learned. `tail`: the document with its usage, which begins `at`."""
        return self.kind, self.unit, kept(self.marks[0][0], body, at) if self.marks else None

    def answered(self, exchange: Answering, data: bytes) -> None:
        """The first content of a stream, or a whole answer."""
        self.own(exchange).answer = short(data)

    def failed(self, exchange: Answering, target: Target) -> None:
        """An attempt has failed."""
        self.own(exchange).lost = (target,)

    def over(self, exchange: Exchange, status: int) -> None:
        """The request has ended; whatever is still to be sent follows now."""
        self.own(exchange).over(exchange, status)


class Entry(Part, eq=False):
    """One request's part. Owned by its exchange."""

    answer: bytes = b""  # what is kept of it
    lost: tuple[Target, ...] = ()  # whose attempts have failed
    waiting: tuple[Ended, ...] = ()  # what is put when the tap has seen the end

    def own(self, exchange: Answering) -> Entry:
        return self

    def tapped(self, inner: Sink, api: str = "", format: bytes = b"") -> Sink:
        """The sink that this request's answer must pass. `format`: see `must_fit`, where there is one."""
        self.tap = Tap(inner, self)
        if format:
            self.must_fit(api, format)
        return self.tap

    def must_fit(self, api: str, format: bytes) -> None:
        """The answer will be checked against a schema. `api`: how its client reads it."""
        if self.tap is not None:
            self.tap.whole = Whole(api, format)

    # --- what the exchange tells
    def cut(self, body: bytes, at: int) -> bytes | None:
        return None if self.tap is not None else super().cut(body, at)

    def whole(self, exchange: Answering, seconds: float, tail: bytes | None, body: bytes, at: int) -> Ends:
        if self.tap is None:
            return super().whole(exchange, seconds, tail, body, at)
        # The tap tells of this one when all has been sent.
        unix, answer = exchange.received + time() - monotonic(), short(body)
        target = exchange.decision.target
        self.waiting = (
            *[ended_plain(mark, exchange.id, unix, seconds, target, tail, answer) for mark in self.marks],
        )  # fmt: skip
        return None, (), None

    def answered(self, exchange: Answering, data: bytes) -> None:
        self.answer = short(data)

    def failed(self, exchange: Answering, target: Target) -> None:
        self.lost = (*self.lost, target)

    def over(self, exchange: Exchange, status: int) -> None:
        guide, relay = exchange.guide, exchange.relay
        deserted = guide is not None and guide.shared is not None and guide.shared.own is None  # it went on for others
        end: End = "gone" if deserted else end_of(exchange.last_fault)
        if isinstance(relay, StreamRelay) and relay.final:
            self.answer = b"%b\n%b" % (self.answer, relay.final[:1024])
        target = exchange.decision.target
        elsewhere = exchange.route is not self.route or any(_place(lost) != _place(target) for lost in self.lost)
        seconds = monotonic() - exchange.received
        unix = time() - seconds
        made: list[Ended] = [
            (
                (kind.experiment, kind.epoch, kind.arm), unit, kind.tenant, exchange.id, unix, seconds, exchange.ttft, exchange.stream,
                status, end, target, elsewhere, exchange.tail, self.answer, None,
            )
            for kind, unit in self.marks
        ]  # fmt: skip
        if self.tap is None or deserted or status == 499:
            for ended in made:
                self.store.put(ended)
        else:
            self.waiting = (*made,)

    def told(self, answer: bytes, whole: Whole | None, size: int) -> None:
        """The tap has passed on the end of the answer."""
        waiting, self.waiting = self.waiting, ()
        if whole is not None and not PURSE.take(size, whole):
            whole = None
        for ended in waiting:
            self.store.put((*ended[:13], answer, whole))


PURSE = Purse()


def _place(target: Target) -> tuple[str, str]:
    return target.backend, target.model
