"""The words of the KV-aware scheduler: what may be tuned, a request that wants a replica, and what is said of it. Plain data."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import msgspec

NEVER = float("inf")
OUTPUT_TOKENS = 256.0  # of an answer, until answers have shown how long they are


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be tuned, in seconds unless said otherwise. The defaults are for every model and machine."""

    hold: float = 0.0  # bind only where the queue is at most this long
    near: float = 0.5  # or where a little more joins a queue that is over so soon
    small: float = 0.1  # and that little is at most this, together with what else waits behind the one in service
    stall: float = 0.03  # of its prefill, for each answer being written there
    decode: float = 2e-8  # a token of context there
    target: float = 1.0  # time to the first token that is meant, on top of an idle replica's uncached prefill
    patience: float = 60.0  # who waits longer goes before others, one of `share` placements: nobody starves
    share: int = 4
    yields: float = 20.0  # who waits longer for a replica is not overtaken there by small work
    window: int = 128  # requests looked at, half of them the oldest and half the newest of each kind
    stale: float = 0.05  # how old a match may be
    fresh: float = 2.0  # how long blocks just computed are believed without an event that says so
    home: float = 0.05  # of its uncached prefill: what the replica of its session is preferred by
    quantum: float = 2000.0  # tokens (4 for one of output) that a tenant may be ahead of another


class Caps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much may be held here before more is refused, in all and of one tenant; None: no such cap. `age`: seconds of the oldest."""

    held: int | None = None
    tokens: int | None = None
    age: float | None = None
    tenant_held: int | None = None
    tenant_tokens: int | None = None
    tenant_age: float | None = None


class _Asked(msgspec.Struct, eq=False):
    key: Hashable
    tokens: int
    blocks: Sequence[Hashable]
    at: float


class Want(_Asked, kw_only=True, eq=False):
    """A request that wants a replica.

    `tokens` of prompt, `blocks` its chained hashes (full blocks of `size` tokens, None: the scheduler's), `at` when it came, `band` its
    priority (higher goes first), `usable` a bitmask of replicas (-1: all). `tenant` shares with others by the weight `share`. `deadline`:
    seconds from `at` to the first token, at most. `output`: tokens expected (None: as others had). `extra`: seconds added to each
    replica's cost, by number. `home`: the replica of its session. `streamed`: its first token will be seen; else it is taken to come when
    it was predicted. None of these may change while the request waits.
    """

    band: int = 0
    usable: int = -1
    tenant: str = ""
    share: float = 1.0
    deadline: float | None = None
    output: int | None = None
    extra: Sequence[float] | None = None
    home: int | None = None
    size: float | None = None
    streamed: bool = True
    # what the scheduler makes of it
    version: int = -1
    epoch: int = -1
    matched: float = 0.0
    soon: int = 0
    hits: list[int] = []  # cached tokens a replica, those of slower tiers among them
    tier: list[int] = []  # and those that must be loaded from a slower tier first; empty: none anywhere
    load: list[float] = []  # seconds that takes; empty likewise
    prefill: list[float] = []  # seconds a replica, loading included
    cold: float = 0.0  # seconds uncached, at speed one
    least: float = 0.0  # seconds on the best replica, when it came
    costed: tuple[float, int] | None = None  # cost and number of the best replica, while that holds

    def __post_init__(self) -> None:
        if not self.share > 0.0:
            raise ValueError(f"request {self.key!r}: a share must be above 0, not {self.share}")
        if self.tokens < 1:
            self.tokens = 1


class Quote(msgspec.Struct, frozen=True):
    """What one replica would cost a request, in seconds by term; `cached` in tokens, `tier` of them on a slower tier.

    `slot`: until one of its slots comes free; `load`: loading from a slower tier; `extra`: what the caller added, less the bonus of
    the session's home; `spare`: at most 0, what does not count of a slow replica's time because the request makes its target there.
    `full`: it is at its limit, so nothing is bound to it now.
    """

    replica: int
    queue: float
    prefill: float
    stall: float
    decode: float
    turn: float
    cached: int
    slot: float = 0.0
    load: float = 0.0
    extra: float = 0.0
    spare: float = 0.0
    tier: int = 0
    full: bool = False

    @property
    def total(self) -> float:
        """The sum of the terms."""
        return self.queue + self.prefill + self.stall + self.decode + self.turn + self.slot + self.load + self.extra + self.spare


class Place(msgspec.Struct, frozen=True):
    """Where a held request stands: `number` (1: next, as far as can be said) of `of`, and seconds until its first token, predicted."""

    number: int
    of: int
    wait: float


class Refusal(msgspec.Struct, frozen=True):
    """Why a request is not taken in: which cap, what it says and what is, and the seconds after which it would be taken in as things
    stand (None: asking again cannot help, or nobody can say when)."""

    cap: str
    limit: float
    value: float
    retry_after: float | None

    @property
    def reason(self) -> str:
        """One sentence for whoever asked."""
        limit, value = f"{self.limit:.6g}", f"{self.value:.6g}"
        return {
            "deadline": f"the first token would take {value} s as things stand; the deadline is {limit} s",
            "held": f"{value} requests are waiting; at most {limit} may",
            "tokens": f"{value} prompt tokens would be waiting; at most {limit} may",
            "age": f"a request has waited for {value} s; while one has waited for {limit} s, no more are taken in",
            "tenant_held": f"{value} of your requests are waiting; at most {limit} may",
            "tenant_tokens": f"{value} prompt tokens of your requests would be waiting; at most {limit} may",
            "tenant_age": f"one of your requests has waited for {value} s; while one has waited for {limit} s, no more are taken in",
        }[self.cap]


class Truth(msgspec.Struct, frozen=True):
    """How well a replica's cached tokens were predicted: `answers` that told them, and over those the sums of `prompt`, `predicted` and
    `reported` tokens; of the errors' sizes in tokens the median and the 95th percentile over the last ones (0.0 before the first)."""

    answers: int
    prompt: int
    predicted: int
    reported: int
    p50: float
    p95: float

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that the engine found cached."""
        return self.reported / self.prompt if self.prompt else 0.0
