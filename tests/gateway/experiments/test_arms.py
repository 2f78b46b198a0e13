"""Arms as hidden routes and as changes to a document."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from backends import wire
from gateway.auth import Tenant
from gateway.config_experiments import ArmConfig
from gateway.experiments.arms import ArmRoute, Changes, changes
from gateway.experiments.trial import Trials
from gateway.kv_route import KVAware
from routing.private import Near
from tests.fakes.engine import Engine
from tests.gateway.experiments.tried import FakeStore
from tests.harness import Running, chat, config_for, running

ARMS: dict[str, Any] = {"old": {}, "new": {"targets": [{"backend": "other", "model": "fake-2"}]}}


def doc(**values: Any) -> wire.Doc:
    return {name: wire.raw(value) for name, value in values.items()}


def plain(given: wire.Doc) -> dict[str, Any]:
    return {name: msgspec.json.decode(value) for name, value in given.items()}


# --- changes
def test_an_arm_without_changes_has_none() -> None:
    assert changes(ArmConfig()) is None


def test_parameters_are_set_and_taken_out_and_the_document_stays_as_it_was() -> None:
    made = changes(ArmConfig(parameters={"max_tokens": 5, "top_p": None, "stop": ["a"]}))
    assert made is not None
    given = doc(model="m", max_completion_tokens=9, top_p=1, seed=3)
    assert plain(made.apply(given)) == {"model": "m", "max_tokens": 5, "stop": ["a"], "seed": 3}
    assert plain(given) == {"model": "m", "max_completion_tokens": 9, "top_p": 1, "seed": 3}


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("goes", "given", "expected"),
    [
        ("before", [USER], [{"role": "system", "content": "S"}, USER]),
        ("before", [{"role": "developer", "content": "own"}, USER], [{"role": "developer", "content": "S\n\nown"}, USER]),
        (
            "before",
            [{"role": "system", "content": [{"type": "text", "text": "own"}]}],
            [{"role": "system", "content": [{"type": "text", "text": "S"}, {"type": "text", "text": "own"}]}],
        ),
        ("before", [{"role": "system", "content": None}], [{"role": "system", "content": "S"}, {"role": "system", "content": None}]),
        ("before", [], [{"role": "system", "content": "S"}]),
        (
            "instead",
            [{"role": "system", "content": "own"}, USER, {"role": "developer", "content": "x"}],
            [{"role": "system", "content": "S"}, USER],
        ),
        ("before", "rubbish", "rubbish"),
        ("instead", [7], [7]),
    ],
)
def test_the_system_prompt(goes: Any, given: Any, expected: Any) -> None:
    made = changes(ArmConfig(system="S", system_goes=goes))
    assert made is not None and plain(made.apply(doc(messages=given))) == {"messages": expected}


def test_a_system_prompt_is_nothing_to_a_document_without_messages() -> None:
    assert plain(Changes(system="S").apply(doc(prompt="p"))) == {"prompt": "p"}


def test_two_changes_together() -> None:
    one = Changes({"a": wire.raw(1)}, frozenset({"a"}), "S", True)
    other = Changes({"b": wire.raw(2)}, frozenset({"b", "c"}))
    for both in (one.and_(other), other.and_(one)):
        assert plain(both.apply(doc(c=1, d=4, messages=[]))) == {"a": 1, "b": 2, "d": 4, "messages": [{"role": "system", "content": "S"}]}


# --- routes
def tried(own: Engine, other: Engine, arms: dict[str, Any], route: dict[str, Any] | None = None, **more: Any) -> Any:
    """One route `m`, another `spare`, and the experiment `e` on `m`."""
    return config_for([own], route=route, more={
        "backends": {"other": {"url": other.url}},
        "routes": {"spare": {"targets": [{"backend": "fake", "model": "spare"}]}},
        "experiments": {"e": {"route": "m", "arms": arms} | more},
    })  # fmt: skip


def begun(gateway: Running) -> FakeStore:
    """The store of the gateway's experiments, which begin now."""
    store = FakeStore()

    def begin() -> None:
        gateway.gateway.core.recorder.hears = store
        gateway.gateway.core.run_trials(Trials(store))

    gateway.call(begin)
    return store


def test_an_arm_has_all_that_its_route_has_and_no_name_leads_to_it() -> None:
    route = {"policy": "least_busy", "fallbacks": ["spare"], "concurrency": 9, "retries": 3, "timeouts": {"total": 7}, "aliases": ["n"]}
    with Engine() as own, Engine() as other, running(tried(own, other, ARMS, route)) as gateway:
        begun(gateway)
        core = gateway.gateway.core
        (experiment,) = core.generation.arms.experiments
        none, way = experiment.ways
        whole = core.generation.routes["m"]
        assert none is None and isinstance(way, ArmRoute) and experiment.route is whole is core.generation.routes["n"]
        assert (way.name, way.retries, way.concurrency) == ("m", 3, 9) and way.timeouts["other"].total == 7
        assert way.plan is not None and whole.plan is not None and way.plan is not whole.plan
        assert way.plan.chain == whole.plan.chain == (core.generation.routes["spare"],)
        assert way.chooser is not None and way.chooser is not whole.chooser
        assert way.trials is None and whole.trials is not None
        assert set(core.generation.routes) == {"m", "n", "spare"} and way not in core.generation.routes.values()
        assert [r.name for r in core.routes_of(Tenant(""))] == ["m", "spare"]
        names = [model["id"] for model in gateway.get("/v1/models").doc["data"]]
        assert sorted(names) == ["m", "n", "spare"]
        for model in core.generation.arms.routes:
            assert gateway.ask(chat(model=model)).status == 404


def test_an_arm_of_a_kv_aware_route_is_scheduled_too() -> None:
    with Engine() as own, Engine() as other, running(tried(own, other, ARMS, {"policy": "kv_aware"})) as gateway:
        store = begun(gateway)
        way = gateway.gateway.core.generation.arms.experiments[0].ways[1]
        assert way is not None and isinstance(way.chooser, KVAware)
        for user in map(str, range(8)):
            assert gateway.ask(chat(user=user)).status == 200
        gateway.until(lambda: len(store.ended) == 8, "all of them")
        assert {one.arm for one in store.seen} == {"old", "new"} and not any(one.error for one in store.seen)
        assert {post.doc["model"] for post in other.posts()} == {"fake-2"}


def test_what_an_arm_has_learned_outlives_a_reload_and_calls_are_counted_together() -> None:
    route = {"hedge": {"after": "p95"}}
    with Engine() as own, Engine() as other:
        config = tried(own, other, ARMS, route)
        with running(config) as gateway:
            begun(gateway)
            core = gateway.gateway.core
            before = core.generation.arms.experiments[0].ways[1]
            gateway.run(gateway.gateway.adopt(config))
            after = core.generation.arms.experiments[0].ways[1]
            assert before is not None and after is not None and before is not after
            assert before.plan is not None and after.plan is not None and after.plan.whole is before.plan.whole
            assert core.generation.routes["m"].trials is not None
            assert gateway.ask(chat(user="u")).status == 200


def test_private_calls_see_nothing_of_it() -> None:
    with Engine() as own, Engine() as other:
        config = config_for([own], backend={"local": True}, more={
            "backends": {"other": {"url": other.url}}, "experiments": {"e": {"route": "m", "arms": ARMS}},
        })  # fmt: skip
        with running(config) as gateway:
            store = begun(gateway)
            for user in map(str, range(8)):
                assert gateway.ask(chat(user=user), headers={"x-pointsman-private": "1"}).status == 200
            assert not store.ended and not other.posts() and len(own.posts()) == 8
            near = gateway.gateway.core.generation.near["m"]
            assert isinstance(near, Near) and near.trials is None


def test_json_of_an_unknown_shape_is_sent_as_it_came() -> None:
    made = changes(ArmConfig(parameters={"metadata": {"a": [1, None]}}))
    assert made is not None
    assert json.loads(wire.encode(made.apply(doc(model="m")))) == {"model": "m", "metadata": {"a": [1, None]}}
