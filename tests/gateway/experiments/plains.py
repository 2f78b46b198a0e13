"""Plain requests as the recorder hands them on, and what they say together and one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from backends import wire
from backends.types import Target, Usage
from gateway.experiments.ended import seen
from gateway.experiments.plain import Blocks, Kind, Marks, block_of, ended_of
from gateway.experiments.tables import seen_of
from gateway.record import Plain
from routing.experiments.words import Block, Seen
from routing.types import Decision
from tests.routing.made import replica

FREE = Target("b", "m")
COUNTS = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
CHOICE: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi", "refusal": None}}


def price(usage: Usage) -> float:
    return usage.input * 0.5 + usage.output


PRICED = Target("b", "m", price=price)


def tail_of(usage: Any) -> bytes:
    return json.dumps({"usage": usage}, separators=(",", ":")).encode()


@cache
def kind_of(arm: str, tenant: str) -> Kind:
    return Kind("e", 0, arm, tenant)


def plain_of(marks: Marks, n: int, answer: bytes | None, *, target: Target = FREE, tail: bytes | None = None) -> Plain:
    """What the recorder hands on."""
    decision = Decision(replica("r"), target, "")
    kind, unit = marks[0] if len(marks) == 1 else (None, marks)
    return decision, "m", "t", "chat", b"req-%d" % n, float(n), 0.25 + n, len(answer or b""), tail, kind, unit, answer if marks else None


def left(n: int, *, arm: str = "a", tenant: str = "t", target: Target = FREE, tail: bytes | None = tail_of(COUNTS), **more: Any) -> Plain:
    whole = {"id": f"chatcmpl-{n}", "choices": [{**CHOICE, **more}]}
    answer = more.pop("answer", None) or json.dumps(whole, separators=(",", ":")).encode()
    return plain_of(((kind_of(arm, tenant), n),), n, answer, target=target, tail=tail)


def counts_of(group: Sequence[Plain]) -> list[wire.Told | None]:
    """The token counts of each, as the recorder reads them."""
    told: list[wire.Told | None] = []
    for plain in group:
        if plain[8] is not None:
            wire.usage_sum([plain[8]], None, told)
        else:
            told.append(None)
    return told


def block_from(group: Sequence[Plain]) -> Block | None:
    """The block of them."""
    return block_of((*zip(*group, strict=True),), counts_of(group), priced=True)


def add(blocks: Blocks, group: Sequence[Plain]) -> None:
    """Adds them as the recorder does."""
    blocks.add((*zip(*group, strict=True),), counts_of(group), priced=True)


def in_a_block(group: Sequence[Plain]) -> list[Seen]:
    """What a block of them says."""
    block = block_from(group)
    return [] if block is None else [*seen_of(block)]


def alone(group: Sequence[Plain]) -> list[Seen]:
    """What they say one by one."""
    return [seen(ended) for plain in group for ended in ended_of(plain)]
