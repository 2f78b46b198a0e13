"""Gateways that tell each other what they do: what is heard is what was said, what is lost is noticed, nothing stays of who is gone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from routing import kv_peers
from routing.kv_peers import AGAIN_SECONDS, ANSWER_SECONDS, BEAT_SECONDS, BOX, FETCH_MESSAGES, SILENT_SECONDS, Foreign, Message
from tests.routing.gateways import One, kinds, pair, talk

# Bookings


def test_the_life_of_a_request_is_heard() -> None:
    a, b = pair()
    a.book("x", 1, 1.0, ("p", "q"))
    talk(a, b, t=1.01)
    assert b.theirs() == [(1, False, ("p", "q"))] and b.known.coming == [(1, ("p", "q"))]
    a.answer("x", 1.5)
    talk(a, b, t=1.51)
    assert b.theirs() == [(1, True, ("p", "q"))] and b.known.coming == [] and b.known.there == [(1, ("p", "q"))]
    a.end("x", 2.0)
    talk(a, b, t=2.01)
    assert b.theirs() == [] and a.load.bookings == {}


def test_an_end_brings_the_chain_of_prompt_and_answer() -> None:
    a, b = pair()
    a.book("x", 1, 1.0, ("p", "q"))
    a.answer("x", 1.5)
    a.end("x", 2.0, ("p", "q", "r"))
    a.book("y", 1, 3.0, ("p", "q", "r", "s"))
    messages = a.peers.fetch(3.0)
    assert [(m.base, [*m.blocks]) for m in messages if m.base or m.blocks] == [(None, ["p", "q"]), ("q", ["r"]), ("r", ["s"])]
    b.peers.hear(messages, 3.0)
    assert b.known.there == [(1, ("p", "q")), (1, ("p", "q", "r"))] and b.known.coming == [(1, ("p", "q", "r", "s"))]
    b.peers.hear([Message(11, "ended", 99, base="r", blocks=("z",))], 3.0)
    assert len(b.known.there) == 2


def test_a_request_that_never_was_answered_takes_its_blocks_with_it() -> None:
    a, b = pair()
    a.book("x", 1, 1.0, ("p",))
    talk(a, b, t=1.0)
    a.end("x", 2.0)
    talk(a, b, t=2.0)
    assert b.known.coming == [] and b.known.there == []


def test_it_says_nothing_until_somebody_listens_and_then_what_there_is() -> None:
    a, b = One(11), One(22)
    a.book("waits", 0, 0.0, ("p",))
    a.book("runs", 1, 0.0)
    a.answer("runs", 0.5)
    a.book("over", 2, 0.0)
    a.end("over", 0.7)
    b.peers.hear(a.peers.fetch(1.0), 1.0)
    assert b.theirs() == [(0, False, ("p",)), (1, True, ())]
    a.end("waits", 2.0)
    a.end("runs", 2.0)
    b.peers.hear(a.peers.fetch(2.0), 2.0)
    assert b.theirs() == []


def test_a_newcomer_hears_what_was_said_before_it_came() -> None:
    a, b = pair()
    a.book("x", 1, 1.0, ("p",))
    talk(a, b, t=1.0)
    c = One(5)
    talk(a, b, c, t=3.0)
    assert c.theirs() == [(1, False, ("p",))] == b.theirs()
    assert a.peers.gateways == b.peers.gateways == c.peers.gateways == 3
    turns = [[one.peers.turn(replica, 3.0, 3.0) for one in (a, b, c)] for replica in range(3)]
    assert all(len({*of_one}) == 3 for of_one in turns) and {of_one.index(0.0) for of_one in turns} == {0, 1, 2}


def test_telling_anew_changes_nothing_where_nothing_was_lost() -> None:
    a, b = pair()
    a.book("one", 0, 1.0, ("p",))
    a.book("two", 0, 1.1, ("p", "q"))
    talk(a, b, t=1.2)
    before = [*b.load.bookings], b.load.heads[0], [*b.known.coming]
    b.peers.lost(11, 2.0)
    talk(a, b, t=3.0)
    assert ([*b.load.bookings], b.load.heads[0], b.known.coming) == before
    a.answer("one", 3.1)
    talk(a, b, t=3.1)
    assert b.theirs() == [(0, True, ("p",)), (0, False, ("p", "q"))]


def test_what_was_lost_is_told_anew() -> None:
    a, b = pair()
    a.book("ends", 0, 1.0)
    a.book("answered", 1, 1.0)
    talk(a, b, t=1.0)
    a.end("ends", 1.5)
    a.answer("answered", 1.5)
    a.book("new", 2, 1.5, ("r",))
    a.peers.fetch(1.5)  # and lost
    b.peers.lost(11, 2.0)
    talk(a, b, t=2.5)
    assert b.theirs() == [(1, True, ()), (2, False, ("r",))]
    b.peers.lost_all(5.0)
    assert kinds(b, 5.0) == ["again"]
    b.peers.lost(99, 5.0)  # not one of ours
    assert kinds(b, 5.0) == []


def test_a_question_that_was_lost_is_asked_again() -> None:
    a, b = pair()
    a.book("x", 0, 1.0)
    a.peers.fetch(1.0)  # lost
    b.peers.lost(11, 2.0)
    assert kinds(b, 2.0) == ["again"]  # lost, too
    b.peers.sweep(2.0 + ANSWER_SECONDS)
    talk(a, b, t=6.0)
    assert b.theirs() == [(0, False, ())]
    b.peers.sweep(20.0)
    assert "again" not in kinds(b, 20.0)


def test_asking_and_telling_anew_are_rare() -> None:
    a, b = pair()
    for k in range(10):
        b.peers.lost(11, 2.0 + k / 100)
    assert kinds(b, 2.1) == ["again"]
    again = Message(22, "again", 11)
    a.peers.hear([again], 2.1)
    assert kinds(a, 2.1) == ["anew", "told"]
    a.peers.hear([again, Message(22, "again", 0), Message(22, "again", 77)], 2.2)
    assert kinds(a, 2.2) == []
    assert kinds(a, 2.1 + AGAIN_SECONDS) == ["anew", "told"]


def test_a_box_that_overflows_is_told_anew_and_stays_bounded() -> None:
    a, b = pair()
    for k in range(BOX + 10):
        a.book(k, 0, 1.0)
        a.end(k, 1.0)
    a.book("last", 1, 1.0)
    b.peers.hear(a.peers.fetch(10.0), 10.0)
    assert b.theirs() == [(1, False, ())] and a.peers.fetch(10.0) == []


def test_a_fetch_is_bounded_and_the_rest_comes_with_the_next() -> None:
    a, b = pair()
    for k in range(FETCH_MESSAGES + 5):
        a.book(k, 0, 1.0)
    first = a.peers.fetch(1.0)
    assert len(first) == FETCH_MESSAGES and len(a.peers.fetch(1.0)) == 5
    for k in range(8):
        a.book(("long", k), 0, 2.0, [(k, j) for j in range(2000)])
    assert [len(a.peers.fetch(2.0)) for _ in range(4)] == [2, 2, 2, 2]
    b.peers.hear(first, 2.0)
    assert len(b.theirs()) == FETCH_MESSAGES


# Who is there


def test_a_silent_peer_is_forgotten_and_comes_back() -> None:
    a, b = pair()
    a.book("x", 1, 1.0, ("p",))
    talk(a, b, t=1.0)
    assert b.peers.sweep(1.0 + SILENT_SECONDS - 1) is False
    assert b.peers.hear([], 1.1 + SILENT_SECONDS) is True
    assert b.theirs() == [] and b.known.coming == [] and b.peers.gateways == 1
    a.end("x", 20.0)
    a.book("y", 2, 20.0)
    talk(a, b, t=20.0)
    talk(a, b, t=21.5)
    assert b.theirs() == [(2, False, ())] and b.peers.gateways == 2


def test_a_beat_keeps_it_there() -> None:
    a, b = pair()
    begin = a.peers._said
    assert kinds(a, begin + 1) == [] and kinds(a, begin + BEAT_SECONDS) == ["here"] and kinds(a, begin + BEAT_SECONDS + 1) == []
    b.peers.hear([Message(11, "here", at=BEAT_SECONDS)], BEAT_SECONDS)
    assert b.peers.sweep(BEAT_SECONDS + SILENT_SECONDS - 0.1) is False


def test_a_farewell_and_a_death_end_bookings_at_once() -> None:
    for last_word in (True, False):
        a, b = pair()
        a.book("x", 1, 1.0)
        talk(a, b, t=1.0)
        if last_word:
            assert b.peers.hear(a.peers.farewell(1.1), 1.1)
        else:
            assert b.peers.gone(11, 1.1)
        assert b.theirs() == [] and b.peers.gateways == 1
        assert not b.peers.gone(11, 1.2)
        assert not b.peers.hear(a.peers.farewell(1.3), 1.3) and b.peers.gateways == 1


def test_own_echoes_and_what_is_not_understood_are_passed_over() -> None:
    a, b = pair()
    a.peers.hear([Message(11, "booked", 1, 0, 0.0, 1.0, 1)], 0.0)
    assert a.theirs() == []
    a.peers.hear([Message(22, "sings"), Message(22, "booked", 1, 9, 0.0, 1.0, 1), Message(22, "answered", 5), Message(22, "ended", 5)], 0.0)
    assert a.peers.passed == 2 and a.theirs() == []
    assert b.peers.passed == 0


def test_peers_and_their_bookings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_peers, "MOST_PEERS", 2)
    monkeypatch.setattr(kv_peers, "MOST_BOOKINGS", 3)
    monkeypatch.setattr(kv_peers, "MOST_STRANGERS", 1)
    p = One(1)
    p.peers.hear([Message(g, "here") for g in (2, 3, 4)], 0.0)
    assert p.peers.gateways == 3 and p.peers.passed == 1
    p.peers.hear([Message(2, "booked", k, 0, 0.0, 1.0, 1) for k in range(5)], 0.0)
    assert len(p.theirs()) == 3 and p.peers.passed == 3
    p.peers.hear([Message(2, "booked", 10 + k, 50 + k) for k in range(5)], 0.0)
    assert p.peers.passed == 8


def test_a_replica_that_peers_had_before_us_is_asked_about_when_it_comes() -> None:
    a, b = pair()
    numbers = {0: 100, 1: 101}
    a.peers.name_of = b.peers.name_of = lambda i: 100 + i
    a.peers.number_of = lambda name: name - 100
    b.peers.number_of = lambda name: {100: 0}.get(name)
    a.book("x", 1, 1.0, ("p",))
    a.book("y", 0, 1.0, ("p", "q"))
    talk(a, b, t=1.0)
    assert b.theirs() == [(0, False, ("p", "q"))]  # the chain was heard, though the booking could not be used
    b.peers.number_of = lambda name: {shared: i for i, shared in numbers.items()}.get(name)
    b.peers.sweep(2.0)
    talk(a, b, t=2.5)
    assert sorted(b.theirs()) == [(0, False, ("p", "q")), (1, False, ("p",))]


def test_a_replica_without_a_name_is_not_told() -> None:
    a, b = pair()
    a.peers.name_of = lambda i: None
    a.book("x", 1, 1.0)
    a.end("x", 1.0)
    talk(a, b, t=1.0)
    assert b.theirs() == [] and a.peers.turn(1, 0.0, 0.0) == 0.0


def test_a_turn_goes_by_the_name_that_all_share() -> None:
    a, b = pair()
    b.peers.name_of = lambda i: 1 - i  # the same two replicas, numbered the other way round
    assert [a.peers.turn(i, 0.0, 0.0) == 0.0 for i in (0, 1)] == [b.peers.turn(1 - i, 0.0, 0.0) > 0.0 for i in (0, 1)]
    assert 0.0 < b.peers.delay < 0.1


def test_a_replica_that_nobody_else_has_is_always_free() -> None:
    a, b = pair()
    for one, names in ((a, [100, 101, 102]), (b, [100, 201, 102])):
        one.peers.name_of = lambda i, names=names: names[i]  # type: ignore[misc]
        one.peers.number_of = lambda name, names=names: names.index(name) if name in names else None  # type: ignore[misc]
    for one in (a, b):
        one.peers.sweep(1.0)
    talk(a, b, t=1.2)
    assert a.peers.turn(1, 1.2, 1.2) == b.peers.turn(1, 1.2, 1.2) == 0.0
    assert (a.peers.turn(0, 1.2, 1.2) == 0.0) != (b.peers.turn(0, 1.2, 1.2) == 0.0)
    assert (a.peers.turn(2, 1.2, 1.2) == 0.0) != (b.peers.turn(2, 1.2, 1.2) == 0.0)


class Talk(RuleBasedStateMachine):
    """Three gateways over channels that delay, lose (and say so) and cut off. Once all is quiet, everybody knows what everybody does."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.all = {name: One(name) for name in (11, 22, 33)}
        self.lines: dict[tuple[int, int], list[list[Message] | None]] = {(a, b): [] for a in self.all for b in self.all if a != b}
        self.live: list[tuple[int, Any]] = []
        self.count = 0

    @rule(dt=st.floats(0.0, 1.0))
    def wait(self, dt: float) -> None:
        self.now += dt

    @rule(who=st.sampled_from([11, 22, 33]), replica=st.integers(0, 2), chain=st.integers(0, 3), length=st.integers(0, 6))
    def book(self, who: int, replica: int, chain: int, length: int) -> None:
        self.count += 1
        self.all[who].book(self.count, replica, self.now, [(chain, k) for k in range(length)])
        self.live.append((who, self.count))

    @precondition(lambda self: self.live)
    @rule(data=st.data(), answer=st.booleans())
    def progress(self, data: st.DataObject, answer: bool) -> None:
        who, key = data.draw(st.sampled_from(self.live))
        one = self.all[who]
        if answer and not one.load.bookings[key].answered:
            one.answer(key, self.now)
        else:
            one.end(key, self.now)
            self.live.remove((who, key))

    @rule(who=st.sampled_from([11, 22, 33]))
    def say(self, who: int) -> None:
        messages = self.all[who].peers.fetch(self.now)
        if messages:
            for (a, _), line in self.lines.items():
                if a == who:
                    line.append(messages)

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        line = self.lines[data.draw(st.sampled_from(sorted(self.lines)))]
        if line:
            line[0] = None

    @rule(data=st.data())
    def arrive(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.sampled_from(sorted(self.lines))))

    def deliver(self, line: tuple[int, int]) -> None:
        if self.lines[line]:
            messages = self.lines[line].pop(0)
            if messages is None:
                self.all[line[1]].peers.lost(line[0], self.now)
            else:
                self.all[line[1]].peers.hear(messages, self.now)

    @rule(who=st.sampled_from([11, 22, 33]))
    def restart(self, who: int) -> None:
        """Its bookings die with it; the others notice. A new one takes its place on the lines, under its name and with nothing known."""
        for name, one in self.all.items():
            if name != who:
                one.peers.gone(who, self.now)
                self.lines[who, name].clear()
                self.lines[name, who].clear()
        self.all[who] = One(who)
        self.live = [(w, key) for w, key in self.live if w != who]

    @invariant()
    def counts_hold(self) -> None:
        for one in getattr(self, "all", {}).values():
            one.load.check()

    def teardown(self) -> None:
        if not hasattr(self, "all"):
            return
        for _ in range(6):  # each round a beat: who missed the last word of another hears it now
            self.now += BEAT_SECONDS
            for who in self.all:
                self.say(who)
            while any(self.lines.values()):
                for line in self.lines:
                    self.deliver(line)
        for one in self.all.values():
            expected = sorted(x for other in self.all.values() if other is not one for x in other.mine_full())
            assert sorted(one.theirs()) == expected
            coming = sorted(
                (b.replica, tuple(b.blocks)) for b in one.load.bookings.values() if isinstance(b.key, Foreign) and not b.answered
            )
            assert sorted(one.known.coming) == coming
        for who, key in self.live:
            self.all[who].end(key, self.now)
        self.now += 1
        talk(*self.all.values(), t=self.now)
        assert not any(one.load.bookings for one in self.all.values())


TestTalk = Talk.TestCase
TestTalk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
