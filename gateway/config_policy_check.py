"""What must hold between policies, conditions, what is local, and the rest of the configuration. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from backends import catalog
from gateway.config_decode import Problem, did_you_mean, join
from gateway.config_experiments_check import arm_routes
from gateway.config_policy import PolicyConfig, WhenConfig, policy_of, policy_problems, when_problems
from gateway.config_target import TargetConfig
from gateway.config_types import BackendConfig, Config, RouteConfig


def policies(config: Config) -> Iterator[Problem]:
    """Every problem of policies, of conditions and of what is private."""
    for name, backend in config.backends.items():
        yield from _local(join("$.backends", name), backend)
    for name, route in config.routes.items():
        here = join("$.routes", name)
        policy = policy_of(route.policy)
        for field, why in policy_problems(policy):
            yield (join(join(here, "policy"), field) if field else join(here, "policy")), why
        yield from _placed(here, route, policy, config)
    for here, _, route in arm_routes(config):
        yield from _placed(here, route, policy_of(route.policy), config)


def _placed(here: str, route: RouteConfig, policy: PolicyConfig, config: Config) -> Iterator[Problem]:
    """What depends on a route's targets."""
    yield from _targets(here, route, config)
    yield from _private(here, route, config)
    if policy.preset == "cost" or (policy.costs is not None and policy.costs.money) or policy.seconds_per_dollar:
        yield from _prices(here, route, config)
    yield from _kv_aware(here, route, policy, config)


def _local(path: str, backend: BackendConfig) -> Iterator[Problem]:
    if not backend.local or backend.engine is not None:
        return
    row = catalog.find(backend.kind)
    if row is not None and row.url and any(row.owns(url) for url in backend.all_urls):
        yield join(path, "local"), f"cannot be: its address is that of `kind: {backend.kind}`, and private calls must not leave"
    if backend.proxy is not None:
        yield join(path, "local"), "cannot be with `proxy`: private calls would leave through it"


def _targets(path: str, route: RouteConfig, config: Config) -> Iterator[Problem]:
    for index, target in enumerate(route.targets):
        if target.when is not None:
            yield from _when(join(join(join(path, "targets"), index), "when"), target.when, config)


def _when(path: str, when: WhenConfig, config: Config) -> Iterator[Problem]:
    for field, why in when_problems(when):
        yield join(path, field), why
    names = {key.name for key in config.keys}
    for name in sorted(when.keys - names):
        yield join(path, "keys"), f"there is no key `{name}`.{did_you_mean(name, names)}"


def _private(path: str, route: RouteConfig, config: Config) -> Iterator[Problem]:
    if not route.private:
        return
    for index, target in enumerate(route.targets):
        backend = config.backends.get(target.backend)
        if backend is not None and not backend.is_local:
            yield (
                join(join(path, "targets"), index),
                f"`{target.backend}` is not local, and a private route never uses it; take it out, or write `local: true` at the backend "
                "if its calls stay with you",
            )


def _prices(path: str, route: RouteConfig, config: Config) -> Iterator[Problem]:
    for index, target in enumerate(route.targets):
        backend = config.backends.get(target.backend)
        if backend is not None and not _priced(backend, target, config):
            yield (
                join(join(path, "targets"), index),
                f"what `{target.backend}` costs is not known, and the policy needs it; write `prices: {{input: DOLLARS, output: DOLLARS}}` "
                "(a million tokens)",
            )


def _priced(backend: BackendConfig, target: TargetConfig, config: Config) -> bool:
    row = catalog.find(backend.kind)
    return backend.is_local or config.prices(target) is not None or (row is not None and (row.local or bool(row.prices)))


def _kv_aware(path: str, route: RouteConfig, policy: PolicyConfig, config: Config) -> Iterator[Problem]:
    models = {(target.backend, target.model) for target in route.targets}
    if policy.scheduled and len({model for _, model in models}) > 1 and policy.preset == "kv_aware" and not policy.seconds_per_dollar:
        named = ", ".join(sorted({model or "(the backend's own)" for _, model in models}))
        yield join(path, "policy"), f"`kv_aware` chooses among replicas of one model, and the targets have several: {named}"
