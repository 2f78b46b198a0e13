"""The rings behind the sparklines: no clock in them, so each test says what time it is."""

from __future__ import annotations

import json
import random

import msgspec
import pytest

from gateway.admin.window import ROUTES, SECONDS, Second, Windows, bin_of, merge_traffic, percentile


def test_percentiles_are_good_to_five_per_cent() -> None:
    chance = random.Random(1)
    times = sorted(chance.lognormvariate(-2, 1.5) for _ in range(5000))
    seconds = [Second(i) for i in range(10)]
    for i, time in enumerate(times):
        ttft = seconds[i % 10].ttft
        ttft[bin_of(time)] = ttft.get(bin_of(time), 0) + 1
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        assert percentile(seconds, share) == pytest.approx(times[max(0, int(share * 5000) - 1)], rel=0.06)
    assert percentile([], 0.5) is None
    assert [bin_of(t) for t in (0.0, -1.0, 1e-9, 1e9)] == [0, 0, 0, 180]


def test_workers_added_up_are_one_that_saw_all() -> None:
    chance = random.Random(2)
    alone, workers = Windows(0.0), [Windows(0.0) for _ in range(3)]
    for i in range(3000):
        now = 1000.0 + i / 10
        seen = (chance.choice("ab"), chance.random() < 0.1, chance.random(), chance.randrange(50), chance.random() * 20)
        alone.add(now, *seen)
        workers[i % 3].add(now, *seen)
    dumps = json.loads(json.dumps([worker.dump(1300.0) for worker in workers]))
    merged, single = merge_traffic(dumps, 1300.0, 0.0, dropped=7), alone.traffic(1300.0)
    assert merged.dropped == 7 and [r.route for r in merged.routes] == [r.route for r in single.routes]
    for got, wanted in zip([merged.total, *merged.routes], [single.total, *single.routes], strict=True):
        assert (got.route, got.requests, got.errors, got.rates) == (wanted.route, wanted.requests, wanted.errors, wanted.rates)
        assert (got.ttft_p50, got.ttft_p95) == (wanted.ttft_p50, wanted.ttft_p95)
        assert got.tokens_per_second == pytest.approx(wanted.tokens_per_second, abs=0.01)
    assert merged.history.rps == single.history.rps and merged.history.ttft_p95 == single.history.ttft_p95
    assert merged.history.tokens_per_second == pytest.approx(single.history.tokens_per_second, abs=0.02)


def test_a_dump_of_another_shape_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        merge_traffic([{"routes": {"a": [{"at": "soon"}]}}], 1.0, 0.0)


def test_an_older_second_does_not_push_out_a_newer_one() -> None:
    early, late = Windows(0.0), Windows(0.0)
    early.add(1000.0, "a", False, None, 0, 0.0)
    late.add(1000.0 + SECONDS, "a", False, None, 0, 0.0)
    for order in ([early, late], [late, early]):
        dumps = [order[0].dump(1000.0 + SECONDS * (order[0] is late)), order[1].dump(1000.0 + SECONDS * (order[1] is late))]
        assert merge_traffic(dumps, 1001.0 + SECONDS, 0.0).total.requests == 1


def test_routes_are_capped_and_a_very_long_answer_fits() -> None:
    windows = Windows(0.0)
    for i in range(ROUTES * 3):
        windows.add(5000.0, f"r{i}" * 100, False, 0.1, 10, 100_000.0)
    traffic = windows.traffic(5001.0)
    assert len(traffic.routes) <= ROUTES + 1 and traffic.total.requests == ROUTES * 3
    assert max(len(r.route) for r in traffic.routes) <= 128
    shown = sum(traffic.history.tokens_per_second) * 2
    assert shown == pytest.approx(ROUTES * 3 * 10, rel=0.02)


def test_the_first_seconds_do_not_divide_by_a_whole_minute() -> None:
    windows = Windows(1000.0)
    for i in range(50):
        windows.add(1000.0 + i / 10, "a", False, 0.1, 0, 0.0)
    assert windows.traffic(1005.0).total.rps == pytest.approx(10.0)
