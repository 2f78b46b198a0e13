"""The wire format of vLLM's and SGLang's KV-cache events, in all its encodings. Pure.

Source of the format: vLLM `distributed/kv_events.py` and SGLang `disaggregation/kv_events.py`. A PUB message is [topic, sequence number
(8 bytes, big-endian), msgpack batch]; a batch is `[ts, events, rank]` or a map of these; an event a map with `type`, or, before mid 2026,
an array whose first item is the type and whose fields follow in order. Block hashes are opaque: bytes, or integers, signed or not.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

BlockHash = int | bytes

END_OF_REPLAY = -1
PAYLOAD_MAX = 16 << 20  # bytes of one batch; a step of 64k tokens makes half a megabyte
EVENTS_MAX = 1 << 16  # of one batch
HASH_MAX = 64  # bytes; SHA-256 has 32
_U64 = (1 << 64) - 1
_DEVICE = frozenset({"GPU", "gpu", "DEVICE"})


class BadEvents(ValueError):
    """A batch or frame that is not what vLLM or SGLang send; says what and where."""


class Stored(msgspec.Struct, frozen=True):
    """Blocks that follow `parent` (None: the first of a prompt). `tokens`: unsigned 32-bit numbers as the machine writes them, None when
    they are no tokens. `extra`: for each block what else is in its hash, or nothing at all."""

    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    tokens: bytes | None
    size: int
    device: bool
    lora: str
    salt: str
    extra: Sequence[bytes]
    group: int
    kind: str


class Removed(msgspec.Struct, frozen=True):
    """Blocks that are gone from one tier."""

    hashes: Sequence[BlockHash]
    device: bool
    group: int


class Cleared(msgspec.Struct, frozen=True):
    """The whole cache is gone."""


Event = Stored | Removed | Cleared


class Batch(msgspec.Struct, frozen=True):
    """What one engine step changed. `ts` is the engine's Unix seconds; `skipped` counts events of types that we do not know."""

    ts: float
    events: Sequence[Event]
    rank: int | None
    skipped: int = 0


_STORED = (
    "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name", "extra_keys", "group_idx",
    "kv_cache_spec_kind", "kv_cache_spec_sliding_window", "locality", "ownership", "session_id",
)  # fmt: skip
_REMOVED = ("block_hashes", "medium", "group_idx", "locality", "ownership")
_BATCH = ("ts", "events", "data_parallel_rank")


def read_frames(frames: Sequence[bytes]) -> tuple[int, bytes]:
    """Sequence number and payload of a PUB message or of a replay's reply; END_OF_REPLAY when a replay is over. BadEvents otherwise."""
    if len(frames) < 2 or len(frames[-2]) != 8:
        raise BadEvents(
            f"a message of {len(frames)} frames without an 8-byte sequence number before the last; is this a KV-event endpoint?"
        )
    return int.from_bytes(frames[-2], "big", signed=True), frames[-1]


def replay_request(start: int) -> bytes:
    """What to send to the replay endpoint to have every batch it still has from number `start` on."""
    return start.to_bytes(8, "big")


def decode(payload: bytes) -> Batch:
    """Reads one batch in any of the encodings. BadEvents when it is none; unknown types and fields are passed over."""
    if len(payload) > PAYLOAD_MAX:
        raise BadEvents(f"a batch of {len(payload)} bytes; at most {PAYLOAD_MAX} are read")
    try:
        return _batch(msgspec.msgpack.decode(payload))
    except BadEvents:
        raise
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError) as e:
        raise BadEvents(f"a batch that is no msgpack: {e}") from None


def _batch(raw: Any) -> Batch:
    outer = _fields(raw, _BATCH, "batch")
    ts, events = outer.get("ts"), outer.get("events")
    if not isinstance(ts, int | float) or not math.isfinite(ts) or not isinstance(events, list) or len(events) > EVENTS_MAX:
        raise BadEvents(f"a batch needs a time `ts` and a list `events` of at most {EVENTS_MAX}")
    rank = outer.get("data_parallel_rank", outer.get("attn_dp_rank"))
    found = [_event(e, at) for at, e in enumerate(events)]
    known = [e for e in found if e is not None]
    return Batch(float(ts), known, rank if isinstance(rank, int) else None, len(found) - len(known))


def _fields(raw: Any, names: Sequence[str], what: str) -> Mapping[str, Any]:
    if isinstance(raw, dict):
        return raw
    if isinstance(raw, list):
        return dict(zip(names, raw, strict=False))
    raise BadEvents(f"{what}: neither an array nor a map")


def _event(raw: Any, at: int) -> Event | None:
    where = f"events[{at}]"
    if isinstance(raw, dict):
        kind: Any = raw.get("type")
        rest: Any = raw
    elif isinstance(raw, list) and raw:
        kind, rest = raw[0], raw[1:]
    else:
        raise BadEvents(f"{where}: neither an array nor a map")
    if kind == "BlockStored":
        return _stored(_fields(rest, _STORED, where), where)
    if kind == "BlockRemoved":
        return _removed(_fields(rest, _REMOVED, where), where)
    return Cleared() if kind == "AllBlocksCleared" else None


def _removed(f: Mapping[str, Any], where: str) -> Removed:
    return Removed(_hashes(f.get("block_hashes"), where), _device(f.get("medium")), _small(f.get("group_idx")))


def _stored(f: Mapping[str, Any], where: str) -> Stored:
    hashes, size, tokens = _hashes(f.get("block_hashes"), where), f.get("block_size"), f.get("token_ids")
    if not isinstance(size, int) or size < 1 or not isinstance(tokens, list) or len(tokens) < len(hashes) * size:
        raise BadEvents(f"{where}: {len(hashes)} blocks need `block_size` and as many times `token_ids`")
    parent = f.get("parent_block_hash")
    whole = len(tokens) == len(hashes) * size  # else some blocks are left out (a sliding window), and which is not said
    lora = _text(f.get("lora_name"))
    salt, extra = _extra(f.get("extra_keys"), lora)
    return Stored(
        hashes, None if parent is None else _hash(parent, where), _tokens(tokens) if whole else None, size, _device(f.get("medium")), lora,
        _text(f.get("cache_salt")) or salt, extra, _small(f.get("group_idx")), _text(f.get("kv_cache_spec_kind")),
    )  # fmt: skip


def _tokens(raw: list[Any]) -> bytes | None:
    """A model that drafts its own next tokens (EAGLE) gives pairs, each a token and the next one."""
    try:
        return array("I", [t[0] for t in raw] if raw and isinstance(raw[0], list) else raw).tobytes()
    except (TypeError, OverflowError, IndexError):
        return None


def _extra(raw: Any, lora: str) -> tuple[str, Sequence[bytes]]:
    """The cache salt, and what else makes each block differ, in bytes of our own. An entry has, in order: the adapter's name (if any),
    pairs for images, the salt (first block only), digests of prompt embeddings."""
    if not isinstance(raw, list):
        return "", ()
    salt, out = "", []
    for entry in raw:
        parts = list(entry) if isinstance(entry, list) else []
        if lora and parts and parts[0] == lora:
            del parts[0]
        salts = [p for p in parts if isinstance(p, str)]
        salt = salt or (salts[0] if salts else "")
        rest = [p for p in parts if not isinstance(p, str)]
        out.append(msgspec.msgpack.encode(rest) if rest else b"")
    return salt, out


def _hashes(raw: Any, where: str) -> list[BlockHash]:
    if not isinstance(raw, list):
        raise BadEvents(f"{where}: `block_hashes` is no list")
    return [_hash(h, where) for h in raw]


def _hash(raw: Any, where: str) -> BlockHash:
    if isinstance(raw, int):
        return raw & _U64  # one block may be named by the signed and the unsigned form of one number
    if isinstance(raw, bytes) and len(raw) <= HASH_MAX:
        return raw
    raise BadEvents(f"{where}: a block hash is neither a number nor at most {HASH_MAX} bytes")


def _device(medium: Any) -> bool:
    return medium is None or (isinstance(medium, str) and medium in _DEVICE)


def _small(raw: Any) -> int:
    return raw if isinstance(raw, int) else 0


def _text(raw: Any) -> str:
    return raw if isinstance(raw, str) else ""
