"""From a configuration and a fleet to the routes of one generation. Changes nothing but what the fleet's paces are kept for."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial

from backends import catalog, facts, prices
from backends.prices import Prices
from backends.quirks import UNSUPPORTED
from backends.types import Target, Timeouts, Usage
from gateway import plans
from gateway.auth import Door
from gateway.choosers import choosers
from gateway.config import Config, RouteConfig, TargetConfig
from gateway.experiments import arms, lanes
from gateway.fleet import Fleet
from gateway.serve import Generation
from routing.private import near
from routing.types import Arm, Route


def generation(number: int, config: Config, fleet: Fleet) -> Generation:
    """The door and the routes that `config` gives with what the fleet has found."""
    server = config.server
    routes: dict[str, Route] = {}
    wanted = written(config, fleet)
    for name, route in wanted.items():
        routes[name] = _route(name, route, config, fleet)
    plans.attach(routes, wanted, config)
    tests = arms.build(config, wanted, routes, lambda name, route: _route(name, route, config, fleet))
    parts = near(routes, lambda arm: config.backends[arm.target.backend].is_local)
    for name, route in wanted.items():
        if route.private:
            routes[name] = parts[name]
    for each in (*routes.values(), *parts.values(), *tests.routes.values()):
        if any(arm.target.backend in fleet.elastic for arm in each.arms):
            each.comes_and_goes()
    for name, route in wanted.items():
        routes.update((alias, routes[name]) for alias in route.aliases if alias not in routes)
    door = Door(config.keys, (server.host, *server.hosts), server.cors_origins, server.private_header)
    mirrored = lanes.plans(config, wanted, routes, lambda name, route, target: _arm(name, route, target, config, fleet))
    chosen = choosers(config, {**wanted, **tests.wanted}, {**routes, **tests.routes}, parts, fleet, random.Random())
    return Generation(number, server, door, routes, parts, chosen, mirrored, tests)


def written(config: Config, fleet: Fleet) -> Mapping[str, RouteConfig]:
    """All routes as configuration has them, and those of servers that list their models."""
    return {**discovered(config, fleet), **config.routes}


def discovered(config: Config, fleet: Fleet) -> Mapping[str, RouteConfig]:
    """Routes for what servers list: a name that several list is one route with several targets."""
    targets: dict[str, list[TargetConfig]] = {}
    for name, backend in config.backends.items():
        if backend.discover:
            for model in fleet.found.get(name, ()):
                targets.setdefault(model.id, []).append(TargetConfig(backend=name, model=model.id))
    return {model: RouteConfig(targets=tuple(found)) for model, found in targets.items()}


def _route(name: str, route: RouteConfig, config: Config, fleet: Fleet) -> Route:
    arms = tuple(_arm(name, route, target, config, fleet) for target in route.targets)
    timeouts: dict[str, Timeouts] = {}
    if route.timeouts is not None:
        timeouts = {t.backend: route.timeouts.over(config.backends[t.backend].timeouts) for t in route.targets}
    return Route(
        name, arms, retries=route.retries, drop=route.on_unsupported != "strict", tell=route.on_unsupported != "drop", timeouts=timeouts,
        concurrency=route.concurrency,
    )  # fmt: skip


def _arm(name: str, route: RouteConfig, target: TargetConfig, config: Config, fleet: Fleet) -> Arm:
    backend = config.backends[target.backend]
    kind = backend.engine or backend.kind
    model = target.model or (target.backend if backend.engine else name)
    known = config.facts(target)
    refused = facts.unsupported(kind, model, known.get("sampling"))
    context = target.context or fleet.context(target.backend, model) or facts.facts(kind, model, known).context
    made = Target(
        target.backend, model, target.weight, target.unsupported | backend.unsupported | UNSUPPORTED.get(kind, frozenset()) | refused,
        context, {"serves": "rerank"} if backend.engine and backend.reranking else {},
        facts=known, strict=route.on_unsupported == "strict", reasoning=route.reasoning, price=_price(kind, model, config.prices(target)),
    )  # fmt: skip
    return Arm(made, fleet.replicas.get(target.backend, ()))


def _price(kind: str, model: str, own: Prices | None) -> Callable[[Usage], float | None] | None:
    """What tells the cost of an answer; None where there is nothing to know it from."""
    return partial(prices.cost, kind=kind, model=model, overrides=own) if own is not None or listed(kind) else None


def listed(kind: str) -> bool:
    """Whether the table of prices (`backends.prices.load`) may know what models on a backend of this kind cost."""
    row = catalog.find(kind)
    return row is not None and bool(row.prices)
