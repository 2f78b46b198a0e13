"""KV events: what was missed is asked for, and a lost connection tells the same publisher from another."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from routing import kvevents as kv
from routing import kvformat
from routing.kvevents import Feed, Need
from routing.prefix import PrefixIndex, salted, token_blocks
from tests.fakes.kv_events import ENCODINGS, HASHES, Cache, Encoding, Hashes, Speech
from tests.routing.kvmade import TOKENS, batch, cached, feed, filled, parts_of, stored


def test_a_gap_is_filled_by_replay_in_order() -> None:
    f, tokens = feed(replay=True), list(range(96))
    parts = parts_of(tokens, 3)
    assert f.message(*parts[0]) is None
    assert f.message(*parts[2]) == Need(0)  # from the last one known on
    assert filled(f, [parts[0], parts[1], parts[2], (kvformat.END_OF_REPLAY, b"")]) is None
    assert cached(f, tokens) == 96
    assert (f.expected, f.gaps, f.lost, f.orphans) == (3, 1, 0, 0)


def test_what_a_replay_dropped_is_asked_for_again_and_then_let_go() -> None:
    f, tokens = feed(replay=True), list(range(192))
    parts = parts_of(tokens, 6)
    f.message(*parts[0])
    assert f.message(*parts[5]) == Need(0)
    assert filled(f, [parts[0], parts[1], parts[3], parts[4]]) == Need(1)
    assert filled(f, parts[1:]) is None
    assert cached(f, tokens) == 192 and f.lost == 0
    again = feed(replay=True)
    again.message(*parts[0])
    need, times = again.message(*parts[5]), 0
    while need is not None:
        need, times = filled(again, [p for p in parts if p[0] >= need.start and p[0] in (0, 1, 3)]), times + 1
    assert times == kv.FILLS_MAX and again.expected == 6 and again.lost == 3


def test_a_late_start_asks_for_everything_and_goes_on_when_nothing_comes() -> None:
    for whole in (True, False):
        f = feed(replay=True)
        assert f.message(7, batch(stored([1, 2], list(range(32))))) == Need(0)
        assert filled(f, [], whole) is None
        assert cached(f, list(range(32))) == 32 and f.expected == 8


def test_a_gap_that_another_publisher_fills_is_a_restart() -> None:
    f, tokens = feed(replay=True), list(range(96))
    parts = parts_of(tokens, 3)
    f.message(*parts[0])
    f.message(*parts[1])
    assert f.message(9, batch(stored([70], TOKENS), ts=9.5)) == Need(1)  # the last of the old one
    theirs = [(k, batch(stored([91 + k], [k] * 16), ts=50.0 + k)) for k in range(4)]
    assert filled(f, theirs[1:]) == Need(0)
    assert filled(f, theirs) is None
    assert (f.restarts, f.expected, f.lost, sorted(map(str, f.device.links))) == (1, 4, 0, ["91", "92", "93", "94"])


def test_a_connection_brings_what_is_there_before_anything_is_published() -> None:
    f, tokens = feed(replay=True), list(range(64))
    assert f.connected() == Need(0)
    assert filled(f, []) is None
    assert f.live and f.expected == 0
    g = feed(replay=True)
    g.connected()
    filled(g, parts_of(tokens, 2))
    assert g.live and cached(g, tokens) == 64
    h = feed(replay=True)
    h.connected()
    filled(h, [], whole=False)
    assert h.state == "waiting"


def test_after_a_lost_connection_the_last_batch_tells_the_same_publisher_from_another() -> None:
    tokens = list(range(96))
    parts = parts_of(tokens, 3)

    def lost() -> Feed:
        f = feed(replay=True)
        for part in parts[:2]:
            f.message(*part)
        f.disconnected()
        assert f.state == "waiting" and not f.hit(64, 0)
        assert f.connected() == Need(1)
        return f

    same = lost()
    assert filled(same, parts[1:]) is None
    assert (same.restarts, same.live, cached(same, tokens)) == (0, True, 96)
    empty = lost()  # a new one that has published nothing
    assert filled(empty, []) == Need(1)  # it may have been dropped on the way
    assert filled(empty, []) == Need(0)
    assert filled(empty, []) is None
    assert (empty.restarts, empty.live, empty.expected, cached(empty, tokens)) == (1, True, 0, 0)
    twice = lost()
    assert filled(twice, parts[2:]) == Need(1)
    assert filled(twice, parts[1:]) is None
    assert (twice.restarts, twice.live, cached(twice, tokens)) == (0, True, 96)
    other = lost()  # a new one that has come as far
    theirs = [(k, batch(stored([91 + k], [k] * 16), ts=50.0 + k)) for k in range(3)]
    assert filled(other, theirs[1:]) == Need(0)
    assert filled(other, theirs) is None
    assert (other.restarts, other.live, other.expected, len(other.device.links)) == (1, True, 3, 3)
    one = feed(replay=True)  # of which we know number 0 only
    one.message(*parts[0])
    one.disconnected()
    assert one.connected() == Need(0)
    assert filled(one, theirs) is None
    assert (one.restarts, one.expected, len(one.device.links)) == (1, 3, 3)


def test_what_was_under_way_when_the_connection_ended_is_taken_but_not_believed() -> None:
    f, tokens = feed(replay=True), list(range(128))
    parts = parts_of(tokens, 4)
    f.message(*parts[0])
    f.disconnected()
    assert f.message(*parts[1]) is None
    assert f.message(*parts[3]) is None  # not asked for: nobody is there
    assert (f.state, f.expected, f.lost, cached(f, tokens)) == ("waiting", 2, 0, 64)
    assert f.connected() == Need(1)
    assert filled(f, parts[1:]) is None
    assert f.live and cached(f, tokens) == 128


def test_a_ring_that_has_moved_on_means_to_begin_anew() -> None:
    f, tokens = feed(replay=True), list(range(96))
    f.message(*parts_of(tokens, 1)[0])
    assert f.message(9, batch(ts=20.0)) == Need(0)
    left = [(5, batch(stored([50], TOKENS), ts=16.0)), (6, batch(ts=17.0))]
    left += [(k, batch(ts=k + 11.0)) for k in range(7, 10)]
    assert filled(f, left) == Need(0)
    assert filled(f, left) is None
    assert (f.lost, f.restarts, f.expected, cached(f, tokens), len(f.device.links)) == (4, 0, 10, 0, 1)


def test_without_replay_a_new_connection_is_believed_when_its_numbers_go_on() -> None:
    tokens = list(range(96))
    parts = parts_of(tokens, 3)
    for seq, restarts, found in ((2, 0, 96), (5, 1, 0), (1, 1, 0)):
        f = feed()
        for part in parts[:2]:
            f.message(*part)
        f.disconnected()
        assert f.connected() is None and f.state == "waiting"
        f.message(seq, parts[2][1])
        assert (f.restarts, f.live, cached(f, tokens)) == (restarts, True, found)


def test_who_publishes_while_a_replay_runs_ends_it() -> None:
    f, tokens = feed(replay=True), list(range(96))
    parts = parts_of(tokens, 3)
    f.message(*parts[0])
    assert f.message(*parts[2]) == Need(0)
    assert f.message(3, batch(ts=9.0)) is None
    assert (f.expected, f.lost, f.orphans) == (4, 1, 1)
    assert f.filled(True) is None
    f.part(1, b"")


OPS = st.lists(
    st.tuples(st.sampled_from(["say", "say", "lose", "drop", "cut", "restart", "join", "noise", "give up"]), st.integers(0, 2**16)),
    max_size=60,
)


class Line:
    """A publisher with a ring of `ring` batches, and the line to a feed: what is said arrives, unless the line is cut or loses it."""

    def __init__(self, ring: int, speech: Speech) -> None:
        self.speech, self.size = speech, ring
        self.feed = Feed(0, PrefixIndex(1), PrefixIndex(1), "m", 16, replay=True)
        self.clock, self.up, self.lossy = 1.0, True, 0
        self.restart()
        self.do(self.feed.connected())

    def restart(self) -> None:
        self.seq, self.ring = 0, deque[tuple[int, bytes]](maxlen=self.size)
        self.cache = Cache(self.speech, random.Random(self.clock), blocks=12)

    def say(self, events: list[Any], arrives: bool = True) -> None:
        self.clock += 1.0
        one = (self.seq, self.speech.batch(*events, ts=self.clock))
        self.seq += 1
        self.ring.append(one)
        if arrives and self.up:
            self.do(self.feed.message(*one))

    def do(self, need: Need | None, whole: bool = True) -> None:
        times = 0
        while need is not None:
            parts = [part for part in self.ring if part[0] >= need.start]
            if self.lossy and parts:
                del parts[self.lossy % len(parts)]
                self.lossy = 0
            need, times = filled(self.feed, parts, whole), times + 1
        assert times <= kv.FILLS_MAX

    def happen(self, what: str, n: int) -> None:
        if what in ("say", "lose"):
            prompt = [t for digit in f"{n % 729:06o}"[: 1 + n % 6] for t in [int(digit)] * 16]
            self.say(self.cache.clear() if n % 50 == 0 else self.cache.prompt(prompt), arrives=what == "say")
        elif what == "drop":
            self.lossy = n + 1
        elif what == "noise" and self.up:
            self.do(self.feed.message(n, b"\xc1"))
        elif what == "give up" and self.up:
            self.seq += 1 + n % 2 * self.size  # a part that nobody has any more
            self.say([])
        else:
            if what == "restart":
                self.restart()
            if self.up:
                self.feed.disconnected()
            self.up = what == "join"
            if self.up:
                self.do(self.feed.connected())


@given(OPS, st.integers(2, 400), st.sampled_from(ENCODINGS), st.sampled_from(HASHES))
def test_whatever_happens_what_is_believed_is_true_unless_something_was_lost(
    ops: list[tuple[str, int]], ring: int, encoding: Encoding, hashes: Hashes
) -> None:
    line = Line(ring, Speech(encoding, hashes))
    f = line.feed
    for what, n in ops:
        line.happen(what, n)
        f.device.index.check()  # type: ignore[attr-defined]
        assert len(f.device.links) <= 4000 and f.state in ("live", "waiting", "partial", "broken")
    line.happen("join", 0)
    line.say([])
    assert f.expected == line.seq
    if f.lost == f.orphans == f.resyncs == 0 and f.live:
        root = salted("m", "", "")
        assert set(f.device.index.masks) == {token_blocks(key, root, 16)[-1] for key in line.cache.names}  # type: ignore[attr-defined]


def test_the_property_above_is_about_something() -> None:
    """Losses that a ring can heal, and connections: nothing is lost, so all must be there."""
    line = Line(400, Speech())
    rng = random.Random(1)
    for _ in range(300):
        line.happen(rng.choice(["say", "lose", "say", "drop", "cut", "join", "join"]), rng.randrange(1, 2**16) | 1)
    line.happen("join", 0)
    line.say([])
    assert line.feed.live and line.feed.lost == line.feed.orphans == line.feed.restarts == 0 and line.feed.gaps > 5
    assert len(line.feed.device.links) == len(line.cache.names) > 5
