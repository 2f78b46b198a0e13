"""What a newcomer gets from those who know, and chains of blocks told in short."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing import kv_chains, kv_seed
from routing.kv_cache import Caches
from routing.kv_chains import Chains
from routing.kv_heard import HeardCaches
from routing.kv_load import Load
from routing.kv_peers import Message, Peers
from routing.kv_seed import LISTEN_SECONDS, STUCK_SECONDS
from tests.routing.gateways import One, pair, talk

# Seeds


def seeded(*older: One, name: int = 33, replicas: int = 3) -> One:
    one = One(name, replicas)
    talk(*older, one, t=20.0)
    for later in (21.5, 22.0, 20.1 + LISTEN_SECONDS + 2, 20.2 + LISTEN_SECONDS + 3):
        talk(*older, one, t=later)
    return one


def test_a_newcomer_gets_what_the_one_who_knows_most_knows() -> None:
    a, b = pair()
    a.known.blocks[0], b.known.blocks[0] = ["x"], [*range(3000)]
    b.known.blocks[2], b.known.capacity = ["k"], 4321
    c = seeded(a, b)
    assert c.known.blocks == b.known.blocks and c.known.capacity == 4321 and c.peers.seed.finished
    assert a.known.blocks[0] == ["x"]


def test_every_message_says_when_it_was() -> None:
    """What is a day old is passed over: on a machine that runs for longer a time of zero is that."""
    a, _ = pair()
    a.known.blocks[0] = [*range(3000)]
    day = 1e6
    a.peers.fetch(day)
    a.peers.hear([Message(33, "here", 33, at=day), Message(33, "want", 11, at=day)], day)
    said = [m for at in range(6) for m in a.peers.fetch(day + at)]
    assert {"piece", "whole"} <= {m.kind for m in said} and all(day <= m.at <= day + 6 for m in said)


def test_with_nothing_to_be_had_it_is_content() -> None:
    c = seeded(*pair())
    assert c.peers.seed.finished and c.known.stock() == 0
    alone = One(1)
    talk(alone, t=100.0)
    assert not alone.peers.seed.finished


def test_who_stops_in_the_middle_is_given_up_for_another() -> None:
    a, b = pair()
    a.known.blocks[0], b.known.blocks[0] = [*range(5000)], [*range(100)]
    c = One(33)
    talk(a, b, c, t=2.0)
    c.peers.sweep(2.1 + LISTEN_SECONDS)
    asked = next(m for m in c.peers.fetch(2.2 + LISTEN_SECONDS) if m.kind == "want")
    assert asked.key == 11
    a.peers.hear([asked], 4.0)
    c.peers.hear(a.peers.fetch(4.0), 4.0)
    assert len(c.known.blocks[0]) == kv_seed.PIECE
    c.peers.sweep(4.1 + STUCK_SECONDS)
    talk(b, c, t=4.2 + STUCK_SECONDS)
    assert c.peers.seed.finished and len(c.known.blocks[0]) == kv_seed.PIECE + 100
    c.peers.hear([Message(22, "whole", 33), Message(11, "whole", 33)], 9.0)
    late = a.peers.fetch(9.0)
    assert any(m.kind == "piece" for m in late)
    assert not c.peers.hear([m for m in late if m.kind == "piece"], 9.0)


def test_the_death_of_who_gives_is_noticed_at_once() -> None:
    a, b = pair()
    a.known.blocks[0], b.known.blocks[0] = [*range(5000)], [*range(100)]
    c = One(33)
    talk(a, b, c, t=2.0)
    c.peers.sweep(2.1 + LISTEN_SECONDS)
    c.peers.gone(11, 4.0)
    c.peers.sweep(4.2)
    assert [m.key for m in c.peers.fetch(4.3) if m.kind == "want"] == [11, 22]


def test_seeds_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_seed, "MOST_BLOCKS", 1500)
    monkeypatch.setattr(kv_seed, "ASKERS", 2)
    a, _ = pair()
    a.known.blocks[0] = [*range(5000)]
    a.peers.hear([Message(g, "want", 11) for g in (2, 3, 4)], 1.0)
    got: dict[int, int] = {}
    while said := [m for m in a.peers.fetch(2.0) if m.kind in ("piece", "whole")]:
        for m in said:
            got[m.key] = got.get(m.key, 0) + len(m.blocks)
    assert got == {2: 1500, 3: 1500}


def test_pieces_for_others_of_unknown_replicas_or_not_asked_for_are_passed_over() -> None:
    a, _ = pair()
    said = [Message(22, "piece", 99, 0, blocks=(1,)), Message(22, "piece", 11, 77, blocks=(1,)), Message(22, "piece", 11, 0, blocks=(1,))]
    assert not a.peers.hear([*said, Message(22, "whole", 99), Message(22, "want", 99)], 1.0)
    assert a.known.stock() == 0
    bare = Peers(5, Load(1))
    bare.hear([Message(22, "want", 5), Message(22, "piece", 5, 0, blocks=(1,)), Message(22, "booked", 1, 0, 0.0, 1.0, 1)], 0.0)
    bare.hear([Message(22, "answered", 1), Message(22, "ended", 1)], 0.0)
    assert [m.kind for m in bare.fetch(0.0)] == ["again", "anew", "told"]


def test_what_is_known_exactly_seeds_who_has_to_guess() -> None:
    exact, guessed = Caches(64, 1.0), Caches(64, 1.0)
    exact.join(0, True, None, None, 0)
    exact.join(1, False, None, None, 0)
    guessed.join(0, False, None, None, 0)
    guessed.join(1, True, None, None, 0)
    exact.index.add(0, range(500))
    exact.guesses.touch(1, [7, 8], 1.0)
    giver, taker = HeardCaches(exact), HeardCaches(guessed)
    assert giver.stock() == 502 and taker.stock() == 0
    blocks, capacity = giver.kept(0)
    assert [*blocks] == [*range(500)] and capacity == 500
    taker.seed(0, blocks, capacity, 2.0)
    taker.seed(1, *giver.kept(1), 2.0)  # its events say it better
    assert guessed.match([*range(600)])[0] == [500, 0] and taker.stock() == 500
    guessed.guesses.touch(0, range(1000, 1030), 3.0)  # what goes first are the last blocks of the seed
    assert guessed.match([*range(600)])[0][0] == 470
    guessed.check()


# Chains


def test_the_next_turn_is_told_by_what_is_new() -> None:
    teller, hearer = Chains(), Chains()
    one, two = teller.cut([1, 2, 3]), teller.cut([1, 2, 3, 4, 5])
    assert one == (None, (1, 2, 3)) and two == (3, (4, 5)) and teller.cut([1, 2, 3]) == (3, ())
    assert [hearer.join(*said) for said in (one, two, (3, ()))] == [(1, 2, 3), (1, 2, 3, 4, 5), (1, 2, 3)]
    assert hearer.join(77, [8]) is None and hearer.join(None, []) == () and teller.cut([]) == (None, ())


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60)), max_size=80), st.integers(20, 200))
@settings(deadline=None)
def test_teller_and_hearer_agree_while_nothing_is_lost(said: list[tuple[int, int]], kept: int) -> None:
    before, kv_chains.KEPT = kv_chains.KEPT, kept
    try:
        teller, hearer = Chains(), Chains()
        for branch, length in said:
            chain = [(0, k) if k < 5 else (branch, k) for k in range(length)]
            assert hearer.join(*teller.cut(chain)) == tuple(chain)
            assert teller._chains == hearer._chains and teller._size == sum(map(len, teller._chains.values())) <= kept
    finally:
        kv_chains.KEPT = before
