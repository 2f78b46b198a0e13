"""The part of a route that private calls see. Nothing that is not local can be reached from it: not by a retry, a hedge, a fallback or a
continuation, since it holds none of that. So no chooser and no code path has to remember to look. Plain state."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from backends.types import Fault
from routing.plan import Plan
from routing.types import Arm, Route

Local = Callable[[Arm], bool]


class Near(Route):
    """A route's local arms, under its name, with its limits. Calls under way are counted at the whole route."""

    __slots__ = ("whole",)

    def __init__(self, whole: Route, arms: tuple[Arm, ...]) -> None:
        self.whole = whole
        before = whole.inflight
        super().__init__(
            whole.name,
            arms,
            retries=whole.retries,
            drop=whole.drop,
            tell=whole.tell,
            timeouts=whole.timeouts,
            concurrency=whole.concurrency,
        )
        self.inflight = before  # which the constructor has set to zero, there

    @property
    def inflight(self) -> int:
        """Calls under way on the whole route."""
        return self.whole.inflight

    @inflight.setter
    def inflight(self, calls: int) -> None:
        self.whole.inflight = calls

    @property
    def reaches(self) -> bool:
        """Whether a private call can be answered at all, here or on a route that takes over."""
        seen: set[Route] = set()
        left: list[Route] = [self]
        while left:
            route = left.pop()
            if route.arms:
                return True
            if route not in seen and route.plan is not None:
                left += [*route.plan.chain, *route.plan.context, *route.plan.content]
            seen.add(route)
        return False


def no_local_target(model: str) -> Fault:
    """What a private call is told where it can never be answered."""
    why = (
        f"This call is private and model '{model[:200]}' is on no local backend; ask for a model that is, or mark a backend of yours "
        "`local: true`."
    )
    return Fault("forbidden", why, origin="client", param="model", code="no_local_target")


def near(routes: Mapping[str, Route], local: Local) -> dict[str, Near]:
    """By name, what private calls may see of `routes` (by name and alias). Call it when their plans are complete."""
    made = {route: Near(route, tuple(arm for arm in route.arms if local(arm))) for route in {*routes.values()}}
    for whole, part in made.items():
        if whole.plan is not None:
            part.follow(_plan(whole.plan, local))
    for whole, part in made.items():
        if whole.plan is not None and part.plan is not None:
            part.plan.chain = _parts(whole.plan.chain, made)
            part.plan.context = _parts(whole.plan.context, made)
            part.plan.content = _parts(whole.plan.content, made)
    return {route.name: part for route, part in made.items()}


def _parts(chain: tuple[Route, ...], made: Mapping[Route, Near]) -> tuple[Route, ...]:
    return tuple(made[route] for route in chain)


def _plan(plan: Plan, local: Local) -> Plan:
    """The same plan for the local part; what is learned is learned by both."""
    heirs = None
    if plan.heirs is not None:
        heirs = Route(plan.heirs.name, tuple(arm for arm in plan.heirs.arms if local(arm)))
    made = Plan(
        backoff=plan.backoff, hedge=plan.hedge, coalesce=plan.coalesce, continues=plan.continues, heirs=heirs, timeouts=plan.timeouts
    )
    made.learn(plan)
    return made
