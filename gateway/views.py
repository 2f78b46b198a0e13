"""The state of a running gateway as the control plane shows it. Reads, never changes anything."""

from __future__ import annotations

import time
from collections.abc import Iterable

from backends.engines.instance import Instance
from gateway import surfaces, volatile
from gateway.admin import state
from gateway.exchange import Exchange
from gateway.fleet import Fleet
from gateway.logs import conceal
from gateway.serve import Core
from gateway.version import VERSION
from routing.types import Replica, Route


def snapshot(core: Core, fleet: Fleet, *, started: float, base_url: str, traffic: state.Traffic, warnings: list[str]) -> state.Snapshot:
    """Everything that the status page shows, newly built. `started` is unix seconds."""
    now = time.monotonic()
    limits = core.limits
    changing = volatile.worst(fleet.slots.volatile())
    return state.Snapshot(
        version=VERSION, started=started, now=time.time(), generation=core.generation.number, base_url=base_url,
        keys_required=core.door.locked, models=[model(name, r) for name, r in core.generation.routes.items()],
        engines=[engine(i) for i in fleet.instances()], replicas=[replica(r, now) for r in fleet.every()],
        inflight=inflight(core.inflight, now), inflight_total=len(core.inflight), traffic=traffic,
        limits={"concurrency": limits.concurrency, "connections": limits.connections, "body_bytes": int(limits.body_bytes),
                "answer_bytes": int(limits.answer_bytes), "waiting": len(core.parked)},
        warnings=[*warnings, *volatile.notes(changing)], volatile=changing,
    )  # fmt: skip


def model(name: str, route: Route) -> state.ModelView:
    """One route. `partial`: some replicas answer, others do not."""
    kind = surfaces.state(route)
    if kind == "ready" and any(r.health != "ready" for r in route.replicas):
        kind = "partial"
    targets = [state.TargetView(a.target.backend, a.target.model, a.target.weight, [r.name for r in a.replicas]) for a in route.arms]
    return state.ModelView(
        name, api=apis(route), state=kind, targets=targets, context=surfaces.context(route),  # type: ignore[arg-type]
        owned_by=route.arms[0].target.backend if route.arms else "", reason=conceal(surfaces.reason(route)) if kind != "ready" else "",
    )  # fmt: skip


def apis(route: Route) -> list[str]:
    """What the route's engines were started for; a remote server may do all."""
    only_rank = route.arms and all(a.target.labels.get("serves") == "rerank" for a in route.arms)
    return ["rerank"] if only_rank else ["chat", "completions", "embeddings"]


def replica(r: Replica, now: float) -> state.ReplicaView:
    """One server address."""
    kind = "resting" if r.health == "ready" and r.down_until > now else r.health
    shown = "up" if kind == "ready" else kind
    return state.ReplicaView(r.name, r.backend, r.url, shown, r.inflight, r.total, r.failures, conceal(r.reason))


def engine(i: Instance) -> state.EngineView:
    """One engine process."""
    return state.EngineView(
        name=i.name, kind=i.spec.kind, model=i.spec.model, state=i.state, progress=None,
        reason=conceal(i.reason or (i.progress if i.state != "ready" else "")),
        pid=i.pid, restarts=i.restarts, since=i.since, base_url=i.base_url, rss_bytes=_rss(i.pid), slots=i.spec.slots, memory=i.spec.memory,
    )  # fmt: skip


def _rss(pid: int | None) -> int | None:
    """Resident bytes of a process; None where /proc does not tell."""
    try:
        with open(f"/proc/{pid}/statm") as f:
            return int(f.read().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return None


def inflight(exchanges: Iterable[Exchange], now: float) -> list[state.InflightView]:
    """The requests under way, oldest first, as many as the page lists."""
    oldest = sorted(exchanges, key=lambda e: e.received)[: state.INFLIGHT_LIMIT]
    return [
        state.InflightView(
            e.id.decode(), e.api, e.route.name, e.decision.replica.name, e.tenant.name,
            now - e.received, e.ttft, e.chunks, e.stream,
            "streaming" if e.ttft is not None else "prefill" if e.flight is not None else "waiting",
        )
        for e in oldest
    ]  # fmt: skip
