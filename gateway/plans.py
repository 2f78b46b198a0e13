"""From the configuration of routes to their plans (`routing.plan`). Pure."""

from __future__ import annotations

from collections.abc import Mapping

from backends.facts import facts
from backends.types import Timeouts
from gateway.config import Config, RouteConfig, TargetConfig
from gateway.config_types import FallbacksConfig
from routing.plan import Continues, Hedge, Plan
from routing.retry import Backoff
from routing.types import Arm, Route

_BY_FLAG = frozenset({"vllm", "sglang"})
_BY_PREFILL = frozenset({"llamacpp", "llama-server"})
_CLAUDE = frozenset({"anthropic", "vertex-anthropic"})  # their API refuses a last message that ends in white space


def attach(routes: Mapping[str, Route], wanted: Mapping[str, RouteConfig], config: Config) -> None:
    """Gives a plan to every route that needs one: by its own settings, or because another falls back on it. `routes` by name and alias."""
    named = {name for route in wanted.values() for name in _named(route)}
    for name, route in wanted.items():
        plan = plan_of(name, route, routes[name], config)
        if plan is not None:
            routes[name].follow(plan)
        elif name in named:
            routes[name].follow(Plan(timeouts=_timeouts(name, route, config)))
    for name, route in wanted.items():
        made, given = routes[name].plan, _fallbacks(route)
        if made is not None:
            made.chain = tuple(routes[other] for other in given.any)
            made.context = (routes[given.context],) if given.context is not None else ()
            made.content = (routes[given.content],) if given.content is not None else ()


def plan_of(name: str, route: RouteConfig, made: Route, config: Config) -> Plan | None:
    """The plan of a route without its fallbacks; None where nothing asks for one."""
    timeouts = _timeouts(name, route, config)
    timed = any(t.first_token is not None or t.min_rate for t in timeouts.values())
    if not (route.backoff or _named(route) or route.hedge or route.coalesce or route.continue_ or timed):
        return None
    continues: dict[tuple[str, str], Continues] = {}
    if route.continue_:
        for arm, entry in zip(made.arms, route.targets, strict=True):
            mode = continuing(arm, entry, config)
            if mode is not None:
                continues[arm.target.backend, arm.target.model] = mode
    heirs = tuple(arm for arm in made.arms if (arm.target.backend, arm.target.model) in continues)
    hedge = route.hedge
    return Plan(
        backoff=Backoff(route.backoff.base, route.backoff.cap) if route.backoff is not None else None,
        hedge=Hedge(None if isinstance(hedge.after, str) else hedge.after, hedge.budget) if hedge is not None else None,
        coalesce=route.coalesce, continues=continues, heirs=Route(name, heirs) if route.continue_ else None, timeouts=timeouts,
    )  # fmt: skip


def continuing(arm: Arm, entry: TargetConfig, config: Config) -> Continues | None:
    """How a target is asked to go on with an answer; None where it cannot. What a server of no known kind can do is what `facts` says of
    `prefill` in the configuration."""
    backend = config.backends[entry.backend]
    kind, own = backend.engine or backend.kind, config.facts(entry)
    if own.get("prefill") is False:
        return None
    if kind in _BY_FLAG:
        return "flag"
    known = facts(kind, arm.target.model, own)
    if kind in _CLAUDE or (kind == "bedrock" and "claude" in arm.target.model):
        return "trimmed" if known.prefill else None
    return "prefill" if kind in _BY_PREFILL or own.get("prefill") else None


def _timeouts(name: str, route: RouteConfig, config: Config) -> dict[str, Timeouts]:
    own = route.timeouts
    base = {t.backend: config.backends[t.backend].timeouts for t in route.targets}
    return base if own is None else {backend: own.over(given) for backend, given in base.items()}


def _fallbacks(route: RouteConfig) -> FallbacksConfig:
    given = route.fallbacks
    return FallbacksConfig(any=given) if isinstance(given, tuple) else given


def _named(route: RouteConfig) -> list[str]:
    given = _fallbacks(route)
    return [*given.any, *(name for name in (given.context, given.content) if name is not None)]
