"""The ledger against a direct computation from the list of all that was seen: in any order, in any pieces, through a file."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.experiments.counted import values
from routing.experiments.ledger import LATENCIES, Ledger
from routing.experiments.moments import Moments
from routing.experiments.words import BEFORE, HOLDOUT, METRICS, Design, Metric, PlainRow, Seen

LIKED, SCORE, WAIT = "feedback:liked", "feedback:score", "feedback:wait"
DESIGN = Design(
    "e",
    "r",
    ("a", "b"),
    (1.0, 1.0),
    metrics={
        LIKED: Metric(LIKED, "boolean", "higher", "liked"),
        SCORE: Metric(SCORE, "mean", "higher", "score"),
        WAIT: Metric(WAIT, "log", "lower", "wait"),
    },
)
Said = tuple[int, str, float, bool]  # unit, name, value, before
optional = st.none() | st.booleans()
requests = st.builds(
    Seen,
    unix=st.integers(0, 30).map(float),
    experiment=st.just("e"),
    epoch=st.integers(0, 2),
    arm=st.sampled_from([BEFORE, BEFORE, "a", "a", "a", "b", HOLDOUT, "gone arm"]),
    unit=st.integers(0, 9).map(lambda n: n * 0x1C71C71C71C71C71),
    seconds=st.floats(0.0, 50.0, allow_subnormal=False),
    ttft=st.none() | st.floats(0.0, 5.0, allow_subnormal=False),
    stream=st.booleans(),
    error=st.sampled_from([False, False, True]),
    gone=st.sampled_from([False, False, False, True]),
    refused=optional,
    valid=optional,
    fallback=st.booleans(),
    output=st.none() | st.integers(0, 5000),
    cost=st.none() | st.floats(0.0, 3.0, allow_subnormal=False),
)
said = st.tuples(
    st.integers(0, 9).map(lambda n: n * 0x1C71C71C71C71C71),
    st.sampled_from(["liked", "score", "wait"]),
    st.floats(0.001, 100.0, allow_subnormal=False),
    st.booleans(),
)


def direct(all_seen: Sequence[Seen], all_said: Sequence[Said]) -> dict[str, Any]:
    """What a ledger must say, computed the plain way: unit by unit from the whole list."""
    counted = [s for s in all_seen if not s.gone and s.arm in (*DESIGN.arms, HOLDOUT)]
    history = [s for s in all_seen if not s.gone and s.arm == BEFORE]
    exposures: dict[int, list[Seen]] = defaultdict(list)
    for one in counted:
        exposures[one.unit].append(one)
    moments = {arm: {name: Moments() for name in (*METRICS, *DESIGN.metrics)} for arm in (*DESIGN.arms, HOLDOUT)}
    first: dict[int, dict[str, int]] = {}
    units = dict.fromkeys((*DESIGN.arms, HOLDOUT), 0)
    crossed = 0
    for unit, mine in exposures.items():
        start = min(mine, key=lambda s: (s.unix, s.epoch, s.arm))
        first.setdefault(start.epoch, dict.fromkeys(units, 0))[start.arm] += 1
        if len({s.arm for s in mine}) > 1:
            crossed += 1
            continue
        units[start.arm] += 1
        earlier = [s for s in history if s.unit == unit]
        trusted = all(s.unix < start.unix for s in earlier)
        for name in moments[start.arm]:
            now = _values(name, mine, [f for f in all_said if f[0] == unit and not f[3]])
            past = _values(name, earlier, [f for f in all_said if f[0] == unit and f[3]]) if trusted else []
            if now:
                moments[start.arm][name].change(0, 0.0, len(now), math.fsum(now), math.fsum(past) / len(past) if past else None)
    return {
        "moments": moments,
        "first": dict(sorted(first.items())),
        "units": units,
        "crossed": crossed,
        "left": sum(s.gone for s in all_seen),
        "strange": sum(not s.gone and s.arm == "gone arm" for s in all_seen),
        "requests": {arm: sum(s.arm == arm for s in counted) for arm in units},
        "fed": len(all_said),
    }


def _values(name: str, seen: Sequence[Seen], fed: Sequence[Said]) -> list[float]:
    if name in METRICS:
        return [v for s in seen if (v := values(s)[[*METRICS].index(name)]) is not None]
    found = [value for _, what, value, _ in fed if f"feedback:{what}" == name]
    exact = [math.log(v) if DESIGN.metric(name).kind == "log" else v for v in found]
    return [round(v * 2**36) / 2**36 for v in exact]


def told(ledger: Ledger) -> dict[str, Any]:
    return {
        "moments": ledger.moments, "first": ledger.first, "units": ledger.units, "crossed": ledger.crossed, "left": ledger.left,
        "strange": ledger.strange, "requests": ledger.requests, "fed": ledger.fed,
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(requests, max_size=60), st.lists(said, max_size=20), st.randoms(use_true_random=False))
def test_any_order_in_any_pieces_gives_the_direct_computation(seen: list[Seen], fed: list[Said], draw: random.Random) -> None:
    want = direct(seen, fed)
    work: list[Seen | Said] = [*seen, *fed]
    draw.shuffle(work)
    ledger, file, rows = Ledger(DESIGN), Ledger(DESIGN).dump(), dict[int, bytes]()
    for one in work:
        if isinstance(one, Seen):
            ledger.take(one)
        else:
            assert ledger.feedback(one[0], one[1], one[2], before=one[3])
        chance = draw.random()
        if chance < 0.1:
            assert ledger.units  # a look in between brings the sums up to date
        elif chance < 0.2:  # the process ends and another one goes on
            rows.update(ledger.changed())
            ledger = Ledger.load(DESIGN, ledger.dump(), rows.items())
    rows.update(ledger.changed())
    file = ledger.dump()
    assert told(ledger) == want
    again = Ledger.load(DESIGN, file, rows.items())
    assert told(again) == want and again.dump() == file
    assert sorted(again.rows()) == sorted(rows.items()) and again.sketches == ledger.sketches


@settings(max_examples=60, deadline=None)
@given(st.lists(requests, max_size=80), st.randoms(use_true_random=False), st.integers(1, 6))
def test_beyond_its_bound_the_same_units_stay_in_any_order(seen: list[Seen], draw: random.Random, limit: int) -> None:
    ledgers = []
    for _ in range(3):
        ledger, head, rows = Ledger(DESIGN, limit=limit), b"", dict[int, bytes]()
        for one in draw.sample(seen, len(seen)):
            ledger.take(one)
            if draw.random() < 0.1:
                if ledger.rewritten:
                    rows.clear()
                rows.update(ledger.changed())
                head = ledger.dump()
                ledger = Ledger.load(DESIGN, head, rows.items(), limit=limit)
        ledgers.append(ledger)
        assert ledger.held <= limit
    assert told(ledgers[0]) == told(ledgers[1]) == told(ledgers[2])
    assert sorted(ledgers[0].rows()) == sorted(ledgers[1].rows()) == sorted(ledgers[2].rows())
    kept = [s for s in seen if s.unit in ledgers[0] or s.gone or s.arm == "gone arm"]
    assert ledgers[0].moments == direct(kept, [])["moments"]


def test_values_of_a_request() -> None:
    one = Seen(0.0, "e", 0, "a", 1, seconds=3.0, ttft=1.0, stream=True, output=11, cost=0.5, valid=True)
    assert values(one) == pytest.approx([0.0, math.log(0.2), math.log(3.0), 0.0, None, 1.0, 0.0, 0.5, 11.0], abs=1e-10)
    failed = values(msgspec.structs.replace(one, error=True))
    assert failed[:4] == [None, None, None, 1.0]
    whole = values(msgspec.structs.replace(one, stream=False, seconds=0.0, output=None, cost=math.nan))
    assert whole[1:3] == [None, None] and whole[7:] == [None, None]
    assert values(msgspec.structs.replace(one, cost=1e9))[7] is None


def test_latencies_are_counted_by_requests_and_arms() -> None:
    ledger = Ledger(DESIGN)
    for n in range(10):
        ledger.take(Seen(1.0, "e", 0, "ab"[n % 2], n // 3, seconds=1.0 + n, error=n == 9))
    assert {arm: ledger.sketches[arm]["latency"].total for arm in "ab"} == {"a": 5, "b": 4}
    assert ledger.sketches["a"]["ttft"].total == 0 and [*ledger.sketches["a"]] == [*LATENCIES] == [*METRICS][:3]


def test_feedback_that_does_not_fit_changes_nothing() -> None:
    ledger = Ledger(DESIGN)
    before = ledger.dump()
    for name, value in (("nothing", 1.0), ("wait", 0.0), ("wait", -1.0), ("score", math.nan), ("score", 1e12), ("score", None)):
        assert not ledger.feedback(1, name, value)
    assert ledger.dump() == before and 1 not in ledger


def test_the_latest_comments_stay_in_any_order() -> None:
    ledger, notes = Ledger(DESIGN), [(float(n), f"no {n}") for n in range(70)]
    random.Random(1).shuffle(notes)
    for unix, text in notes:
        ledger.comment(unix, text)
    assert ledger.comments == [f"no {n}" for n in range(69, 19, -1)] and ledger.fed == 70


def test_a_design_that_changed_takes_over_what_it_still_has() -> None:
    ledger = Ledger(DESIGN)
    for n in range(6):
        ledger.take(Seen(float(n), "e", 0, "ab"[n % 2], n, seconds=1.0 + n))
        ledger.feedback(n, "score", float(n))
    kept = {SCORE: DESIGN.metrics[SCORE], "feedback:new": Metric("feedback:new", "mean", "higher", "new")}
    other = msgspec.structs.replace(DESIGN, arms=("a", "c"), metrics=kept)
    again = Ledger.load(other, ledger.dump(), ledger.rows())
    assert again.units == {"a": 3, "c": 0, HOLDOUT: 0} and again.requests == {"a": 3, "c": 0, HOLDOUT: 0}
    assert again.moments["a"][SCORE] == ledger.moments["a"][SCORE] and again.moments["a"]["latency"] == ledger.moments["a"]["latency"]
    assert again.moments["a"]["feedback:new"].k == 0 and again.exposed(1) is None and again.exposed(2) == 2.0


def test_a_damaged_row_is_told() -> None:
    ledger = Ledger(DESIGN)
    ledger.take(Seen(0.0, "e", 0, "a", 1))
    with pytest.raises(msgspec.MsgspecError):
        Ledger.load(DESIGN, ledger.dump(), [(1, b"\xff")])
    row = msgspec.msgpack.encode((b"\0" * 8, None, "a", False, 0.0, 0, -math.inf))
    with pytest.raises(ValueError, match="damaged"):
        Ledger.load(DESIGN, ledger.dump(), [(1, row)])
    assert "1 units" in repr(ledger)


def together(rows: Sequence[Seen]) -> list[PlainRow]:
    return [
        (0, one.unit, b"", b"", one.unix, one.seconds, bool(one.refused), one.input, one.output, one.cost)
        for one in rows
    ]


@pytest.mark.parametrize("limit", [1000, 40])
def test_plain_requests_together_count_as_one_by_one(limit: int) -> None:
    draw = random.Random(8)
    odd = (0.0, -1.0, math.nan, math.inf, 2e8)
    seen = [
        Seen(
            float(draw.randrange(500)), "e", 0, draw.choice(["a", "b", BEFORE, HOLDOUT, "other"]), draw.randrange(200),
            seconds=draw.choice(odd) if n % 50 == 0 else draw.lognormvariate(-3, 1), refused=n % 9 == 0, input=5,
            output=None if n % 7 == 0 else draw.randrange(3 * 10**8), cost=draw.choice([None, 0.25, math.nan]),
        )
        for n in range(2000)
    ]  # fmt: skip
    one, other = Ledger(DESIGN, limit=limit), Ledger(DESIGN, limit=limit)
    for request in seen:
        one.take(request)
    for arm in ("a", "b", BEFORE, HOLDOUT, "other"):
        assert other.take_plain(0, arm, together([request for request in seen if request.arm == arm])) is (arm != "other")
    assert one.dump() == other.dump() and sorted(one.rows()) == sorted(other.rows())
    assert sorted(one.changed()) == sorted(other.changed()) and one.crossed == other.crossed and one.strange == other.strange > 0
