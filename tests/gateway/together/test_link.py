"""Schedulers joined to their peers, over a line that loses, repeats and mixes up what it carries."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.together import link, wire
from gateway.together.line import Received
from gateway.together.link import Together, joined
from routing.kv import Scheduler
from routing.kv_peers import AGAIN_SECONDS, Message
from tests.gateway.together.gateways import NAMES, Air, Gate, carry

CHAIN = [*range(1000, 1100)]


def gates(count: int = 2, **how: Any) -> list[Gate]:
    made = [Gate(**how) for _ in range(count)]
    carry(*made, now=1.0)
    carry(*made, now=2.5)
    assert all(g.together.peers == count - 1 for g in made)
    return made


def test_a_booking_is_known_to_all_by_the_replicas_shared_name() -> None:
    a, b = Gate(order=(0, 1, 2)), Gate(order=(2, 0, 1))
    carry(a, b, now=1.0)
    a.now = 3.0
    a.book("x", 2, blocks=CHAIN)
    carry(a, b, now=3.01)
    assert b.foreign() == [(2, False)] and b.s.load.backlog(0, 3.01) > 0.0 and b.s.load.backlog(2, 3.01) == 0.0
    assert b.s.caches.match(CHAIN) == ([100, 0, 0], 1)  # on their way
    a.now = 3.5
    a.s.answered("x", 3.5, None)
    carry(a, b, now=3.51)
    assert b.foreign() == [(2, True)] and b.s.caches.match(CHAIN) == ([100, 0, 0], 0)
    a.s.ended("x", 4.0, blocks=(*CHAIN, 7))
    carry(a, b, now=4.01)
    assert b.foreign() == [] and b.s.caches.match([*CHAIN, 7])[0] == [101, 0, 0]
    a.s.check()
    b.s.check()


def test_ticks_say_whether_anything_changed() -> None:
    a, b = gates()
    assert not a.tick(3.0) and not b.tick(3.0)
    a.air.sent.clear()
    a.book("x", 0)
    a.tick(3.1)
    b.air.next = Received([(0, p) for p in a.air.sent])
    assert b.tick(3.1)
    assert not b.tick(3.2)


def test_what_is_lost_repeated_or_said_by_another_does_no_harm() -> None:
    a, b = gates()
    a.book("lost", 0)
    a.tick(3.0)
    a.air.sent.clear()
    a.book("heard", 1)
    carry(a, b, now=4.0)
    assert b.together.counts.missed >= 1
    carry(a, b, now=4.0 + AGAIN_SECONDS)
    assert b.foreign() == [(0, False), (1, False)]
    a.s.ended("heard", 6.0)
    a.tick(6.0)
    (packet,) = a.air.sent
    heard = b.together.counts.heard
    b.air.next = Received([(0, packet), (0, packet), (123, packet)])
    b.tick(6.0)
    assert b.foreign() == [(0, False)] and b.together.counts.heard == heard + 1


def test_who_was_deaf_asks_everybody() -> None:
    a, b = gates()
    a.book("x", 0)
    a.tick(3.0)
    a.air.sent.clear()
    b.air.next = Received(deaf=True)
    carry(b, a, now=4.0)
    carry(b, a, now=4.0 + AGAIN_SECONDS)
    assert b.foreign() == [(0, False)]


def test_the_dead_take_their_bookings_along() -> None:
    a, b = gates()
    a.book("x", 0)
    carry(a, b, now=3.0)
    b.air.next = Received(dead=[a.together.name], lost=[a.together.name])
    assert b.tick(3.1) and b.foreign() == [] and b.together.peers == 0


def test_leaving_a_group_or_all_ends_our_bookings_there() -> None:
    async def main() -> None:
        a, b = gates()
        a.book("x", 0)
        carry(a, b, now=3.0)
        other = Scheduler(3, 64, random.Random(2))
        a.together.attach("m", other, lambda i: NAMES[i], lambda name: None)  # as after a reload
        carry(a, b, now=3.1)
        assert b.foreign() == [] and b.together.peers == 1
        a.together.attach("m", other, lambda i: None, lambda name: None)
        a.together.detach("unknown")
        await b.together.close()
        await b.together.close()
        assert b.air.closed
        a.air.next = Received([(0, p) for p in b.air.sent])
        a.tick(3.2)
        assert a.together.peers == 0
        b.tick(3.3)

    asyncio.run(main())


def test_other_groups_and_replicas_are_nothing_to_us() -> None:
    a, b = Gate(), Gate()
    b.together.detach("m")
    b.together.attach("other", b.s, lambda i: NAMES[i], lambda name: None)
    a.book("x", 0)
    carry(a, b, now=1.0)
    assert b.foreign() == [] and b.together.peers == 0
    c = Gate(order=(3,))
    carry(a, c, now=2.0)
    assert c.foreign() == [] and c.together.peers == 1


def test_replicas_may_be_named_by_bytes_or_text() -> None:
    a = Gate()
    a.together.attach("m", a.s, lambda i: ["x", b"x", None][i], lambda name: None)
    assert [a.s.peers.name_of(i) for i in range(3)] == [wire.name64("x"), wire.name64(b"x"), None]
    assert wire.name64("x") == wire.name64(b"x") != wire.name64("x", "") and wire.name64("ab", "c") != wire.name64("a", "bc")


def test_an_engine_on_this_host_is_not_that_of_another_at_the_same_address() -> None:
    a, b, c = Gate(host=5), Gate(host=5), Gate(host=6)
    for url in ("http://127.0.0.1:8081/v1", "http://localhost:1", "http://[::1]:5", "unix:///run/engine.sock"):
        assert a.together.called(url, "m") == b.together.called(url, "m") != c.together.called(url, "m")
    for url in ("http://10.0.0.1:8000/v1", "https://api.example.com"):
        assert a.together.called(url, "m") == c.together.called(url + "/", "m") != a.together.called(url, "n")


def test_a_newcomer_is_seeded_over_the_line() -> None:
    a, b = gates()
    a.s.caches.guesses.touch(1, range(3000), 1.0)
    c = Gate(order=(1, 0, 2))
    for step in range(12):
        carry(a, b, c, now=10.0 + step / 2)
    assert c.s.caches.match(range(3000))[0] == [3000, 0, 0]
    c.s.check()


# Clocks


@pytest.mark.parametrize("ahead", [0.0, 0.1, -0.03, 50.0, -50.0, 1e6])
def test_clocks_of_other_hosts_may_be_wrong(ahead: float) -> None:
    a, b = Gate(wall=1e9 + ahead), Gate(wall=1e9)
    carry(a, b, now=1.0)
    a.now = 3.0
    a.book("x", 0)
    a.tick(3.01)
    b.air.next = Received([(0, p) for p in a.air.sent])
    b.tick(3.04)
    (booking,) = [x for x in b.s.load.bookings.values()]
    assert 2.8 <= booking.at <= 3.04
    if 0.0 <= ahead <= 0.03:
        assert booking.at == pytest.approx(3.0)


def test_on_one_host_the_steady_clock_counts() -> None:
    a, b = Gate([near := Air(True)], host=5, wall=1e9), Gate([other := Air(True)], host=5, wall=9e9)
    b.together._steady = lambda: b.now + 100.0  # the schedulers' own times need not be the host's
    a.together._steady = lambda: a.now + 100.0
    a.book("x", 0)
    a.tick(1.0)
    other.next = Received([(a.together.name, p) for p in near.sent])
    b.now = 1.25
    b.tick(1.25)
    assert [x.at for x in b.s.load.bookings.values()] == [pytest.approx(0.0)]


def test_nobody_is_heard_twice_who_is_on_two_lines() -> None:
    ring, redis = Air(True), Air()
    a = Gate(host=5)
    b = Gate([ring, redis], host=5)
    a.book("x", 0)
    a.tick(1.0)
    redis.next = Received([(0, p) for p in a.air.sent])
    b.tick(1.0)
    assert b.together.counts.heard == 0
    ring.next = Received([(a.together.name, p) for p in a.air.sent])
    b.tick(1.1)
    assert len(b.foreign()) == 1
    far = Gate(host=6)
    far.book("y", 0)
    far.tick(1.2)
    ring.next = Received([(0, p) for p in far.air.sent])  # cannot be
    b.tick(1.2)
    assert len(b.foreign()) == 1
    redis.next = Received([(0, p) for p in far.air.sent])
    b.tick(1.3)
    assert len(b.foreign()) == 2 and len(ring.sent) == len(redis.sent) > 0


def test_the_senders_that_are_counted_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SENDERS", 2)
    a = Gate()
    packets = [wire.encode(9, g, 1, 1e9, 0.0, 1, [], 0.0) for g in range(1, 6)]
    a.air.next = Received([(0, p) for p in packets])
    a.tick(0.0)
    assert len(a.together._heard) == 2


def test_alone_there_is_nothing_to_join() -> None:
    assert joined(None, None) is None
    idle = Together(lambda name, host: [])
    idle.attach("m", Scheduler(1, 64, random.Random(1)), lambda i: 1, lambda name: 0)
    assert not idle.tick(1.0) and idle.counts.sent == 0 and idle.peers == 0


# The wire

said = st.builds(
    Message,
    st.just(3),
    st.sampled_from(["booked", "ended", "here", "new kind"]),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.floats(-1000, 1000),
    st.floats(0, 1000),
    st.integers(0, 1 << 40),
    st.none() | st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 2**64 - 1), max_size=20).map(tuple),
)


@given(st.lists(said, max_size=8), st.floats(0, 1e5))
@settings(deadline=None)
def test_what_is_said_is_what_is_read(messages: list[Message], sent: float) -> None:
    packet = wire.decode(wire.encode(1, 3, 7, 1e9, 5.0, 9, messages, 1000.0))
    assert (packet.host, packet.gateway, packet.count, packet.unix, packet.steady, packet.group) == (1, 3, 7, 1e9, 5.0, 9)
    read, bad = wire.messages(packet, sent)
    assert bad == 0 and len(read) == len(messages)
    for m, r in zip(messages, read, strict=True):
        assert (r.kind, r.key, r.replica, r.tokens, r.base, r.blocks) == (m.kind, m.key, m.replica, m.tokens, m.base, m.blocks)
        assert r.prefill == max(1e-6, m.prefill) and r.at == pytest.approx(sent - (1000.0 - m.at), abs=1e-6)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=9), max_leaves=30,
).map(msgspec.msgpack.encode))  # fmt: skip
@settings(deadline=None)
def test_no_bytes_do_harm(data: bytes) -> None:
    a = Gate()
    a.air.next = Received([(0, data)])
    a.tick(1.0)
    a.s.check()
    assert a.foreign() == []


@pytest.mark.parametrize(
    "wrong",
    [
        ("booked", -1, 1, 0.0, 0.1, 1, None, b""), ("booked", 1, -1, 0.0, 0.1, 1, None, b""), ("booked", 1, 1, 1e9, 0.1, 1, None, b""),
        ("booked", 1, 1, float("nan"), 0.1, 1, None, b""), ("booked", 1, 1, 0.0, float("nan"), 1, None, b""),
        ("booked", 1, 1, 0.0, -0.1, 1, None, b""), ("booked", 1, 1, 0.0, 0.1, 1 << 41, None, b""), ("booked", 1, 1, 0.0, 0.1, 1, -5, b""),
        ("booked", 1, 1, 0.0, 0.1, 1, None, b"1234567"), ("booked", 1, 1, 0.0, float("inf"), 1, None, b""),
    ],
)  # fmt: skip
def test_messages_out_of_range_are_counted_and_left_out(wrong: Any) -> None:
    packet = wire.Packet(wire.VERSION, 1, 2, 3, 1e9, 0.0, 4, [wrong, ("here", 0, 0, 0.0, 0.0, 0, None, b"")])
    found, bad = wire.messages(wire.decode(msgspec.msgpack.encode(packet)), 5.0)
    assert bad == 1 and [m.kind for m in found] == ["here"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "version 2"), ({"host": 0}, "range"), ({"gateway": -1}, "range"), ({"count": 0}, "range"),
        ({"unix": float("nan")}, "range"), ({"steady": float("inf")}, "range"),
    ],
)  # fmt: skip
def test_packets_that_are_not_ours_are_refused(change: dict[str, Any], why: str) -> None:
    good = wire.Packet(wire.VERSION, 1, 2, 3, 1e9, 0.0, 4, [])
    assert wire.decode(msgspec.msgpack.encode(good)) == good
    with pytest.raises(wire.BadPacket, match=why):
        wire.decode(msgspec.msgpack.encode(msgspec.structs.replace(good, **change)))
    with pytest.raises(wire.BadPacket, match="at most"):
        wire.decode(b"x" * (wire.MOST_BYTES + 1))


def test_blocks_that_are_no_hashes_stay_here() -> None:
    messages = [Message(1, "booked", 1, 1, blocks=(("a", 1),), base=("a", 0)), Message(1, "booked", 2, 1, blocks=(1 << 70,))]
    read, bad = wire.messages(wire.decode(wire.encode(1, 1, 1, 0.0, 0.0, 1, messages, 0.0)), 0.0)
    assert bad == 0 and [(m.base, m.blocks) for m in read] == [(None, ()), (None, ())]


def test_a_full_fetch_fits_into_a_packet() -> None:
    a = Gate()
    for k in range(300):
        a.s.peers._talks = True
        a.s.peers.booked(_booking(k, [k * 10_000 + j for j in range(4000)]))
    while messages := a.s.peers.fetch(1.0):
        assert len(wire.encode(1, 1, 1, 0.0, 0.0, 1, messages, 0.0)) <= wire.MOST_BYTES


def _booking(key: object, blocks: list[int]) -> Any:
    from routing.kv_load import Booking

    return Booking(key, 0, 0.5, 1000, 0, blocks, 0.0)
