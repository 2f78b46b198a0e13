"""What the experiments of a route make of a request that is explained: its arm, on copies of routes. Nothing is counted."""

from __future__ import annotations

from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING, Any

from gateway.experiments.arms import Changes
from gateway.experiments.entry import Part
from gateway.experiments.trial import RouteTrials
from routing.types import Route

if TYPE_CHECKING:
    from gateway.exchange import Exchange

Json = dict[str, Any]


class DryTrials:
    """Stands in for a route's `RouteTrials`, and tells what it did: `told`, an object for each experiment. `copy` gives a route that counts
    nothing."""

    def __init__(self, trials: RouteTrials, copy: Callable[[Route], Route], told: list[Json]) -> None:
        self.trials, self.copy, self.told = trials, copy, told

    def enter(self, exchange: Exchange) -> None:
        """Gives the request its arm, as `RouteTrials.enter` would."""
        unix, route = time(), exchange.route
        changes: Changes | None = None
        for one in self.trials.live:
            found = one.told(exchange, unix)
            self.told.append({"experiment": one.name, "arm": found.arm or None, "why": found.why})
            if found.place is None:
                continue
            if found.place.route is not None:
                route = self.copy(found.place.route)
            if found.place.changes is not None:
                changes = found.place.changes if changes is None else changes.and_(found.place.changes)
        exchange.route = route
        if changes is not None:
            exchange.tried(Part(self.trials.store, (), route, changes))
