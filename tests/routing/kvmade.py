"""KV events and batches as maps in an array, as vLLM has them now."""

from __future__ import annotations

from typing import Any

import msgspec

pack = msgspec.msgpack.encode
TOKENS = list(range(16))


def stored(hashes: list[Any], tokens: list[int], parent: Any = None, size: int = 16, **more: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens, "block_size": size,
        "lora_id": None, "medium": "GPU", "lora_name": None, **more,
    }  # fmt: skip


def batch(*events: Any, ts: float = 1.0) -> bytes:
    return pack([ts, list(events)])
