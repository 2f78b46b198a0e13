"""The replicas of backends whose servers Kubernetes tells: they come and go while the gateway runs.

An endpoint that is new gets a replica; one that goes loses it as by a reload: no new call is sent there, calls under way finish. One whose
pod is not ready keeps it, as an engine of ours that is loading does. A backend without endpoints has one replica that says why, and cannot
be sent anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from backends.http import Clients
from gateway.config import BackendConfig
from gateway.discovery.finder import Finder, Located
from gateway.fleet_types import NoLink
from gateway.metrics import Metrics
from routing.types import Replica

_GONE = "It is no longer an endpoint of its Service."
_UNREADY = "its pod is not ready"


class Hands(Protocol):
    """What a fleet does for its places."""

    clients: Clients
    configs: dict[str, BackendConfig]
    replicas: dict[str, tuple[Replica, ...]]
    follows: bool

    def on_health(self, replica: Replica, /) -> None: ...

    def on_models(self) -> None: ...

    def connect(self, replica: Replica, backend: BackendConfig) -> None: ...

    def disconnect(self, replica: Replica) -> None: ...

    def credentials(self, replica: Replica) -> None: ...

    def look_again(self, name: str) -> None: ...


class Places:
    """Where the servers of a fleet's backends are, as far as Kubernetes tells. Owned by the fleet's loop.

    In a worker nothing is followed: the parent says where they are, so that all workers have the same replicas under the same names, and
    a host has one connection to the API and the client's 60 MB once.
    """

    def __init__(self, fleet: Hands) -> None:
        self.fleet = fleet
        self.finder = None if fleet.follows else Finder(fleet.clients.loop, self.take)
        self.located: dict[str, Located] = {}  # by backend

    def keep(self, backends: Collection[str]) -> None:
        """Forgets where the servers of all other backends are."""
        self.located = {name: told for name, told in self.located.items() if name in backends}

    def added(self, name: str, service: str) -> None:
        """A backend is new: it has the replicas that are known, and others as soon as they are."""
        told = self.located.get(name)
        if told is None or told.service != service:
            told = Located(name, service)
        self.fleet.replicas[name] = ()
        self._arrange(told)
        if self.finder is not None:
            self.finder.follow(name, service)

    def removed(self, name: str) -> None:
        """A backend is gone, or another in its place."""
        if self.finder is not None:
            self.finder.forget(name)

    def take(self, told: Located) -> None:
        """Makes a backend's replicas what is told, and says so to whoever must know."""
        if self.located.get(told.backend) == told:
            return
        self.located[told.backend] = told
        backend = self.fleet.configs.get(told.backend)
        if backend is None or backend.service != told.service or told.backend not in self.fleet.replicas:
            return  # of another configuration
        came, gone, changed = self._arrange(told)
        if came or gone:
            self.fleet.on_models()
        if came:
            self.fleet.look_again(told.backend)
        for replica in (*came, *changed, *gone):
            self.fleet.on_health(replica)

    def _arrange(self, told: Located) -> tuple[list[Replica], list[Replica], list[Replica]]:
        """Those that are new, those that are gone, and those whose health is another."""
        fleet, backend = self.fleet, self.fleet.configs[told.backend]
        before = fleet.replicas[told.backend]
        now, came = arranged(told, before, backend.slots)
        gone = [replica for replica in before if replica not in now]
        for replica in came:
            if replica.url:
                fleet.connect(replica, backend)
        changed = [replica for replica in now if self._judge(replica, told) and replica not in came]
        for replica in gone:  # a call that had chosen among the old ones does not choose these again
            replica.health, replica.reason = "down", _GONE
            fleet.disconnect(replica)
        fleet.replicas[told.backend] = now
        return came, gone, changed

    def _judge(self, replica: Replica, told: Located) -> bool:
        """Gives a replica the health that is told of it; whether that is news."""
        before = replica.health, replica.reason
        if not replica.url:
            replica.health, replica.reason = told.health, told.reason
            return (replica.health, replica.reason) != before
        ready = told.members[_number(replica)].ready
        if ready and replica.health == "loading" and replica.reason == _UNREADY:
            replica.health, replica.reason, replica.failures, replica.down_until = "ready", "", 0, 0.0
            self.fleet.credentials(replica)
        elif not ready:
            replica.health, replica.reason = "loading", _UNREADY
        return (replica.health, replica.reason) != before

    # --- for the rest of the gateway
    async def known(self) -> None:
        """Returns when something is known of every backend, be it why nothing is."""
        if self.finder is not None:
            await self.finder.known()

    def warnings(self) -> list[str]:
        """What an operator should know."""
        return [] if self.finder is None else self.finder.warnings()

    def gauges(self, figures: Metrics) -> None:
        """Registers what is followed and how it goes, where that is done."""
        if self.finder is not None:
            self.finder.gauges(figures)

    async def stop(self) -> None:
        """Follows nothing any more."""
        if self.finder is not None:
            await self.finder.stop()


def arranged(told: Located, before: tuple[Replica, ...], slots: int | None) -> tuple[tuple[Replica, ...], list[Replica]]:
    """The replicas that a backend has now, and those of them that are new: not connected yet. Who has the same address goes on."""
    known: Mapping[tuple[str, str], Replica] = {(replica.name, replica.url): replica for replica in before}
    wanted = [(f"{told.backend}#{number}", one.url) for number, one in sorted(told.members.items())] or [(f"{told.backend}#0", "")]
    came = {key: Replica(key[0], told.backend, key[1], NoLink(told.reason), slots=slots) for key in wanted if key not in known}
    return tuple(came[key] if key in came else known[key] for key in wanted), [*came.values()]


def _number(replica: Replica) -> int:
    return int(replica.name.rpartition("#")[2])
