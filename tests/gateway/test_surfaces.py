"""The small answers that the gateway gives itself."""

from __future__ import annotations

import json

import pytest

from backends.types import Target
from gateway import surfaces
from gateway.auth import ANYONE, Tenant
from gateway.version import VERSION
from routing.types import Arm, Replica, Route
from tests.gateway.parts import World


def route(*contexts: int | None) -> Route:
    return Route("m", tuple(Arm(Target("b", f"t{i}", context=c), ()) for i, c in enumerate(contexts)))


@pytest.mark.parametrize(("contexts", "least"), [((), None), ((None,), None), ((8, None), None), ((8, 4), 4), ((8,), 8)])
def test_the_context_is_what_every_target_takes(contexts: tuple[int | None, ...], least: int | None) -> None:
    assert surfaces.context(route(*contexts)) == least


@pytest.mark.parametrize(
    ("healths", "state"),
    [(["ready", "down"], "ready"), (["loading", "down"], "loading"), (["down", "down"], "down"), (["loading", "ready"], "ready")],
)
def test_a_route_is_as_good_as_its_best_replica(healths: list[str], state: str) -> None:
    world = World(len(healths))
    for replica, health in zip(world.replicas, healths, strict=True):
        replica.health = health  # type: ignore[assignment]
    assert surfaces.state(world.route) == state
    status, body = surfaces.ready(world.core)
    assert status == (200 if state == "ready" else 503)
    assert json.loads(body) == {"ready": state == "ready", "models": {"m": state, "other": "down"}}


def test_the_reason_is_the_first_that_there_is() -> None:
    world = World()
    assert surfaces.reason(world.route) == ""
    world.replicas[1].reason = "no such file"
    assert surfaces.reason(world.route) == "no such file"


def test_models_are_those_that_the_key_may_use() -> None:
    world = World()
    del world.core.generation.routes["other"]
    (entry,) = json.loads(surfaces.models(world.core, ANYONE, 7))["data"]
    assert entry == {
        "id": "m", "object": "model", "created": 7, "owned_by": "b", "root": "t", "parent": None, "max_model_len": None, "state": "ready",
    }  # fmt: skip
    assert json.loads(surfaces.models(world.core, Tenant("t", frozenset({"x"})), 7)) == {"object": "list", "data": []}


def test_health_and_draining() -> None:
    world = World()
    assert json.loads(surfaces.health(world.core)) == {"status": "ok", "version": VERSION, "draining": False}
    world.core.draining = True
    assert json.loads(surfaces.health(world.core))["draining"] is True and surfaces.ready(world.core)[0] == 503


def test_nothing_configured_is_ready() -> None:
    world = World()
    world.core.generation.routes.clear()
    assert surfaces.ready(world.core)[0] == 200


def test_every_path_also_without_v1() -> None:
    for path, api in surfaces.CALLS.items():
        assert surfaces.CALLS[path.removeprefix("/v1")] == api
    assert isinstance(World().replicas[0], Replica)
