"""Fair shares: the bound between those that wait, no saved-up credit, nothing for new names, and all of it in the scheduler."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import fair as fair_module
from routing.fair import Fair
from routing.kv import Scheduler, Settings, Want

QUANTUM = 1000.0
SHARES = {"a": 1.0, "b": 2.0, "c": 0.5}


@given(
    st.lists(st.tuples(st.sampled_from(["come", "serve", "serve", "serve"]), st.sampled_from("abc"), st.integers(1, 3000))), st.randoms()
)
def test_who_waits_is_at_most_a_quantum_and_a_request_behind(steps: list[tuple[str, str, int]], rng: random.Random) -> None:
    fair = Fair(QUANTUM)
    queues: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    largest = {name: 3000 / share for name, share in SHARES.items()}
    for kind, name, tokens in steps:
        if kind == "come":
            queues[name].append(tokens)
            fair.arrive(name, SHARES[name])
        else:
            able = [n for n in fair.waiting() if fair.round(n) == min(map(fair.round, fair.waiting()))]
            if able:
                n = rng.choice(able)  # within a round anything else may decide
                fair.charge(n, queues[n].pop(0))
                fair.depart(n)
        fair.check()
        served = [fair.served(n) for n in fair.waiting()]
        assert not served or max(served) - min(served) <= QUANTUM + max(largest.values())
        assert set(fair.waiting()) == {n for n, q in queues.items() if q}


def test_two_that_always_wait_are_served_by_their_shares() -> None:
    fair, got = Fair(QUANTUM), {"a": 0, "b": 0}
    for name in got:
        fair.arrive(name, SHARES[name])
    for _ in range(3000):
        name = min(got, key=fair.round)
        fair.arrive(name, SHARES[name])
        fair.depart(name)
        fair.charge(name, 700)
        got[name] += 700
    assert got["b"] / got["a"] == pytest.approx(2.0, rel=0.01)


def test_nobody_saves_up_more_than_half_a_quantum() -> None:
    fair = Fair(QUANTUM)
    fair.arrive("quiet", 1.0)
    fair.depart("quiet")
    fair.arrive("busy", 1.0)
    fair.charge("busy", 1e6)
    fair.arrive("quiet", 1.0)
    assert fair.served("quiet") == 1e6 - QUANTUM / 2 and fair.round("quiet") < fair.round("busy")
    fair.depart("quiet")
    fair.depart("busy")
    fair.arrive("quiet", 1.0)  # nobody else waits: the last that did counts
    assert fair.served("quiet") == 1e6 - QUANTUM / 2


def test_a_debt_stays_and_a_new_name_wins_nothing() -> None:
    fair = Fair(QUANTUM)
    fair.arrive("a", 1.0)
    fair.arrive("b", 1.0)
    fair.charge("b", 5000)
    fair.depart("b")
    fair.arrive("b", 1.0)
    assert fair.served("b") == 5000
    fair.arrive("new", 1.0)
    assert fair.served("new") == 5000 and fair.waiting() == ["a", "b", "new"]
    assert (fair.weight("a", 1.0), fair.weight("stranger", 0.5)) == (3.0, 7.0)
    assert fair.served("stranger") == fair.round("stranger") == 0
    fair.charge("stranger", 5.0)


def test_names_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_module, "TENANTS_MAX", 8)
    fair = Fair(QUANTUM)
    fair.arrive("waits", 1.0)
    for k in range(50):
        fair.arrive(f"t{k}", 1.0)
        fair.charge(f"t{k}", 10.0 * k)
        fair.depart(f"t{k}")
        assert len(fair._tenants) <= 9
    assert fair.waiting() == ["waits"] and fair.served("t49") == 490 and fair.served("t0") == 0
    fair.check()


@pytest.mark.parametrize(
    "make", [lambda: Fair(0.0), lambda: Want("x", 1, (), 0.0, share=0.0), lambda: Want("x", 1, (), 0.0, share=float("nan"))]
)
def test_nonsense_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        make()


# In the scheduler


def scheduler(replicas: int = 1, **changed: Any) -> Scheduler:
    return Scheduler(replicas, 64, random.Random(1), Settings(**changed))


def drain(s: Scheduler, first: Any, steps: int, now: float = 0.0, served: bool = True) -> list[Any]:
    """Ends what is under way, one by one, and says who went."""
    order, last = [], first
    for _ in range(steps):
        s.ended(last, now, **({"cached": 0, "output": 10} if served else {}))
        placed = s.place(now)
        if not placed:
            break
        order += [w.key for w, _ in placed]
        last = order[-1]
    return order


def busy(s: Scheduler) -> None:
    s.force(Want("first", 100_000, (), 0.0, tenant="other"), 0, 0.0)


def test_one_request_is_not_hidden_behind_ten_thousand_of_another() -> None:
    s = scheduler()
    busy(s)
    for k in range(10_000):
        s.ask(Want(("hog", k), 2000, (), 0.0, tenant="hog", output=10), 0.0)
    drain(s, "first", 3)
    s.ask(Want("quiet", 2000, (), 1.0, tenant="quiet", output=10), 1.0)
    under_way = next(iter(s.load.bookings))
    place = s.position("quiet", 1.0)
    assert place is not None and place.number <= 2 and place.of == 9998
    far = s.position(("hog", 9999), 1.0)
    assert far is not None and far.number > 9000 and far.wait > 100 * place.wait
    assert "quiet" in drain(s, under_way, 2, 1.0)
    s.check()


def test_tenants_share_by_weight_and_bands_go_before() -> None:
    s = scheduler()
    busy(s)
    for k in range(60):
        for name, share in (("a", 1.0), ("b", 3.0)):
            s.ask(Want((name, k), 5000, (), 0.0, tenant=name, share=share, output=10), 0.0)
    s.ask(Want(("top", 0), 9000, (), 0.0, tenant="a", band=1, output=10), 0.0)
    order = drain(s, "first", 60)
    assert order[0] == ("top", 0)
    assert sum(name == "b" for name, _ in order) == pytest.approx(45, abs=3)


def test_cached_tokens_cost_nothing_and_what_was_charged_is_corrected() -> None:
    s = scheduler(replicas=2)
    w = Want("a", 6400, [("p", k) for k in range(100)], 0.0, tenant="t", output=100)
    s.index.add(0, w.blocks[:50])
    s.ask(w, 0.0)
    assert s.fair.served("t") == 3200 + 400
    s.answered("a", 0.3)
    s.ended("a", 1.0, 6000, 30)
    assert s.fair.served("t") == 400 + 120


@pytest.mark.parametrize(
    ("answered", "end", "output", "cost"),
    [
        (False, 0.0, None, 0.0),  # it failed at once
        (False, 1000.0, None, 6400.0),  # it left when all was computed
        (True, 1.0, None, 6400.0 + 28.0),  # it told nothing: the prediction stands
        (True, 1.0, 20, 6400.0 + 80.0),
    ],
)
def test_a_tenant_pays_for_what_was_done(answered: bool, end: float, output: int | None, cost: float) -> None:
    s = scheduler()
    s.ask(Want("a", 6400, (), 0.0, tenant="t", output=7), 0.0)
    assert s.fair.served("t") == 6400 + 28
    if answered:
        s.answered("a", 0.5)
    s.ended("a", end, None, output)
    assert s.fair.served("t") == pytest.approx(cost)


def test_who_cannot_go_now_holds_up_nobody() -> None:
    s = scheduler(replicas=2)
    busy(s)
    s.ask(Want("stuck", 5000, (), 0.0, tenant="poor", usable=0b01), 0.0)
    for k in range(3):
        assert [w.key for w, _ in s.ask(Want(k, 5000, (), 0.0, tenant="rich", usable=0b10, output=10_000), 0.0)] == [k]
        s.ended(k, 0.0, 0, 10_000)
    assert s.position("stuck", 0.0) is not None


def test_many_tenants_that_cannot_go_hide_nobody_who_can() -> None:
    s = scheduler(replicas=2, window=8)
    busy(s)
    s.force(Want("second", 100_000, (), 0.0, tenant="other"), 1, 0.0)
    for k in range(40):
        s.ask(Want(("stuck", k), 5000, (), 0.0, tenant=f"t{k}", usable=0b01), 0.0)
    s.ask(Want("able", 5000, (), 0.0, tenant="late", usable=0b10), 0.0)
    s.ended("second", 0.0)
    placed = [w.key for _ in range(40) for w, _ in s.place(0.0)]
    assert placed == ["able"]


def test_a_long_queue_of_several_bands_is_looked_at_from_the_top() -> None:
    s = scheduler(window=4)
    busy(s)
    for k in range(10):
        s.ask(Want(("low", k), 2000, (), 0.0, tenant="a"), 0.0)
    s.ask(Want("high", 2000, (), 0.0, tenant="b", band=1), 0.0)
    looked = [w.key for w in s.held.window(4)]
    assert looked[0] == "high" and len(looked) == 4
    assert drain(s, "first", 1) == ["high"]


def test_one_that_goes_at_once_while_it_had_saved_up_moves_nobody_else() -> None:
    fair = Fair(QUANTUM)
    fair.through("new", 1.0, 10.0)
    fair.through("busy", 1.0, 5000.0)
    fair.through("new", 1.0, 10.0)
    assert fair.served("busy") == 5010.0 and fair.served("new") == 5010.0 - QUANTUM / 2 + 10.0
    fair.check()
