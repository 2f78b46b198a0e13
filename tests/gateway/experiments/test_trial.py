"""A request in an experiment: its arm, its way, and what it leaves."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import pytest

from backends.types import Fault, Target, Usage
from gateway import coalesce
from gateway.config import KeyConfig
from gateway.config_experiments import HeaderKey
from gateway.experiments.arms import Changes
from gateway.experiments.ended import seen, short
from gateway.experiments.words import State, unit_of
from routing.experiments.words import BEFORE, HOLDOUT
from routing.policies import Condition
from routing.private import Near
from tests.gateway.experiments.tried import Tried
from tests.gateway.parts import SSE
from tests.gateway.planned import event, lost, text, usage

MESSAGE = {"role": "assistant", "content": "hi", "refusal": None}
COUNTS = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8, "prompt_tokens_details": {"cached_tokens": 2}}
DOC = {"id": "chatcmpl-7", "choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}], "usage": COUNTS}
GOOD = json.dumps(DOC, separators=(",", ":")).encode()


def test_each_arm_answers_by_its_own_targets_and_says_who_it_was() -> None:
    world = Tried()
    for arm, link, model in (("old", "0", "t"), ("new", "arm", "new")):
        world.store.ended.clear()
        started = time.time()
        sink, _ = world.tell(arm, headers={b"x-request-id": b"mine"})
        assert (world.flight.replica, world.flight.target.model, world.route.inflight) == (link, model, 1)
        world.flight.whole(GOOD)
        one = world.store.one
        assert sink.status == 200 and sink.body == GOOD
        assert (one.experiment, one.epoch, one.arm, one.unit) == ("e", 0, arm, unit_of("", world.user_of(arm).encode()))
        assert (one.request, one.response, one.input, one.output) == ("mine", "chatcmpl-7", 5, 3)
        assert (one.status, one.error, one.gone, one.refused, one.valid, one.fallback) == (200, False, False, False, None, False)
        assert one.ttft is None and not one.stream and abs(one.unix - started) < 5 and 0 <= one.seconds < 5
        assert world.record.route == "m"
    world.check_idle(2)


def test_a_stream_leaves_its_id_its_first_content_and_why_it_ended() -> None:
    world = Tried()
    sink, _ = world.tell("new", stream=True)
    world.flight.head(200, SSE)
    world.flight.data(text("a") + text("b") + event({}, "content_filter") + usage(4, 2) + b"data: [DONE]\n\n")
    assert not world.store.ended
    world.flight.end()
    one = world.store.one
    assert sink.done and (one.response, one.stream, one.output, one.refused) == ("chatcmpl-1", True, 2, True)
    assert one.ttft is not None and one.ttft <= one.seconds
    world.check_idle(1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "error", "gone", "refused"),
    [
        (Fault("upstream", "no", origin="backend"), True, False, None),
        (Fault("bad_request", "no", origin="client"), False, True, None),
        (Fault("bad_request", "no", origin="backend"), True, False, None),
        (Fault("bad_request", "no", origin="backend", code="content_filter"), False, False, True),
    ],
)
def test_what_failed(fault: Fault, error: bool, gone: bool, refused: bool | None, stream: bool) -> None:
    world = Tried()
    world.tell("new", stream=stream)
    world.flight.fail(fault)
    one = world.store.one
    assert (one.error, one.gone, one.refused, one.status) == (error, gone, refused, fault.status)
    world.check_idle(1)


def test_a_client_that_leaves_counts_as_gone() -> None:
    world = Tried()
    _, exchange = world.tell("new", stream=True)
    exchange.gone()
    assert (world.store.one.gone, world.store.one.error, world.store.one.status) == (True, False, 499)
    world.check_idle(1)


def test_a_stream_that_breaks_off_is_an_error_although_its_status_was_200() -> None:
    world = Tried()
    world.tell("old", stream=True)
    world.flight.head(200, SSE)
    world.flight.data(text("a"))
    world.flight.fail(lost(retry=False))
    assert (world.store.one.error, world.store.one.status) == (True, 200)
    world.check_idle(1)


def test_another_replica_of_the_target_is_no_fallback_and_another_target_is() -> None:
    world = Tried(2)
    world.tell("old")
    world.flight.fail(lost())
    world.flight.whole(GOOD)
    assert not world.store.one.fallback
    _, exchange = world.tell("old")
    world.flight.fail(lost())
    exchange.trial.own(exchange).lost = (Target("b", "another"),)
    world.flight.whole(GOOD)
    assert world.store.seen[-1].fallback
    world.check_idle(2)


def test_cost_is_by_our_prices_else_as_reported() -> None:
    world = Tried()
    world.tell("old")
    world.flight.whole(GOOD)
    (ended,) = world.store.ended

    def price(told: Usage) -> float:
        return told.output * 0.5

    assert seen((*ended[:10], Target("b", "t", price=price), *ended[11:])).cost == 1.5
    assert seen(ended).cost is None
    assert seen((*ended[:12], b'{"usage":{"completion_tokens":1,"cost":0.25}}', *ended[13:])).cost == 0.25


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b'{"choices":[{"message":{"tool_calls":[{"id":"call_1"}]}}],"id":"chatcmpl-9"}', "chatcmpl-9"),
        (b'{"choices":[{"message":{"tool_calls":[{"id":"call_1"}]}}],' + b" " * 2000 + b'"id":"chatcmpl-9"}', "chatcmpl-9"),
        (b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1"}}\n\n', "msg_1"),
        (b'{"object":"list","data":[]}', ""),
        (b'{"id":null}', ""),
        (b"\xff{", ""),
    ],
)
def test_the_id_of_an_answer(answer: bytes, expected: str) -> None:
    world = Tried()
    world.tell("old")
    world.flight.whole(GOOD)
    (ended,) = world.store.ended
    assert seen((*ended[:13], short(answer), None)).response == expected


@pytest.mark.parametrize(
    "answer",
    [
        b'{"choices":[{"message":{"refusal":"I will not."}}]}',
        b'data: {"choices":[{"delta":{"refusal":"I"}}]}\n\n',
        b'{"choices":[{"finish_reason" : "content_filter"}]}',
        b'{"stop_reason":"refusal"}',
        b'{"output":[{"content":[{"type":"refusal","refusal":"no"}]}]}',
        b'{"incomplete_details":{"reason":"content_filter"}}',
    ],
)
def test_a_refusal_is_known_in_every_dialect_and_not_by_what_is_quoted(answer: bytes) -> None:
    world = Tried()
    world.tell("old")
    world.flight.whole(GOOD)
    (ended,) = world.store.ended
    assert seen((*ended[:13], answer, None)).refused is True
    quoted = json.dumps({"choices": [{"message": {"content": answer.decode(), "refusal": None}, "finish_reason": "stop"}]}).encode()
    assert seen((*ended[:13], quoted, None)).refused is False


def test_arms_never_share_an_answer() -> None:
    world = Tried(key=HeaderKey(header="x-user"))
    users = [world.user_of(arm).encode() for arm in ("old", "new")]
    asked = [world.ask({"temperature": 0}, headers={b"x-user": user})[1] for user in (*users, users[0])]
    keys = [coalesce.same(exchange) for exchange in asked]
    assert None not in keys and keys[0] == keys[2] != keys[1]
    for flight in world.flights:
        flight.whole(GOOD)
    world.check_idle(3)


def test_keys_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.experiments.trial.KNOWN", 4)
    world = Tried()
    for user in [*map(str, range(10)), "x" * 1000, *map(str, range(10)), "x" * 1000]:
        world.ask({"user": user})
        world.flight.whole(GOOD)
    arms = [(one.unit, one.arm) for one in world.store.seen]
    assert arms[:11] == arms[11:]
    trials: Any = world.route.trials
    live = trials.live[0]
    assert 0 < len(live.known) <= 4 and all(len(key) < 300 for _, key in live.known)
    (quick,) = live.quick.values()
    assert 0 < len(quick) <= 4 and all(len(raw) < 300 for raw in quick)


def test_who_is_known_goes_the_same_way_however_the_key_is_written() -> None:
    world = Tried(own=False, changes=Changes({"temperature": b"0"}))  # type: ignore[dict-item]
    for arm in ("old", "new"):
        user = world.user_of(arm).encode()
        for written in (user, user, b"\\u%04x" % user[0] + user[1:], user):
            world.ask(b'{"model":"m","messages":[],"user":"%b"}' % written)
            assert ("temperature" in world.flight.call.doc) is (arm == "new")
            world.flight.whole(GOOD)
        trials: Any = world.route.trials
        assert b'"%b"' % user in trials.live[0].quick[""]
        assert {one.arm for one in world.store.seen[-4:]} == {arm} and len({one.unit for one in world.store.seen[-4:]}) == 1
    world.check_idle(8)


def test_no_key_no_part() -> None:
    world = Tried()
    for doc in ({}, {"user": None}, {"user": ""}, {"user": 7}):
        _, exchange = world.ask(doc)
        assert exchange.trial is None
        world.flight.whole(GOOD)
    assert not world.store.ended and world.trials.left["e", "no_key"] == 4
    world.check_idle(4)


def test_a_private_call_is_in_no_experiment() -> None:
    world = Tried()
    near = Near(world.route, world.route.arms)
    assert near.trials is None and not near.special


def test_excluded_calls_go_as_ever() -> None:
    world = Tried(exclude=Condition(needs=frozenset({"tools"}), headers={"x-tier": "gold"}))
    _, exchange = world.tell("new", {"tools": [{}]}, headers={b"x-tier": b"gold"})
    assert exchange.trial is None and world.flight.replica == "0" and world.trials.left["e", "excluded"] == 1
    world.flight.whole(GOOD)
    _, exchange = world.tell("new", {"tools": [{}]})
    assert exchange.trial is not None and world.flight.replica == "arm"


def test_who_is_not_enrolled_yet_is_history_and_the_ramp_brings_them_in(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("gateway.experiments.trial.time", lambda: now[0])
    world = Tried(shares=((float("-inf"), 0.0), (2000.0, 0.5), (3000.0, 1.0)), began=1500.0)
    users = [str(i) for i in range(40)]
    seen_at = {}
    for at in (1000.0, 1999.0, 2000.0, 3000.0, 9000.0):
        now[0] = at
        for user in users:
            world.ask({"user": user})
            world.flight.whole(GOOD)
        seen_at[at] = {one.unit: one.arm for one in world.store.seen}
        world.store.ended.clear()
    assert set(seen_at[1000.0].values()) == set(seen_at[1999.0].values()) == {BEFORE}
    assert set(seen_at[2000.0].values()) == {BEFORE, "old", "new"} and set(seen_at[3000.0].values()) == {"old", "new"}
    assert all(arm in (BEFORE, seen_at[3000.0][unit]) for unit, arm in seen_at[2000.0].items())
    assert seen_at[9000.0] == seen_at[3000.0]


def test_without_history_nothing_is_told_of_who_is_not_in_it() -> None:
    world = Tried(shares=((float("-inf"), 0.0),), history=False)
    _, exchange = world.ask({"user": "u"})
    world.flight.whole(GOOD)
    assert exchange.trial is None and not world.store.ended


def test_who_is_held_out_goes_by_the_route_and_is_told() -> None:
    world = Tried(holdout=1.0)
    world.ask({"user": "u"})
    assert world.flight.replica == "0"
    world.flight.whole(GOOD)
    assert world.store.one.arm == HOLDOUT


def test_what_is_in_force_follows_the_states() -> None:
    world = Tried()
    user = world.user_of("old")

    def goes(**state: Any) -> tuple[str, list[tuple[int, str]]]:
        world.trials.follow({"e": State("e", **state)})
        world.store.ended.clear()
        world.ask({"user": user})
        replica = world.flight.replica
        world.flight.whole(GOOD)
        return replica, [(one.epoch, one.arm) for one in world.store.seen]

    assert goes(weights={"old": 0.0, "new": 1.0}, epoch=3) == ("arm", [(3, "new")])
    assert goes(weights={"nobody": 1.0}, epoch=4) == ("0", [(4, "old")])  # none of ours: as configured
    assert goes(status="stopped") == goes(status="rolled_back") == ("0", [])
    assert world.route.trials is None
    assert goes(status="promoted", winner="new") == ("arm", [])
    assert goes(status="promoted", winner="gone") == ("0", [(0, "old")])
    assert goes(status="planned") == ("0", [(0, BEFORE)])
    assert goes() == ("0", [(0, "old")])
    world.check_idle(8)


def test_all_go_to_a_promoted_arm_also_those_without_a_key() -> None:
    world = Tried()
    world.trials.follow({"e": State("e", "promoted", winner="new")})
    world.ask({})
    assert world.flight.replica == "arm"
    world.flight.whole(GOOD)
    assert not world.store.ended


def test_a_call_under_way_goes_on_as_it_began() -> None:
    world = Tried()
    world.tell("new")
    world.trials.follow({"e": State("e", "stopped", epoch=1)})
    world.go()
    world.flight.whole(GOOD)
    assert (world.store.one.arm, world.store.one.epoch) == ("new", 0)
    world.check_idle(1)


def test_the_limit_of_a_route_holds_for_its_arms_together() -> None:
    world = Tried(concurrency=1)
    world.tell("new")
    sink, _ = world.tell("old")
    assert sink.status == 429 and world.store.one.error
    world.flight.whole(GOOD)
    world.check_idle(2)


def test_what_an_arm_changes_is_what_is_sent() -> None:
    world = Tried(own=False, changes=Changes({"temperature": b"0"}, frozenset({"temperature", "top_p"}), "Be brief."))  # type: ignore[dict-item]
    world.tell("new", {"temperature": 1, "top_p": 0.5, "messages": [{"role": "user", "content": "hi"}]})
    sent = {name: json.loads(bytes(value)) for name, value in world.flight.call.doc.items()}
    assert sent["temperature"] == 0 and "top_p" not in sent
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    world.flight.whole(GOOD)
    assert world.store.one.arm == "new"


def test_two_experiments_on_one_route_each_tell_of_the_request() -> None:
    world = Tried()
    other = world.make("f", "user", (None,), (Changes({"seed": b"1"}),))  # type: ignore[dict-item]
    world.go(world.experiment, other)
    user = next(u for u in map(str, range(200)) if _arm(world, u, world.experiment) == _arm(world, u, other) == "new")
    world.ask({"user": user})
    assert world.flight.replica == "arm" and bytes(world.flight.call.doc["seed"]) == b"1"
    world.flight.whole(GOOD)
    assert [(one.experiment, one.arm) for one in world.store.seen] == [("e", "new"), ("f", "new")]
    world.check_idle(1)


def _arm(world: Tried, user: str, experiment: Any) -> str:
    split = experiment.split
    return str(split.arms[split.arm(unit_of("", user.encode()), split.end(1.0))])


@pytest.mark.parametrize(
    ("key", "doc", "headers", "expected"),
    [
        ("user", {"user": "a\\u00e9\n"}, {}, "a\\u00e9\n"),
        ("user", {"safety_identifier": "s"}, {}, "s"),
        ("session", {"prompt_cache_key": "p"}, {}, "p"),
        ("session", {"prompt_cache_key": "p"}, {b"x-pointsman-session": b"h"}, "h"),
        (HeaderKey(header="X-User"), {}, {b"x-user": b"me"}, "me"),
    ],
)
def test_the_unit_is_what_the_key_says(key: Any, doc: dict[str, Any], headers: dict[bytes, bytes], expected: str) -> None:
    world = Tried(key=key)
    world.ask(doc, headers=headers)
    world.flight.whole(GOOD)
    assert world.store.one.unit == unit_of("", expected.encode())


def test_two_tenants_users_of_one_name_are_two() -> None:
    keys = tuple(KeyConfig(name=n, hash="sha256:" + hashlib.sha256(n.encode()).hexdigest()) for n in "ab")
    for key, count in (("user", 2), ("api_key", 2)):
        world = Tried(key=key, keys=keys)
        for name in "ab":
            world.ask({"user": "u"}, headers={b"authorization": b"Bearer " + name.encode()})
            world.flight.whole(GOOD)
        assert len({one.unit for one in world.store.seen}) == count and [one.tenant for one in world.store.seen] == ["a", "b"]


def test_a_conversation_stays_where_it_began() -> None:
    world = Tried(key="conversation")
    first = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    later = [*first, {"role": "assistant", "content": "hello"}, {"role": "user", "content": [{"type": "text", "text": "more"}]}]
    parted = [first[0], {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    for messages in (first, later, parted, [{"role": "user", "content": "hi"}], "rubbish", [7]):
        world.ask({"messages": messages})
        world.flight.whole(GOOD)
    units = [one.unit for one in world.store.seen]
    assert units[0] == units[1] == units[2] and len(set(units)) == 3 and len(units) == 5
