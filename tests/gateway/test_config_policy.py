"""Policies, conditions and what is private, as the file says them: what they mean, and what a mistake is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.config import Config, ConfigError, parse
from gateway.config_policy import PolicyConfig, WhenConfig, policy_of, read_hours
from routing.policies import Condition

BACKENDS: dict[str, Any] = {
    "desk": {"engine": "llamacpp", "model": "builtin"},
    "rack": {"url": "http://10.0.0.1:8000/v1", "kind": "vllm", "local": True},
    "cloud": {"url": "https://api.example.com/v1"},
    "openai": {"kind": "openai", "key": "sk-0"},
}
KEYS = [{"name": "ann", "key": "sk-1"}, {"name": "bob", "key": "sk-2", "private": True}]


def config(route: dict[str, Any] | None = None, backends: dict[str, Any] | None = None, **more: Any) -> Config:
    route = {"targets": [{"backend": "rack"}, {"backend": "cloud"}], **(route or {})}
    return parse(json.dumps({"backends": BACKENDS | (backends or {}), "routes": {"r": route}, "keys": KEYS, **more}), {})


def problems(route: dict[str, Any] | None = None, backends: dict[str, Any] | None = None, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config(route, backends, **more)
    return caught.value.problems


def only(*args: Any, **more: Any) -> str:
    (found,) = problems(*args, **more)
    return found


def test_a_policy_in_every_form() -> None:
    assert policy_of(config().routes["r"].policy) == PolicyConfig(name="weighted")
    assert policy_of(config({"policy": "p2c"}).routes["r"].policy).preset == "p2c"
    given = config({"policy": {"name": "local_first", "ttft": 1, "tpot": 0.2}}).routes["r"].policy
    assert given == PolicyConfig(name="local_first", ttft=1.0, tpot=0.2)
    made = policy_of(config({"policy": {"costs": {"latency": 1, "busy": 0.1}, "pick": "p2c"}}).routes["r"].policy)
    assert (made.preset, made.scheduled, made.pick) == ("costs", False, "p2c")
    assert made.costs is not None and made.costs.factors == {"latency": 1.0, "busy": 0.1}
    assert policy_of("kv_aware").scheduled


def test_what_is_local() -> None:
    backends = config(
        backends={"away": {"engine": "llamacpp", "model": "builtin", "local": False}, "loop": {"url": "http://127.0.0.1:1"}}
    ).backends
    assert {name: b.is_local for name, b in backends.items()} == {
        "desk": True, "rack": True, "cloud": False, "openai": False, "away": False, "loop": False,
    }  # fmt: skip


def test_a_condition() -> None:
    when = {"longer": 10, "needs": ["tools"], "header": {"X-Tier": "gold"}, "keys": ["ann"], "private": False, "hours": "22:00-06:30"}
    found = config({"targets": [{"backend": "rack", "when": when}]}).routes["r"].targets[0].when
    assert found is not None and found.condition() == Condition(
        longer=10, needs=frozenset({"tools"}), headers={"x-tier": "gold"}, keys=frozenset({"ann"}), private=False, hours=(1320, 390)
    )
    assert WhenConfig().condition() == Condition()


def test_hours() -> None:
    assert read_hours("0:00 - 24:00") == (0, 1440) and read_hours("9:30-17:05") == (570, 1025)
    for wrong in ("9-17", "25:00-26:00", "09:00-09:00", "24:00-01:00", "10:00-00:00", "10:60-11:00", ""):
        with pytest.raises(ValueError, match="two different times"):
            read_hours(wrong)


R = "$.routes.r"
TWO = [{"backend": "rack", "model": "a"}, {"backend": "cloud", "model": "b"}]


@pytest.mark.parametrize(
    ("route", "told"),
    [
        ({"policy": "fastest"}, f"{R}.policy: 'fastest' is not one of weighted, round_robin, least_busy, p2c, latency, "),
        ({"policy": "latancy"}, "Did you mean `latency`?"),
        ({"policy": {}}, f"{R}.policy: needs a `name`"),
        ({"policy": {"name": "p2c", "costs": {"busy": 1}}}, f"{R}.policy.costs: cannot stand beside `name: p2c`"),
        ({"policy": {"costs": {"busy": 0}}}, f"{R}.policy.costs: are all 0"),
        ({"policy": {"costs": {"buzy": 1}}}, f"{R}.policy.costs.buzy: unknown field. Did you mean `busy`?"),
        ({"policy": {"name": "p2c", "pick": "p2c"}}, f"{R}.policy.pick: is only for `costs`"),
        ({"policy": {"name": "p2c", "hold": 1}}, f"{R}.policy.hold: is only for `kv_aware`"),
        ({"policy": {"name": "latency", "ttft": 0}}, f"{R}.policy.ttft: expected `float` > 0.0"),
        ({"policy": {"name": "session", "session_header": "x y"}}, f"{R}.policy.session_header: is not a name"),
        ({"policy": "cost"}, f"{R}.targets[1]: what `cloud` costs is not known"),
        ({"policy": {"name": "local_first", "seconds_per_dollar": 1}}, f"{R}.targets[1]: what `cloud` costs is not known"),
        ({"policy": {"costs": {"money": 1}}}, f"{R}.targets[1]: what `cloud` costs is not known"),
        ({"policy": "kv_aware", "targets": TWO}, f"{R}.policy: `kv_aware` chooses among replicas of one model"),
        ({"private": True}, f"{R}.targets[1]: `cloud` is not local, and a private route never uses it"),
        ({"targets": [{"backend": "rack", "when": {"hours": "9-5"}}]}, f"{R}.targets[0].when.hours: must be two different times"),
        ({"targets": [{"backend": "rack", "when": {"longer": 9, "shorter": 10}}]}, f"{R}.targets[0].when.longer: is 9 and `shorter` 10"),
        ({"targets": [{"backend": "rack", "when": {"keys": ["an"]}}]}, f"{R}.targets[0].when.keys: there is no key `an`."),
        ({"targets": [{"backend": "rack", "when": {"header": {"a b": "c"}}}]}, f"{R}.targets[0].when.header: 'a b' is not a name"),
        ({"targets": [{"backend": "rack", "when": {"needs": ["tool"]}}]}, "Did you mean `tools`?"),
    ],
)  # fmt: skip
def test_mistakes(route: dict[str, Any], told: str) -> None:
    assert told in only(route)


def test_prices_that_are_known_are_enough() -> None:
    config({"policy": "cost", "targets": [{"backend": "cloud", "prices": {"input": 1}}, {"backend": "openai"}, {"backend": "desk"}]})


def test_a_provider_or_a_proxy_is_not_local() -> None:
    assert "cannot be: its address is that of `kind: openai`" in only(backends={"openai": BACKENDS["openai"] | {"local": True}})
    assert "cannot be with `proxy`" in only(backends={"cloud": {"url": "https://x.example/v1", "proxy": "http://p:1", "local": True}})


def test_the_private_header_s_name() -> None:
    assert config(server={"private_header": "x-stays-here"}).server.private_header == "x-stays-here"
    assert only(server={"private_header": "a b"}).startswith("$.server.private_header")
