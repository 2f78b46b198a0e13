"""Experiments in the configuration: what they become, and every problem with its path and one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.config import Config, ConfigError, parse, remarks
from gateway.config_experiments import ExperimentConfig, begins, design, read_time
from routing.experiments.words import Guardrail, Metric
from tests.harness import merged

ARMS: dict[str, Any] = {"old": {}, "new": {"parameters": {"temperature": 0}}}
TARGETS: dict[str, Any] = {"old": {}, "new": {"targets": [{"backend": "b"}]}}


def text(over: dict[str, Any] | None = None, **experiment: Any) -> str:
    """A configuration with the experiment `e`, and `over` laid over all."""
    base = {
        "backends": {"a": {"url": "http://127.0.0.1:1/v1"}, "b": {"url": "http://127.0.0.1:2/v1"}},
        "routes": {"m": {"targets": [{"backend": "a"}, {"backend": "b"}], "aliases": ["n"]}, "o": {"targets": [{"backend": "a"}]}},
        "experiments": {"e": {"route": "m", "arms": ARMS, **experiment}},
    }
    return json.dumps(merged(base, over or {}))


def read(over: dict[str, Any] | None = None, **experiment: Any) -> Config:
    return parse(text(over, **experiment), {})


def second(**given: Any) -> dict[str, Any]:
    """Another experiment, `f`, beside the first."""
    return {"experiments": {"f": {"route": "m", "arms": {"old": {}, "new": {"parameters": {"seed": 1}}}, **given}}}


def test_what_is_not_said_is_as_the_words_have_it() -> None:
    made = read().experiments["e"]
    assert made.key == "user" and made.width == 1.0 and made.began == float("-inf") and made.shares == ((float("-inf"), 1.0),)
    wanted = design("e", made)
    assert (wanted.name, wanted.route, wanted.arms, wanted.weights) == ("e", "m", ("old", "new"), (1.0, 1.0))
    assert (wanted.primary, wanted.alpha, wanted.power, wanted.effect, wanted.mode) == ("latency", 0.05, 0.9, 0.05, "test")
    assert not (wanted.stop or wanted.promote or wanted.rollback)


def test_a_design_has_all_that_is_said() -> None:
    made = read(
        primary="feedback:good", secondary=["cost"], guardrails=["error", {"metric": "latency", "margin": 0.1}], holdout=0.1, floor=0.2,
        feedback={"good": {"kind": "mean", "better": "lower"}}, mode="bandit", alpha=0.1, power=0.8, effect=0.02, planned=10, least=5,
        history=False, stop=True, promote=True, rollback=True,
    ).experiments["e"]  # fmt: skip
    wanted = design("e", made)
    assert wanted.guardrails == (Guardrail("error", 0.0), Guardrail("latency", 0.1))
    assert wanted.metrics == {"feedback:good": Metric("feedback:good", "mean", "lower", "good")} and wanted.metric("feedback:good")
    assert (wanted.mode, wanted.alpha, wanted.power, wanted.effect, wanted.planned, wanted.least) == ("bandit", 0.1, 0.8, 0.02, 10, 5)
    assert (wanted.history, wanted.holdout, wanted.floor, wanted.stop, wanted.promote, wanted.rollback) == (
        False,
        0.1,
        0.2,
        True,
        True,
        True,
    )
    assert wanted.secondary == ("cost",)


def test_a_ramp_in_order_of_time_whatever_order_it_is_written_in() -> None:
    ramp = [{"at": "2026-03-03T00:00:00Z", "share": 0.9}, {"at": "2026-03-02T00:00:00+01:00", "share": 0.5}]
    made = read(ramp=ramp).experiments["e"]
    assert [share for _, share in made.shares] == [0.0, 0.5, 0.9] and made.width == 0.9
    assert [when for when, _ in made.shares][1:] == [read_time("2026-03-01T23:00:00Z"), read_time("2026-03-03T00:00:00Z")]


def test_yaml_may_write_a_time_without_quotes() -> None:
    yaml = text().replace('"experiments": {"e": {', '"experiments": {"e": {"start": 2026-03-01T09:00:00Z, ')
    assert parse(yaml, {}).experiments["e"].began == read_time("2026-03-01T09:00:00Z") == 1772355600.0


def test_parts_of_a_layer_follow_one_another() -> None:
    arms = ARMS
    given = {
        "a": ExperimentConfig(route="m", arms=arms, layer="l", share=0.25),
        "b": ExperimentConfig(route="m", arms=arms),
        "c": ExperimentConfig(route="m", arms=arms, layer="l", share=0.5),
        "d": ExperimentConfig(route="m", arms=arms, layer="l", share=0.1, begin=0.9),
        "e": ExperimentConfig(route="m", arms=arms, layer="k", begin=0.5, share=0.5),
    }
    assert begins(given) == {"a": 0.0, "b": 0.0, "c": 0.25, "d": 0.9, "e": 0.5}


def test_one_arm_is_enough_where_it_is_mirrored() -> None:
    config = read({}, arms={"old": {}}, shadow={"targets": {"c": {"backend": "a"}}})
    assert list(config.experiments["e"].arms) == ["old"] and design("e", config.experiments["e"]).weights == (1.0,)


def test_a_shadow_that_a_limit_keeps_from_everything_is_remarked() -> None:
    arms = {"old": {}}
    (said,) = remarks(read({}, arms=arms, shadow={"targets": {"c": {"backend": "a"}}}))
    assert said.startswith("$.experiments.e.shadow.targets.c: nobody knows what `a` costs") and "spend_per_day: null" in said
    assert not remarks(read({}, arms=arms, shadow={"targets": {"c": {"backend": "a"}}, "spend_per_day": None}))
    assert not remarks(read({}, arms=arms, shadow={"targets": {"c": {"backend": "a", "prices": {"input": 0, "output": 0}}}}))
    assert not remarks(read({"backends": {"a": {"local": True}}}, arms=arms, shadow={"targets": {"c": {"backend": "a"}}}))


def test_a_backend_that_only_an_arm_names_is_used_and_gets_no_route_of_its_own() -> None:
    config = read(
        {"backends": {"own": {"engine": "command", "command": ["x"]}}}, arms={"old": {}, "new": {"targets": [{"backend": "own"}]}}
    )
    assert set(config.routes) == {"m", "o"} and remarks(config) == []


BAD: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("route", {}, {"route": "mm"}, "$.experiments.e.route: there is no route `mm`."),
    ("alias", {}, {"route": "n"}, "$.experiments.e.route: there is no route `n`. It is an alias of `m`; name that."),
    (
        "private", {"routes": {"o": {"private": True}}, "backends": {"a": {"local": True}}}, {"route": "o"},
        "$.experiments.e.route: `o` is private, and private calls are in no experiment",
    ),
    ("one arm", {}, {"arms": {"old": {}}}, "$.experiments.e.arms: has 1; an experiment needs 2 to 16 arms"),
    ("holdout", {}, {"arms": {"old": {}, "holdout": {}}}, "$.experiments.e.arms.holdout: `holdout` is the name of units that are left"),
    ("no name", {}, {"arms": {"old": {}, "a b": {}}}, '$.experiments.e.arms["a b"]: is not a name for an arm'),
    ("weights", {}, {"arms": {"a": {"weight": 0}, "b": {"weight": 0}}}, "$.experiments.e.arms: every weight is 0"),
    ("one weight", {}, {"arms": {"a": {"weight": 0}, "b": {}}}, "$.experiments.e.arms: only one has a weight"),
    ("negative", {}, {"arms": {"a": {"weight": -1}, "b": {}}}, "$.experiments.e.arms.a.weight: expected `float` >= 0"),
    ("stream", {}, {"arms": {"a": {}, "b": {"parameters": {"stream": True}}}}, "$.experiments.e.arms.b.parameters.stream: cannot be set"),
    ("model", {}, {"arms": {"a": {}, "b": {"parameters": {"model": "x"}}}}, "cannot be set by an arm: use `targets`"),
    ("messages", {}, {"arms": {"a": {}, "b": {"parameters": {"messages": []}}}}, "cannot be set by an arm: use `system`"),
    ("system", {}, {"arms": {"a": {}, "b": {"system": " "}}}, "$.experiments.e.arms.b.system: is empty; leave it out"),
    ("backend", {}, {"arms": {"a": {}, "b": {"targets": [{"backend": "bb"}]}}}, "$.experiments.e.arms.b.targets[0].backend: there is no"),
    ("no targets", {}, {"arms": {"a": {}, "b": {"targets": []}}}, "$.experiments.e.arms.b.targets: is empty"),
    ("metric", {}, {"primary": "latencyy"}, "$.experiments.e.primary: there is no metric `latencyy`. Did you mean `latency`?"),
    ("unknown", {}, {"secondary": ["zzz"]}, "$.experiments.e.secondary[0]: there is no metric `zzz`. There is: ttft, tpot"),
    ("feedback", {}, {"primary": "feedback:good"}, "Write it under `feedback`, as `good: {kind: boolean}`."),
    ("prefix", {}, {"primary": "good", "feedback": {"good": {}}}, "What clients send is named `feedback:good`."),
    ("guardrail", {}, {"guardrails": [{"metric": "x", "margin": 1}]}, "$.experiments.e.guardrails[0]: there is no metric `x`."),
    ("twice", {}, {"guardrails": ["error", "error"]}, "$.experiments.e.guardrails: names `error` twice"),
    ("again", {}, {"secondary": ["latency"]}, "$.experiments.e.secondary: names the primary metric `latency` again"),
    ("key", {}, {"key": "users"}, "$.experiments.e.key: 'users' is not one of user, api_key, conversation, session. Did you mean `user`?"),
    ("header", {}, {"key": {"header": "a b"}}, "$.experiments.e.key.header: is not a name that a header can have"),
    ("no keys", {}, {"key": "api_key"}, "$.experiments.e.key: `api_key` needs `keys`, and none is configured"),
    ("exclude", {}, {"exclude": {"keys": ["who"]}}, "$.experiments.e.exclude.keys: there is no key `who`."),
    ("time", {}, {"start": "tomorrow"}, "$.experiments.e.start: 'tomorrow' is not a time with its zone"),
    ("zone", {}, {"ramp": [{"at": "2026-03-01T00:00:00", "share": 1}]}, "$.experiments.e.ramp[0].at: '2026-03-01T00:00:00' is not a time"),
    ("down", {}, {"share": 0.5, "ramp": [{"at": "2026-03-01T00:00:00Z", "share": 0.1}]}, "$.experiments.e.ramp: the share becomes smaller"),
    ("share", {}, {"share": 1.5}, "$.experiments.e.share: expected `float` <= 1.0"),
    ("nobody", {}, {"share": 0}, "$.experiments.e.share: is 0 and stays so"),
    ("begin", {}, {"begin": 0.5}, "$.experiments.e.begin: is only for a `layer`"),
    ("floor", {}, {"mode": "bandit", "floor": 0.6}, "$.experiments.e.floor: is 0.6 for each of 2 arms"),
    ("alpha", {}, {"alpha": 1}, "$.experiments.e.alpha: expected `float` < 1.0"),
    ("layer", second(layer="l", share=0.6), {"layer": "l", "share": 0.5}, "the shares of the layer add up to 1.1"),
    ("overlap", second(layer="l", share=0.5, begin=0.2), {"layer": "l", "share": 0.5}, "$.experiments.f.begin: its part of the layer `l`"),
    ("keys", second(layer="l", share=0.5, key="session"), {"layer": "l", "share": 0.5}, "$.experiments.f.key: must be that of `e`"),
    ("targets", second(arms=TARGETS), {"arms": TARGETS}, "$.experiments.f: sets targets of the route `m`, as `e` does"),
    ("parameter", second(arms=ARMS), {}, "$.experiments.f: sets `temperature` on the route `m`, as `e` does"),
    ("candidate", {}, {"shadow": {"targets": {}}}, "$.experiments.e.shadow.targets: is empty"),
    ("judge", {}, {"shadow": {"targets": {"c": {"backend": "a"}}, "judge": {"route": "mm"}}}, "$.experiments.e.shadow.judge.route: there"),
    ("store", {"server": {"experiments": {"path": "/nowhere/at/all"}}}, {}, "$.server.experiments.path: /nowhere/at/all cannot be a file"),
    ("field", {}, {"weigth": 1}, "$.experiments.e.weigth: unknown field."),
]  # fmt: skip


@pytest.mark.parametrize(("over", "experiment", "expected"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_every_problem_is_one_sentence_with_its_path(over: dict[str, Any], experiment: dict[str, Any], expected: str) -> None:
    if "route" in experiment or "arms" in experiment:
        over = {**over, "experiments": {**over.get("experiments", {})}}
    with pytest.raises(ConfigError) as error:
        read(over, **experiment)
    assert expected in str(error.value), str(error.value)
    assert len(error.value.problems) <= 3


def test_experiments_that_can_be_together() -> None:
    assert len(read(second()).experiments) == 2  # other parameters
    assert len(read(second(arms=ARMS, layer="l", share=0.5), layer="l", share=0.5).experiments) == 2  # nobody is in both
    assert len(read(second(arms=ARMS, route="o")).experiments) == 2  # another route


def test_a_name_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="is not a name for an experiment"):
        read({"experiments": {"a/b": {"route": "m", "arms": {"x": {}, "y": {}}}}})
