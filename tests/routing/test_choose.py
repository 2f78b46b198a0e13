"""From what is known of a route's replicas to a decision that tells its reasons."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.types import Fault, Target, Usage
from routing.choose import Chooser, Option, Policy, Scores, words
from routing.pace import Pace
from routing.policies import Asked, Condition, Goal
from routing.types import Decision, Replica
from tests.routing.made import replica

PRESETS = ("weighted", "round_robin", "least_busy", "p2c", "latency", "cost", "kv_aware", "session", "priority", "local_first")

GOAL, ANY = Goal(), Asked()


def paced(ttft: float | None, tpot: float = 0.01) -> Pace:
    pace = Pace()
    if ttft is not None:
        sent = pace.sent(0, 0, 0.0)
        pace.first(sent, ttft)
        pace.rest(sent, 101, 0, ttft + 100 * tpot)
    return pace


def option(r: Replica, place: int = 0, *, ttft: float | None = 1.0, dollars: float | None = 0.0, **more: object) -> Option:
    price = None if dollars is None else lambda usage: dollars * (usage.input + usage.output) * 1e-6
    target = Target("b", f"t{place}", context=more.pop("context", None), price=price)  # type: ignore[arg-type]
    return Option(r, target, paced(ttft), place=place, **more)  # type: ignore[arg-type]


def chooser(
    *options: Option, name: str = "weighted", goal: Goal = GOAL, costs: dict[str, float] | None = None, pick: str = "least"
) -> Chooser:
    return Chooser("m", options, Policy(name, goal, tuple((costs or {}).items()), pick), random.Random(1))


def chosen(c: Chooser, asked: Asked = ANY, now: float = 5.0, excluded: tuple[Replica, ...] = ()) -> Decision:
    found = c.choose(asked, now, excluded)
    assert found is not None
    return found


def refused(c: Chooser, asked: Asked = ANY, excluded: tuple[Replica, ...] = ()) -> Fault:
    with pytest.raises(Fault) as caught:
        c.choose(asked, 5.0, excluded)
    return caught.value


@pytest.mark.parametrize("name", [*PRESETS, "costs"])
def test_every_policy_chooses_explains_and_obeys(name: str) -> None:
    a, b, c = replica("a"), replica("b"), replica("c", health="down")
    made = chooser(
        option(a, local=True), option(b, 1), option(c, 2, local=True), name=name, costs={"latency": 1.0, "money": 20.0, "scheduled": 1.0}
    )
    for asked in (Asked(), Asked(session="s"), Asked(private=True), Asked(prompt=50)):
        found = chosen(made, asked)
        assert found.replica is a or (found.replica is b and not asked.private)
        assert found.reason and isinstance(found.scores, Scores)
        told = found.scores
        assert set(told) == {"a", "b", "c"} and len(told) == 3 and told["c"]["out"] == "it cannot take a call now"
        assert told[found.replica.name].get("out") is None
        line = words(found)
        assert line.startswith(f"{found.replica.name}: {found.reason}") and "c out, it cannot take a call now" in line
        assert ("next" in line) is not asked.private
    assert name in repr(made)


def test_words_tell_seconds_by_term() -> None:
    a, b = replica("mine"), replica("cloud")
    made = chooser(
        option(a, ttft=0.5, local=True), option(b, 1, ttft=0.2, dollars=10.0), name="local_first", goal=Goal(2.0, 0.1, 100.0)
    )  # fmt: skip
    line = words(chosen(made, Asked(prompt=1000, output=100), now=0.0))
    assert line == (
        "mine: local; next cloud; mine 1.5 s (first token 0.5, answer 1, money 0); cloud 2.3 s (first token 0.2, answer 1, money 1.1)"
    )
    assert words(Decision(a, Target("b", "t"), "weighted")) == "mine: weighted"


def test_dollars_are_told_beside_seconds() -> None:
    made = chooser(option(replica("a"), dollars=5.0), option(replica("b"), 1, dollars=1.0), name="cost")
    found = chosen(made, Asked(prompt=1000, output=1000))
    assert found.replica.name == "b" and found.reason == "cheapest of those that meet the goal"
    assert found.scores["b"]["dollars"] == pytest.approx(0.002) and "0.002 $" in words(found)


def test_an_unknown_price_is_no_bargain() -> None:
    free, dear, unknown = (
        option(replica("free"), dollars=None, free=True),
        option(replica("dear"), 1, dollars=9.0),
        option(replica("x"), 2, dollars=None),
    )
    assert chosen(chooser(dear, unknown, free, name="cost"), Asked(prompt=1000)).replica.name == "free"
    found = chooser(dear, unknown, name="cost").candidates(Asked(prompt=1000), 0.0)
    assert [c.price_in for c in found] == [pytest.approx(9.0)] * 2
    alone = chooser(unknown, name="cost").candidates(Asked(prompt=1000), 0.0)
    assert [(c.price_in, c.price_out) for c in alone] == [(0.0, 0.0)] and inf not in [c.price_in for c in alone]


def test_a_price_that_its_table_does_not_have_is_unknown() -> None:
    one = Option(replica("a"), Target("b", "t", price=lambda usage: None), Pace())
    assert one.candidate(Asked(prompt=5), 0.0, True).price_in == inf


def test_prices_are_those_of_the_prompt_s_length() -> None:
    def price(usage: Usage) -> float:
        rate = 2.0 if usage.input > 1000 else 1.0
        return rate * (usage.input + 3 * usage.output) * 1e-6

    one = Option(replica("a"), Target("b", "t", price=price), Pace())
    short, long = one.candidate(Asked(prompt=500), 0.0, True), one.candidate(Asked(prompt=5000), 0.0, True)
    assert [short.price_in, short.price_out, long.price_in, long.price_out] == pytest.approx([1.0, 3.0, 2.0, 6.0])


def test_conditions_send_calls_where_they_belong_and_refuse_the_rest() -> None:
    long, gold = replica("long"), replica("gold")
    made = chooser(
        option(long, when=Condition(longer=8000)), option(gold, 1, when=Condition(headers={"x-tier": "gold"}, keys=frozenset({"k"})))
    )  # fmt: skip
    assert made.headers == {"x-tier"} and not made.timed
    assert chosen(made, Asked(prompt=9000)).replica is long
    assert chosen(made, Asked(key="k", headers={"x-tier": "gold"})).replica is gold
    fault = refused(made, Asked(prompt=10))
    assert (fault.status, fault.code, fault.origin) == (400, "no_target", "client")
    assert fault.message == (
        "No target of 'm' takes this request: long (takes prompts longer than 8000 tokens, this has about 10), gold (is for other keys)."
    )


@pytest.mark.parametrize(
    ("when", "asked", "why"),
    [
        (Condition(shorter=10), Asked(prompt=10), "takes prompts shorter than 10 tokens, this has about 10"),
        (Condition(private=True), Asked(), "takes private calls"),
        (Condition(private=False), Asked(private=True), "takes no private calls"),
        (Condition(needs=frozenset({"tools", "images"})), Asked(needs=frozenset({"tools"})), "takes calls with images"),
        (Condition(headers={"x-a": "1"}), Asked(), "wants another header x-a"),
    ],
)
def test_what_does_not_hold_is_told(when: Condition, asked: Asked, why: str) -> None:
    assert why in refused(chooser(option(replica("a"), local=True, when=when)), asked).message


def test_hours_come_again() -> None:
    made = chooser(option(replica("night"), when=Condition(hours=(1320, 360))))
    assert made.timed and chosen(made, Asked(minute=1330)).replica.name == "night"
    fault = refused(made, Asked(minute=720))
    assert (fault.status, fault.code) == (503, "no_target") and "takes calls at other hours" in fault.message


def test_private_calls_fail_where_nothing_is_local() -> None:
    fault = refused(chooser(option(replica("cloud"))), Asked(private=True))
    assert (fault.status, fault.code) == (403, "no_local_target")


def test_waiting_is_for_those_that_take_the_call() -> None:
    busy, other = replica("busy", inflight=1, slots=1), replica("other")
    made = chooser(option(busy, local=True), option(other, 1), name="priority")
    assert made.choose(Asked(private=True), 5.0) is None, "a slot will be free"
    assert chosen(made).replica is other
    fault = refused(made, Asked(private=True), excluded=(busy,))
    assert (fault.code, fault.status) == ("no_replica", 503) and "No local replica" in fault.message
    down = replica("down", health="down")
    down.reason = "it is ill"
    assert refused(chooser(option(down))).message == "No replica of 'm' that takes this request can answer now: it is ill"


def test_when_all_rest_the_one_that_rests_shortest_is_tried() -> None:
    a, b = replica("a", down_until=50.0), replica("b", down_until=20.0)
    made = chooser(option(a), option(b, 1), name="latency")
    found = chosen(made)
    assert found.replica is b and "rests shortest" in found.reason and "a out" in words(found)
    assert chosen(made, excluded=(b,)).replica is a
    assert chosen(chooser(option(a, local=True), option(b, 1)), Asked(private=True)).replica is a


def test_what_is_too_long_or_unsupported_is_told() -> None:
    made = chooser(
        option(replica("small"), context=100), option(replica("plain"), 1, unsupported=frozenset({"tools"})), option(replica("ok"), 2)
    )
    found = chosen(made, Asked(prompt=500, needs=frozenset({"tools"})))
    assert found.replica.name == "ok"
    assert found.scores["small"]["out"] == "about 500 tokens are too many for its 100"
    assert found.scores["plain"]["out"] == "it has no tools"
    small = chosen(chooser(option(replica("small"), context=100)), Asked(prompt=500))
    assert "out" not in small.scores["small"], "where there is nothing else, the backend may judge"


def test_what_a_scheduler_is_told_besides() -> None:
    both, dear, gold = replica("both"), replica("dear", health="down"), replica("gold")
    when = Condition(headers={"x-tier": "gold"})
    options = (option(both, dollars=2.0), option(both, 1, dollars=1.0), option(dear, 2, dollars=50.0), option(gold, 3, when=when))
    asked = Asked(prompt=900, output=100)
    money = chooser(*options, name="kv_aware", goal=Goal(seconds_per_dollar=10.0)).besides(asked, 0.0)
    assert {r.name: (target.model, round(seconds, 6)) for r, (target, seconds) in money.items()} == {
        "both": ("t1", 0.01),
        "dear": ("t2", 0.5),
    }
    summed = chooser(*options, name="costs", costs={"scheduled": 2.0, "latency": 1.0}).besides(asked, 0.0)
    assert summed[both][1] == pytest.approx(1.0)
    assert chooser(*options).barred(asked) == {gold} and not chooser(*options).barred(Asked(headers={"x-tier": "gold"}))
    assert chooser(*options).barred(Asked(private=True)) == {both, dear, gold}
    only = chooser(option(gold, when=when), name="kv_aware")
    with pytest.raises(Fault, match="wants another header"):
        only.besides(asked, 0.0)


def test_round_robin_turns_and_gateways_begin_differently() -> None:
    options = [option(replica(name), i) for i, name in enumerate("abcd")]
    made = chooser(*options, name="round_robin")
    names = [chosen(made).replica.name for _ in range(8)]
    assert sorted(names[:4]) == list("abcd") and names[:4] == names[4:]
    begins = {Chooser("m", options, Policy("round_robin"), random.Random(seed)).turn % 4 for seed in range(20)}
    assert begins == {0, 1, 2, 3}


def test_answers_teach_how_long_the_next_is() -> None:
    made = chooser(option(replica("a")))
    for _ in range(100):
        made.wrote(1000)
    assert made.output == pytest.approx(1000, rel=0.02)


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.booleans(), st.sampled_from(["ready", "loading", "down"]), st.integers(0, 3), st.sampled_from([None, 1, 2]),
            st.sampled_from([0.0, 3.0, 9.0]),
        ),
        min_size=1, max_size=6,
    ),
    st.sampled_from(PRESETS), st.booleans(), st.sets(st.integers(0, 5)),
)  # fmt: skip
def test_no_policy_lets_a_private_call_out_or_takes_who_is_excluded(
    made: list[tuple[bool, bool, str, int, int | None, float]], name: str, private: bool, out: set[int]
) -> None:
    replicas = [replica(f"r{i}", health=h, inflight=n, slots=s, down_until=d) for i, (_, _, h, n, s, d) in enumerate(made)]  # type: ignore[arg-type]
    options = [
        option(r, i, local=local, when=Condition(private=True) if only else None)
        for i, (r, (local, only, *_)) in enumerate(zip(replicas, made, strict=True))
    ]
    excluded = tuple(r for i, r in enumerate(replicas) if i in out)
    try:
        found = chooser(*options, name=name).choose(Asked(private=private, session="s"), 5.0, excluded)
    except Fault as fault:
        assert fault.code in ("no_replica", "no_target", "no_local_target")
        return
    if found is not None:
        place = replicas.index(found.replica)
        assert place not in out and (made[place][0] or not private) and (private or not made[place][1])
        assert found.replica.health == "ready" and not found.replica.full
