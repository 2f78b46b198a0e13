"""Replicas and routes for tests of pure decisions."""

from __future__ import annotations

from backends.types import Call, Fault, Flight, Receiver, Target, Timeouts
from routing.types import Arm, Health, Replica, Route


class Nowhere:
    """A link that must not be used."""

    def send(self, call: Call, target: Target, timeouts: Timeouts | None, receiver: Receiver) -> Flight:
        raise AssertionError("nothing is sent here")

    def close(self) -> None:
        raise AssertionError("nothing is closed here")


def replica(name: str = "r", *, health: Health = "ready", inflight: int = 0, slots: int | None = None, down_until: float = 0.0) -> Replica:
    made = Replica(name, "b", f"http://{name}", Nowhere(), slots, health)
    made.inflight, made.down_until = inflight, down_until
    return made


def route(*arms: list[Replica], weights: list[float] | None = None) -> Route:
    """One arm a list, of target models t0, t1, …"""
    weights = weights or [1.0] * len(arms)
    return Route("m", tuple(Arm(Target("b", f"t{i}", weights[i]), tuple(arm)) for i, arm in enumerate(arms)))


def failed(code: str = "connection_lost", *, retry_after: float | None = None, retry: bool = True) -> Fault:
    return Fault("upstream", f"it failed: {code}", origin="backend", code=code, retry=retry, retry_after=retry_after)
