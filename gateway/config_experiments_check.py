"""What must hold in experiments, and between them, routes and keys. Pure, but for asking whether the store's folder is there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import msgspec

from backends import catalog
from gateway.config_decode import Problem, did_you_mean, join
from gateway.config_experiments import ArmConfig, ExperimentConfig, HeaderKey, begins, guardrail, read_time
from gateway.config_policy import when_problems
from gateway.config_shadow import JudgeConfig
from gateway.config_types import Config, RouteConfig
from routing.experiments.words import BEFORE, FEEDBACK, HOLDOUT, METRICS

MOST_ARMS = 16
MOST_EXPERIMENTS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OURS = {  # what a call's way depends on, or what it is
    "model": "use `targets`", "messages": "use `system`", "prompt": "use `system`", "input": "use `system`", "stream": "the client says it",
    "stream_options": "the client says it", "user": "it may be who takes part", "n": "an answer is measured as one",
}  # fmt: skip


def arm_routes(config: Config) -> Iterator[tuple[str, str, RouteConfig]]:
    """(path, name of the route, the route as an arm has it) of every arm with targets of its own, where the route is there."""
    for name, experiment in config.experiments.items():
        for arm, given in experiment.arms.items():
            if given.targets is not None and experiment.route in config.routes:
                path = join(join(join("$.experiments", name), "arms"), arm)
                yield path, experiment.route, arm_route(config.routes[experiment.route], given)


def arm_route(route: RouteConfig, arm: ArmConfig) -> RouteConfig:
    """The route with an arm's targets in place, under no other name."""
    return msgspec.structs.replace(route, targets=route.targets if arm.targets is None else arm.targets, aliases=())


def experiments(config: Config) -> Iterator[Problem]:
    """Every problem of experiments."""
    if len(config.experiments) > MOST_EXPERIMENTS:
        yield "$.experiments", f"has {len(config.experiments)} experiments; at most {MOST_EXPERIMENTS} may be there"
    kept = config.server.experiments.path
    if kept is not None and (Path(kept).is_dir() or not Path(kept).absolute().parent.is_dir()):
        yield "$.server.experiments.path", f"{kept} cannot be a file: its folder is not there, or it is a folder itself"
    sound = True
    for name, experiment in config.experiments.items():
        here = join("$.experiments", name)
        if not _NAME.fullmatch(name):
            yield here, "is not a name for an experiment; use 1 to 64 letters, digits and `_.-`, a letter or digit first"
        yield from _route(here, experiment, config)
        yield from _arms(here, experiment)
        yield from _metrics(here, experiment)
        yield from _who(here, experiment, config)
        yield from _shadow(join(here, "shadow"), experiment, config)
        times = [*_times(here, experiment)]
        sound = sound and not times
        yield from times
    if sound:  # shares can be told
        yield from _layers(config)
    for one, other in combinations(config.experiments, 2):
        yield from _both(one, other, config)


def _route(here: str, experiment: ExperimentConfig, config: Config) -> Iterator[Problem]:
    route = config.routes.get(experiment.route)
    if route is None:
        alias = next((name for name, r in config.routes.items() if experiment.route in r.aliases), None)
        hint = f" It is an alias of `{alias}`; name that." if alias is not None else did_you_mean(experiment.route, config.routes)
        yield join(here, "route"), f"there is no route `{experiment.route}`.{hint}"
    elif route.private:
        yield join(here, "route"), f"`{experiment.route}` is private, and private calls are in no experiment; take another route"


def _arms(here: str, experiment: ExperimentConfig) -> Iterator[Problem]:
    path, arms = join(here, "arms"), experiment.arms
    if not (1 if experiment.shadow is not None else 2) <= len(arms) <= MOST_ARMS:
        yield path, f"has {len(arms)}; an experiment needs 2 to {MOST_ARMS} arms, the first is control (with a `shadow` one is enough)"
    if arms and not any(arm.weight for arm in arms.values()):
        yield path, "every weight is 0, so nobody could be in any; give at least two a weight"
    elif sum(arm.weight > 0 for arm in arms.values()) < 2 <= len(arms):
        yield path, "only one has a weight, so there is nothing to compare it with; give another one a weight"
    for name, arm in arms.items():
        at = join(path, name)
        if name in (BEFORE, HOLDOUT):
            yield at, f"`{name}` is the name of units that are left alone; choose another"
        elif not _NAME.fullmatch(name):
            yield at, "is not a name for an arm; use 1 to 64 letters, digits and `_.-`, a letter or digit first"
        for parameter in sorted(arm.parameters.keys() & _OURS.keys()):
            yield join(join(at, "parameters"), parameter), f"cannot be set by an arm: {_OURS[parameter]}"
        if arm.system is not None and not arm.system.strip():
            yield join(at, "system"), "is empty; leave it out"


def _metrics(here: str, experiment: ExperimentConfig) -> Iterator[Problem]:
    known = [*METRICS, *(FEEDBACK + name for name in experiment.feedback)]
    guards = [guardrail(given).metric for given in experiment.guardrails]
    named = [("primary", experiment.primary)]
    named += [(join("secondary", i), name) for i, name in enumerate(experiment.secondary)]
    named += [(join("guardrails", i), name) for i, name in enumerate(guards)]
    for field, name in named:
        if name not in known:
            hint = did_you_mean(name, known) or f" There is: {', '.join(known)}."
            if name.startswith(FEEDBACK):
                hint = f" Write it under `feedback`, as `{name.removeprefix(FEEDBACK)}: {{kind: boolean}}`."
            elif name in experiment.feedback:
                hint = f" What clients send is named `{FEEDBACK}{name}`."
            yield f"{here}.{field}", f"there is no metric `{name}`.{hint}"
    yield from _lists(here, experiment, guards)


def _lists(here: str, experiment: ExperimentConfig, guards: list[str]) -> Iterator[Problem]:
    for field, names in (("secondary", experiment.secondary), ("guardrails", guards)):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            yield join(here, field), f"names `{twice[0]}` twice; keep one of them"
    if experiment.primary in experiment.secondary:
        yield join(here, "secondary"), f"names the primary metric `{experiment.primary}` again; take it out"
    for name in experiment.feedback:
        if not _NAME.fullmatch(name):
            yield join(join(here, "feedback"), name), "is not a name for a metric; use 1 to 64 letters, digits and `_.-`"
    if experiment.mode == "bandit" and experiment.floor * len(experiment.arms) > 1:
        yield join(here, "floor"), f"is {experiment.floor:g} for each of {len(experiment.arms)} arms, more than there is; make it smaller"


def _who(here: str, experiment: ExperimentConfig, config: Config) -> Iterator[Problem]:
    if isinstance(experiment.key, HeaderKey) and not _TOKEN.fullmatch(experiment.key.header):
        yield join(join(here, "key"), "header"), "is not a name that a header can have"
    if experiment.key == "api_key" and not config.keys:
        yield join(here, "key"), "`api_key` needs `keys`, and none is configured; everybody would be one unit"
    if experiment.exclude is None:
        return
    path, names = join(here, "exclude"), {key.name for key in config.keys}
    for field, why in when_problems(experiment.exclude):
        yield join(path, field), why
    for name in sorted(experiment.exclude.keys - names):
        yield join(path, "keys"), f"there is no key `{name}`.{did_you_mean(name, names)}"


def _shadow(here: str, experiment: ExperimentConfig, config: Config) -> Iterator[Problem]:
    given = experiment.shadow
    if given is None:
        return
    if not given.targets:
        yield join(here, "targets"), "is empty; name at least one candidate, or leave `shadow` out"
    for name, target in given.targets.items():
        at = join(join(here, "targets"), name)
        if not _NAME.fullmatch(name):
            yield at, "is not a name for a candidate; use 1 to 64 letters, digits and `_.-`, a letter or digit first"
        if target.backend not in config.backends:
            yield join(at, "backend"), f"there is no backend `{target.backend}`.{did_you_mean(target.backend, config.backends)}"
        for parameter in sorted(target.parameters.keys() & _OURS.keys()):
            yield join(join(at, "parameters"), parameter), f"cannot be set by a candidate: {_OURS[parameter]}"
    if given.judge is not None:
        yield from _judge(join(here, "judge"), given.judge, config)


def _judge(here: str, judge: JudgeConfig, config: Config) -> Iterator[Problem]:
    route = config.routes.get(judge.route)
    if route is None:
        yield join(here, "route"), f"there is no route `{judge.route}`.{did_you_mean(judge.route, config.routes)}"
        return
    away = [t.backend for t in route.targets if t.backend in config.backends and not config.backends[t.backend].is_local]
    if away and not judge.remote:
        why = f"`{away[0]}` is not local, and a judge sees what users ask and are answered; take a local route, or say `remote: true`"
        yield join(here, "route"), why


def _times(here: str, experiment: ExperimentConfig) -> Iterator[Problem]:
    given = [(join(join(join(here, "ramp"), i), "at"), step.at) for i, step in enumerate(experiment.ramp)]
    if experiment.start is not None:
        given.append((join(here, "start"), experiment.start))
    bad = False
    for path, text in given:
        try:
            read_time(text)
        except ValueError as error:
            bad = True
            yield path, str(error)
    if bad:
        return
    shares = [share for _, share in experiment.shares]
    if shares != sorted(shares):
        yield join(here, "ramp"), "the share becomes smaller; who has taken part must stay in, so let it only grow"
    times = [when for when, _ in experiment.shares]
    if len(set(times)) < len(times):
        yield join(here, "ramp"), "two steps are at the same time; keep one of them"
    if not experiment.width:
        yield join(here, "share"), "is 0 and stays so: nobody would take part"


def _layers(config: Config) -> Iterator[Problem]:
    places, layers = begins(config.experiments), dict[str, list[str]]()
    for name, experiment in config.experiments.items():
        if experiment.layer is not None:
            layers.setdefault(experiment.layer, []).append(name)
        elif experiment.begin is not None:
            yield join(join("$.experiments", name), "begin"), "is only for a `layer`"
    for layer, names in layers.items():
        ends = {name: places[name] + config.experiments[name].width for name in names}
        last = max(ends, key=lambda name: ends[name])
        if ends[last] > 1 + 1e-9:
            used = math.fsum(config.experiments[name].width for name in names)
            why = f"does not fit into the layer `{layer}`: its part ends at {ends[last]:g} (the shares of the layer add up to {used:g})"
            yield join(join("$.experiments", last), "share"), f"{why}; make shares smaller, or take another layer"
        for one, other in combinations(names, 2):
            if max(places[one], places[other]) < min(ends[one], ends[other]) - 1e-9:
                yield join(join("$.experiments", other), "begin"), f"its part of the layer `{layer}` overlaps that of `{one}`"
            if config.experiments[one].key != config.experiments[other].key:
                why = f"must be that of `{one}`, which shares the layer `{layer}`: else one who is in both could not be told"
                yield join(join("$.experiments", other), "key"), why


def _both(one: str, other: str, config: Config) -> Iterator[Problem]:
    """What two experiments cannot both do to one request."""
    a, b = config.experiments[one], config.experiments[other]
    if a.route != b.route or (a.layer is not None and a.layer == b.layer):
        return
    path = join("$.experiments", other)
    advice = "a request can be in both; put them into one `layer`"
    if _places(a) and _places(b):
        yield path, f"sets targets of the route `{a.route}`, as `{one}` does, and {advice}"
    for name in sorted(_parameters(a) & _parameters(b)):
        yield path, f"sets `{name}` on the route `{a.route}`, as `{one}` does, and {advice}"


def _places(experiment: ExperimentConfig) -> bool:
    return any(arm.targets is not None for arm in experiment.arms.values())


def _parameters(experiment: ExperimentConfig) -> set[str]:
    """What the arms set, by name; the system prompt is one of them."""
    arms = experiment.arms.values()
    return {name for arm in arms for name in arm.parameters} | ({"system"} if any(arm.system is not None for arm in arms) else set())


def remarks(config: Config) -> Iterator[str]:
    """What is allowed and yet hardly meant, one sentence each: shadows that a limit on money keeps from everything."""
    for name, experiment in config.experiments.items():
        shadow = experiment.shadow
        if shadow is None or shadow.spend_per_day is None:
            continue
        for arm, target in shadow.targets.items():
            backend = config.backends[target.backend]
            row = catalog.find(backend.kind) if backend.engine is None else None
            if not backend.is_local and config.prices(target) is None and not (row is not None and row.prices):
                where = join("$.experiments", name) + f".shadow.targets.{arm}"
                yield (
                    f"{where}: nobody knows what `{target.backend}` costs, so that nothing is mirrored there; give it `prices` (0 where it "
                    "is free), mark it `local: true`, or set `spend_per_day: null`"
                )
