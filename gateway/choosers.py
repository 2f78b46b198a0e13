"""From a configuration and a fleet to what chooses on each route, and what one call tells it.

Routes of the scheduler belong to `gateway.dispatcher`; of those only what it must be told besides is made here (`Pilot.besides`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from backends import catalog, facts
from backends.types import Call, Target, Usage
from backends.wire import Doc
from gateway.asking import asked
from gateway.auth import Tenant
from gateway.config import Config, RouteConfig, TargetConfig
from gateway.config_policy import PolicyConfig, policy_of
from gateway.config_types import DEFAULT_SLOTS, BackendConfig
from gateway.fleet import Fleet
from gateway.model_files import LLAMA
from routing.choose import Chooser, Option, Policy
from routing.pace import Pace, Sent
from routing.policies import Asked, Condition, Goal
from routing.pool import pick
from routing.private import Near
from routing.types import Arm, Decision, Replica, Route

if TYPE_CHECKING:
    from gateway.serve import Core

Clock = Callable[[], float]
LEARNT = frozenset({"chat", "completions", "embeddings", "rerank", "messages", "responses"})  # surfaces whose calls tell a model's pace


def chooses(route: RouteConfig) -> bool:
    """Whether a route needs more than the weighted draw of `routing.pool`: a policy, or targets that do not take every call. Of what the
    scheduler chooses, where it must be told what else counts."""
    policy = policy_of(route.policy)
    if any(target.when is not None for target in route.targets):
        return True
    if policy.scheduled:
        return policy.preset == "costs" or policy.seconds_per_dollar > 0
    return policy.preset != "weighted"


def choosers(
    config: Config, wanted: Mapping[str, RouteConfig], routes: Mapping[str, Route], near: Mapping[str, Near], fleet: Fleet,
    rng: random.Random,
) -> dict[Route, RouteChooser]:  # fmt: skip
    """What chooses on each of `routes` and of their local parts, and on the targets that go on with their answers. Routes that the
    weighted draw or the scheduler serves alone are not in it. Drops from the fleet's paces what no route names any more."""
    made: dict[Route, RouteChooser] = {}
    pairs: set[tuple[Replica, str]] = set()
    for name, written in wanted.items():
        whole = routes[name]
        if isinstance(whole, Near):
            whole = whole.whole
        pairs.update((r, arm.target.model) for arm in whole.arms for r in arm.replicas)
        if not chooses(written):
            continue
        policy, places = policy_of(written.policy), {arm: place for place, arm in enumerate(whole.arms)}
        for route in _parts(whole, near.get(name)):
            options = [_option(arm, r, places[arm], written, config, fleet) for arm in route.arms for r in arm.replicas]
            made[route] = RouteChooser(Chooser(whole.name, _labelled(options), _policy(policy), rng), policy.session_header)
    fleet.paces.keep(pairs)
    return made


def _parts(whole: Route, near: Near | None) -> list[Route]:
    """The route, its local part, and who goes on with their answers."""
    found: list[Route] = [whole] if near is None else [whole, near]
    return found + [r.plan.heirs for r in found if r.plan is not None and r.plan.heirs is not None]


def _policy(given: PolicyConfig) -> Policy:
    costs = tuple(given.costs.factors.items()) if given.costs is not None else ()
    return Policy(given.preset, Goal(given.ttft, given.tpot, given.seconds_per_dollar), costs, given.pick)


def _option(arm: Arm, replica: Replica, place: int, route: RouteConfig, config: Config, fleet: Fleet) -> Option:
    entry, backend = route.targets[place], config.backends[arm.target.backend]
    return Option(
        replica, arm.target, pace_of(replica, arm.target, backend, fleet), local=backend.is_local, free=_free(backend),
        unsupported=_lacks(arm.target, entry, backend, config), when=_condition(entry), place=place, share=1 / len(arm.replicas),
    )  # fmt: skip


def pace_of(replica: Replica, target: Target, backend: BackendConfig, fleet: Fleet) -> Pace:
    """What is learned of a target on a replica. An engine that works on so many calls at once lets others wait."""
    slots = backend.slots
    if backend.engine in LLAMA:
        slots = slots or DEFAULT_SLOTS
    return fleet.paces.of(replica, target.model, slots)


def _free(backend: BackendConfig) -> bool:
    """Whether its calls cost nothing where no price says otherwise: what runs here, and servers of one's own."""
    row = catalog.find(backend.kind)
    return backend.is_local or backend.engine is not None or (row is not None and row.local)


def _lacks(target: Target, entry: TargetConfig, backend: BackendConfig, config: Config) -> frozenset[str]:
    """Of what calls may need, what the target is known not to have."""
    known = config.facts(entry)
    found = facts.facts(backend.engine or backend.kind, target.model, known)
    lacks = {
        "tools": "tools" in target.unsupported, "json_schema": "response_format" in target.unsupported or found.json_schema == "none",
        "images": not found.images, "documents": known.get("documents") is False, "audio": known.get("audio") is False,
    }  # fmt: skip
    return frozenset(need for need, missing in lacks.items() if missing)


def _condition(entry: TargetConfig) -> Condition | None:
    return entry.when.condition() if entry.when is not None else None


def _labelled(options: list[Option]) -> list[Option]:
    """Options by their replicas' names; where one replica serves several targets, with the model's."""
    names = [option.replica.name for option in options]
    for option in options:
        if names.count(option.replica.name) > 1:
            option.label = f"{option.replica.name} {option.target.model}"
    return options


class RouteChooser:
    """What a route holds: a `Chooser`, and how a call is asked about. `pilot` gives what guides one call."""

    __slots__ = ("chooser", "session_header")

    def __init__(self, chooser: Chooser, session_header: str) -> None:
        self.chooser = chooser
        self.session_header = session_header if chooser.policy.name == "session" else ""

    def __repr__(self) -> str:
        return f"<RouteChooser {self.chooser!r}>"

    def pilot(self, call: Call, tenant: Tenant, clock: Clock = time.monotonic, prompt: int | None = None) -> Pilot:
        """What guides `call`. `prompt`: its tokens, where they are counted already."""
        return Pilot(self, self.asked(call, tenant, prompt), call.stream, clock, call.api in LEARNT)

    def asked(self, call: Call, tenant: Tenant, prompt: int | None = None) -> Asked:
        """The call as the policy sees it."""
        chooser = self.chooser
        return asked(
            call, tenant, output=chooser.output, minute=minute_of_day() if chooser.timed else 0, headers=chooser.headers,
            session=self.session_header, prompt=prompt,
        )  # fmt: skip


def counting(core: Core, route: Route, api: str, doc: Doc, tenant: Tenant, headers: Mapping[bytes, bytes]) -> Decision | None:
    """Who is asked to count a prompt: one of those that would take the call, by the route's policy. Raises Fault where none takes it."""
    found = core.generation.choosers.get(route)
    if found is None:
        return pick(route, core.clients.now, core.draw())
    call = Call(b"", api, route.name, False, doc, tenant.name, headers, core.clients.now)
    return found.chooser.choose(found.asked(call, tenant), core.clients.now)


def minute_of_day() -> int:
    """Minutes since midnight, in the server's time zone."""
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min


class Pilot:
    """Guides one call, and learns from what becomes of its attempts, of which several may be under way on different replicas. Each `sent`
    is followed by one `released`; before that `answered` tells of the first content, and `over` of the end of a good answer. All of it is
    idempotent. Of the rest of an answer that another began nothing is learned: its prompt and its beginning are not a call's own."""

    __slots__ = ("asked", "begun", "chooser", "clock", "flights", "learns", "stream")

    def __init__(self, chooser: RouteChooser, asked: Asked, stream: bool, clock: Clock, learns: bool = True) -> None:
        self.chooser, self.asked, self.stream, self.clock, self.learns = chooser, asked, stream, clock, learns
        self.begun = False  # the client has content
        self.flights: dict[Replica, tuple[Pace, Sent]] = {}  # attempts that are not settled

    def choose(self, excluded: Collection[Replica]) -> Decision | None:
        """Where the next attempt goes; None: it must wait. Raises Fault where it cannot go anywhere."""
        return self.chooser.chooser.choose(self.asked, self.clock(), excluded)

    def besides(self) -> Mapping[Replica, tuple[Target, float]]:
        """For a scheduler: see `Chooser.besides`."""
        return self.chooser.chooser.besides(self.asked, self.clock())

    def barred(self) -> frozenset[Replica]:
        """The replicas whose targets do not take this call, whoever may choose among them."""
        return self.chooser.chooser.barred(self.asked)

    def sent(self, decision: Decision) -> None:
        """An attempt goes there. Call it before the replica counts it."""
        option = self.chooser.chooser.option(decision)
        if option is not None and self.learns and not self.begun:
            replica = decision.replica
            self.flights[replica] = option.pace, option.pace.sent(self.asked.prompt, replica.inflight, self.clock())

    def answered(self, decision: Decision) -> None:
        """Its first content has come."""
        self.begun = True
        found = self.flights.get(decision.replica)
        if found is not None and self.stream and found[1].open:
            found[0].first(found[1], self.clock())

    def released(self, decision: Decision) -> None:
        """The attempt is over."""
        found = self.flights.pop(decision.replica, None)
        if found is not None and found[1].open:
            found[0].lost(found[1], self.clock())

    def over(self, decision: Decision, usage: Usage | None) -> None:
        """The answer is whole. Call it before `released`: its tokens tell the pace."""
        found = self.flights.get(decision.replica)
        if found is None:
            return
        pace, sent = found
        written = usage.output + usage.reasoning if usage is not None else 0
        if written:
            self.chooser.chooser.wrote(written)
        if sent.first is not None:
            pace.rest(sent, written, max(0, decision.replica.inflight - 1), self.clock())
        elif sent.open:
            pace.whole(sent, written, self.clock())
