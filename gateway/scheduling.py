"""Which routes the KV-aware scheduler serves, and with what: from each generation to its dispatchers, which outlive generations.

A group is all routes with `policy: kv_aware` that share replicas, by whatever third route; every other route to one of its replicas keeps
the books too. Token mode begins when a tokenizer is found and an engine has agreed with it; until then, and without one, blocks are of
text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from time import monotonic

from backends import catalog
from backends.openai import OpenAILink
from backends.prompts import Prompter, prompter, verify
from backends.types import Fault, Timeouts
from gateway.config import Config, RouteConfig
from gateway.config_policy import PolicyConfig, policy_of
from gateway.config_types import DEFAULT_SLOTS
from gateway.dispatcher import HASHING, TICK_SECONDS, Dispatcher, Seat
from gateway.fleet import Fleet
from gateway.kv_route import KVAware, KVRoute
from gateway.metrics import Metrics
from gateway.model_files import LLAMA
from gateway.pilot import ByPolicy
from gateway.serve import Generation
from gateway.together.link import Together
from routing.kv import Settings
from routing.private import Near
from routing.types import Replica, Route

log = logging.getLogger("pointsman.scheduling")
_TOKENISED = frozenset({"vllm", "sglang"})  # engines that can be asked how they tokenise a conversation
_LOOK = Timeouts(connect=5.0, first_byte=30.0, idle=30.0, total=60.0)


class Scheduling:
    """All dispatchers of a process. Mutated by `attach` (each generation), `changed` (each replica's health) and its own tasks."""

    def __init__(self, fleet: Fleet, together: Together | None) -> None:
        self.fleet, self.together = fleet, together
        self.dispatchers: list[Dispatcher] = []
        self._config: Config | None = None
        self._models: dict[Dispatcher, tuple[str, str]] = {}  # engine's kind and model of those that may come to tokens
        self._asked: set[Replica] = set()  # whose tokenisation was compared since they came up
        self._tasks: set[asyncio.Task[None]] = set()

    # --- generations
    def attach(self, generation: Generation, wanted: Mapping[str, RouteConfig], config: Config) -> None:
        """Gives every route of a new generation what chooses on it."""
        self._config = config
        whole = {name: _whole(generation.routes[name]) for name in wanted}
        policies = {name: policy_of(route.policy) for name, route in wanted.items()}
        for name, arm in generation.arms.routes.items():  # of experiments: each as the route that it is an arm of
            whole[name], policies[name] = arm, policies[arm.name]
        found = [self._dispatcher(names, replicas, policies) for names, replicas in _groups(whole, policies)]
        for dispatcher in [d for d in self.dispatchers if d not in found]:
            self._leave(dispatcher)
        self.dispatchers = found
        self._asked.intersection_update(self.fleet.every())
        for name, route in whole.items():
            near = generation.near.get(name)
            for part in (route,) if near is None else (route, near):
                self._choose(part, policies[name], generation)
        for dispatcher in found:
            self._learn_tokens(dispatcher)

    def _choose(self, route: Route, policy: PolicyConfig, generation: Generation) -> None:
        chooser = generation.choosers.get(route)
        inner = ByPolicy(chooser) if chooser is not None else None
        dispatcher = next((d for d in self.dispatchers if any(r in d.numbers for r in route.replicas)), None)
        if dispatcher is not None:
            kind = KVAware if policy.scheduled else KVRoute
            route.choose_by(kind(route, dispatcher, policy, policy.scheduled, inner))
        elif inner is not None:
            route.choose_by(inner)

    def _dispatcher(self, names: list[str], replicas: list[Replica], policies: Mapping[str, PolicyConfig]) -> Dispatcher:
        """The dispatcher of a group, one that has some of its replicas where there is one."""
        found = next((d for d in self.dispatchers if any(r in d.numbers for r in replicas)), None)
        if found is None:
            policy = next(policies[name] for name in names if policies[name].scheduled)
            found = Dispatcher(names[0], prompter(None, HASHING), settings_of(policy), asyncio.get_running_loop())
        found.sync({replica: self._seat(replica) for replica in replicas})
        if self.together is not None:
            self.together.attach(found.name, found.scheduler, found.name_of, found.number_of)
        return found

    def _seat(self, replica: Replica) -> Seat:
        backend = self.fleet.configs[replica.backend]
        row = catalog.find(backend.engine or backend.kind)
        slots = backend.slots
        if slots is None and backend.engine in LLAMA:
            slots = DEFAULT_SLOTS
        hosted = backend.engine is None and not backend.is_local and row is not None and not row.local and backend.kind != "compatible"
        name = self.together.called(replica.url, replica.backend) if self.together is not None and replica.url else None
        return Seat(slots, learn=False, hosted=hosted, name=name)

    def _leave(self, dispatcher: Dispatcher) -> None:
        dispatcher.sync({})
        dispatcher.close()
        self._models.pop(dispatcher, None)
        if self.together is not None:
            self.together.detach(dispatcher.name)

    # --- replicas
    def changed(self, replica: Replica) -> None:
        """A replica's health changed. An engine of ours that is not ready has lost its cache."""
        for dispatcher in self.dispatchers:
            if replica not in dispatcher.numbers:
                continue
            if replica.managed and replica.health != "ready":
                dispatcher.restarted(replica)
                self._asked.discard(replica)
            dispatcher.sync({r: self._seat(r) for r in dispatcher.numbers})
            self._learn_tokens(dispatcher)

    def truths(self, field: str) -> list[tuple[dict[str, str], float]]:
        """One figure of `routing.kv.Truth` of every replica."""
        return [
            ({"group": d.name, "replica": replica.name}, float(getattr(d.scheduler.truth(number), field)))
            for d in self.dispatchers
            for replica, number in d.numbers.items()
        ]

    # --- token mode
    def _learn_tokens(self, dispatcher: Dispatcher) -> None:
        """Begins to look for a tokenizer where the engines are of a kind that can be asked and serve one model; follows their events."""
        config = self._config
        assert config is not None
        kinds = {_kind(config, r) for r in dispatcher.numbers}
        if len(kinds) != 1 or next(iter(kinds))[0] not in _TOKENISED or not next(iter(kinds))[1]:
            return
        fresh = [r for r in dispatcher.numbers if r.health == "ready" and r not in self._asked]
        if fresh:
            self._asked.update(fresh)
            task = asyncio.get_running_loop().create_task(self._compare(dispatcher, *next(iter(kinds)), fresh))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif dispatcher.feeds is not None:
            self._follow(dispatcher)

    async def _compare(self, dispatcher: Dispatcher, kind: str, model: str, replicas: list[Replica]) -> None:
        """Compares our tokens with the engines'; where they are the same, blocks are of tokens from now on and events are followed."""
        made = dispatcher.prompter
        if made.mode != "tokens":
            made = await asyncio.to_thread(prompter, model, HASHING, engine=kind)
        for replica in replicas:
            if made.mode == "tokens":
                await self._ask(made, replica)
        if made.mode == "tokens":
            if dispatcher.prompter is not made:
                dispatcher.prompter = made
                for number in dispatcher.seats:  # what was known is of text
                    dispatcher.scheduler.restarted(number)
                log.info("%s: prompts are counted in tokens of %s", dispatcher.name, model)
            self._follow(dispatcher)
        else:
            log.info("%s: prompts are matched as text: %s", dispatcher.name, made.reason)

    async def _ask(self, made: Prompter, replica: Replica) -> None:
        link = replica.link
        if not isinstance(link, OpenAILink):
            made.drop("the backend cannot be asked how it tokenises.")
            return

        async def fetch(path: str, body: bytes) -> bytes:
            return (await link.ask(link.post(link.root + path, body), _LOOK))[2]

        try:
            await verify(made, fetch, _served(replica, self._config))
        except Fault as fault:
            self._asked.discard(replica)  # it is asked again when it is back
            log.warning("%s could not be asked how it tokenises: %s", replica.name, fault.message)

    def _follow(self, dispatcher: Dispatcher) -> None:
        """Follows the events of those replicas that publish any."""
        wanted = {}
        for replica, number in dispatcher.numbers.items():
            said = self.fleet.kv_events(replica)
            if said is not None:
                wanted[number] = (replica, said)
        if not wanted and dispatcher.feeds is None:
            return
        from gateway.feeds import Feeds, Publisher  # ZMQ is loaded only where somebody publishes

        try:
            if dispatcher.feeds is None:
                dispatcher.feeds = Feeds(dispatcher.scheduler)
            dispatcher.feeds.sync({
                number: Publisher(said.endpoint, said.replay or "", said.topic, said.ranks, replica.name)
                for number, (replica, said) in wanted.items()
            })  # fmt: skip
        except (ValueError, ImportError, RuntimeError) as e:
            log.warning("%s: KV events are not followed, caches are guessed: %s", dispatcher.name, e)

    # --- time
    async def run(self) -> None:
        """Talks with other gateways for ever, where there are any; cancel it to stop."""
        together = self.together
        if together is None:
            return
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if together.tick(monotonic()):
                for dispatcher in self.dispatchers:
                    dispatcher.soon()

    async def close(self) -> None:
        """Ends what it has begun. Idempotent."""
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for dispatcher in self.dispatchers:
            dispatcher.close()


def settings_of(policy: PolicyConfig) -> Settings:
    """The scheduler's settings that a route's policy asks for."""
    base = Settings()
    return Settings(
        hold=base.hold if policy.hold is None else policy.hold, stall=base.stall if policy.stall is None else policy.stall,
        target=base.target if policy.ttft == PolicyConfig(name="kv_aware").ttft else policy.ttft,
    )  # fmt: skip


def _whole(route: Route) -> Route:
    return route.whole if isinstance(route, Near) else route


def _groups(routes: Mapping[str, Route], policies: Mapping[str, PolicyConfig]) -> list[tuple[list[str], list[Replica]]]:
    """Routes that share replicas with a KV-aware one, in groups: names, and the replicas of the KV-aware ones."""
    aware = {name for name in routes if policies[name].scheduled}
    known = {r for name in aware for r in routes[name].replicas}
    groups: list[tuple[list[str], set[Replica]]] = []
    for name in sorted(routes):
        mine = known.intersection(routes[name].replicas)
        if not mine:
            continue
        names = [name]
        for group in [g for g in groups if not mine.isdisjoint(g[1])]:
            groups.remove(group)
            names, mine = group[0] + names, mine | group[1]
        groups.append((names, mine))
    return [(sorted(names), sorted(mine, key=lambda r: r.name)) for names, mine in groups]


def _kind(config: Config, replica: Replica) -> tuple[str, str]:
    """The kind of a replica's server, and the model that it runs as its maker names it; "" where that is not known."""
    backend = config.backends[replica.backend]
    if backend.engine is not None:
        return backend.engine, backend.model or ""
    return backend.kind, _served(replica, config)


def _served(replica: Replica, config: Config | None) -> str:
    """The name that a server knows its model by, from the first target that means it."""
    assert config is not None
    backend = config.backends[replica.backend]
    if backend.engine is not None:
        return backend.served_name or replica.backend
    for name, route in config.routes.items():
        for target in route.targets:
            if target.backend == replica.backend:
                return target.model or name
    return ""


def gauges(figures: Metrics, scheduling: Scheduling) -> None:
    """Registers what the schedulers can be read for: their books, and how well cached tokens were predicted."""
    figures.callback(
        "pointsman_scheduler_bookings", "Attempts that the scheduler has on its books.",
        lambda: [({"group": d.name}, len(d.scheduler.load.bookings)) for d in scheduling.dispatchers],
    )  # fmt: skip
    figures.callback(
        "pointsman_scheduler_held", "Calls that the scheduler holds until a replica comes free.",
        lambda: [({"group": d.name}, len(d.waiting)) for d in scheduling.dispatchers],
    )  # fmt: skip
    for field, help in (
        ("prompt", "Prompt tokens of answers whose cached tokens were told."), ("predicted", "Of them, predicted to be cached."),
        ("reported", "Of them, reported by the engine to have been cached."),
    ):  # fmt: skip
        figures.callback(f"pointsman_cache_{field}_tokens_total", help, partial(scheduling.truths, field), kind="counter")
    figures.callback(
        "pointsman_cache_error_tokens", "Size of the error of predicted cached tokens, 95th percentile of the last answers.",
        lambda: scheduling.truths("p95"), merge="max",
    )  # fmt: skip
    together = scheduling.together
    figures.callback(
        "pointsman_peers", "Other gateways and workers that this process schedules together with.",
        lambda: together.peers if together is not None else 0, merge="max",
    )  # fmt: skip
    figures.callback(
        "pointsman_redis_connected", "1: the way to gateways on other hosts is open. Only with server.redis.",
        lambda: () if together is None or together.connected is None else float(together.connected), merge="max",
    )  # fmt: skip
