"""`pointsman probe`: asks one backend what it really does, over the very link that would serve its calls, and says so.

The backend is built as `pointsman serve` builds it, alone and without a port: an engine of ours is started for it and stopped again. What
was found can be written to a file that the configuration names (`probed:`, see `gateway.config_probed`).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any

import msgspec
import yaml

from backends import catalog, prices
from backends.facts import facts
from backends.http import Clients
from backends.openai import OpenAILink
from backends.probe.ask import Asker
from backends.probe.run import Found, Result, found, named, size, survey
from backends.probe.types import Check
from gateway import build, logs
from gateway.client import plain
from gateway.config import BackendConfig, Config, RouteConfig, TargetConfig
from gateway.config_decode import did_you_mean
from gateway.fleet import Fleet
from gateway.fleet_types import NoLink
from gateway.version import VERSION
from routing.types import Arm, Replica

TICK_SECONDS = 0.1
CREDENTIAL_SECONDS = 30.0
_ROUTE = "pointsman-probe"  # of the one route that is built


class ProbeError(Exception):
    """It cannot be asked; the text is for the user. `usage`: it was asked for wrongly."""

    def __init__(self, text: str, *, usage: bool = False) -> None:
        super().__init__(text)
        self.usage = usage


class Plan(msgspec.Struct, frozen=True):
    """What is to be asked: a backend, a model (empty: the first that the server lists), which checks."""

    name: str
    backend: BackendConfig
    target: TargetConfig
    checks: tuple[Check, ...]

    @property
    def kind(self) -> str:
        """The engine, or the kind of server."""
        return self.backend.engine or self.backend.kind


class Survey(msgspec.Struct, frozen=True):
    """What came of it."""

    plan: Plan
    model: str
    results: tuple[Result, ...]
    found: Found

    @property
    def told(self) -> bool:
        """Whether anything at all could be told."""
        return any(result.outcome.verdict not in ("error", "skipped") for result in self.results)


# --- before anything is sent


def plan(config: Config, name: str, model: str | None, only: Sequence[str]) -> Plan:
    """What to ask of the backend `name`. Raises ProbeError when there is no such backend or check."""
    backend = config.backends.get(name)
    if backend is None:
        known = ", ".join(config.backends) or "none"
        raise ProbeError(f"there is no backend `{plain(name)}`; there is: {known}.{did_you_mean(name, config.backends)}", usage=True)
    try:
        checks = named(only)
    except KeyError as unknown:
        raise ProbeError(f"there is no check {unknown}; without --only all are run, and their names listed", usage=True) from None
    return Plan(name, backend, _target(config, name, backend, model), checks)


def _target(config: Config, name: str, backend: BackendConfig, model: str | None) -> TargetConfig:
    """The target that a route has for this model, or for any model of this backend, else one of its own."""
    for route, entry in config.routes.items():
        for target in entry.targets:
            own = target.model or ((backend.served_name or name) if backend.engine else route)
            if target.backend == name and model in (None, own, route):
                return msgspec.structs.replace(target, model=own)
    return TargetConfig(backend=name, model=model or ((backend.served_name or name) if backend.engine else ""))


def bills(backend: BackendConfig) -> bool:
    """Whether somebody may be billed for calls there: a provider that wants an account, a price that is configured, or a server that is
    reached over TLS with a key."""
    if backend.engine:
        return False
    row = catalog.find(backend.kind)
    account = row is not None and row.auth != "none"
    return account or backend.prices is not None or (backend.key is not None and any(u.startswith("https") for u in backend.all_urls))


def price(asked: Plan) -> str:
    """How many calls and tokens it takes at most, and what they cost where a price is known. Blocks for the table of prices."""
    context = asked.target.context or facts(asked.kind, asked.target.model).context
    calls, usage = size(asked.checks, context)
    text = f"at most {calls} calls, {usage.input:,} tokens read and {usage.output:,} written"
    prices.load()
    own = asked.target.prices.over(asked.backend.prices) if asked.target.prices is not None else asked.backend.prices
    cost = prices.cost(usage, asked.kind, asked.target.model, own) if asked.target.model else None
    return f"{text}: about ${cost:.4f}" if cost is not None else f"{text}; their price is not known here"


# --- the survey


def run(config: Config, asked: Plan, told: Callable[[Result], None]) -> Survey:
    """Asks. Blocks until all checks are done. Raises ProbeError when the backend cannot be reached at all."""
    return asyncio.run(_run(config, asked, told))


async def _run(config: Config, asked: Plan, told: Callable[[Result], None]) -> Survey:
    clients = Clients(asyncio.get_running_loop())
    changed = asyncio.Event()
    fleet = Fleet(clients, lambda replica: changed.set(), changed.set)
    ticking = asyncio.create_task(_tick(clients))
    try:
        await fleet.apply(_alone(config, asked, asked.target))
        replica = await _ready(fleet, asked, changed)
        if not asked.backend.engine:
            await fleet.look(asked.name)  # says nothing where calls are translated
        model = asked.target.model or _first(fleet, asked.name)
        arm = _arm(config, asked, model, fleet)
        context = arm.target.context
        asker = Asker(replica.link, arm.target, context=context, timeouts=asked.backend.timeouts)
        results = await survey(asker, asked.checks, clean=logs.redact, told=told)
        stated = fleet.context(asked.name, model)
        return Survey(asked, model, tuple(results), found(results, relayed=isinstance(replica.link, OpenAILink), context=stated))
    finally:
        await fleet.stop()
        clients.close()
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


async def _tick(clients: Clients) -> None:
    """Lets the timeouts of calls hold. For ever; cancel it to stop."""
    while True:
        clients.tick()
        await asyncio.sleep(TICK_SECONDS)


def _alone(config: Config, asked: Plan, target: TargetConfig) -> Config:
    """A configuration of this backend and one route to it."""
    server = msgspec.structs.replace(config.server, memory=None)
    backend = msgspec.structs.replace(asked.backend, resident=None)  # there from the start to the end
    return Config(server=server, backends={asked.name: backend}, routes={_ROUTE: RouteConfig(targets=(target,))})


def _arm(config: Config, asked: Plan, model: str, fleet: Fleet) -> Arm:
    """The target as a route of the gateway would have it."""
    built = build.generation(1, _alone(config, asked, msgspec.structs.replace(asked.target, model=model)), fleet)
    return built.routes[_ROUTE].arms[0]


async def _ready(fleet: Fleet, asked: Plan, changed: asyncio.Event) -> Replica:
    """A replica of the backend, once it can be sent calls. Raises ProbeError when none can be."""

    def best() -> Replica:  # asked anew each time: where servers are discovered, replicas come and go
        found = fleet.replicas[asked.name]
        return next((one for one in found if one.health == "ready"), found[0])

    seconds = asked.backend.ready_seconds if asked.backend.engine else CREDENTIAL_SECONDS
    try:
        async with asyncio.timeout(seconds):
            while (replica := best()).health == "loading":
                changed.clear()
                await changed.wait()
    except TimeoutError:
        replica = best()
        raise ProbeError(f"`{asked.name}` was not ready within {seconds:g} s: {replica.reason or 'still loading'}") from None
    if replica.health == "down" or isinstance(replica.link, NoLink):
        why = replica.reason or (replica.link.reason if isinstance(replica.link, NoLink) else "")
        raise ProbeError(f"`{asked.name}` cannot be asked: {logs.redact(why)}")
    return replica


def _first(fleet: Fleet, name: str) -> str:
    models = fleet.found.get(name, ())
    if not models:
        raise ProbeError(f"`{name}` lists no models, so say which one: --model MODEL")
    return models[0].id


# --- what is shown


def table(outcome: Survey) -> str:
    """One line a check, then what they say together."""
    width = max(len(result.name) for result in outcome.results)
    lines = [f"{r.name:{width}}  {r.outcome.verdict:11}  {plain(r.outcome.evidence)}".rstrip() for r in outcome.results]
    counts: dict[str, int] = {}
    for result in outcome.results:
        counts[result.outcome.verdict] = counts.get(result.outcome.verdict, 0) + 1
    total = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    facts = ", ".join(f"{name}: {_word(value)}" for name, value in outcome.found.facts.items())
    lines += ["", f"{outcome.plan.name}, model {plain(outcome.model)}: {total}", f"facts: {facts or 'none'}"]
    return "\n".join([*lines, f"unsupported: {', '.join(outcome.found.unsupported) or 'none'}", ""])


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def as_json(outcome: Survey) -> str:
    """The same as one JSON object."""
    return json.dumps({**_plain(outcome), "results": [_entry(result) for result in outcome.results]}, indent=2) + "\n"


def _plain(outcome: Survey) -> dict[str, Any]:
    return {
        "backend": outcome.plan.name, "kind": outcome.plan.kind, "model": outcome.model, "facts": dict(outcome.found.facts),
        "unsupported": list(outcome.found.unsupported),
    }  # fmt: skip


def _entry(result: Result) -> dict[str, Any]:
    made: Mapping[str, Any] = msgspec.to_builtins(result.outcome)
    return {"name": result.name, "about": result.about, "calls": result.calls, **made}


def written(outcome: Survey, today: date) -> str:
    """The file that `probed:` of a configuration takes: YAML."""
    head = f"# Found by `pointsman probe {outcome.plan.name}` (pointsman {VERSION}) on {today.isoformat()}. Name it under `probed:`.\n"
    verdicts = {result.name: result.outcome.verdict for result in outcome.results}
    return head + yaml.safe_dump({**_plain(outcome), "checks": verdicts}, sort_keys=False, allow_unicode=True)


class Progress:
    """How far it is, on a terminal; nothing elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.shown = total, 0, sys.stderr.isatty()

    def __call__(self, result: Result) -> None:
        self.done += 1
        if self.shown:
            sys.stderr.write(f"\r{self.done}/{self.total} {result.name[:24]:24}")
            sys.stderr.flush()

    def end(self) -> None:
        """Clears its line."""
        if self.shown:
            sys.stderr.write("\r\x1b[K")
