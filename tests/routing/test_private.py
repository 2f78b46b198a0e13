"""The local part of a route: what a private call can reach."""

from __future__ import annotations

from backends.types import Target
from routing.plan import Hedge, Plan
from routing.private import near, no_local_target
from routing.retry import Backoff
from routing.types import Arm, Replica, Route
from tests.routing.made import replica


def route(name: str, **arms: Replica) -> Route:
    """Arms by backend; those that begin with `l` are local."""
    return Route(name, tuple(Arm(Target(backend, "t"), (r,)) for backend, r in arms.items()), retries=3, concurrency=9)


def local(arm: Arm) -> bool:
    return arm.target.backend.startswith("l")


def test_only_local_arms_are_in_it_and_it_counts_for_the_whole() -> None:
    whole = route("m", l1=replica("a"), c1=replica("b"))
    whole.inflight = 2
    part = near({"m": whole, "alias": whole}, local)["m"]
    assert [a.target.backend for a in part.arms] == ["l1"] and part.name == "m" and part.concurrency == 9 and part.retries == 3
    assert part.inflight == whole.inflight == 2 and part.reaches and part.plan is None
    part.inflight += 1
    assert whole.inflight == 3


def test_plans_lead_to_local_parts_and_are_learned_together() -> None:
    far, last, whole = route("far", c=replica("f")), route("last", l=replica("z"), c=replica("y")), route("m", c=replica("a"))
    plan = Plan(backoff=Backoff(), hedge=Hedge(), coalesce=True, heirs=Route("m", route("m", l=replica("h"), c=replica("i")).arms))
    whole.follow(plan)
    far.follow(Plan())
    assert far.plan is not None
    plan.chain, plan.context, plan.content, far.plan.chain = (far,), (last,), (), (last, far)
    parts = near({"m": whole, "far": far, "last": last}, local)
    part = parts["m"].plan
    assert part is not None and part.chain == (parts["far"],) and part.context == (parts["last"],) and part.content == ()
    assert part.heirs is not None and [a.target.backend for a in part.heirs.arms] == ["l"]
    assert part.first is plan.first and part.budget is plan.budget and part.hedge == plan.hedge
    assert parts["m"].reaches and parts["far"].reaches and not parts["far"].arms


def test_where_nothing_local_can_be_reached_it_says_so() -> None:
    one, two = route("one", c=replica("a")), route("two", c=replica("b"))
    one.follow(Plan())
    two.follow(Plan())
    assert one.plan is not None and two.plan is not None
    one.plan.chain, two.plan.chain = (two,), (one,)  # configuration forbids it; it must not hang
    assert not near({"one": one, "two": two}, local)["one"].reaches
    fault = no_local_target("m" * 999)
    assert (fault.status, fault.code) == (403, "no_local_target") and len(fault.message) < 400
