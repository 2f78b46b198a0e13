"""A chunk passes unread when it is one event with what was taught around a text, and nothing else: by every rule that says so."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backends.connection import Connection
from backends.http import Clients
from backends.outbox import Writes
from backends.sent import Sent
from backends.splice import LONGEST, Splice
from backends.types import Fault
from gateway.relay import StreamRelay
from tests.backends.played import REQUEST, Played, T, Wire
from tests.backends.seen import Seen, Written

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
pieces = st.text(alphabet='ab"', max_size=6).map(str.encode)


class Still:
    """A loop that never turns."""

    def call_soon(self, call: Any) -> None: ...


class AtOnce:
    """An outbox that holds nothing back."""

    writes: Any = ()

    def put(self, transport: Writes, data: bytes) -> None:
        transport.write(data)


def through(write: Any) -> Splice:
    """What lets chunks pass to `write`, without a turn of a loop."""
    return Splice(Written(write), cast(Any, AtOnce()))


def like(before: bytes, after: bytes, event: bytes) -> bool:
    """The rule in the long way: what was taught, around a text without a quotation mark."""
    size = len(event) - len(before) - len(after)
    text = event[len(before) : len(before) + size]
    return size >= 0 and event == before + text + after and b'"' not in text


def frame(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


def streaming() -> tuple[Played, Connection, Seen]:
    """A pool with one stream under way, which stands between two chunks."""
    pool, seen, wire = Played(Clients(cast(Any, Still()))), Seen(), Wire()
    conn = Connection(pool)
    conn.connection_made(cast(Any, wire))
    pool.put(conn)
    assert pool.send(REQUEST, seen, T).conn is conn
    conn.data_received(HEAD + frame(b"data: first\n\n"))
    return pool, conn, seen


@given(pieces, pieces, st.one_of(pieces, st.none()), pieces)
@example(b"a", b"b", None, b'a"b')  # shorter than both that stand around together: they overlap
@example(b'"b', b'b"', None, b'"b"b"')
def test_only_what_was_taught_around_a_text_passes(start: bytes, end: bytes, text: bytes | None, other: bytes) -> None:
    before, after = start + b'"', b'"' + end + b"\n\n"
    event = other + b"\n\n" if text is None else before + text + after
    _, conn, seen = streaming()
    passed: list[bytes] = []
    conn.splice = splice = through(passed.append)
    splice.teach(before, after)
    conn.data_received(frame(event))
    assert (passed == [frame(event)]) is like(before, after, event)
    assert (splice.chunks, splice.size) == ((1, len(event)) if passed else (0, 0))
    assert seen.body.endswith(event) is not bool(passed)

    relay = StreamRelay("gpu", True, 4096)
    relay.committed, relay.before, relay.after = True, before, after
    relay.feed(event)
    assert bool(relay.before) is like(before, after, event) or relay.tries < 64  # it was read, and perhaps learned from


def test_what_passes_unread_keeps_the_idle_clock_going() -> None:
    pool, conn, seen = streaming()
    conn.splice = splice = through(lambda data: None)
    splice.teach(b'data: {"content":"', b'"}\n\n')
    for _ in range(3):
        pool.clients.now += T.idle * 0.9
        conn.data_received(frame(b'data: {"content":"word"}\n\n'))
        pool.tick(pool.clients.now)
    assert splice.chunks == 3 and seen.fault is None
    pool.tick(pool.clients.now + T.idle * 1.1)
    assert seen.fault is not None and seen.fault.code == "idle_timeout"


def test_what_passed_is_counted_whatever_lengths_there_were() -> None:
    _, conn, seen = streaming()
    passed: list[bytes] = []
    conn.splice = splice = through(passed.append)
    splice.teach(b'data: {"content":"', b'"}\n\n')
    events = [b'data: {"content":"' + b"x" * (n % 40) + b'"}\n\n' for n in range(100)]
    for event in events:
        conn.data_received(frame(event))
    assert passed == [*map(frame, events)]
    assert (splice.chunks, splice.size) == (len(events), sum(map(len, events)))
    splice.teach(b'data: {"text":"', b'"}\n\n')
    conn.data_received(frame(b'data: {"text":"y"}\n\n'))
    assert (splice.chunks, splice.size) == (len(events) + 1, sum(map(len, events)) + 20)
    assert seen.body == b"data: first\n\n"


@given(st.lists(st.one_of(st.binary(max_size=40), st.just(b'a"b')), min_size=1, max_size=8), st.integers(0, 3), st.integers(0, 400))
@example([b"a", b"b"], 0, 0)
def test_several_chunks_of_one_read_pass_if_each_may_and_else_none(texts: list[bytes], odd: int, cut: int) -> None:
    before, after = b'data: {"content":"', b'"}\n\n'
    events = [before + text + after for text in texts]
    if odd == 1:
        events.append(b'data: {"error":"x"}\n\n')
    sent = b"".join(map(frame, events))
    if odd == 2:
        sent = sent[: max(1, len(sent) - cut)]
    if odd == 3:
        sent = sent.replace(b"\r\n", b";x=y\r\n", 1)
    _, conn, seen = streaming()
    passed: list[bytes] = []
    conn.splice = splice = through(passed.append)
    splice.teach(before, after)
    conn.data_received(sent)
    whole = next((n for n in range(1, len(events) + 1) if sent == b"".join(map(frame, events[:n]))), 0)
    del events[whole:]
    if events and all(like(before, after, event) for event in events):
        assert passed == [sent] and conn.splice is splice
        assert (splice.chunks, splice.size) == (len(events), sum(map(len, events)))
        assert seen.body == b"data: first\n\n"
    else:
        assert not passed and conn.splice is None and splice.chunks == 0


def test_several_chunks_keep_the_idle_clock_going() -> None:
    pool, conn, seen = streaming()
    conn.splice = splice = through(lambda data: None)
    splice.teach(b'data: {"content":"', b'"}\n\n')
    pool.clients.now += T.idle * 0.9
    conn.data_received(frame(b'data: {"content":"a"}\n\n') + frame(b'data: {"content":"b"}\n\n'))
    pool.tick(pool.clients.now + T.idle * 0.9)
    assert splice.chunks == 2 and seen.fault is None


def test_a_long_chunk_is_the_parser_s() -> None:
    _, conn, seen = streaming()
    passed: list[bytes] = []
    conn.splice = splice = through(passed.append)
    splice.teach(b'data: "', b'"\n\n')
    event = b'data: "' + b"x" * LONGEST + b'"\n\n'
    conn.data_received(frame(event))
    assert not passed and seen.body.endswith(event) and conn.splice is None


def test_bytes_that_are_no_chunk_never_pass() -> None:
    for odd in (b'\0data: "xx"\n\n\r\n', b'data: "xx"\n\n\r\n', b"\0" * 2100):
        _, conn, seen = streaming()
        passed: list[bytes] = []
        conn.splice = splice = through(passed.append)
        splice.teach(b'data: "', b'"\n\n')
        conn.data_received(odd)
        assert not passed and seen.fault is not None and seen.fault.code == "bad_framing"


def test_nothing_is_let_pass_in_the_middle_of_a_chunk() -> None:
    _, conn, _ = streaming()
    flight, splice = conn.flight, through(lambda data: None)
    assert isinstance(flight, Sent)
    flight.let_pass(splice)
    assert conn.splice is splice
    conn.data_received(b"20\r\ndata: ")
    flight.let_pass(splice)
    assert conn.splice is None
    flight.cancel()
    flight.let_pass(splice)
    assert conn.splice is None


@pytest.mark.parametrize("end", ["cancel", "fail", "lost", "finished", "finished and lent again"])
def test_nothing_passes_to_a_client_whose_answer_is_over(end: str) -> None:
    pool, conn, seen = streaming()
    flight, passed = conn.flight, list[bytes]()
    assert isinstance(flight, Sent)
    splice = through(passed.append)
    splice.teach(b'data: "', b'"\n\n')
    flight.let_pass(splice)
    conn.data_received(frame(b'data: "a"\n\n'))
    assert passed.pop() == frame(b'data: "a"\n\n') and conn.splice is splice
    if end == "cancel":
        flight.cancel()
    elif end == "fail":
        flight.fail(Fault("timeout", "late"))
    elif end == "lost":
        conn.connection_lost(None)
    else:
        conn.splice = splice
        conn.data_received(b"0\r\n\r\n")
        assert seen.ended
    assert conn.splice is None
    if end == "finished and lent again":
        assert pool.send(REQUEST, Seen(), T).conn is conn
    if end != "lost":
        conn.data_received(frame(b'data: "b"\n\n'))
    assert not passed
