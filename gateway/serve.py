"""The core that every exchange shares: who may call, which routes there are, what is under way, and the tick that keeps time.

One `Core` a process, owned by its event loop. A reload swaps `generation`; exchanges under way keep the routes and replicas they hold.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import random
import re
import time
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING

from backends import wire
from backends.http import Clients
from backends.types import Fault
from gateway.auth import Door, Tenant, allowed
from gateway.coalesce import Shared
from gateway.config import Limits, ServerConfig
from gateway.exchange import Exchange
from gateway.experiments.arms import ArmRoute, Arms
from gateway.recorder import Recorder
from gateway.starts import Starts
from routing import pool
from routing.private import Near, no_local_target
from routing.types import Replica, Route

if TYPE_CHECKING:
    from gateway.choosers import RouteChooser
    from gateway.experiments.lanes import Plan
    from gateway.experiments.shadow import Shadows
    from gateway.experiments.trial import Trials
    from gateway.residency_demand import Demand

MAX_PARKED = 4096
TICK_SECONDS = 0.1
_FIRST, _DIGITS = [b"%d" % n for n in range(1, 1000)], [b"%03d" % n for n in range(1000)]
_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}\Z")


class Generation:
    """What one configuration gives: the door, the routes by name and alias, by name what private calls see of them, what chooses where a
    policy does, by experiment what is mirrored, and the arms of experiments. Never changed after it was made."""

    __slots__ = ("arms", "choosers", "door", "near", "number", "routes", "server", "shadows")

    def __init__(
        self,
        number: int,
        server: ServerConfig,
        door: Door,
        routes: Mapping[str, Route],
        near: Mapping[str, Near] | None = None,
        choosers: Mapping[Route, RouteChooser] | None = None,
        shadows: Mapping[str, Plan] | None = None,
        arms: Arms | None = None,
    ) -> None:
        self.number, self.server, self.door, self.routes = number, server, door, dict(routes)
        self.near, self.choosers = dict(near or {}), dict(choosers or {})
        self.shadows, self.arms = shadows or {}, arms or Arms()

    @property
    def known(self) -> frozenset[str]:
        """The names under which requests are counted: of routes, and of what is mirrored."""
        return frozenset((*self.routes, *(plan.counted for plan in self.shadows.values())))


class Core:
    """Shared state of the data path. Every method is synchronous and cheap."""

    generation: Generation

    def __init__(self, generation: Generation, clients: Clients, recorder: Recorder, draw: random.Random | None = None) -> None:
        self.clients, self.recorder, self.starts = clients, recorder, Starts(clients.loop)
        self.inflight: set[Exchange] = set()
        self.parked: dict[Exchange, None] = {}  # in order of arrival
        self.leaders: dict[bytes, Shared] = {}  # calls that identical ones may follow
        self.shadows: Shadows | None = None  # where requests are mirrored
        self.trials: Trials | None = None  # where experiments are configured
        self.residency: Demand | None = None  # who hears what engines are wanted, where some come and go
        self.leaving = False  # told to stop: not ready, and every answer says that its connection closes
        self.draining = False  # no time is left: nothing more is begun
        self.idle = math.inf  # seconds that a connection may idle, where that is less than what is configured; 0: none may
        self.draw = (draw or random.Random()).random  # [0, 1)
        self.ids = numbered(f"req-{os.urandom(6).hex()}-".encode())  # of requests
        self.swap(generation)

    def __repr__(self) -> str:
        return f"<Core generation {self.generation.number}: {len(self.inflight)} under way, {len(self.parked)} parked>"

    def swap(self, generation: Generation) -> None:
        """Makes `generation` the one that new requests see. What a route has learned goes over to the next of its name."""
        old, arms = (self.generation.routes, self.generation.arms.routes) if hasattr(self, "generation") else ({}, {})
        for name, route in generation.routes.items():
            plan, older = _whole(route).plan, _whole(old[name]).plan if name in old else None
            if plan is not None and older is not None:
                plan.learn(older)
        for name, arm in generation.arms.routes.items():
            if arm.plan is not None and name in arms and (earlier := arms[name].plan) is not None:
                arm.plan.learn(earlier)
        for part in generation.near.values():
            if part.plan is not None and part.whole.plan is not None:
                part.plan.learn(part.whole.plan)
        self.generation = generation
        if self.shadows is not None:
            self.shadows.follow(generation.shadows)
        if self.trials is not None:
            self.trials.attach(generation.arms.experiments)
        self.server: ServerConfig = generation.server
        self.limits: Limits = generation.server.limits
        self.door = generation.door
        # By the model's name as it stands in a body: what most requests need, in one look.
        self.named = {bytes(wire.raw(name)): (name, route) for name, route in generation.routes.items()}
        self.date = self.ok = b""
        self.tick_date(time.time())

    def run_trials(self, trials: Trials | None) -> None:
        """From now on `trials` says which experiments are in force, of this and of later generations; None: none are."""
        self.trials = trials
        if trials is not None:
            trials.attach(self.generation.arms.experiments)
            return
        for experiment in self.generation.arms.experiments:
            experiment.route.try_out(None)

    # --- what an exchange asks
    def request_id(self, headers: Mapping[bytes, bytes]) -> bytes:
        """The client's own x-request-id where it is a plain token, else a new one."""
        if b"x-request-id" in headers and _ID.match(headers[b"x-request-id"]):
            return headers[b"x-request-id"]
        return next(self.ids)

    def admit(self, exchange: Exchange) -> None:
        """Sets the exchange's tenant, or raises the Fault that keeps it out."""
        door = self.door
        exchange.tenant = door.identify(exchange.headers)
        if door.origins:
            exchange.cors = door.cors(exchange.headers)
            if exchange.cors:
                exchange.watched = True

    def refusal(self) -> Fault:
        """Why nobody is let in just now."""
        if self.draining:
            return Fault("unavailable", "The gateway is shutting down.", retry_after=1.0, code="draining")
        why = f"The gateway has {self.limits.concurrency} calls under way, its limit."
        return Fault("overloaded", why, retry_after=1.0, code="gateway_busy")

    def route(self, model: str, tenant: Tenant) -> Route:
        """The route of a model name. Raises Fault `not_found`; of a route that the key may not use it says the same."""
        found = self.generation.routes.get(model)
        if found is None:
            raise self.unknown(model, tenant)
        return self.permitted(model, found, tenant) if tenant.limited else found

    def permitted(self, model: str, route: Route, tenant: Tenant) -> Route:
        """What the caller may use of a route: all of it, or for a private call its local part. Raises Fault: `not_found` where the key
        may not use it, `forbidden` where a private call can never be answered."""
        if not allowed(tenant, route.name):
            raise self.unknown(model, tenant)
        if not tenant.private:
            return route
        part = self.generation.near.get(route.name)
        if part is None or not part.reaches:
            raise no_local_target(model)
        return part

    def routes_of(self, tenant: Tenant) -> list[Route]:
        """What the caller may use, each once, by name."""
        generation = self.generation
        mine = {route.name: route for route in generation.routes.values() if allowed(tenant, route.name)}
        if tenant.private:
            return [generation.near[name] for name in sorted(mine) if name in generation.near]
        return [mine[name] for name in sorted(mine)]

    def unknown(self, model: str, tenant: Tenant) -> Fault:
        """There is no such model for this caller; names what there is."""
        names = sorted(name for name, r in self.generation.routes.items() if allowed(tenant, r.name))
        close = get_close_matches(model, names, 1)
        there = f" There is: {', '.join(names[:8])}." if names else " No model is configured."
        hint = f" Did you mean '{close[0]}'?" if close else there
        return Fault("not_found", f"There is no model '{model[:200]}'.{hint}", origin="client", param="model", code="model_not_found")

    def park(self, exchange: Exchange) -> None:
        """Lets a call wait for a replica that is loading or busy. Raises Fault when none will come, or too many wait."""
        if not pool.may_come(exchange.route, exchange.excluded):
            if self._follows(exchange):  # its replicas went while it was under way
                exchange.dispatch()
                return
            raise _nobody(exchange.route)
        if len(self.parked) >= MAX_PARKED:
            raise Fault("overloaded", f"{MAX_PARKED} calls are waiting already.", retry_after=2.0, code="queue_full")
        self._wait(exchange)

    def _follows(self, exchange: Exchange, replica: Replica | None = None) -> bool:
        """Lets a call that has not been answered go by the route that has taken its route's place, if one has, and has `replica`."""
        old, generation = exchange.route, self.generation
        now: Route | None = generation.routes.get(old.name)
        if isinstance(old, Near):
            now = generation.near.get(old.name)
        elif isinstance(old, ArmRoute):
            now = generation.arms.routes.get(old.label)
        if now is None or now is old or (replica is not None and replica not in now.replicas):
            return False
        old.inflight -= 1
        now.inflight += 1
        exchange.route = now
        exchange.follow(now)
        return True

    def hold(self, exchange: Exchange) -> None:
        """Lets a call wait until its policy sends it on (`Exchange.redispatch`)."""
        self._wait(exchange)

    def _wait(self, exchange: Exchange) -> None:
        exchange.parked_at = time.monotonic()
        self.parked[exchange] = None
        if self.residency is not None:
            self.residency.waits()
        if self.shadows is not None:
            self.shadows.give_way(exchange.route)

    def send_on(self, exchange: Exchange) -> None:
        """The policy of a call that waits has found a place for it."""
        if exchange in self.parked:
            del self.parked[exchange]
            exchange.redispatch()

    def waited(self, exchange: Exchange) -> Fault:
        """Takes a call whose wait is over out of the queue; the Fault that says why it waited."""
        self.parked.pop(exchange, None)
        route = exchange.route
        seconds = f"{self.server.wait_seconds:g} s"
        loading = [r for r in route.replicas if r.health == "loading"]
        if loading:
            return Fault("unavailable", f"Model '{route.name}' is still loading after {seconds}: {loading[0].reason or loading[0].name}.",
                         origin="backend", retry_after=5.0, code="model_loading")  # fmt: skip
        return Fault("overloaded", f"Every replica of '{route.name}' was busy for {seconds}.", retry_after=5.0, code="replicas_busy")

    def freed(self, replica: Replica) -> None:
        """A slot is free again: whoever waits longest gets it."""
        if self.parked and replica.slots is not None:
            self.wake(replica)
        if replica.on_idle is not None and not replica.inflight:
            replica.on_idle()

    def wake(self, replica: Replica) -> None:
        """Sends on what the replica can take of the parked calls, in order of arrival. Call it when it is new or its health has changed."""
        for exchange in [*self.parked]:
            if exchange in self.parked and (replica in exchange.route.replicas or self._follows(exchange, replica)):
                del self.parked[exchange]
                exchange.redispatch()
                if replica.health == "ready" and replica.full:
                    return

    def ended(self, exchange: Exchange) -> None:
        """An exchange has come to its end."""
        self.inflight.discard(exchange)
        if exchange.parked_at is not None:
            self.parked.pop(exchange, None)
        exchange.route.inflight -= 1
        if exchange.running:
            self.starts.spare += 1

    # --- time
    def tick_date(self, unix: float) -> None:
        """Renders the date header, at most once a second."""
        self._date_at = int(unix)
        self.date = time.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n", time.gmtime(unix)).encode()
        self.ok = b"HTTP/1.1 200 OK\r\n" + self.date  # how nearly every answer begins

    def tick(self) -> None:
        """Every 100 ms: the upstream timeouts, every exchange's waits."""
        self.clients.tick()
        now = self.clients.now
        unix = time.time()
        if int(unix) != self._date_at:
            self.tick_date(unix)
        for exchange in [*self.inflight]:
            # A stream under way waits for nothing that comes with time, and there may be thousands of them.
            if exchange.ttft is None or exchange.paused_at is not None or exchange.guide is not None:
                exchange.tick(now)
        if self.residency is not None:
            self.residency.tick()
        if self.parked:
            rested = {r for e in self.parked for r in e.route.replicas if r.managed and 0 < r.down_until <= now}
            for replica in rested:
                self.wake(replica)
        if self.shadows is not None:
            self.shadows.tick(now)

    async def run(self) -> None:
        """Ticks for ever; cancel it to stop."""
        while True:
            self.tick()
            await asyncio.sleep(TICK_SECONDS)

    def cut(self) -> None:
        """Ends every exchange with an error: the gateway must stop now."""
        if self.shadows is not None:
            self.shadows.cut()
        for exchange in [*self.inflight]:
            exchange.shut()


def numbered(prefix: bytes) -> Iterator[bytes]:
    """`prefix` with 1, 2, 3 and so on behind it, without end. Most of them are made without a step of the interpreter."""

    def thousand(n: int) -> Iterator[bytes]:
        return map((prefix + (b"%d" % n if n else b"")).__add__, _DIGITS if n else _FIRST)

    return itertools.chain.from_iterable(map(thousand, itertools.count()))


def _whole(route: Route) -> Route:
    return route.whole if isinstance(route, Near) else route


def _nobody(route: Route) -> Fault:
    reasons = [r.reason for r in route.replicas if r.reason]
    why = f": {reasons[0]}" if reasons else "."
    if isinstance(route, Near):
        why = f" on a local backend, and this call is private{why}"
    origin = "backend" if route.replicas else "gateway"
    return Fault("unavailable", f"No replica of '{route.name}' can answer now{why}", origin=origin, retry_after=5.0, code="no_replica")  # type: ignore[arg-type]
