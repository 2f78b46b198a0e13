"""The configuration's nouns of experiments: who takes part, what the arms are, what is measured and what may be done about it. Frozen
structs, and from them what the statistics want to know (`design`). What must hold in them is said by `gateway.config_experiments_check`.

Shares are parts of 1, times are RFC 3339 (`2026-03-01T09:00:00Z`), sizes bytes, durations seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from gateway.config_policy import WhenConfig
from gateway.config_shadow import ShadowConfig
from gateway.config_target import TargetConfig
from routing.experiments.words import FEEDBACK, Allocation, Better, Design, Guardrail, Kind, Metric, Mode

Key = Literal["user", "api_key", "conversation", "session"]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Inside = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Weight = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Size = Annotated[int, msgspec.Meta(ge=1, extra={"size": True}, extra_json_schema={"size": True})]  # bytes; see `config_types.read_size`


class _Noun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of what stands in the file."""


class ExperimentsConfig(_Noun, frozen=True, kw_only=True):
    """Where all that experiments see is kept, and for how long. `path`: a file; null: `experiments.db` in the folder for state of the user
    who runs the gateway. Beyond `bytes` or `age_seconds` the oldest requests go; what was counted of them stays."""

    path: str | None = None
    age_seconds: Seconds = 90 * 86400.0
    bytes: Size = 1024 * 1024 * 1024


class HeaderKey(_Noun, frozen=True, kw_only=True):
    """Units by a header of the request, such as `x-user`."""

    header: str


class RampConfig(_Noun, frozen=True, kw_only=True):
    """From `at` on the experiment has this share of the units."""

    at: str
    share: Share


class ArmConfig(_Noun, frozen=True, kw_only=True):
    """One way to answer. `targets`: null, those of the route. `parameters`: set in the request; null takes one out. `system`: a system
    prompt, put before the conversation (`before`: the client's own follows it) or in place of the client's (`instead`)."""

    weight: Weight = 1.0
    targets: tuple[TargetConfig, ...] | None = None
    parameters: dict[str, Any] = {}
    system: str | None = None
    system_goes: Literal["before", "instead"] = "before"

    @property
    def changes(self) -> bool:
        """Whether requests of this arm are not sent as they came."""
        return bool(self.parameters) or self.system is not None


class FeedbackConfig(_Noun, frozen=True, kw_only=True):
    """A metric that clients send (`POST /v1/feedback`)."""

    kind: Kind = "boolean"
    better: Better = "higher"
    label: str = ""


class GuardrailConfig(_Noun, frozen=True, kw_only=True):
    """A metric that no arm may make worse by more than `margin` (0.02: 2 % of control's)."""

    metric: str
    margin: Weight = 0.0


class ExperimentConfig(_Noun, frozen=True, kw_only=True):
    """An experiment on one route. The first arm is control.

    `key`: whose requests stay together. `salt` (null: the name) makes the draw another; `layer`: experiments of one layer never share a
    unit, and each has the next part of it, or the one from `begin` on. `share` of the units takes part (null: all, or with `ramp` none
    before its first step); of them `holdout` is left alone. Before `start` all is history. Requests for which `exclude` holds have no part.
    The rest is what the statistics want (see `routing.experiments.words.Design`).
    """

    route: str
    arms: dict[str, ArmConfig]
    key: Key | HeaderKey = "user"
    salt: str | None = None
    layer: str | None = None
    begin: Share | None = None
    share: Share | None = None
    ramp: tuple[RampConfig, ...] = ()
    start: str | None = None
    exclude: WhenConfig | None = None
    holdout: Share = 0.0
    primary: str = "latency"
    secondary: tuple[str, ...] = ()
    guardrails: tuple[str | GuardrailConfig, ...] = ()
    feedback: dict[str, FeedbackConfig] = {}
    mode: Mode = "test"
    alpha: Inside = 0.05
    power: Inside = 0.9
    effect: Inside = 0.05
    planned: Count = 5000
    least: Count = 100
    history: bool = True
    floor: Share = 0.05
    allocation: Allocation = "thompson"
    stop: bool = False
    promote: bool = False
    rollback: bool = False
    shadow: ShadowConfig | None = None

    @property
    def shares(self) -> tuple[tuple[float, float], ...]:
        """(from when on in unix seconds, share) in order of time; the first holds before all others. Times are checked already."""
        first = self.share if self.share is not None else (0.0 if self.ramp else 1.0)
        return ((float("-inf"), first), *sorted((read_time(step.at), step.share) for step in self.ramp))

    @property
    def width(self) -> float:
        """The largest share that it ever has: so much of its layer is kept for it."""
        return max(share for _, share in self.shares)

    @property
    def began(self) -> float:
        """Unix seconds from which on it assigns; -inf: ever since. Checked already."""
        return read_time(self.start) if self.start is not None else float("-inf")


def read_time(text: str) -> float:
    """An RFC 3339 time in unix seconds. Raises ValueError with one sentence."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError(f"{text!r} is not a time with its zone; write it as 2026-03-01T09:00:00Z")
    return found.timestamp()


def begins(experiments: dict[str, ExperimentConfig]) -> dict[str, float]:
    """By name, where in its layer each experiment's part begins (0 to 1): where `begin` says, else behind the one before it. One without a
    layer has one to itself."""
    ends: dict[str, float] = {}
    out: dict[str, float] = {}
    for name, config in experiments.items():
        if config.layer is None:
            out[name] = 0.0
            continue
        out[name] = config.begin if config.begin is not None else ends.get(config.layer, 0.0)
        ends[config.layer] = out[name] + config.width
    return out


def guardrail(given: str | GuardrailConfig) -> GuardrailConfig:
    """A guardrail in either form as the longer one."""
    return GuardrailConfig(metric=given) if isinstance(given, str) else given


def design(name: str, config: ExperimentConfig) -> Design:
    """What an experiment wants to know, for the statistics. `config` is checked already."""
    return Design(
        name=name,
        route=config.route,
        arms=tuple(config.arms),
        weights=tuple(arm.weight for arm in config.arms.values()),
        primary=config.primary,
        secondary=config.secondary,
        guardrails=tuple(Guardrail(g.metric, g.margin) for g in map(guardrail, config.guardrails)),
        metrics={
            FEEDBACK + key: Metric(FEEDBACK + key, given.kind, given.better, given.label or key) for key, given in config.feedback.items()
        },
        mode=config.mode,
        alpha=config.alpha,
        power=config.power,
        effect=config.effect,
        planned=config.planned,
        least=config.least,
        history=config.history,
        holdout=config.holdout,
        floor=config.floor,
        allocation=config.allocation,
        stop=config.stop,
        promote=config.promote,
        rollback=config.rollback,
    )
