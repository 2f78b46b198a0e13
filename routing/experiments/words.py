"""The words that all parts of an experiment share: its design, what was seen of one request, what metrics there are, and the result of an
analysis. Frozen structs and tables; nothing here computes. Seconds, dollars, tokens; `unix` is seconds since 1970.

A *unit* is who or what was assigned to an arm (a user, a key, a conversation): statistics count units, since requests of one unit are
alike. It is known by a 64-bit hash alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

Kind = Literal["boolean", "mean", "log"]  # log: of positive values with a heavy tail, compared by their geometric means
Better = Literal["lower", "higher"]
Mode = Literal["test", "bandit"]
Allocation = Literal["thompson", "top-two"]  # how a bandit shares out: to regret least, or to find the best soonest
Status = Literal["planned", "running", "stopped", "promoted", "rolled_back"]
Role = Literal["primary", "secondary", "guardrail"]
Verdict = Literal["better", "worse", "same", "unsure"]  # same: any difference is smaller than the planned effect

BEFORE = ""  # the arm of what was seen of a unit before it took part: its history
HOLDOUT = "holdout"  # the arm of units that the experiment leaves alone, to be compared with in the end
FEEDBACK = "feedback:"  # begins the name of a metric that clients send


class Metric(msgspec.Struct, frozen=True):
    """One number of a request, and which way is good. `label` and `unit` are for people."""

    name: str
    kind: Kind
    better: Better
    label: str
    unit: str = ""


METRICS: Mapping[str, Metric] = {
    m.name: m
    for m in (
        Metric("ttft", "log", "lower", "time to first token", "s"),
        Metric("tpot", "log", "lower", "time per output token", "s"),
        Metric("latency", "log", "lower", "time to the whole answer", "s"),
        Metric("error", "boolean", "lower", "failed requests", ""),
        Metric("refusal", "boolean", "lower", "refused by the model", ""),
        Metric("schema_valid", "boolean", "higher", "answers that fit their schema", ""),
        Metric("fallback", "boolean", "lower", "answered by another target", ""),
        Metric("cost", "mean", "lower", "cost of a request", "$"),
        Metric("output_tokens", "mean", "lower", "output tokens", "tokens"),
    )
}


class Seen(msgspec.Struct, array_like=True, gc=False):
    """One finished request of a unit, as the data path leaves it. `response`: the id in the answer's body, which feedback names; `request`:
    our own. None: not known, or does not apply."""

    unix: float  # when it arrived
    experiment: str
    epoch: int  # which weights were in force, counted from 0
    arm: str
    unit: int  # unsigned, 64 bits
    tenant: str = ""  # by name
    request: str = ""
    response: str = ""
    seconds: float = 0.0  # to the whole answer
    ttft: float | None = None
    stream: bool = False
    status: int = 200
    error: bool = False  # by the gateway or a backend; not the client's own mistakes, nor its leaving
    gone: bool = False  # the client left, or its request was refused as wrong: counts for nothing but that
    refused: bool | None = None
    valid: bool | None = None  # against the schema that was asked for
    fallback: bool = False
    input: int | None = None
    output: int | None = None
    cost: float | None = None


# One plain request: its kind (by its place in the block), unit, our id, the answer's id (UTF-8), arrival, seconds to the whole answer,
# whether it was refused, tokens in, tokens out, dollars.
PlainRow = tuple[int, int, bytes, bytes, float, float, bool, int | None, int | None, float | None]


class Block(msgspec.Struct, array_like=True, gc=False):
    """Plain requests together: whole good answers to the first attempt, not streamed. Says of each what `Seen` would; all else is as it is
    by default there. `kinds`: experiment, epoch, arm, tenant. The others are what `PlainRow` has, one list for each, all equally long but
    those that have nothing to say: they are empty. `epoch`: seconds to add to `unix`. `heads`: in place of `response`, the answers'
    ids in one, each with a quotation mark behind it, `step` bytes each."""

    kinds: Sequence[tuple[str, int, str, str]]
    kind: Sequence[int]
    unit: Sequence[int]
    request: Sequence[bytes]
    response: Sequence[bytes]
    unix: Sequence[float]
    seconds: Sequence[float]
    refused: Sequence[bool]  # none is
    input: Sequence[int | None]  # none is known
    output: Sequence[int | None]
    cost: Sequence[float | None]
    epoch: float = 0.0
    heads: bytes = b""
    step: int = 0


class Guardrail(msgspec.Struct, frozen=True):
    """A metric that must not get worse by more than `margin` (relative to control's) in any arm."""

    metric: str
    margin: float = 0.0


class Design(msgspec.Struct, frozen=True):
    """What an experiment wants to know. `arms`: the first is control; `weights` in the same order. `effect`: the smallest relative change
    of the primary metric that matters (0.05: 5 %). `planned`: units in all that the sequence is tuned for. `stop`, `promote`, `rollback`:
    what may be done without asking."""

    name: str
    route: str
    arms: tuple[str, ...]
    weights: tuple[float, ...]
    primary: str = "latency"
    secondary: tuple[str, ...] = ()
    guardrails: tuple[Guardrail, ...] = ()
    metrics: Mapping[str, Metric] = {}  # of feedback, by name with its prefix
    mode: Mode = "test"
    alpha: float = 0.05
    power: float = 0.9
    effect: float = 0.05
    planned: int = 5000
    least: int = 100  # units of each arm before anything is said
    history: bool = True  # whether what was seen before takes variance away (CUPED)
    holdout: float = 0.0
    floor: float = 0.05  # bandit: the least share of an arm
    allocation: Allocation = "thompson"  # bandit
    stop: bool = False
    promote: bool = False
    rollback: bool = False

    def metric(self, name: str) -> Metric:
        """A metric by name. KeyError: there is none."""
        return self.metrics[name] if name in self.metrics else METRICS[name]


# The result of an analysis: what the API gives, the command line prints and the page draws. All of it can be JSON.


class Estimate(msgspec.Struct, frozen=True):
    """A number and where it is with probability 1 - alpha at all times together. None: nothing can be said yet."""

    value: float | None = None
    lo: float | None = None
    hi: float | None = None


class ArmResult(msgspec.Struct, frozen=True):
    """One arm. `metrics`: its own mean (of `log` kinds the geometric mean); `quantiles`: of latencies, by metric and then "p50", "p95",
    "p99". `buckets`: latencies as (upper bound in seconds, requests), by metric."""

    name: str
    weight: float  # its share now, of 1
    control: bool
    units: int
    requests: int
    metrics: Mapping[str, Estimate] = {}
    quantiles: Mapping[str, Mapping[str, Estimate]] = {}
    buckets: Mapping[str, list[tuple[float, int]]] = {}
    best: float | None = None  # bandit: the probability that it is the best


class Comparison(msgspec.Struct, frozen=True):
    """An arm against control in one metric. `change`: relative (0.05: 5 % more than control), with its confidence sequence at `alpha`, the
    experiment's own share for this comparison. `p`: valid at any time. `cuped`: the part of the variance that history took away."""

    arm: str
    metric: str
    role: Role
    change: Estimate
    p: float | None
    alpha: float
    verdict: Verdict
    cuped: float = 0.0
    words: str = ""


class Ratio(msgspec.Struct, frozen=True):
    """Whether units came to the arms as they should have: sequential test of the sample ratio. `p`: valid at any time; `bad`: below
    0.001."""

    seen: Mapping[str, int]
    expected: Mapping[str, float]
    p: float
    bad: bool


class Outlook(msgspec.Struct, frozen=True):
    """What the experiment can still find out. `needed`: units in all for the planned effect with the planned power; `detectable`: the
    relative effect that could be seen with what is there; `rate`: new units a day; `days` until `needed`."""

    needed: int | None = None
    detectable: float | None = None
    rate: float | None = None
    days: float | None = None


class Point(msgspec.Struct, frozen=True):
    """The primary metric's change of one arm at one time, for the plot over time."""

    unix: float
    units: int
    arm: str
    change: Estimate


class Audit(msgspec.Struct, frozen=True):
    """Something that was done to an experiment: by whom (`gateway`, `command line`, a key's name), what and why."""

    unix: float
    actor: str
    action: str
    detail: str = ""


class Shadowed(msgspec.Struct, frozen=True):
    """What mirroring to one candidate gave: pairs compared, shares and means over them. `left_out`: by reason."""

    arm: str
    pairs: int
    similarity: Estimate = Estimate()
    same_tools: Estimate = Estimate()
    valid: Estimate = Estimate()
    preferred: Estimate = Estimate()  # by the judge, against the user's answer
    latency: Estimate = Estimate()  # ratio to the user's own, geometric mean
    output: Estimate = Estimate()  # ratio of output tokens
    cost: float | None = None  # dollars spent on it
    failed: int = 0
    left_out: Mapping[str, int] = {}


class Result(msgspec.Struct, frozen=True):
    """All that is known of an experiment at one time. `headline` is one sentence, `words` the reasons in plain language."""

    name: str
    route: str
    mode: Mode
    status: Status
    unix: float
    started: float | None
    primary: str
    alpha: float
    effect: float
    units: int
    requests: int
    arms: list[ArmResult]
    comparisons: list[Comparison]
    ratio: Ratio | None
    outlook: Outlook
    headline: str
    words: list[str]
    metrics: Mapping[str, Metric] = {}  # all that are named above
    points: list[Point] = []
    audit: list[Audit] = []
    shadows: list[Shadowed] = []
    winner: str | None = None  # when it is decided
    crossed: int = 0  # units seen in more than one arm, which count for none
    left: int = 0  # requests that count for nothing: the client left, or they were wrong
    feedback: int = 0
    comments: list[str] = []
