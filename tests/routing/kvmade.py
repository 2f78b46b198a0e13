"""KV events and batches as maps in an array, as vLLM has them now, and feeds to take them."""

from __future__ import annotations

from typing import Any

import msgspec

from routing.kvevents import Feed, Need
from routing.prefix import PrefixIndex, salted, token_blocks

pack = msgspec.msgpack.encode
TOKENS = list(range(16))


def stored(hashes: list[Any], tokens: list[int], parent: Any = None, size: int = 16, **more: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens, "block_size": size,
        "lora_id": None, "medium": "GPU", "lora_name": None, **more,
    }  # fmt: skip


def batch(*events: Any, ts: float = 1.0) -> bytes:
    return pack([ts, list(events)])


def feed(replay: bool = False, size: int = 32) -> Feed:
    return Feed(0, PrefixIndex(2), PrefixIndex(2), "m", size, replay)


def cached(f: Feed, tokens: list[int], root: int | None = None, size: int = 32) -> int:
    return f.device.index.match(token_blocks(tokens, salted("m", "", "") if root is None else root, size))[0] * size


def filled(f: Feed, messages: list[tuple[int, bytes]], whole: bool = True) -> Need | None:
    for seq, payload in messages:
        f.part(seq, payload)
    return f.filled(whole)


def parts_of(tokens: list[int], count: int) -> list[tuple[int, bytes]]:
    """Batches that store 32 tokens each, one after the other."""
    return [
        (k, batch(stored([2 * k + 1, 2 * k + 2], tokens[32 * k : 32 * k + 32], parent=2 * k or None), ts=k + 1.0)) for k in range(count)
    ]
