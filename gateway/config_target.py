"""The configuration's target: one place that a call may go, and what is known better of its model. Routes have them, and the arms of
experiments. Frozen structs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from backends.prices import Prices
from gateway.config_policy import WhenConfig

Count = Annotated[int, msgspec.Meta(ge=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Weight = Annotated[float, msgspec.Meta(ge=0)]


class _Noun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of what stands in the file."""


class FactsOverride(_Noun, frozen=True, kw_only=True):
    """What is known better than the table of facts has it; null: as the table says. The fields are those of
    `backends.dialects.types.Facts`."""

    context: Count | None = None
    max_output: Count | None = None
    sampling: bool | None = None
    temperature_with_top_p: bool | None = None
    temperature_max: Positive | None = None
    thinking: Literal["none", "budget", "adaptive", "level"] | None = None
    forced_tools: bool | None = None
    prefill: bool | None = None
    json_schema: Literal["native", "tool", "none"] | None = None
    full_schema: bool | None = None
    images: bool | None = None
    documents: bool | None = None
    audio: bool | None = None
    logprobs: bool | None = None
    seed: bool | None = None
    many: bool | None = None
    late_system: bool | None = None

    def given(self) -> dict[str, Any]:
        """What is said here, for `backends.facts.facts`."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class TargetConfig(_Noun, frozen=True, kw_only=True):
    """One place that a route may send a call. An empty `model` means the name that an engine of ours gave its model, else the route's."""

    backend: str
    model: str = ""
    weight: Weight = 1.0
    when: WhenConfig | None = None  # the calls that it takes; null: all
    unsupported: frozenset[str] = frozenset()
    context: Count | None = None
    facts: FactsOverride = FactsOverride()
    prices: Prices | None = None
    probed: str | None = None  # a file of `pointsman probe --write`; see `gateway.config_probed`
