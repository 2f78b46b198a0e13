"""KV-cache events of vLLM and SGLang: decoding, and the state that follows one publisher. Pure: no socket, no clock.

Source of the format: vLLM `distributed/kv_events.py` and SGLang `disaggregation/kv_events.py`. A PUB message is [topic, sequence number
(8 bytes, big-endian), msgpack batch]; a batch is `[ts, events, rank]` or a map of these; an event a map with `type`, or, before mid 2026,
an array whose first item is the type and whose fields follow in order. Block hashes are opaque: bytes, or integers, signed or not. We
never compute theirs: each block's tokens extend a chain of our own hashes from its parent's.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from routing import prefix
from routing.prefix import TOKEN_BLOCK, PrefixIndex, salted

BlockHash = int | bytes
# Our chain hash up to the last whole block of ours, the tokens since as raw bytes, and the blocks of ours that this one made whole.
Link = tuple[int, bytes, tuple[int, ...]]

END_OF_REPLAY = -1
PAYLOAD_MAX = 64 << 20  # bytes of one batch
EVENTS_MAX = 1 << 16  # of one batch
LINKS_MAX = 1 << 19  # engine blocks remembered a publisher; about 150 bytes each
HELD_MAX = 4096  # batches kept back while a replay fills a gap
SILENT_HITS = 8  # answers with cached tokens but no event in between, after which a publisher is not believed
BAD_MAX = 3  # batches in a row that cannot be read, likewise
_U64 = (1 << 64) - 1
_ITEM = array("I").itemsize
_FULL = frozenset({"full_attention", "mla_attention", "sink_full_attention", "unknown"})
_DEVICE = frozenset({"GPU", "gpu", "DEVICE"})


class BadEvents(ValueError):
    """A batch or frame that is not what vLLM or SGLang send; says what and where."""


class Stored(msgspec.Struct, frozen=True):
    """Blocks that follow `parent` (None: the first of a prompt). `extra`: for each block what else is in its hash, or nothing at all."""

    hashes: Sequence[BlockHash]
    parent: BlockHash | None
    tokens: Sequence[int]
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
        raw = msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
        raise BadEvents(f"a batch that is no msgpack: {e}") from None
    outer = _fields(raw, _BATCH, "batch")
    ts, events = outer.get("ts"), outer.get("events")
    if not isinstance(ts, int | float) or not isinstance(events, list) or len(events) > EVENTS_MAX:
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
    lora = _text(f.get("lora_name"))
    salt, extra = _extra(f.get("extra_keys"), lora)
    return Stored(
        hashes, None if parent is None else _hash(parent, where), tokens, size, _device(f.get("medium")), lora,
        _text(f.get("cache_salt")) or salt, extra, _small(f.get("group_idx")), _text(f.get("kv_cache_spec_kind")),
    )  # fmt: skip


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
    if isinstance(raw, bytes):
        return raw
    raise BadEvents(f"{where}: a block hash is neither a number nor bytes")


def _device(medium: Any) -> bool:
    return medium is None or medium in _DEVICE


def _small(raw: Any) -> int:
    return raw if isinstance(raw, int) else 0


def _text(raw: Any) -> str:
    return raw if isinstance(raw, str) else ""


class _Tier:
    """One replica's blocks on one medium: engine hash -> our chain, and into the index."""

    __slots__ = ("index", "links", "replica", "size")

    def __init__(self, replica: int, index: PrefixIndex, size: int) -> None:
        self.replica, self.index, self.size = replica, index, size * _ITEM
        self.links: dict[BlockHash, Link] = {}

    def store(self, e: Stored, link: Link) -> None:
        h, tail, _ = link
        raw = array("I", e.tokens[: len(e.hashes) * e.size]).tobytes()
        step, size, links = e.size * _ITEM, self.size, self.links
        whole: list[int] = []
        for k, name in enumerate(e.hashes):
            if k < len(e.extra) and e.extra[k]:
                h = prefix.digest(e.extra[k], h)
            tail += raw[k * step : (k + 1) * step]
            made: tuple[int, ...] = ()
            while len(tail) >= size:
                h, tail = prefix.digest(tail[:size], h), tail[size:]
                made = (*made, h)
            links[name] = (h, tail, made)
            whole += made
        self.index.add(self.replica, whole)
        over = len(links) - LINKS_MAX
        if over > 0:
            self.remove([name for name, _ in zip(links, range(over), strict=False)])

    def remove(self, hashes: Sequence[BlockHash]) -> None:
        gone = [self.links.pop(name, None) for name in hashes]
        self.index.remove(self.replica, [h for link in gone if link is not None for h in link[2]])

    def clear(self) -> None:
        self.links.clear()
        self.index.clear(self.replica)


class Need(msgspec.Struct, frozen=True):
    """What the owner of the socket should do: ask the replay endpoint for batches from `start` on, then give them to `replayed`."""

    start: int


State = Literal["waiting", "live", "silent", "broken"]


class Feed:
    """Follows one publisher, that is one replica's cache, into `index` (device memory) and `lower` (host memory, disk, remote).

    `model` salts the chains; `size` tokens make one of our blocks. State: `waiting` until the first batch, `live`, `silent` when the
    engine reports hits but sends no events, `broken` when they cannot be read. Only while `live` should it be believed; otherwise the
    replica is one without events (approximate mode), and `reason` says why in a sentence.
    """

    def __init__(
        self, replica: int, index: PrefixIndex, lower: PrefixIndex, model: str = "", size: int = TOKEN_BLOCK, replay: bool = False
    ) -> None:
        self.device, self.lower = _Tier(replica, index, size), _Tier(replica, lower, size)
        self.model, self.replay = model, replay
        self.state: State = "waiting"
        self.reason = "no event has come yet"
        self.expected: int | None = None  # the next sequence number
        self.gaps = self.orphans = self.restarts = self.skipped = 0
        self._ts = 0.0
        self._held: deque[tuple[int, bytes]] | None = None  # while a replay is under way
        self._ignored: set[int] = set()  # groups without full attention
        self._bad = self._hits = 0

    @property
    def live(self) -> bool:
        """Whether the index may be believed for this replica."""
        return self.state == "live"

    def message(self, seq: int, payload: bytes) -> Need | None:
        """Takes a published batch in. Returns what to fetch when some were missed and a replay endpoint is there. Never raises."""
        if self._held is not None:
            if len(self._held) < HELD_MAX:
                self._held.append((seq, payload))
                return None
            self.replayed(())  # the replay does not come: go on without
        batch = self._decode(payload)
        if batch is None:
            return None
        start = self._missed(seq, batch)
        if start is None or not self.replay:
            self._take(seq, batch)
            return None
        self._held = deque([(seq, payload)])
        return Need(start)

    def replayed(self, messages: Sequence[tuple[int, bytes]]) -> None:
        """The replay's batches in order, empty when it failed; then what came meanwhile. Those known already are passed over."""
        held, self._held = self._held or deque(), None
        for seq, payload in (*messages, *held):
            if seq == END_OF_REPLAY or (self.expected is not None and seq < self.expected):
                continue
            batch = self._decode(payload)
            if batch is not None:
                self._take(seq, batch)

    def hit(self, cached: int, predicted: int) -> bool:
        """The engine reported `cached` tokens of an answer where we `predicted` so many. True when this made us stop believing its events:
        warn, with `reason`."""
        if cached - predicted < self.device.size // _ITEM or self.state in ("silent", "broken"):
            return False
        self._hits += 1
        if self._hits < SILENT_HITS:
            return False
        self._distrust(
            "silent",
            f"the engine reported {SILENT_HITS} cache hits that none of its KV events explains, and sent none; is its publisher on?",
        )
        return True

    def closed(self) -> None:
        """The engine is gone or starts anew: what it had is forgotten."""
        self.device.clear()
        self.lower.clear()
        self.state, self.reason = "waiting", "no event has come yet"
        self.expected, self._held, self._ts = None, None, 0.0
        self._bad = self._hits = 0

    def _decode(self, payload: bytes) -> Batch | None:
        try:
            batch = decode(payload)
        except BadEvents as e:
            self._bad += 1
            if self._bad >= BAD_MAX:
                self._distrust("broken", f"its KV events cannot be read: {e}")
            return None
        self._bad = 0
        return batch

    def _missed(self, seq: int, batch: Batch) -> int | None:
        """The first number that was missed, None when there is none. Notices restarts."""
        if self.expected is None:
            return 0 if seq else None
        if seq > self.expected:
            self.gaps += 1
            return self.expected
        if seq < self.expected and batch.ts > self._ts:  # counts anew, and is no late copy of what we had
            self.restarts += 1
            self.closed()
            return 0 if seq else None
        return None

    def _take(self, seq: int, batch: Batch) -> None:
        if self.expected is not None and seq < self.expected:
            return
        self.expected, self._ts = seq + 1, max(self._ts, batch.ts)
        self.state, self.reason, self._hits = "live", "", 0
        self.skipped += batch.skipped
        for e in batch.events:
            if isinstance(e, Stored):
                self._store(e)
            elif isinstance(e, Removed):
                if e.group not in self._ignored:
                    (self.device if e.device else self.lower).remove(e.hashes)
            else:
                self.device.clear()
                self.lower.clear()

    def _store(self, e: Stored) -> None:
        if e.kind and e.kind not in _FULL:
            self._ignored.add(e.group)  # a sliding window or a state: having its blocks is not having the prefix
        if e.group in self._ignored:
            return
        tier, other = (self.device, self.lower) if e.device else (self.lower, self.device)
        if e.parent is None:
            link: Link | None = (salted(self.model, e.lora, e.salt), b"", ())
        else:
            link = tier.links.get(e.parent) or other.links.get(e.parent)
        if link is None:
            self.orphans += 1  # its parent was announced before we listened
        elif any(not 0 <= t < 1 << 32 for t in e.tokens):
            self.skipped += 1
        else:
            tier.store(e, link)

    def _distrust(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        self.device.clear()
        self.lower.clear()
