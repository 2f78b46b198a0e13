"""What a process that serves calls wants of engines: which models its parked calls wait for, which are in use. Looks at its core on
every tick and whenever a call is parked, and tells the owner of the engines what is new: in this process, or over the channel to it.

`Wants` is the whole truth of one process at one moment, never a difference: what is told twice or late does no harm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from backends import wire
from routing.types import Replica, Route

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.fleet import Fleet
    from gateway.serve import Core

KEEP = b"x-pointsman-keep-loaded"
MAX_KEEP = 7 * 86400.0
COMMENT_SECONDS = 1.0  # between two comments on the progress of a load


class Wants(msgspec.Struct, frozen=True):
    """Of one model: calls that wait for it and since when the first does (monotonic seconds, the same clock in all processes of a
    machine), calls under way and ever begun; how long a call wants it kept (seconds), and when that was said."""

    waiting: int = 0
    since: float = 0.0
    busy: int = 0
    total: int = 0
    keep: float | None = None
    kept_at: float = 0.0


Tell = Callable[[Mapping[str, Wants]], None]


def keep_seconds(text: bytes) -> float:
    """The seconds that the header asks for: a number, or `forever`. Raises Fault `bad_request`."""
    if text.strip().lower() == b"forever":
        return math.inf
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_KEEP:
        raise wire.bad(f"The header {KEEP.decode()} must be seconds from 0 to {MAX_KEEP:.0f}, or `forever`.", code="bad_keep_loaded")
    return seconds


class Demand:
    """The wants of one core. Belongs to its loop; nothing here blocks."""

    def __init__(self, core: Core, fleet: Fleet, tell: Tell) -> None:
        self.core, self.fleet, self._tell = core, fleet, tell
        self._told: dict[str, Wants] = {}
        self._keeps: dict[str, tuple[float, float]] = {}
        self._soon = False

    def entered(self, route: Route, headers: Mapping[bytes, bytes]) -> None:
        """A call of a route with such a backend. Raises Fault where its header says what cannot be."""
        if KEEP in headers:
            seconds = keep_seconds(headers[KEEP])
            for arm in route.arms:
                if arm.target.backend in self.fleet.elastic:
                    self._keeps[arm.target.backend] = (seconds, monotonic())

    def waits(self) -> None:
        """A call was parked: the owner hears of it after this turn of the loop."""
        if not self._soon:
            self._soon = True
            self.core.clients.loop.call_soon(self._look)

    def _look(self) -> None:
        self._soon = False
        self.tick()

    def tick(self) -> None:
        """Tells what is new, if anything is."""
        if not self.fleet.elastic and not self._told:
            return
        wants = self.wants()
        if wants != self._told:
            self._told = wants
            self._tell(wants)

    def wants(self) -> dict[str, Wants]:
        """Everything, newly counted."""
        waiting: dict[str, int] = {}
        since: dict[str, float] = {}
        for exchange in self.core.parked:
            name = self.wished(exchange.route, exchange.excluded)
            if name is not None:
                at = exchange.parked_at or 0.0
                waiting[name] = waiting.get(name, 0) + 1
                since[name] = min(at, since.get(name, at))
        out: dict[str, Wants] = {}
        for name in sorted(self.fleet.elastic):
            replicas = self.fleet.replicas.get(name, ())
            keep, kept_at = self._keeps.get(name, (None, 0.0))
            busy, total = sum(r.inflight for r in replicas), sum(r.total for r in replicas)
            out[name] = Wants(waiting.get(name, 0), since.get(name, 0.0), busy, total, keep, kept_at)
        self._keeps = {name: kept for name, kept in self._keeps.items() if name in out}
        return out

    def wished(self, route: Route, excluded: Collection[Replica] = ()) -> str | None:
        """The model that a call which waits on `route` should have loaded: None where it waits for a free slot or for something else.
        Of several targets the heaviest; the first of equals."""
        best, weight = None, 0.0
        for arm in route.arms:
            usable = [r for r in arm.replicas if r not in excluded]
            elastic = arm.target.backend in self.fleet.elastic
            if any(r.health == "ready" for r in usable):
                if elastic:
                    return arm.target.backend  # it waits for a slot there: that is in use, not idle
                return None
            if elastic and any(r.health == "loading" for r in usable) and arm.target.weight > weight:
                best, weight = arm.target.backend, arm.target.weight
        return best


def comment(exchange: Exchange) -> bytes:
    """What a silent stream is told while its model is loaded, as an SSE comment; empty where it waits for anything else."""
    route = exchange.route
    if exchange.parked_at is None or not route.elastic:
        return b""
    for replica in route.replicas:
        if replica.managed and replica.health == "loading" and replica.reason.startswith("loading "):
            return b": %b\n\n" % " ".join(replica.reason.split())[:200].encode()
    return b""
