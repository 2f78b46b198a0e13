"""Every interleaving of answers on pooled connections, against a plain model: each request gets its own answer or a fault, never
a byte of another's, and only a connection that stands between two messages is used again."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backends.http import Clients
from backends.sent import Sent
from backends.types import Fault
from tests.backends.played import OK, REQUEST, Played, T, Wire
from tests.backends.seen import Seen

FRAMES = (b"%x\r\n%b\r\n", b"%X\r\n%b\r\n", b"0%x\r\n%b\r\n", b"%x;ext=1\r\n%b\r\n")
TAILS = (b"", b"", b"", b"\r\n", b"H", b"HTTP/1.1 500 No\r\nx-of: another\r\n", b"garbage", OK, OK[:-1])
HEADS = (b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nx: y\r\n", b"HTTP/1.1 500 No\r\n")
CLOSE = b"connection: close\r\n"
lengths = st.sampled_from([0, 1, 4, 60, 3000])
whiches = st.integers(0, 50)


class Acting(Seen):
    """Does one thing from within a callback: `act` at the call of that number."""

    def __init__(self, act: str, at: int) -> None:
        super().__init__()
        self.act, self.at = act, at
        self.flight: Sent | None = None
        self.left = False

    def _called(self, name: str) -> None:
        assert not self.left, f"{name} after it was cancelled"
        super()._called(name)
        if len(self.calls) != self.at or self.flight is None or name in ("whole", "end", "fault"):
            return
        if self.act == "cancel":
            self.left = True
            self.flight.cancel()
        elif self.act == "pause":
            self.flight.pause()


@dataclass
class Asked:
    """What the model knows of one connection's request."""

    seen: Acting
    flight: Sent
    reads: list[bytes] = field(default_factory=list)  # of its answer, still to come
    planned: bool = False
    status: int = 0
    body: bytes = b""
    keeps: bool = True
    by_close: bool = False  # its answer ends with its connection
    tail: bytes = b""  # bytes after the answer that come in the same read as its end


class Connections(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.pool = Played(Clients(self.loop))
        self.asked: dict[Wire, Asked] = {}
        self.late: dict[Wire, bytes] = {}  # what an idle connection will still bring although nobody asks
        self.idle: list[Wire] = []  # as the pool should have them
        self.count = 0

    def pick(self, which: int) -> tuple[Wire, Asked]:
        wire = [*self.asked][which % len(self.asked)]
        return wire, self.asked[wire]

    @precondition(lambda self: len(self.asked) < 4)
    @rule(act=st.sampled_from(["", "", "", "pause", "cancel"]), at=st.integers(1, 4))
    def ask(self, act: str, at: int) -> None:
        seen = Acting(act, at)
        flight = seen.flight = self.pool.send(REQUEST, seen, T)
        assert not seen.calls
        if isinstance(flight.task, asyncio.Task):
            assert not self.idle, "there was an idle connection"
            self.loop.run_until_complete(asyncio.wait([flight.task]))
            wire = self.pool.wires[-1]
        else:
            wire = self.idle.pop()
        assert flight.conn is wire.protocol
        self.late.pop(wire, None)
        self.asked[wire] = Asked(seen, flight)

    @precondition(lambda self: any(not a.planned for a in self.asked.values()))
    @rule(
        which=whiches, head=st.sampled_from(HEADS), how=st.sampled_from(["length", "length", "chunked", "closes", "by close"]),
        length=lengths, frames=st.lists(st.sampled_from(FRAMES), min_size=1, max_size=5), tail=st.sampled_from(TAILS),
        interim=st.sampled_from([0, 0, 0, 1]),
        cuts=st.one_of(st.just([]), st.lists(st.integers(0, 4000), max_size=8)), at_frames=st.booleans(),
    )  # fmt: skip
    def plan(
        self,
        which: int,
        head: bytes,
        how: str,
        length: int,
        frames: list[bytes],
        tail: bytes,
        interim: int,
        cuts: list[int],
        at_frames: bool,
    ) -> None:
        """What the upstream will answer, and in what reads."""
        asked = [a for a in self.asked.values() if not a.planned]
        one = asked[which % len(asked)]
        self.count += 1
        token = b"<%d>" % self.count
        one.planned, one.status = True, int(head[9:12])
        one.body = token + b"x" * length
        one.keeps, one.by_close = how != "closes" and how != "by close", how == "by close"
        bounds: list[int] = []
        raw = b"HTTP/1.1 100 Continue\r\nx-of: another\r\n\r\n" * interim + head
        if how == "chunked":
            raw += b"transfer-encoding: chunked\r\n\r\n"
            one.body = b""
            for n, frame in enumerate(frames):
                bounds.append(len(raw))
                part = token + b"y" * (length + n)
                one.body += part
                raw += frame % (len(part), part)
            bounds.append(len(raw))
            raw += b"0\r\nx-trailer: of another\r\n\r\n"
        elif how == "by close":
            raw += b"\r\n" + one.body
            tail = b""
        else:
            raw += (CLOSE if how == "closes" else b"") + b"content-length: %d\r\n\r\n" % len(one.body) + one.body
        end, raw = len(raw), raw + tail
        places = sorted({0, len(raw), *(c % len(raw) for c in cuts), *(bounds if at_frames else ())})
        one.reads = [raw[a:b] for a, b in itertools.pairwise(places)]
        one.tail = raw[end : next(p for p in places if p >= end)]

    @precondition(lambda self: any(a.planned for a in self.asked.values()))
    @rule(which=whiches)
    def read(self, which: int) -> None:
        """One read of one of the answers under way."""
        wires = [w for w, a in self.asked.items() if a.planned]
        wire = wires[which % len(wires)]
        one = self.asked[wire]
        if not wire.reading:
            one.flight.resume()
        assert wire.protocol is not None
        if not one.reads:  # only its end is still to come
            wire.protocol.eof_received()
            self.lost(wire)
            assert one.seen.left or (one.seen.outcome, one.seen.body) == ("ok", one.body)
            return
        wire.protocol.data_received(one.reads.pop(0))
        self.judge(wire, one)

    def judge(self, wire: Wire, one: Asked) -> None:
        """What one read may have brought about."""
        seen = one.seen
        assert one.body.startswith(seen.body) and (not seen.status or seen.status == one.status)
        assert b"x-of" not in seen.headers and b"x-trailer" not in seen.headers
        if seen.left:
            assert wire.aborted
            self.lost(wire)
        elif seen.over:
            self.over(wire, one)
        elif not one.by_close:
            assert one.reads, f"all was read, and nothing ended: {seen.calls}"

    def over(self, wire: Wire, one: Asked) -> None:
        if b"\r\n\r\n" in one.tail and one.keeps:  # where the connection closes the parser does not read on
            assert one.seen.outcome == "bad_framing" and wire.aborted
        else:
            assert (one.seen.outcome, one.seen.status, one.seen.body) == ("ok", one.status, one.body)
        if one.keeps and one.tail.strip(b"\r\n") == b"" and one.seen.outcome == "ok":
            assert not wire.closed and wire.reading
            del self.asked[wire]
            self.idle.append(wire)
            self.late[wire] = b"".join(one.reads)
        else:
            assert wire.closed
            self.lost(wire)

    def lost(self, wire: Wire) -> None:
        wire.closed = True
        self.asked.pop(wire, None)
        self.late.pop(wire, None)
        if wire in self.idle:
            self.idle.remove(wire)
        assert wire.protocol is not None
        wire.protocol.connection_lost(None)

    @precondition(lambda self: any(self.late.values()))
    @rule()
    def come_late(self) -> None:
        """Bytes that nobody asked for, on a connection that idles: it goes, and nobody sees them."""
        wire = next(w for w, data in self.late.items() if data)
        assert wire.protocol is not None
        wire.protocol.data_received(self.late[wire])
        assert wire.aborted
        self.lost(wire)

    @precondition(lambda self: self.asked)
    @rule(which=whiches)
    def cancel(self, which: int) -> None:
        wire, one = self.pick(which)
        one.seen.left = True
        one.flight.cancel()
        assert wire.aborted
        self.lost(wire)

    @precondition(lambda self: self.asked)
    @rule(which=whiches)
    def pause(self, which: int) -> None:
        wire, one = self.pick(which)
        one.flight.pause()
        assert not wire.reading

    @precondition(lambda self: self.asked)
    @rule(which=whiches)
    def late_fault(self, which: int) -> None:
        wire, one = self.pick(which)
        one.flight.fail(Fault("timeout", "late", code="late"))
        assert one.seen.outcome == "late" and wire.aborted
        self.lost(wire)

    @precondition(lambda self: self.asked)
    @rule(which=whiches)
    def cut(self, which: int) -> None:
        """The upstream goes away: a fault, or, where it has kept the connection and not answered, once more on another."""
        wire, one = self.pick(which)
        used = wire.protocol is not None and wire.protocol.reused
        started = bool(one.planned and (wire.protocol is None or wire.protocol.answered))
        self.lost(wire)
        if used and not started:
            assert not one.seen.calls and isinstance(one.flight.task, asyncio.Task)
            self.loop.run_until_complete(asyncio.wait([one.flight.task]))
            self.asked[self.pool.wires[-1]] = Asked(one.seen, one.flight)
        else:
            assert one.seen.left or one.seen.outcome == "connection_lost"

    @precondition(lambda self: self.idle)
    @rule(which=whiches)
    def close_idle(self, which: int) -> None:
        wire = self.idle[which % len(self.idle)]
        assert wire.protocol is not None
        wire.protocol.eof_received()
        self.lost(wire)

    @invariant()
    def the_pool_agrees(self) -> None:
        assert self.pool.idle == [w.protocol for w in self.idle]
        assert {w.protocol for w in self.asked} == {f.conn for f in self.pool.busy}
        for wire in self.idle:
            conn = wire.protocol
            assert conn is not None and conn.flight is None and wire.reading and not wire.closed
            assert not (conn.head or conn.complete or conn.between or conn.parts or conn.headers or conn.answered)

    def teardown(self) -> None:
        for wire in [*self.asked]:
            self.asked[wire].seen.left = True
            self.asked[wire].flight.cancel()
            self.lost(wire)
        assert not self.pool.busy
        self.loop.close()


TestConnections = Connections.TestCase
TestConnections.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
