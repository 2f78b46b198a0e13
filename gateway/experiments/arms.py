"""The arms of experiments as routes and as changes to a request, made once for each generation from configuration and fleet.

An arm with targets of its own is a route that no name leads to: it has the plan, the policy and the name of the experiment's route, so that
records, metrics and fallbacks see nothing new. An arm without is the route itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from backends import wire
from gateway import plans
from gateway.config import Config, RouteConfig
from gateway.config_experiments import ArmConfig, ExperimentConfig, begins
from gateway.config_experiments_check import arm_route
from gateway.config_policy import policy_of
from gateway.experiments.keys import Reader, reader
from routing.experiments.assign import Split
from routing.policies import Condition
from routing.private import Near
from routing.types import Route

# Two names of one thing: who sets one means the other too.
_TWINS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_SYSTEM = frozenset({"system", "developer"})
_raws = msgspec.json.Decoder(list[msgspec.Raw])


Make = Callable[[str, RouteConfig], Route]


class ArmRoute(Route):
    """A route with an arm's targets. Calls under way are counted at the whole route, whose limit holds for all arms together."""

    __slots__ = ("label", "whole")

    def __init__(self, whole: Route, made: Route, label: str = "") -> None:
        self.whole, self.label = whole, label  # by which a generation knows it
        before = whole.inflight
        super().__init__(
            whole.name, made.arms, retries=made.retries, drop=made.drop, tell=made.tell, timeouts=made.timeouts,
            concurrency=whole.concurrency,
        )  # fmt: skip
        self.inflight = before  # which the constructor has set to zero, there

    @property
    def inflight(self) -> int:
        """Calls under way on the whole route."""
        return self.whole.inflight

    @inflight.setter
    def inflight(self, calls: int) -> None:
        self.whole.inflight = calls


class _Turn(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = wire.NULL


_turn = msgspec.json.Decoder(_Turn)


class Changes(msgspec.Struct, frozen=True):
    """What an arm changes in a chat document (or one of completions or embeddings). `system`: a text; `instead`: of the client's own."""

    parameters: Mapping[str, msgspec.Raw] = {}
    removed: frozenset[str] = frozenset()
    system: str | None = None
    instead: bool = False

    def apply(self, doc: wire.Doc) -> wire.Doc:
        """The document as the arm wants it, a new one. What cannot be read is left to whoever gets it."""
        out = {name: value for name, value in doc.items() if name not in self.removed}
        out.update(self.parameters)
        if self.system is not None and "messages" in doc:
            out["messages"] = self._spoken(doc["messages"])
        return out

    def and_(self, other: Changes) -> Changes:
        """Both, of two experiments that change different things."""
        system, instead = (self.system, self.instead) if self.system is not None else (other.system, other.instead)
        return Changes({**self.parameters, **other.parameters}, self.removed | other.removed, system, instead)

    def _spoken(self, messages: msgspec.Raw) -> msgspec.Raw:
        """The messages with the system prompt first; the client's own follows in the same message, since many models take only one."""
        try:
            turns = _raws.decode(messages)
            heads = [_turn.decode(turn) for turn in turns]
        except (msgspec.MsgspecError, RecursionError):
            return messages
        role, content = "system", wire.raw(self.system)
        if self.instead:
            turns = [turn for turn, head in zip(turns, heads, strict=True) if head.role not in _SYSTEM]
        elif heads and heads[0].role in _SYSTEM:
            joined = self._joined(heads[0].content)
            if joined is not None:
                role, content, turns = heads[0].role, joined, turns[1:]
        return wire.raw([{"role": role, "content": content}, *turns])

    def _joined(self, own: msgspec.Raw) -> msgspec.Raw | None:
        try:
            given = msgspec.json.decode(own)
        except (msgspec.MsgspecError, RecursionError):
            return None
        if isinstance(given, str):
            return wire.raw(f"{self.system}\n\n{given}")
        return wire.raw([{"type": "text", "text": self.system}, *given]) if isinstance(given, list) else None


class Experiment(msgspec.Struct, frozen=True, eq=False):
    """One experiment in one generation. `ways` and `changes`: by arm, None: the route itself, the request as it came. `shares`: see
    `ExperimentConfig.shares`; `began`: unix seconds."""

    name: str
    route: Route
    split: Split
    shares: tuple[tuple[float, float], ...]
    began: float
    key: Reader
    exclude: Condition | None
    history: bool
    ways: tuple[ArmRoute | None, ...]
    changes: tuple[Changes | None, ...]


class Arms(msgspec.Struct, frozen=True, eq=False):
    """All experiments of a generation; their routes, and these as configured, by a name that no route can have."""

    experiments: tuple[Experiment, ...] = ()
    routes: Mapping[str, ArmRoute] = {}
    wanted: Mapping[str, RouteConfig] = {}


def build(
    config: Config, wanted: Mapping[str, RouteConfig], routes: Mapping[str, Route], make: Callable[[str, RouteConfig], Route]
) -> Arms:
    """The arms of all experiments. `routes`: with their plans, by name; `make` gives the route of a configuration. Changes nothing."""
    hidden: dict[str, ArmRoute] = {}
    written: dict[str, RouteConfig] = {}
    found: list[Experiment] = []
    places = begins(config.experiments)
    for name, given in config.experiments.items():
        whole = routes.get(given.route)
        if whole is None or isinstance(whole, Near):
            continue
        ways: list[ArmRoute | None] = []
        for arm, one in given.arms.items():
            if one.targets is None:
                ways.append(None)
                continue
            label = f"{given.route} ({name}: {arm})"
            written[label] = arm_route(wanted[given.route], one)
            hidden[label] = _arm(whole, written[label], config, make, label)
            ways.append(hidden[label])
        session = policy_of(wanted[given.route].policy).session_header
        found.append(_experiment(name, given, places[name], whole, tuple(ways), session))
    return Arms(tuple(found), hidden, written)


def _arm(whole: Route, given: RouteConfig, config: Config, make: Make, label: str) -> ArmRoute:
    route = ArmRoute(whole, make(whole.name, given), label)
    plan = plans.plan_of(whole.name, given, route, config)
    if plan is not None:
        if whole.plan is not None:
            plan.chain, plan.context, plan.content = whole.plan.chain, whole.plan.context, whole.plan.content
        route.follow(plan)
    return route


def _experiment(
    name: str, given: ExperimentConfig, begin: float, whole: Route, ways: tuple[ArmRoute | None, ...], session: str
) -> Experiment:  # fmt: skip
    arms = given.arms
    split = Split(
        given.salt if given.salt is not None else name, tuple(arms), tuple(arm.weight for arm in arms.values()),
        layer=given.layer, begin=begin, holdout=given.holdout,
    )  # fmt: skip
    return Experiment(
        name, whole, split, given.shares, given.began, reader(given.key, session),
        given.exclude.condition() if given.exclude is not None else None, given.history, ways, tuple(changes(arm) for arm in arms.values()),
    )  # fmt: skip


def changes(arm: ArmConfig) -> Changes | None:
    """What an arm changes in a request; None: nothing."""
    if not arm.changes:
        return None
    given = {name: value for name, value in arm.parameters.items() if value is not None}
    removed = frozenset(arm.parameters) | {_TWINS[name] for name in given if name in _TWINS}
    return Changes({name: wire.raw(value) for name, value in given.items()}, removed, arm.system, arm.system_goes == "instead")
