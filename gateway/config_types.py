"""The configuration's nouns: server, backends, routes, keys. Frozen structs; nothing here reads a file or the environment.

Sizes are bytes (a number, or a text such as "32MiB"), durations are seconds.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec

from backends.embeddings import BatchLimits
from backends.engines.spec import EngineSpec, Lora
from backends.prices import Prices
from backends.types import Target, Timeouts
from gateway.config_experiments import ExperimentConfig, ExperimentsConfig
from gateway.config_kv import Said
from gateway.config_policy import PolicyConfig, Preset
from gateway.config_target import FactsOverride, TargetConfig

DEFAULT_SLOTS = 4
KIB, MIB = 1024, 1024 * 1024
_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3,
          "kib": KIB, "mib": MIB, "gib": 1024**3}  # fmt: skip

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Size = Annotated[int, msgspec.Meta(ge=1, extra={"size": True}, extra_json_schema={"size": True})]  # bytes; see `read_size`
Positive = Annotated[float, msgspec.Meta(gt=0)]
Weight = Annotated[float, msgspec.Meta(ge=0)]
Kind = Literal[  # the catalogue's names
    "compatible", "openai", "azure", "anthropic", "gemini", "vertex", "vertex-anthropic", "vertex-endpoint", "bedrock", "openrouter",
    "groq", "mistral", "deepseek", "together", "fireworks", "cerebras", "sambanova", "xai", "perplexity", "cohere", "moonshot", "zai",
    "nebius", "hyperbolic", "deepinfra", "github", "huggingface", "lambda", "parasail", "nim", "vllm", "sglang", "llama-server",
    "llamacpp", "llama-cpp-python", "ollama", "lmstudio", "tgi",
]  # fmt: skip
ToolState = Literal["sidecar", "id", "both"]  # where a provider's own state waits for the next turn: here, in tool-call ids, or both
Engine = Literal["llamacpp", "llama-server", "llama-cpp-python", "vllm", "sglang", "command"]  # EngineSpec's kinds


def read_size(text: str) -> int:
    """The bytes that a text such as `512KiB`, `32MiB`, `2GB` or `4096` says. Raises ValueError with one sentence."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].lower() not in _UNITS:
        raise ValueError(f'{text!r} is not a size; write a number of bytes or a text such as "32MiB"')
    return int(float(found[1]) * _UNITS[found[2].lower()])


class Secret(str):
    """A text that must not show: its `repr` hides it, so a logged struct never holds a key. Otherwise an ordinary str."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class _Noun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of what stands in the file."""


class Tls(_Noun, frozen=True, kw_only=True):
    """Paths of PEM files: the certificate with its chain, and its private key."""

    cert: str
    key: str


class AdminConfig(_Noun, frozen=True, kw_only=True):
    """Where the control plane and its pages listen. `port` 0: any free port; null: off."""

    host: str = "127.0.0.1"
    port: Port | None = 8485


class Limits(_Noun, frozen=True, kw_only=True):
    """Caps on what one client or one answer may take. Bytes, seconds, counts."""

    body_bytes: Size = 32 * MIB
    upload_bytes: Size = 512 * MIB  # of a form, which passes through and is never held whole
    header_bytes: Size = 64 * KIB
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 60.0
    connections: Count = 10_000
    concurrency: Count = 4096
    answer_bytes: Size = 64 * MIB
    event_bytes: Size = 8 * MIB
    keep_alive_seconds: Seconds = 75.0
    client_stall_seconds: Seconds = 120.0


class LogConfig(_Noun, frozen=True, kw_only=True):
    """What is logged and how. `bodies` true puts requests and answers into the log: never on by default."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
    bodies: bool = False


class ResponsesConfig(_Noun, frozen=True, kw_only=True):
    """What is kept of answers of /v1/responses, so that a later call can follow them. `path`: a file, which outlives the process; null:
    memory. Beyond `count`, `bytes` or `age_seconds` the oldest go."""

    path: str | None = None
    count: Count = 10_000
    bytes: Size = 1024 * MIB
    age_seconds: Seconds = 30 * 86400.0
    memory_bytes: Size = 64 * MIB


class ServerConfig(_Noun, frozen=True, kw_only=True):
    """The gateway's own socket, and what holds for every call."""

    host: str = "127.0.0.1"
    port: Port = 8484
    share_port: bool = False  # another gateway of the same user may listen on it too: for a hand-over from one to the next
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    tls: Tls | None = None
    admin: AdminConfig = AdminConfig()
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    metrics_public: bool = False
    limits: Limits = Limits()
    wait_seconds: Seconds = 60.0
    head_commit_seconds: Seconds = 10.0
    drain_seconds: Seconds = 30.0
    drain_notice_seconds: Weight = 0.0  # after SIGTERM: not ready, and served on, until balancers have seen it
    log: LogConfig = LogConfig()
    responses: ResponsesConfig = ResponsesConfig()
    experiments: ExperimentsConfig = ExperimentsConfig()
    tool_state: ToolState = "sidecar"
    redis: Secret | None = None  # redis://[USER:PASSWORD@]HOST[:PORT][/DB], where gateways on other hosts share their load
    memory: Size | Literal["auto"] | None = None  # of all engines together; auto: what is free at the start, less a reserve
    private_header: str = "x-pointsman-private"  # a call that has it (unless it says `false`) stays on local backends


class KvStoreConfig(_Noun, frozen=True, kw_only=True):
    """What a llama.cpp engine of ours may keep of prompts that it has computed: bytes in memory (null: a sixteenth of what is free, at most
    1 GiB), bytes on disk behind that (null: none), in which folder (null: the one for temporary files). All goes when the gateway ends, but
    for `keep`: then what took long to compute stays in `path`. Its budget is `disk`, whichever models its files are of. What private calls
    say is not written there, unless `private` says so."""

    memory: Size | None = None
    disk: Size | None = 1024 * MIB
    path: str | None = None
    keep: bool = False
    private: bool = False


class ResidentConfig(_Noun, frozen=True, kw_only=True):
    """When an engine of ours is in memory. `load`: when its first call comes, or when the gateway starts. `idle_seconds`: without a call
    until it goes; null: only when others need the room. `pin`: once loaded it stays. `memory`: bytes that it takes; null: by prediction."""

    load: Literal["on_demand", "start"] = "on_demand"
    idle_seconds: Seconds | None = 900.0
    pin: bool = False
    memory: Size | None = None


class BackendConfig(_Noun, frozen=True, kw_only=True):
    """What answers calls: a provider of the catalogue (`kind`), a server that runs elsewhere (`url` or `urls`), or an engine that the
    gateway runs (`engine`). A provider's `url` and `key` are filled in by `gateway.config_provider` when they are not said."""

    # elsewhere
    url: str | None = None
    urls: tuple[str, ...] | str = ()  # a text: k8s:NAMESPACE/SERVICE[:PORT][/PATH], see `gateway.discovery`
    kind: Kind = "compatible"
    project: str | None = None
    location: str | None = None
    region: str | None = None
    api_version: str | None = None
    deployment: str | None = None
    profile: str | None = None  # of AWS
    credentials: str | None = None  # a file of Google's
    key: Secret | None = None
    headers: dict[str, Secret] = {}
    timeouts: Timeouts = Timeouts()
    health_seconds: Weight | None = None  # between two looks whether it is there; 0: none; null: 15 where that is a server of one's own
    proxy: Secret | None = None
    http2: bool = False
    verify: bool | str = True
    discover: bool = False
    # both
    local: bool | None = None  # whether private calls may go there; null: engines of ours are local, nothing else is
    slots: Count | None = None
    unsupported: frozenset[str] = frozenset()
    facts: FactsOverride = FactsOverride()
    prices: Prices | None = None
    probed: str | None = None  # a file of `pointsman probe --write`; see `gateway.config_probed`
    batch_embeddings: BatchLimits | bool | None = None  # how calls for embeddings are joined; null: see `gateway.links.batches`
    kv_events: Said = False  # where it says what becomes of its KV cache; see `gateway.config_kv`
    # an engine of ours
    engine: Engine | None = None
    model: str | None = None
    replicas: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    context: Count | None = None
    threads: Count | None = None
    memory: Size | None = None
    args: tuple[str, ...] = ()
    env: dict[str, Secret] = {}
    command: tuple[str, ...] = ()
    python: str | None = None
    ready_seconds: Seconds = 600.0
    embeddings: bool = True
    reranking: bool = False
    chat_template: str | None = None
    lora: tuple[str | Lora, ...] = ()  # adapters of llama.cpp: a path, or {path, scale}
    projector: str | bool = True  # what makes a model see: a path; true: the one that lies beside a model that is named, if any
    draft: str | None = None  # a small model that guesses tokens, named as `model` is
    draft_tokens: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    served_name: str | None = None
    health_path: str | None = None
    slot_save_path: str | None = None
    kv_transfer: bool = True  # whether prefixes that several requests share are computed once and moved between slots (llamacpp)
    kv_store: KvStoreConfig = KvStoreConfig()
    resident: ResidentConfig | None = None  # null: from the start to the end
    nice: Annotated[int, msgspec.Meta(ge=0, le=19)] = 0

    @property
    def service(self) -> str | None:
        """The Kubernetes Service that is named in place of URLs, as written; None where there is none."""
        said = self.urls if self.url is None else self.url
        return said if isinstance(said, str) and said.startswith("k8s:") else None

    @property
    def all_urls(self) -> tuple[str, ...]:
        """The base URLs of a remote backend as written, `url` or `urls`; empty for an engine, and where they are discovered."""
        said = self.urls if self.url is None else self.url
        if isinstance(said, str):
            return () if self.service is not None else (said,)
        return said

    @property
    def is_local(self) -> bool:
        """Whether private calls may go there. An address says nothing of it: behind a loopback port may be a tunnel, or a proxy to a
        provider. So only an engine of ours is local by itself; anything else must be said to be."""
        return self.local if self.local is not None else self.engine is not None

    def engine_spec(
        self, name: str, model: str | None = None, *, draft: str = "", projector: str = "", lora: tuple[Lora, ...] = ()
    ) -> EngineSpec:
        """The engine to start for the backend `name`; `model` stands in for the configured one once `hf:...` or `builtin` is a path, and so
        do `draft`, `projector` and `lora` (see `gateway.model_files`).

        ValueError: this backend is a server elsewhere, or EngineSpec refuses a value.
        """
        if self.engine is None:
            raise ValueError(f"the backend `{name}` is not an engine")
        return EngineSpec(
            name=name, kind=self.engine, model=model or self.model or "", served_name=self.served_name or "", replicas=self.replicas,
            context=self.context, slots=self.slots or DEFAULT_SLOTS, threads=self.threads, memory=self.memory, args=self.args,
            env={key: str(value) for key, value in self.env.items()}, command=self.command, python=self.python or "",
            ready_seconds=self.ready_seconds, embeddings=self.embeddings, reranking=self.reranking,
            chat_template=self.chat_template or "", slot_save_path=self.slot_save_path or "", health_path=self.health_path or "",
            nice=self.nice, kv_events=self.kv_events is True, draft=draft, draft_tokens=self.draft_tokens, projector=projector, lora=lora,
        )  # fmt: skip


class TimeoutsOverride(_Noun, frozen=True, kw_only=True):
    """A route's own timeouts in seconds (`min_rate`: tokens a second); what is null stays as the backend has it."""

    connect: Seconds | None = None
    first_byte: Seconds | None = None
    first_token: Seconds | None = None
    idle: Seconds | None = None
    total: Seconds | None = None
    min_rate: Weight | None = None
    rate_window: Seconds | None = None

    def over(self, base: Timeouts) -> Timeouts:
        """`base` with what is set here in its place."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(base, **given)


class BackoffConfig(_Noun, frozen=True, kw_only=True):
    """How long a call waits before replicas that failed are asked again: a random part of `base` seconds, doubled each time up to `cap`."""

    base: Seconds = 0.25
    cap: Seconds = 8.0


class HedgeConfig(_Noun, frozen=True, kw_only=True):
    """When a second replica is asked as well: after so many seconds without content, or after the learned 95th percentile of them.
    `budget`: the share of calls that may be asked twice."""

    after: Literal["p95"] | Seconds = "p95"
    budget: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05


class FallbacksConfig(_Noun, frozen=True, kw_only=True):
    """Routes that take a call when this one cannot: `any` in order, whatever failed; `context` when the conversation is too long,
    `content` when the provider refuses what is said."""

    any: tuple[str, ...] = ()
    context: str | None = None
    content: str | None = None


class RouteConfig(_Noun, frozen=True, kw_only=True):
    """A public model name: where its calls may go, and by which rules."""

    targets: tuple[TargetConfig, ...]
    on_unsupported: Literal["strict", "warn", "drop"] = "strict"
    reasoning: Literal["reasoning_content", "reasoning", "both", "none"] = "reasoning_content"
    aliases: tuple[str, ...] = ()
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    backoff: BackoffConfig | None = None
    fallbacks: tuple[str, ...] | FallbacksConfig = ()
    hedge: HedgeConfig | None = None
    coalesce: bool = False
    continue_: bool = msgspec.field(name="continue", default=False)
    timeouts: TimeoutsOverride | None = None
    concurrency: Count | None = None
    policy: Preset | PolicyConfig = "weighted"
    private: bool = False  # every call of it stays on local backends


class KeyConfig(_Noun, frozen=True, kw_only=True):
    """Who may call. After loading only `hash` ("sha256:" and 64 hex digits) is set; the plain `key` is gone."""

    name: str
    key: Secret | None = None
    hash: str | None = None
    routes: tuple[str, ...] | None = None
    admin: bool = False
    private: bool = False  # every call with it stays on local backends


class Config(_Noun, frozen=True, kw_only=True):
    """The whole configuration: what `load`, `parse` and `from_flags` give."""

    server: ServerConfig = ServerConfig()
    backends: dict[str, BackendConfig] = {}
    routes: dict[str, RouteConfig] = {}
    keys: tuple[KeyConfig, ...] = ()
    experiments: dict[str, ExperimentConfig] = {}

    def targets(self, route: str) -> tuple[Target, ...]:
        """The targets of a route as the router wants them: the backend's `unsupported` and context joined in. KeyError: no such route."""
        return tuple(self._target(route, entry) for entry in self.routes[route].targets)

    def _target(self, route: str, entry: TargetConfig) -> Target:
        backend = self.backends[entry.backend]
        own_name = (backend.served_name or entry.backend) if backend.engine is not None else route
        return Target(
            backend=entry.backend, model=entry.model or own_name, weight=entry.weight,
            unsupported=entry.unsupported | backend.unsupported, context=entry.context or backend.context,
        )  # fmt: skip

    def timeouts(self, route: str, backend: str) -> Timeouts:
        """What holds for calls of `route` on `backend`. KeyError: no such route or backend."""
        base, own = self.backends[backend].timeouts, self.routes[route].timeouts
        return own.over(base) if own is not None else base

    def facts(self, entry: TargetConfig) -> dict[str, Any]:
        """What the file says about the model of a target: the target's word over the backend's. KeyError: no such backend."""
        return {**self.backends[entry.backend].facts.given(), **entry.facts.given()}

    def prices(self, entry: TargetConfig) -> Prices | None:
        """What the file says that a target costs: the target's word over the backend's. KeyError: no such backend."""
        own, base = entry.prices, self.backends[entry.backend].prices
        return base if own is None else own.over(base)
