"""What the gateway's parts of an experiment hand to each other. Frozen structs; nothing here does anything."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import xxhash

from routing.experiments.words import Kind, Status


def unit_of(tenant: str, key: bytes) -> int:
    """The hash by which a unit is known: of one tenant, since two tenants' users of one name are two."""
    return xxhash.xxh3_64_intdigest(b"%b\0%b" % (tenant.encode(), key))


class Feedback(msgspec.Struct, frozen=True):
    """What a client says of an answer (`response`: its id, or our request id) or of a unit (`session`: the key that assigned it). Just one
    of both is set. `name`: the metric without its prefix. `value` None: a comment alone."""

    unix: float
    tenant: str
    name: str
    kind: Kind
    value: float | None
    response: str = ""
    session: str = ""
    comment: str = ""
    id: str = ""  # ours, told to the client


class State(msgspec.Struct, frozen=True):
    """What is in force of an experiment, in all processes within about a second of its writing. `weights`: of the arms by name; empty: as
    configured. `epoch`: counts changes of the weights."""

    name: str
    status: Status = "running"
    epoch: int = 0
    weights: Mapping[str, float] = {}
    started: float | None = None  # unix
    winner: str | None = None


class Pair(msgspec.Struct, array_like=True, gc=False):
    """One answer of a shadow beside the user's own. Ratios are the shadow's over the user's. None: does not apply. `left_out`: why there is
    no shadow's answer at all (`spend`, `busy`, `queue`, `large`, ...), "" where there is."""

    unix: float
    experiment: str
    arm: str
    request: str
    left_out: str = ""
    failed: bool = False
    latency: float | None = None  # seconds of the shadow
    own_latency: float | None = None
    output: int | None = None
    own_output: int | None = None
    cost: float | None = None
    similarity: float | None = None  # 0 to 1
    same_tools: bool | None = None
    valid: bool | None = None  # the shadow's answer against the schema that was asked for
    preferred: float | None = None  # 1: the judge prefers the shadow's answer, 0: the user's, 0.5: neither
