"""What a route's policy makes of a request that is explained: each candidate's seconds by term, the winner and the runner-up, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.choosers import RouteChooser
from gateway.exchange import Exchange
from routing import pool
from routing.choose import Scores, words
from routing.types import Decision

Json = dict[str, Any]


def picked(exchange: Exchange, chooser: RouteChooser | None) -> Decision | None:
    """Where the request would go; None: it would wait. `chooser`: of its route, None where the draw by weight decides. Counts nothing.
    Raises Fault where the policy has nowhere for it."""
    core = exchange.core
    if chooser is None:
        return pool.pick(exchange.route, core.clients.now, core.draw(), exchange.excluded)
    inner = chooser.chooser
    turn = inner.turn
    try:
        return inner.choose(chooser.asked(exchange.call, exchange.tenant), core.clients.now, exchange.excluded)
    finally:
        inner.turn = turn


def weighed(exchange: Exchange, chooser: RouteChooser | None, decision: Decision | None) -> Mapping[tuple[str, str], Json]:
    """By replica and model: `seconds` in all, `terms` (seconds, and dollars), and `out`, why it may not be used."""
    if chooser is None:
        return {}
    inner = chooser.chooser
    scores = decision.scores if decision is not None else None
    if not isinstance(scores, Scores):
        asked = chooser.asked(exchange.call, exchange.tenant)
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
    return {"words": words(decision), "runner_up": second}
