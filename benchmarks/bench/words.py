"""The words that the parts of `pointsman bench` share: what is asked, what was seen of it, and what it comes to.

Times are seconds. Within a stage they count from the stage's start, by one monotonic clock. Sizes are tokens where the name says so.
Everything here is data: who computes what stands in the module that does it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

ProfileName = Literal["sync", "concurrent", "rate", "sweep", "trace", "capture"]
Api = Literal["chat", "completions"]
SECONDS_OF_LAG = 0.005  # a client whose lag has a p99 above this measures itself
STOLEN = 0.005  # of a core, kept from the machine by its hypervisor: less is not worth a word


class Target(msgspec.Struct, frozen=True):
    """The server under test. `url` ends before `/chat/completions`, as in http://127.0.0.1:8484/v1. The key is never written out."""

    url: str
    model: str
    key: str = ""
    headers: dict[str, str] = {}
    api: Api = "chat"
    stream: bool = True
    extra: dict[str, Any] = {}  # more fields of every request's body, as in {"temperature": 0}
    name: str = ""  # how tables call it; empty: its URL

    def __repr__(self) -> str:
        return f"Target({self.url!r}, {self.model!r})"


class Profile(msgspec.Struct, frozen=True):
    """How load comes. `value`: connections (concurrent), requests a second (rate); `shape`: of the gamma distribution of the gaps (1:
    Poisson, infinity: even gaps); `source`: a trace's or a capture's file; `speed`: a trace is replayed so many times as fast."""

    name: ProfileName
    value: float = 0.0
    shape: float = 1.0
    source: str = ""
    speed: float = 1.0


class Slo(msgspec.Struct, frozen=True):
    """A service level: what a good request keeps, in seconds; None: not asked. `share`: of requests that must keep it for the level to
    hold."""

    name: str
    ttft: float | None = None
    tpot: float | None = None
    itl: float | None = None
    e2e: float | None = None
    share: float = 0.99


class Ask(msgspec.Struct, frozen=True):
    """One request, ready to be sent. `due`: when (open loop), else 0. `prompt_tokens` is what was aimed at; what the server counted is in
    `Timed`. `headers`: more than the target's. `origin`: the line of a trace or of a capture that it stands for, -1 for none."""

    index: int
    body: bytes
    prompt_tokens: int
    output_tokens: int
    due: float = 0.0
    headers: dict[str, str] = {}
    origin: int = -1


class Timed(msgspec.Struct):
    """What the client saw of one request. Stamps are taken when the socket was read, before anything is parsed.

    `sent`: when its last byte was given to the kernel; `head`: status line read; `stamps`: when chunks with content were read (text,
    reasoning, tool calls; several in one read share a stamp), `counts`: the completion tokens known after each (0 where the server does
    not tell as it goes); `done`: the answer's last byte. `status` 0 and `error`: it failed before or without a status. `error` also for
    error events in a 200 stream, and for a stream that ended early. Token counts are the server's `usage`; None: not told.
    """

    index: int
    due: float
    sent: float = 0.0
    head: float = 0.0
    stamps: list[float] = []
    counts: list[int] = []
    done: float = 0.0
    status: int = 0
    error: str = ""
    finish: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    asked_prompt: int = 0
    asked_output: int = 0
    bytes_in: int = 0
    connection: int = 0  # which of the client's connections
    warm: bool = False  # part of the warm-up: kept, counted nowhere
    timings: dict[str, float] = {}  # llama.cpp's own, as it told them at the end (prompt_per_second, predicted_per_second, ...)

    @property
    def good(self) -> bool:
        """Whether it was answered whole."""
        return not self.error and 200 <= self.status < 300

    @property
    def first(self) -> float | None:
        """When the first content came; None: never."""
        return self.stamps[0] if self.stamps else None

    @property
    def last(self) -> float | None:
        """When the last content came: an answer ends there for its reader, not at `[DONE]`."""
        return self.stamps[-1] if self.stamps else None


class Health(msgspec.Struct):
    """Whether the client was up to it. `lag`: how late requests were sent (open loop) or the event loop woke (closed loop): p50, p99,
    greatest; `cpu`: the share of one core that the client used; `null`: p50 and p99 of the same client against an empty server that
    answers at once, over TCP on loopback: what of a latency may be the client's own. `trouble`: a sentence when the stage measures the
    client, else empty. `stolen`: the share of one core that a hypervisor kept from the whole machine (0: none, or not told)."""

    lag_p50: float = 0.0
    lag_p99: float = 0.0
    lag_most: float = 0.0
    cpu: float = 0.0
    null_p50: float = 0.0
    null_p99: float = 0.0
    trouble: str = ""
    stolen: float = 0.0


class Sample(msgspec.Struct):
    """The load generator's view at a moment: `at`, requests under way, memory in bytes of watched processes (name -> RSS). `done` and
    `failed` so far (warm ones too; failed are in `done`); `first`: the median time to first content of those that ended since the sample
    before, None: none did."""

    at: float
    under_way: int
    memory: dict[str, int] = {}
    done: int = 0
    failed: int = 0
    first: float | None = None


class Stage(msgspec.Struct):
    """One level of load, once. `seconds`: from the first counted request to the last answer; `repeat`: which of the repeats, from 0."""

    profile: Profile
    repeat: int
    seconds: float
    timed: list[Timed]
    health: Health
    samples: list[Sample] = []
    cut: str = ""  # why it ended before its time: "saturated", "interrupted", else empty
    cut_off: int = 0  # requests that were under way then: ended by us, not in `timed`, in no figure
    held: int = 0  # open loop: requests that waited for a free connection when due, because of a limit on concurrency


class Spread(msgspec.Struct, frozen=True):
    """One latency over a stage's requests, in seconds. A percentile is None where there are too few samples for it (p99: 1,000; p95: 200;
    p90: 100; p50: 5); `low` and `high`: the 95 % interval of the median."""

    count: int
    mean: float | None = None
    deviation: float | None = None
    p50: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    p999: float | None = None
    most: float | None = None
    low: float | None = None
    high: float | None = None


class Goodput(msgspec.Struct, frozen=True):
    """Requests a second that keep a service level whole; `share`: of all that were sent, failed ones included; `held`: it reaches the
    level's."""

    slo: Slo
    rate: float
    share: float
    held: bool


class Figures(msgspec.Struct):
    """What one stage comes to. `*_due`: latencies from when the schedule wanted the request sent. Rates are per second of the stage.
    `itl` is by token. `errors`: texts, shortened, with how often; at most 20 kinds."""

    profile: Profile
    repeat: int
    seconds: float
    sent: int
    good: int
    failed: int
    ttft: Spread
    ttft_due: Spread
    tpot: Spread
    itl: Spread
    e2e: Spread
    e2e_due: Spread
    request_rate: float
    offered_rate: float
    input_rate: float
    output_rate: float
    concurrency: float  # mean requests under way
    cached_share: float | None  # of prompt tokens, where the server tells
    output_share: float | None  # completion tokens by those asked for
    goodput: list[Goodput] = []
    errors: dict[str, int] = {}
    health: Health = msgspec.field(default_factory=Health)
    saturated: bool = False
    warnings: list[str] = []
    memory_most: dict[str, int] = {}
    answered_rate: float = 0.0  # good answers a second, without the stage's ends where the server fills up and empties


class Level(msgspec.Struct):
    """One level of load over its repeats: medians of the repeats' figures (of counts and seconds sums), and how far they spread, (highest -
    lowest) / median."""

    profile: Profile
    repeats: list[Figures]
    median: Figures
    spread: dict[str, float] = {}


class Provenance(msgspec.Struct):
    """What is needed to repeat a run, and to doubt it. Nothing secret: no key, no header's value."""

    command: list[str]
    version: str
    commit: str
    python: str
    machine: dict[str, str]
    server: dict[str, str]  # what it told of itself: server header, models, /version where there is one
    started: str  # UTC, ISO 8601
    seed: int
    salt: str
    options: dict[str, Any] = {}


class Result(msgspec.Struct):
    """A whole run of one target: what the JSON summary holds and the report draws."""

    target: str  # its URL or name; never its key
    model: str
    provenance: Provenance
    levels: list[Level]
    slos: list[Slo] = []
    saturation: float | None = None  # requests a second, where a sweep found it
    warnings: list[str] = []
    format: int = 1
