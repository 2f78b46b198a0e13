"""The configuration's nouns of policies: how a route chooses (`policy`), and which calls a target takes (`when`). Frozen structs, and
what must hold in them. Seconds, dollars, tokens as estimated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from routing.policies import Condition

Preset = Literal[
    "weighted", "round_robin", "least_busy", "p2c", "latency", "cost", "kv_aware", "session", "priority", "local_first",
]  # fmt: skip
Need = Literal["tools", "images", "audio", "documents", "json_schema"]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Amount = Annotated[float, msgspec.Meta(ge=0)]
_Tokens = Annotated[int, msgspec.Meta(ge=0)]

DEADLINE_HEADER, PRIORITY_HEADER, SESSION_HEADER = "x-pointsman-deadline", "x-pointsman-priority", "x-pointsman-session"
_HOURS = re.compile(r"([01]?\d|2[0-4]):([0-5]\d)\s*-\s*([01]?\d|2[0-4]):([0-5]\d)")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
DAY = 24 * 60  # minutes


class _Noun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of what stands in the file."""


class CostsConfig(_Noun, frozen=True, kw_only=True):
    """What a candidate costs: a factor for each term. `latency` (to the whole answer) and `first_token` are seconds as learned; `money` is
    dollars, its factor seconds per dollar; `busy` is calls under way for a slot or weight; `scheduled` the KV-aware scheduler's seconds."""

    latency: _Amount = 0.0
    first_token: _Amount = 0.0
    money: _Amount = 0.0
    busy: _Amount = 0.0
    scheduled: _Amount = 0.0

    @property
    def factors(self) -> dict[str, float]:
        """Those that count, by name."""
        return {name: factor for name, factor in msgspec.structs.asdict(self).items() if factor}


class PolicyConfig(_Noun, frozen=True, kw_only=True):
    """How a route chooses among its targets: a preset by `name`, or `costs` with a `pick`.

    `ttft` and `tpot`: what the route means to keep, in seconds, for `cost` and `local_first`; with `kv_aware` the time to the first token
    that is meant. `seconds_per_dollar`: what a dollar is worth. `hold` and `stall`: see `routing.kv.Settings`. The headers tell of one call
    its deadline (seconds to the first token), its priority (a whole number, higher goes first) and its session.
    """

    name: Preset | None = None
    costs: CostsConfig | None = None
    pick: Literal["least", "p2c", "weighted"] = "least"
    ttft: _Seconds = 2.0
    tpot: _Seconds = 0.1
    seconds_per_dollar: _Amount = 0.0
    hold: _Amount | None = None
    stall: _Amount | None = None
    deadline: _Seconds | None = None
    deadline_header: str = DEADLINE_HEADER
    priority_header: str = PRIORITY_HEADER
    session_header: str = SESSION_HEADER

    @property
    def preset(self) -> str:
        """Its name; "costs" where it is put together."""
        return self.name or "costs"

    @property
    def scheduled(self) -> bool:
        """Whether the KV-aware scheduler must be asked."""
        return self.name == "kv_aware" or (self.costs is not None and self.costs.scheduled > 0)


class WhenConfig(_Noun, frozen=True, kw_only=True):
    """Which calls a target takes: those for which all that is said here holds. `longer` and `shorter` than so many tokens of prompt; that
    need all of `needs`; with these headers; of one of these keys, by name; private or not; within these hours of the server's day."""

    longer: _Tokens | None = None
    shorter: _Tokens | None = None
    needs: frozenset[Need] = frozenset()
    header: dict[str, str] = {}
    keys: frozenset[str] = frozenset()
    private: bool | None = None
    hours: str | None = None

    def condition(self) -> Condition:
        """The same as routing has it. Its hours are checked already."""
        return Condition(
            longer=self.longer, shorter=self.shorter, needs=frozenset(self.needs), private=self.private, keys=self.keys,
            headers={name.lower(): value for name, value in self.header.items()},
            hours=None if self.hours is None else read_hours(self.hours),
        )  # fmt: skip


def policy_of(given: str | PolicyConfig) -> PolicyConfig:
    """A policy in either form as the longer one."""
    return PolicyConfig(name=given) if isinstance(given, str) else given  # type: ignore[arg-type]


def read_hours(text: str) -> tuple[int, int]:
    """`22:00-06:00` in minutes of the day. Raises ValueError with one sentence."""
    found = _HOURS.fullmatch(text.strip())
    if found is not None:
        start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
        if start < DAY and 0 < end <= DAY and start != end:
            return start, end
    raise ValueError('must be two different times of the day from 00:00 to 24:00, as in "22:00-06:00"')


def policy_problems(policy: PolicyConfig) -> Iterator[tuple[str, str]]:
    """What cannot be in a policy by itself: (field, sentence)."""
    if policy.name is None and policy.costs is None:
        yield "", "needs a `name` (weighted, least_busy, latency, ...) or `costs`"
    if policy.name is not None and policy.costs is not None:
        yield "costs", f"cannot stand beside `name: {policy.name}`; keep one of them"
    if policy.costs is not None and not policy.costs.factors:
        yield "costs", "are all 0, so no target would be better than another; give one a factor"
    if policy.pick != "least" and policy.costs is None:
        yield "pick", "is only for `costs`; a policy by name picks in its own way"
    if not policy.scheduled:
        for field in ("hold", "stall", "deadline"):
            if getattr(policy, field) is not None:
                yield field, "is only for `kv_aware`"
    for field in ("deadline_header", "priority_header", "session_header"):
        if not _HEADER.fullmatch(getattr(policy, field)):
            yield field, "is not a name that a header can have"


def when_problems(when: WhenConfig) -> Iterator[tuple[str, str]]:
    """What cannot be in a condition by itself: (field, sentence)."""
    if when.hours is not None:
        try:
            read_hours(when.hours)
        except ValueError as error:
            yield "hours", str(error)
    if when.longer is not None and when.shorter is not None and when.longer + 1 >= when.shorter:
        yield "longer", f"is {when.longer} and `shorter` {when.shorter}: no prompt is both"
    for name in when.header:
        if not _HEADER.fullmatch(name):
            yield "header", f"{name!r} is not a name that a header can have"
