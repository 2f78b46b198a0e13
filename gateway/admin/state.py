"""What the control plane shows: the shape of one snapshot, and what the gateway must be able to do for it.

`wiring` fills these structs; the status page and `GET /api/status` print them. Seconds, bytes, counts; times named `unix`
or `since`/`started`/`now` are seconds since 1970. Nothing here does I/O, and nothing here may carry a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from backends.slots.volatile import Volatile
from gateway.experiments.api import Experiments
from gateway.record import Record
from gateway.residency_view import ResidencyView

if TYPE_CHECKING:
    from gateway.residency_api import ResidencyApi

INFLIGHT_LIMIT = 100  # rows of `Snapshot.inflight`; `inflight_total` has the true count


class TargetView(msgspec.Struct):
    """One place where a model's requests go. `replicas` are names in `Snapshot.replicas`."""

    backend: str
    model: str
    weight: float = 1.0
    replicas: list[str] = []


class ModelView(msgspec.Struct):
    """One public model name. `reason` says, for people, why it is not ready."""

    name: str
    api: list[str] = []
    state: Literal["ready", "loading", "unloaded", "down", "partial"] = "ready"
    targets: list[TargetView] = []
    context: int | None = None
    owned_by: str = ""
    reason: str = ""


class EngineView(msgspec.Struct):
    """One engine process. `progress` is 0..1 while it loads (None: unknown). `since` is when `state` began."""

    name: str
    kind: str = ""
    model: str = ""
    state: str = "starting"
    progress: float | None = None
    reason: str = ""
    pid: int | None = None
    restarts: int = 0
    since: float | None = None
    base_url: str = ""
    rss_bytes: int | None = None
    slots: int | None = None
    memory: int | None = None  # bytes it may use; None: no limit


class ReplicaView(msgspec.Struct):
    """One server that answers: an engine instance or a remote URL. Counts since the gateway started."""

    name: str
    backend: str = ""
    url: str = ""
    state: str = "up"
    inflight: int = 0
    total: int = 0
    failures: int = 0
    reason: str = ""


class InflightView(msgspec.Struct):
    """One request under way. `age` and `ttft` in seconds; `chunks` relayed to the client so far."""

    id: str
    api: str = ""
    route: str = ""
    replica: str = ""
    tenant: str = ""
    age: float = 0.0
    ttft: float | None = None
    chunks: int = 0
    stream: bool = False
    state: Literal["waiting", "prefill", "streaming"] = "waiting"


class RouteTraffic(msgspec.Struct):
    """One route over the last `Traffic.window` seconds. `rates`: requests/s, oldest first, `Traffic.step` seconds each."""

    route: str
    requests: int = 0
    errors: int = 0
    rps: float = 0.0
    tokens_per_second: float = 0.0
    ttft_p50: float | None = None
    ttft_p95: float | None = None
    rates: list[float] = []


class History(msgspec.Struct):
    """All routes over the last five minutes, oldest first, one point each `Traffic.step` seconds. None: nothing to measure."""

    rps: list[float] = []
    errors: list[float] = []
    tokens_per_second: list[float] = []
    ttft_p50: list[float | None] = []
    ttft_p95: list[float | None] = []


class Traffic(msgspec.Struct):
    """What `Recorder.traffic()` returns."""

    window: float = 60.0
    step: float = 2.0
    total: RouteTraffic = msgspec.field(default_factory=lambda: RouteTraffic(""))
    routes: list[RouteTraffic] = []
    history: History = msgspec.field(default_factory=History)
    dropped: int = 0  # records lost because the queue was full


class Snapshot(msgspec.Struct):
    """Everything the status page shows. `base_url` is what a client puts into its SDK, with the `/v1`."""

    version: str
    started: float
    now: float
    generation: int = 1
    base_url: str = ""
    keys_required: bool = False  # a client of `base_url` needs an API key
    models: list[ModelView] = []
    engines: list[EngineView] = []
    replicas: list[ReplicaView] = []
    inflight: list[InflightView] = []
    inflight_total: int = 0
    traffic: Traffic = msgspec.field(default_factory=Traffic)
    limits: dict[str, float | int | str | None] = {}
    warnings: list[str] = []
    volatile: list[Volatile] = []  # lines of prompts that keep KV from being used again; `warnings` has them in words
    residency: ResidencyView = msgspec.field(default_factory=ResidencyView)
    experiments: int = 0  # how many are configured; GET /api/experiments tells of them


class AdminState(Protocol):
    """What the gateway lets the control plane see and do. Plain methods are cheap and never block. `experiments` is always there, if only
    to say that there are none."""

    experiments: Experiments

    @property
    def residency(self) -> ResidencyApi:
        """What is in memory, and what may be done about it."""

    def who(self, key: str) -> str:
        """The name of an admin key, for the audit trail; "" for an unknown one."""

    def snapshot(self) -> Snapshot:
        """The present state, newly built."""

    def recent(self, limit: int) -> list[Record]:
        """Finished requests, newest first, `limit` at most."""

    def engine_log(self, name: str, lines: int) -> list[str]:
        """The last `lines` lines that engine wrote, oldest first. KeyError: no such engine."""

    def config(self) -> dict[str, object]:
        """The configuration in force, as plain JSON values. It is redacted once more before it is shown."""

    def metrics(self) -> str:
        """The Prometheus text."""

    async def restart_engine(self, name: str) -> None:
        """Stops that engine and starts it again; returns when the restart is under way. KeyError: no such engine."""

    async def reload(self) -> dict[str, object]:
        """Reads the configuration again and swaps it in; what changed. ValueError: it was refused, the old one runs on."""
