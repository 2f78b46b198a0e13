"""Lines of prompts that keep KV from being used again (`backends.slots.volatile`), as they are told: with their text to admins only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from backends.slots.link import SlotLink
from backends.slots.volatile import Volatile
from gateway.exchange import Exchange
from gateway.logs import redact

Json = dict[str, Any]
MOST = 5  # told at once


def worst(found: Iterable[Volatile]) -> list[Volatile]:
    """Those that cost most, without what may be a key or a password; for admins."""
    most = sorted(found, key=lambda one: -one.lost * one.times)[:MOST]
    return [msgspec.structs.replace(one, examples=tuple(redact(example) for example in one.examples)) for one in most]


def notes(found: Iterable[Volatile]) -> list[str]:
    """One sentence each, for the status page, which is for admins."""
    return [f"Prompts for {one.model}{f' of {one.tenant}' if one.tenant else ''}: {one.sentence(True)}" for one in found]


def of_exchange(exchange: Exchange) -> list[Json]:
    """What is known of earlier prompts like this one: same model, same tenant, any replica of its route."""
    model, tenant = exchange.call.model, exchange.tenant
    shown = tenant.admin or not exchange.core.door.locked
    shared = {id(link.shared): link.shared for arm in exchange.route.arms for r in arm.replicas if isinstance(link := r.link, SlotLink)}
    found = (one for each in shared.values() for one in each.watch.told(each.speed.ratio))
    mine = (one for one in found if one.model == model and (one.tenant == tenant.name or tenant.admin))
    return [
        {
            "stable_tokens": one.stable, "lost_tokens": one.lost, "times": one.times, "prompts": one.prompts,
            "examples": list(one.examples) if shown else None, "note": one.sentence(shown),
        }
        for one in worst(mine)
    ]  # fmt: skip
