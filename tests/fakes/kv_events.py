"""How an engine speaks of its KV cache, in all encodings, and a cache of blocks to speak of. No socket."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

pack = msgspec.msgpack.encode
Encoding = Literal["arrays", "maps", "all maps"]
Hashes = Literal["unsigned", "signed", "bytes"]
ENCODINGS: tuple[Encoding, ...] = ("arrays", "maps", "all maps")
HASHES: tuple[Hashes, ...] = ("unsigned", "signed", "bytes")
_FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name")


class Speech:
    """Batches and events in one engine's encoding and form of hashes. Hashes are given as unsigned 64-bit numbers."""

    def __init__(self, encoding: Encoding = "maps", hashes: Hashes = "unsigned") -> None:
        self.encoding, self.hashes = encoding, hashes

    def batch(self, *events: Any, ts: float) -> bytes:
        if self.encoding == "all maps":
            return pack({"ts": ts, "events": list(events), "data_parallel_rank": 0})
        return pack([ts, list(events), 0])

    def stored(self, hashes: Sequence[int], tokens: Sequence[int], parent: int | None = None, size: int = 16, **more: Any) -> Any:
        """A BlockStored event in this publisher's encoding."""
        values = [[self.hash(h) for h in hashes], None if parent is None else self.hash(parent), list(tokens), size, None, "GPU", None]
        if self.encoding == "arrays":
            return ["BlockStored", *values]
        return {"type": "BlockStored", **dict(zip(_FIELDS, values, strict=True)), **more}

    def removed(self, hashes: Sequence[int]) -> Any:
        """A BlockRemoved event, likewise."""
        names = [self.hash(h) for h in hashes]
        return (
            ["BlockRemoved", names, "GPU"]
            if self.encoding == "arrays"
            else {"type": "BlockRemoved", "block_hashes": names, "medium": "GPU"}
        )

    def cleared(self) -> Any:
        """An AllBlocksCleared event, likewise."""
        return ["AllBlocksCleared"] if self.encoding == "arrays" else {"type": "AllBlocksCleared"}

    def hash(self, number: int) -> int | bytes:
        if self.hashes == "bytes":
            return number.to_bytes(32, "big")
        return number - (1 << 64) if self.hashes == "signed" and number >> 63 else number


class Cache:
    """A prefix cache of `size`-token blocks that evicts the least recently used leaf, and says so. `blocks` at most."""

    def __init__(self, engine: Speech, rng: random.Random, size: int = 16, blocks: int = 64) -> None:
        self.engine, self.rng, self.size, self.most = engine, rng, size, blocks
        self.names: dict[tuple[int, ...], int] = {}  # prefix -> hash, least recently used first

    def cached(self, prompt: Sequence[int]) -> int:
        """Leading tokens that are cached."""
        n = 0
        while n + self.size <= len(prompt) and tuple(prompt[: n + self.size]) in self.names:
            n += self.size
        return n

    def prompt(self, tokens: Sequence[int]) -> list[Any]:
        """Computes a prompt. Returns the events of it, none for one that is there already."""
        events: list[Any] = []
        have = self.cached(tokens)
        for n in range(self.size, have + 1, self.size):
            key = tuple(tokens[:n])
            self.names[key] = self.names.pop(key)
        whole = len(tokens) // self.size * self.size
        new = [tuple(tokens[:n]) for n in range(have + self.size, whole + 1, self.size)]
        if new:
            parent = self.names[tuple(tokens[:have])] if have else None
            for key in new:
                self.names[key] = self.rng.getrandbits(64)
            events.append(self.engine.stored([self.names[k] for k in new], tokens[have:whole], parent, self.size))
        while len(self.names) > self.most:
            events.append(self.engine.removed([self._evict(set(new))]))
        return events

    def _evict(self, kept: set[tuple[int, ...]]) -> int:
        inner = {key[: -self.size] for key in self.names}
        leaf = next(key for key in self.names if key not in inner and key not in kept)
        return self.names.pop(leaf)

    def clear(self) -> list[Any]:
        """Forgets all. Returns the event of it."""
        self.names.clear()
        return [self.engine.cleared()]
