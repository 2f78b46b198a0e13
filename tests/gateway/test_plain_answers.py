"""The shortest way of a whole answer: what may go it, what is left of it, and the ids that requests get."""

from __future__ import annotations

import itertools
import sys
from time import monotonic, time
from typing import Any

import pytest

from gateway.answering import CHOICES, NO_CALL, TRIES
from gateway.experiments.ended import SHORT, Ended, short
from gateway.experiments.entry import Part
from gateway.experiments.plain import Kind
from gateway.serve import numbered
from tests.gateway.parts import World

GOOD = b'{"choices":[{"message":{"content":"yes"}}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
SPOKEN = (
    b'{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"yes"},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (GOOD, 200),
        (b'{"note":"an \\"error\\" in words","error":null,"choices":[]}', 200),
        (b'{"data":[],"object":"list"}', 200),
        (b'{"pad":"' + b"x" * 300 + b'","choices":[],"error":{"message":"boom"}}', 200),
        (b'{"error":{"message":"boom","code":500}}', 500),
        (b'{"error":{"message":"boom","code":500},"pad":"' + b"x" * 600 + b'"}', 500),
        (b'{"object":"error","error":{"message":"' + b"x" * 600 + b'"}}', 502),
        (b"", 502),
        (b"{", 502),
        (b"}", 502),
        (b"data: {}\n\n", 502),
    ],
)
def test_what_is_a_good_answer(body: bytes, status: int) -> None:
    world = World(1, retries=0)
    sink, _ = world.ask()
    world.flight.whole(body)
    assert sink.status == status and (sink.body == body or status != 200)
    world.check_idle(1)


def test_an_exchange_is_clean_only_where_nobody_else_knows_of_it() -> None:
    world = World(1)
    sink, exchange = world.ask()
    assert not exchange.clean
    world.flight.whole(GOOD)
    assert exchange.clean and exchange.call is NO_CALL and exchange.flight is None
    first = exchange.id
    exchange.anew({b"host": b"localhost", b"x-request-id": b"mine"})
    assert exchange.id == b"mine" != first and not exchange.clean and not exchange.ended
    sink.done = False
    exchange.pause()
    exchange.start(b'{"model":"m","messages":[]}')
    world.flight.whole(GOOD)
    assert exchange.clean and exchange.attempts == 1 and world.record.status == 200
    exchange.anew({b"host": b"localhost"})
    assert exchange.paused_at is None and exchange.id not in (first, b"mine")
    sink.done = False
    exchange.start(b"no JSON")
    assert sink.status == 400 and not exchange.clean and exchange.attempts == 0 and world.record.route == ""
    for doc in ({"stream": True}, {"model": "none"}):
        assert not world.ask(doc)[1].clean


class Kept:
    """Where tuples of experiments go."""

    def __init__(self) -> None:
        self.ended: list[Ended] = []
        self.put = self.ended.append


def test_one_that_was_in_an_experiment_is_clean_where_nothing_follows_its_answer() -> None:
    world, store = World(1), Kept()
    world.recorder.store = store
    kind = Kind("ab", 0, "a", "t")
    for body in (GOOD, b'{"pad":"' + b"x" * SHORT + b'","choices":[]}'):
        sink, exchange = world.ask()
        exchange.trial = Part(store, ((kind, 7),), exchange.route, None)
        received = exchange.received
        world.flight.whole(body)
        assert sink.status == 200 and exchange.clean
        (mark, unit, tenant, request, at, *_, target, _, _, answer, _) = store.ended.pop()
        assert (mark, unit, tenant, request) == (("ab", 0, "a"), 7, "t", exchange.id)
        assert abs(at - received - time() + monotonic()) < 1.0
        assert target is world.route.arms[0].target
        assert answer == short(body) and not store.ended
        exchange.anew({b"host": b"localhost"})
        assert exchange.trial is None
    for body in (GOOD, b'{"pad":"' + b"x" * SHORT + b'","choices":[]}'):  # of an experiment that was promoted nothing is told
        sink, exchange = world.ask()
        exchange.trial = Part(store, (), exchange.route, None)
        world.flight.whole(body)
        assert sink.status == 200 and exchange.clean and not store.ended
    sink, exchange = world.ask()
    entry = exchange.trial = Part(store, ((kind, 7),), exchange.route, None).own(exchange)
    exchange.sink = entry.tapped(exchange.sink)
    world.flight.whole(GOOD)
    assert not exchange.clean and len(store.ended) == 1  # its tap has told it
    world.check_idle(5)


def test_what_stands_in_the_recorder_holds_no_part_of_an_experiment() -> None:
    """Nor, through it, a generation that has been replaced."""
    world, store = World(1), Kept()
    world.recorder.store = store
    part = Part(store, ((Kind("ab", 0, "a", "t"), 7),), world.route, None)
    held, told = sys.getrefcount(part), list[Any]()
    world.recorder.put_plain = told.append  # type: ignore[method-assign]
    for _ in range(3):
        _, exchange = world.ask()
        exchange.trial = part
        world.flight.whole(SPOKEN)
        assert exchange.clean
    assert len(told) == 3 and sys.getrefcount(part) == held
    assert [plain[11] for plain in told] == [SPOKEN, *[b'chatcmpl-1"'] * 2]


def test_what_is_told_beside_an_answer_takes_the_longer_way() -> None:
    world = World(1, drop=True, unsupported=frozenset({"seed"}))
    sink, exchange = world.ask({"seed": 1})
    world.flight.whole(GOOD)
    assert sink.headers["x-pointsman-dropped"] == "seed" and not exchange.clean
    world = World(1, origins=("https://app.example",))
    sink, exchange = world.ask(headers={b"origin": b"https://app.example", b"host": b"localhost"})
    world.flight.whole(GOOD)
    assert sink.headers["access-control-allow-origin"] == "https://app.example" and not exchange.clean
    sink, exchange = world.ask(headers={b"host": b"localhost"})  # of a client that is no browser
    world.flight.whole(GOOD)
    assert "access-control-allow-origin" not in sink.headers and exchange.clean


def test_an_error_is_one_whatever_came_before_it() -> None:
    """Where good answers have their choices is learned; an answer of another form is looked at."""
    world = World(1, retries=0)
    replica = world.replicas[0]
    for body, opened in ((GOOD, 1), (SPOKEN, SPOKEN.index(CHOICES)), (b'{"data":[]}', SPOKEN.index(CHOICES))):
        world.ask()
        world.flight.whole(body)
        assert replica.opened.start == opened
    for begin in (b"{", b'{"id":"1","object":"x",' + b" " * 99):
        body = begin + b'"error":{"message":"boom","code":500}}'
        sink, _ = world.ask()
        world.flight.whole(body)
        assert sink.status >= 500


def test_answers_without_choices_are_not_searched_for_ever() -> None:
    world = World(1)
    for _ in range(TRIES + 9):
        world.ask()
        world.flight.whole(b'{"data":[]}')
    assert world.replicas[0].looked == TRIES


def test_ids_count_up() -> None:
    assert [*itertools.islice(numbered(b"id-"), 3100)] == [b"id-%d" % n for n in range(1, 3101)]
