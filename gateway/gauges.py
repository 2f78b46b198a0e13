"""What is read of the data path rather than counted, as metrics."""

from __future__ import annotations

from gateway import kv_figures, links
from gateway.fleet import Fleet
from gateway.metrics import Metrics
from gateway.serve import Core


def register(figures: Metrics, core: Core, fleet: Fleet) -> None:
    """Registers what is read rather than counted."""
    figures.callback("pointsman_requests_in_flight", "Requests under way.", lambda: len(core.inflight))
    figures.callback("pointsman_requests_waiting", "Requests that wait for a replica.", lambda: len(core.parked))
    figures.callback(
        "pointsman_replica_in_flight", "Calls under way by replica.", lambda: [({"replica": r.name}, r.inflight) for r in fleet.every()]
    )
    figures.callback(
        "pointsman_replica_up", "1: the replica can be sent calls.",
        lambda: [({"replica": r.name}, float(r.health == "ready")) for r in fleet.every()], merge="max",
    )  # fmt: skip
    figures.callback(
        "pointsman_replica_asleep", "1: its model is not in memory, and a call loads it.",
        lambda: [({"replica": r.name}, float(r.asleep)) for r in fleet.every()], merge="max",
    )  # fmt: skip
    for name, help, field in (
        ("pointsman_upstream_connections_opened_total", "Connections opened to backends.", "opened"),
        ("pointsman_upstream_pool_hits_total", "Calls that found an open connection.", "hits"),
        ("pointsman_upstream_stale_total", "Pooled connections that had been closed by the backend.", "stale"),
    ):
        figures.callback(name, help, lambda f=field: sum(getattr(p, f) for p in core.clients.pools.values()), kind="counter")  # type: ignore[misc]
    links.gauges(figures, fleet.every)
    fleet.places.gauges(figures)
    kv_figures.gauges(figures, fleet.slots.figures)
