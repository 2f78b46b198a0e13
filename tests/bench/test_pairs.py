"""Requests to several servers in turn, and what is told of them."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Iterator

import pytest

from benchmarks.bench import added, pairs, wrk
from benchmarks.bench.client import Client
from benchmarks.bench.errors import BenchError
from benchmarks.bench.options import Options
from benchmarks.bench.words import Ask, Health, Profile, Stage, Target, Timed


class Fake(Client):
    """A client that notes who was asked, and answers at the next turn of the loop."""

    def __init__(self, name: str, log: list[tuple[str, int]]) -> None:
        super().__init__(Target("http://127.0.0.1:1/v1", "m"))
        self.name, self.log = name, log

    async def send(self, ask: Ask, timed: Timed) -> None:
        self.log.append((self.name, ask.index))
        timed.sent = timed.due
        await asyncio.sleep(0)
        timed.status, timed.done, timed.stamps = 200, timed.due + 1.0, [timed.due + 0.5]


def asks(count: int | None = None) -> Iterator[Ask]:
    return itertools.islice((Ask(i, b"{}", 1, 1) for i in itertools.count()), count)


def ran(bounds: pairs.Bounds, names: str = "ab", count: int | None = None) -> tuple[list[pairs.Side], list[tuple[str, int]]]:
    log: list[tuple[str, int]] = []

    async def go() -> list[pairs.Side]:
        sides = [pairs.Side(Fake(name, log), asks(count)) for name in names]
        await pairs.measure(sides, bounds, 1, asyncio.Event(), lambda done: None)
        return sides

    return asyncio.run(go()), log


def test_each_pair_goes_to_all_in_a_random_order() -> None:
    sides, log = ran(pairs.Bounds(1, 200, None, 10), "abc")
    orders = ["".join(name for name, _ in log[i : i + 3]) for i in range(0, len(log), 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders) and len(set(orders)) == 6
    assert all([timed.index for timed in side.timed] == list(range(210)) for side in sides)
    assert [timed.warm for timed in sides[0].timed] == [True] * 10 + [False] * 200


def test_many_at_a_time_are_pairs_still() -> None:
    sides, log = ran(pairs.Bounds(8, 100, None, 0))
    assert [t.index for t in sides[0].timed] == [t.index for t in sides[1].timed] == list(range(100))
    by_name = {name: sorted(i for who, i in log if who == name) for name in "ab"}
    assert by_name["a"] == by_name["b"] == list(range(100))


def test_it_ends_with_the_requests() -> None:
    sides, _ = ran(pairs.Bounds(4, None, 1e6, 0), count=7)
    assert len(sides[0].timed) == len(sides[1].timed) == 7


def test_interrupted_it_keeps_what_is_whole() -> None:
    log: list[tuple[str, int]] = []

    async def go() -> list[pairs.Side]:
        stop = asyncio.Event()
        sides = [pairs.Side(Fake(name, log), asks()) for name in "ab"]
        await pairs.measure(sides, pairs.Bounds(2, None, None, 0), 1, stop, lambda done: stop.set() if done >= 5 else None)
        return sides

    sides = asyncio.run(go())
    assert len(sides[0].timed) == len(sides[1].timed) >= 5


def test_a_failing_client_is_not_hidden() -> None:
    class Broken(Fake):
        async def send(self, ask: Ask, timed: Timed) -> None:
            raise RuntimeError("a defect")

    async def go() -> None:
        sides = [pairs.Side(Broken("a", []), asks()), pairs.Side(Fake("b", []), asks())]
        await pairs.measure(sides, pairs.Bounds(2, 10, None, 0), 1, asyncio.Event(), lambda done: None)

    with pytest.raises(RuntimeError, match="a defect"):
        asyncio.run(go())


def test_warm_pairs() -> None:
    assert [pairs.warm(Options(warmup=w, requests=r)) for w, r in ((0.1, 50), (0.1, None), (0.0, 9), (4.0, None))] == [5, pairs.WARM, 0, 4]


def seen(count: int, wait: float) -> list[Timed]:
    return [Timed(i, due=float(i), sent=float(i), stamps=[i + wait + i % 7 * 1e-4], done=i + wait + 1, status=200) for i in range(count)]


def test_what_is_added_is_the_difference_of_percentiles() -> None:
    rows = added.latencies("stream", 1, "g", [(seen(1000, 0.010), seen(1000, 0.012))])
    assert {(row.metric, row.percentile) for row in rows} == {(m, p) for m in ("ttft", "e2e") for p in ("p50", "p99")}  # p99.9 has too few
    for row in rows:
        assert math.isclose(row.added.value, 0.002, rel_tol=1e-6) and row.count == 1000
        assert row.added.low is not None and row.added.high is not None and row.added.low <= 0.002 + 1e-9 <= row.added.high + 2e-9
    assert added.latencies("stream", 1, "g", [(seen(10, 0.01), seen(10, 0.01))]) == []


def test_rates_of_stages_count_good_answers_alone() -> None:
    timed = [*seen(9, 0.1), Timed(9, due=0.0, status=500, error="x"), Timed(10, due=0.0, status=200, stamps=[1.0], warm=True)]
    stage = Stage(Profile("concurrent", value=2), 0, 3.0, timed, Health())
    rate = added.rate_of_stages("s", "stream", 2, [stage, stage])
    assert (rate.requests, rate.chunks, rate.spread, rate.sent, rate.failed) == (3.0, 3.0, 0.0, 20, 2)


def test_wrk_by_rounds() -> None:
    def told(p50: float) -> wrk.Told:
        return wrk.Told(seconds=2.0, requests=5000, failed=1000, p50=p50, p99=2 * p50, p999=3 * p50, most=1.0)

    rows = added.by_wrk(4, "g", [told(0.001), told(0.002), told(0.003)], [told(0.002), told(0.003), told(0.004)])
    assert [row.percentile for row in rows] == ["p50", "p99"]
    first = rows[0].added
    assert math.isclose(first.value, 0.001) and first.low is not None and math.isclose(first.low, 0.001, abs_tol=1e-9)
    assert told(1.0).rate == 2000.0 and added.mean([1.0]).low is None
    assert math.isclose(added.mean([1.0, 2.0, 3.0]).high or 0, 2 + 4.302652729911275 / math.sqrt(3))  # Student's t, two degrees


def test_what_wrk_writes() -> None:
    text = 'Running 1s test\nRESULT {"seconds":1.5,"requests":30,"failed":0,"p50":0.001,"p99":0.002,"p999":0.003,"most":0.004}\n'
    assert wrk.told(text).rate == 20.0
    with pytest.raises(BenchError, match="unable to connect"):
        wrk.told("unable to connect to 127.0.0.1:1 Connection refused\n")
