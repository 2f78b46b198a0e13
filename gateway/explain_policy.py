"""What a route's policy makes of a request that is explained: each candidate's seconds by term, the winner and the runner-up, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from gateway.choosers import RouteChooser
from gateway.exchange import Exchange
from routing import pool
from routing.choose import Scores, words
from routing.types import Decision

Json = dict[str, Any]


@runtime_checkable
class Explains(Protocol):
    """A route's `Chooser` that explains itself: where the request of `exchange` would go, and `weighed`'s rows. Counts nothing."""

    @property
    def preset(self) -> str:
        """The policy's name."""
        ...

    def explain(self, exchange: Exchange) -> tuple[Decision | None, Mapping[tuple[str, str], Json]]: ...


class Guide(NamedTuple):
    """Who chooses on the route that is explained: one that explains itself, a policy, or neither: the draw by weight."""

    explains: Explains | None = None
    chooser: RouteChooser | None = None

    @property
    def policy(self) -> str:
        """The policy's name."""
        if self.explains is not None:
            return self.explains.preset
        return self.chooser.chooser.policy.name if self.chooser is not None else "weighted"


def picked(exchange: Exchange, guide: Guide) -> Decision | None:
    """Where the request would go; None: it would wait. Counts nothing. Raises Fault where the policy has nowhere for it."""
    core = exchange.core
    if guide.explains is not None:
        return guide.explains.explain(exchange)[0]
    if guide.chooser is None:
        return pool.pick(exchange.route, core.clients.now, core.draw(), exchange.excluded)
    inner = guide.chooser.chooser
    turn = inner.turn
    try:
        return inner.choose(guide.chooser.asked(exchange.call, exchange.tenant), core.clients.now, exchange.excluded)
    finally:
        inner.turn = turn


def weighed(exchange: Exchange, guide: Guide, decision: Decision | None) -> Mapping[tuple[str, str], Json]:
    """By replica and model: `seconds` in all, `terms` (seconds, and dollars), and `out`, why it may not be used."""
    if guide.explains is not None:
        return guide.explains.explain(exchange)[1]
    if guide.chooser is None:
        return {}
    inner = guide.chooser.chooser
    scores = decision.scores if decision is not None else None
    if not isinstance(scores, Scores):
        asked = guide.chooser.asked(exchange.call, exchange.tenant)
        scores = Scores(inner, asked, inner.candidates(asked, exchange.core.clients.now, exchange.excluded), None)
    return {(option.replica.name, option.target.model): row(scores[option.label]) for option in inner.options}


def row(told: Mapping[str, Any]) -> Json:
    """What one candidate's scores are to a reader."""
    terms = {name: value for name, value in told.items() if name not in ("seconds", "out")}
    return {"seconds": told.get("seconds"), "terms": terms, "out": told.get("out", "")}


UNWEIGHED: Json = {"seconds": None, "terms": {}, "out": ""}


def decided(decision: Decision) -> Json:
    """The decision's reasons: in one line of words, and who came next."""
    scores = decision.scores
    second = None
    if isinstance(scores, Scores):
        option = scores.chooser.option(decision)
        second = scores.runner_up(option.label) if option is not None else None
    elif "words" in scores:
        return {"words": scores["words"], "runner_up": scores["runner_up"]}
    return {"words": words(decision), "runner_up": second}
